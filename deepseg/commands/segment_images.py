"""``-segment``: segment images that are given by name, without a settings file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepseg.config.blocks.saved_results import SavedResults
from deepseg.config.settings import Precision
from deepseg.counts import counted
from deepseg.data.cases.case_names import without_ending
from deepseg.data.images.dicom.segmentation_object import missing_extra
from deepseg.errors import DeepsegError, Problem, raise_if_any
from deepseg.inference.predictor import Listener, Predictor
from deepseg.inference.segmentation import Segmentation
from deepseg.model.checkpoint import Checkpoint, read_checkpoint
from deepseg.report.console import Console
from deepseg.report.label_files import label_files
from deepseg.sessions.folds.record import model_files
from deepseg.sessions.model_files import say_weights
from deepseg.sessions.segmentation.dicom_result import (
    NOT_FROM_DICOM,
    dicom_series,
    write_dicom_result,
)
from deepseg.sessions.segmentation.label_names import changed_files
from deepseg.storage.atomic import writable, write_text
from deepseg.storage.free_name import raise_if_taken

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
    def dicom_target(self) -> Path:
        """File of the DICOM-SEG."""
        return self.target.with_name(self.target.name.removesuffix(".nii.gz") + ".dcm")

    @property
    def takes_nonzero(self) -> bool:
        """The region of interest is where the images are not 0."""
        return self.roi == Path(NONZERO) and not self.roi.exists()


def segment_images(
    model: Path | str,
    images: Sequence[Path | str] | Mapping[str, Path | str | None],
    *,
    out: Path | str | None = None,
    dicom_seg: bool = False,
    precision: Precision = "float32",
    device: str = "auto",
    quiet: bool = False,
) -> list[Path]:
    """Segment images as the model's training cases were prepared.

    Args:
        model: A `.save`, or the folder of a session; of a cross-validation, the mean of the
            predictions of all folds is taken.
        images: By name of the channel, None for a channel that the patient lacks, and under ``roi``
            a mask of the region of interest, or ``nonzero`` for the voxels that are not 0. Or one
            image per channel in the model's order; or, for a model with one channel, images of
            several patients. Each is a file or a folder with a DICOM series.
        out: Folder of the segmentations. Default: ``segmentations`` in the current folder.
        dicom_seg: Also write a DICOM-SEG of images that are DICOM series.
        precision: Of the arithmetic.
        device: ``cpu``, ``cuda``, ``cudaN`` or ``auto``.
        quiet: Print warnings and errors only.

    Returns:
        The segmentations, named after the first image of each patient. Beside them are files
        with the names and colours of their labels.

    Raises:
        DeepsegError: Anything that is wrong with the model or the images; ``file-exists``, before
            anything is computed.
    """
    console = Console(quiet=quiet)
    models = [read_checkpoint(file) for file in model_files(Path(model))]
    checkpoint = models[0]
    patients = _patients(images, checkpoint.config.channels, FOLDER if out is None else Path(out))
    raise_if_any(_results_of_two(patients))
    if dicom_seg:
        raise_if_any(missing_extra("-dicomSeg"))
    raise_if_taken(patient.target for patient in patients)
    if dicom_seg:
        raise_if_taken(patient.dicom_target for patient in patients)
    names = _label_texts(patients, checkpoint.config.classes)
    raise_if_any(_other_labels(names))
    say_weights(models, console)
    predictor = Predictor(
        models,
        {"precision": precision},
        device=device,
        preparation={"roi": NONZERO} if any(p.takes_nonzero for p in patients) else None,
        listener=Listener(console.warn, console.progress),
    )
    files = []
    for patient in patients:
        segmentation = _segmented(patient, predictor, checkpoint, console)
        for file in changed_files(names):
            write_text(file, names[file])
        if dicom_seg:
            _write_dicom(patient, segmentation, checkpoint.config.classes, console)
        files.append(patient.target)
    return files


def _write_dicom(
    patient: _Patient, segmentation: Segmentation, classes: Sequence[str], console: Console
) -> None:
    series = dicom_series(patient.images.values())
    if series is None:
        console.warn(f"-dicomSeg: {NOT_FROM_DICOM}")
    else:
        write_dicom_result(patient.dicom_target, segmentation, series, classes)


def _label_texts(patients: Sequence[_Patient], classes: Sequence[str]) -> dict[Path, str]:
    """Names and colours of the labels, as files beside the segmentations."""
    folders = dict.fromkeys(patient.target.parent for patient in patients)
    texts = label_files(classes, SavedResults().label_names)
    return {folder / name: text for folder in folders for name, text in texts.items()}


def _other_labels(texts: Mapping[Path, str]) -> list[Problem]:
    """The problem of a folder with segmentations whose labels are called otherwise."""
    return [
        Problem(
            "file-exists",
            got="names of other labels, beside segmentations by another model",
            expected="one model for a folder",
            fix="choose another -out",
            where=str(file),
        )
        for file in changed_files(texts)[:1]
        if file.exists()
    ]


def _segmented(
    patient: _Patient, predictor: Predictor, model: Checkpoint, console: Console
) -> Segmentation:
    """Segment the images of a patient, write the file and print the volumes."""
    roi = None if patient.takes_nonzero else patient.roi
    segmentation = predictor.segment(dict(patient.images), roi=roi)
    with writable(patient.target.parent):
        patient.target.parent.mkdir(parents=True, exist_ok=True)
    segmentation.save(patient.target)
    volumes = segmentation.volumes_ml(model.config.classes)
    rows = [[name, f"{volume:.3f}"] for name, volume in volumes.items()]
    console.table(str(patient.target), ["class", "ml"], rows)
    return segmentation


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
            got=counted(len(files), "image"),
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
