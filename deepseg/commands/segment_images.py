"""``-segment``: segment images that are given by name, without a settings file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepseg.config.settings import Precision
from deepseg.data.cases.case_names import without_ending
from deepseg.errors import DeepsegError, Problem, raise_if_any
from deepseg.inference.predictor import Listener, Predictor
from deepseg.model.checkpoint import Checkpoint, read_checkpoint
from deepseg.report.console import Console
from deepseg.storage.atomic import writable
from deepseg.storage.free_name import raise_if_taken
from deepseg.transfer.new_parts import untrained_words

ROI, NONZERO = "roi", "nonzero"
FOLDER = Path("segmentations")  # where results go unless the user says otherwise


@dataclass(frozen=True)
class _Patient:
    """Images of one patient.

    Attributes:
        images: By name of the channel; None for one that is missing.
        roi: Mask of the region of interest, the word ``nonzero``, or None.
        target: File of the segmentation.
    """

    images: Mapping[str, Path | None]
    roi: Path | None
    target: Path

    @property
    def takes_nonzero(self) -> bool:
        """The region of interest is where the images are not 0."""
        return self.roi == Path(NONZERO) and not self.roi.exists()


def segment_images(
    model: Path | str,
    images: Sequence[Path | str] | Mapping[str, Path | str | None],
    *,
    out: Path | str | None = None,
    precision: Precision = "float32",
    device: str = "auto",
    quiet: bool = False,
) -> list[Path]:
    """Segment images as the model's training cases were prepared.

    Args:
        model: A `.save`, or the folder of a session.
        images: By name of the channel, None for a channel that the patient lacks, and under ``roi``
            a mask of the region of interest, or ``nonzero`` for the voxels that are not 0. Or one
            image per channel in the model's order; or, for a model with one channel, images of
            several patients. Each is a file or a folder with a DICOM series.
        out: Folder of the segmentations. Default: ``segmentations`` in the current folder.
        precision: Of the arithmetic.
        device: ``cpu``, ``cuda``, ``cudaN`` or ``auto``.
        quiet: Print warnings and errors only.

    Returns:
        The files written, named after the first image of each patient.

    Raises:
        DeepsegError: Anything that is wrong with the model or the images; ``file-exists``, before
            anything is computed.
    """
    console, checkpoint = Console(quiet=quiet), read_checkpoint(Path(model))
    patients = _patients(images, checkpoint.config.channels, FOLDER if out is None else Path(out))
    raise_if_any(_results_of_two(patients))
    raise_if_taken(patient.target for patient in patients)
    console.say(f"weights: {checkpoint.origin}")
    untrained = untrained_words(checkpoint)
    if untrained is not None:
        console.warn(f"{checkpoint.origin}: {untrained}")
    predictor = Predictor(
        checkpoint,
        {"precision": precision},
        device=device,
        preparation={"roi": NONZERO} if any(p.takes_nonzero for p in patients) else None,
        listener=Listener(console.warn, console.progress),
    )
    return [_segmented(patient, predictor, checkpoint, console) for patient in patients]


def _segmented(
    patient: _Patient, predictor: Predictor, model: Checkpoint, console: Console
) -> Path:
    """Segment the images of a patient, write the file and print the volumes."""
    roi = None if patient.takes_nonzero else patient.roi
    segmentation = predictor.segment(dict(patient.images), roi=roi)
    with writable(patient.target.parent):
        patient.target.parent.mkdir(parents=True, exist_ok=True)
    segmentation.save(patient.target)
    volumes = segmentation.volumes_ml(model.config.classes)
    rows = [[name, f"{volume:.3f}"] for name, volume in volumes.items()]
    console.table(str(patient.target), ["class", "ml"], rows)
    return patient.target


def _patients(
    images: Sequence[Path | str] | Mapping[str, Path | str | None],
    channels: Sequence[str],
    folder: Path,
) -> list[_Patient]:
    if isinstance(images, Mapping):
        named = {name: None if file is None else Path(file) for name, file in images.items()}
        roi = named.pop(ROI, None) if ROI not in channels else None
        return [_patient(named, roi, folder)]
    files = [Path(file) for file in images]
    if len(channels) == 1:
        return [_patient({channels[0]: file}, None, folder) for file in files]
    if len(files) == len(channels):
        return [_patient(dict(zip(channels, files, strict=True)), None, folder)]
    raise DeepsegError(
        Problem(
            code="channel-count",
            got=f"{len(files)} image{'s' * (len(files) != 1)}",
            expected=f"{len(channels)}, one per channel: {', '.join(channels)}",
            fix=f"give them in this order, or by name as {channels[0]}=FILE; "
            f"{channels[0]}= for a channel that is missing",
        )
    )


def _patient(images: Mapping[str, Path | None], roi: Path | None, folder: Path) -> _Patient:
    first = next((file for file in images.values() if file is not None), Path("case"))
    name = without_ending(first.resolve().name)
    return _Patient(images, roi, folder / f"{name}_Segm.nii.gz")


def _results_of_two(patients: Sequence[_Patient]) -> list[Problem]:
    """Problems of results of several patients that would have one name."""
    targets = [patient.target for patient in patients]
    return [
        Problem(
            "file-exists",
            got="results of two images",
            expected="a name that is free",
            fix="give images with different names, or one at a time with another -out",
            where=str(target),
        )
        for target in dict.fromkeys(targets)
        if targets.count(target) > 1
    ]
