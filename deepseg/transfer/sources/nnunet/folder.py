"""The folder of a model that nnU-Net has trained: its plans, its dataset, a checkpoint.

Nothing of a checkpoint is run: tensors and plain values are read. Sizes and places along axes are
turned from nnU-Net's order to X, Y, Z here, so that nothing else needs to know of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

from torch import Tensor

from deepseg.errors import DeepsegError, Problem
from deepseg.geometry.boxes import Int3
from deepseg.storage.readable import raise_if_unreadable
from deepseg.transfer.sources.tensor_files import read_tensors
from deepseg.transfer.sources.torch_files import read_container

PLANS, DATASET = "plans.json", "dataset.json"
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth", "checkpoint_latest.pth")

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class NnunetFolder:
    """A trained model, as nnU-Net left it.

    Attributes:
        folder: That holds ``plans.json``.
        checkpoint: The file of weights.
        plans: Content of ``plans.json``.
        dataset: Content of ``dataset.json``.
        settings: Of the checkpoint: its configuration, and axes along which cases are mirrored.
        folds: Names of all folds that are there.
    """

    folder: Path
    checkpoint: Path
    plans: Mapping[str, Any]
    dataset: Mapping[str, Any]
    settings: Mapping[str, Any]
    folds: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return str(self.plans.get("dataset_name", self.folder.parent.name))

    @property
    def configuration_name(self) -> str:
        """Such as ``3d_fullres``."""
        arguments = self.settings.get("init_args")
        name = arguments.get("configuration") if isinstance(arguments, dict) else None
        return name if isinstance(name, str) else self.folder.name.rpartition("__")[2]

    @cached_property
    def configuration(self) -> Mapping[str, Any]:
        """Settings of the configuration, with those of the ones it is derived from."""
        entries = self.plans.get("configurations")
        values: dict[str, Any] = {}
        name: Any = self.configuration_name
        for _ in range(10):
            entry = entries.get(name) if isinstance(entries, dict) else None
            if not isinstance(entry, dict):
                raise damaged(f"no configuration {name!r}", self.folder / PLANS)
            values = entry | values
            name = entry.get("inherits_from")
            if name is None:
                return values
        raise damaged("configurations that are derived from each other", self.folder / PLANS)

    @cached_property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels in their order; a second one of a name has a number."""
        entries = self.dataset.get("channel_names", self.dataset.get("modality"))
        if not isinstance(entries, dict) or not entries:
            raise damaged("no channel_names", self.folder / DATASET)
        names: list[str] = []
        for _, name in sorted(entries.items(), key=lambda pair: int(pair[0])):
            word = str(name).replace("/", "-").replace("\\", "-") or "channel"
            count = sum(other.split("#")[0] == word for other in names)
            names.append(f"{word}#{count + 1}" if count else word)
        return tuple(names)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes by label, the background first.

        Raises:
            DeepsegError: ``nnunet-refused`` for regions.
        """
        entries = self.dataset.get("labels")
        if not isinstance(entries, dict) or not entries:
            raise damaged("no labels", self.folder / DATASET)
        regions = [name for name, value in entries.items() if isinstance(value, list)]
        if regions:
            raise refused(
                f"regions that consist of several labels: {', '.join(regions)}",
                "a label for every class",
                "train it with labels instead of regions",
                self.folder / DATASET,
            )
        pairs = [(int(value), name) for name, value in entries.items() if name != "ignore"]
        labels = [value for value, _ in sorted(pairs)]
        if labels != list(range(len(labels))):
            raise damaged(f"labels {', '.join(map(str, labels))}", self.folder / DATASET)
        return tuple(name for _, name in sorted(pairs))

    @cached_property
    def axes(self) -> Int3:
        """For X, Y and Z, the axis of the network.

        nnU-Net reads arrays ``(Z, Y, X)`` and exchanges their axes by ``transpose_forward``.
        """
        order = self.plans.get("transpose_forward")
        if not isinstance(order, list) or sorted(order) != [0, 1, 2]:
            raise damaged(f"transpose_forward {order}", self.folder / PLANS)
        return order.index(2), order.index(1), order.index(0)

    def along_axes(self, values: Sequence[Entry]) -> tuple[Entry, Entry, Entry]:
        """Values of the network's axes in the order X, Y, Z."""
        x, y, z = self.axes
        return values[x], values[y], values[z]

    @property
    def window(self) -> Int3:
        """Voxels of a window along X, Y, Z."""
        return self.along_axes([int(n) for n in self.configuration["patch_size"]])

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Sides of a voxel along X, Y, Z."""
        return self.along_axes([float(mm) for mm in self.configuration["spacing"]])

    @property
    def mirrored_axes(self) -> tuple[int, ...]:
        """Axes along which cases are mirrored too: 0 for X, 1 for Y, 2 for Z."""
        axes = self.settings.get("inference_allowed_mirroring_axes")
        if not isinstance(axes, list | tuple):
            return ()
        return tuple(axis for axis in range(3) if self.axes[axis] in axes)

    def weights(self) -> dict[str, Tensor]:
        """Tensors of the network by name."""
        return read_tensors(self.checkpoint)[1]


def is_nnunet_folder(path: Path) -> bool:
    """True for a folder of a trained model, or for one of its folds."""
    return path.is_dir() and any((home / PLANS).is_file() for home in (path, path.parent))


def nnunet_folder(path: Path, fold: int | str | None = None) -> NnunetFolder:
    """The model in a folder.

    Args:
        path: With ``plans.json``, ``dataset.json`` and a folder for every fold; or one of these.
        fold: Its number, or ``all``; None for the only one, or 0.

    Raises:
        DeepsegError: ``nnunet-missing``, ``nnunet-damaged``, ``nnunet-refused``, or what is wrong
            with the checkpoint.
    """
    folder, name = path, None if fold is None else f"fold_{fold}"
    if not (path / PLANS).is_file() and (path.parent / PLANS).is_file():
        folder = path.parent
        name = path.name if name is None else name
    if not (folder / PLANS).is_file():
        raise _missing(f"no {PLANS}", "a folder of a model that nnU-Net has trained", folder)
    folds = sorted(entry.name for entry in folder.glob("fold_*") if entry.is_dir())
    if name is None and folds:
        name = "fold_0" if "fold_0" in folds else folds[0]
    if name is None or name not in folds:
        raise _missing(f"no {name or 'folder of a fold'}", ", ".join(folds) or "fold_0", folder)
    files = [folder / name / file for file in CHECKPOINTS]
    checkpoint = next((file for file in files if file.is_file()), None)
    if checkpoint is None:
        raise _missing(f"no {CHECKPOINTS[0]}", "the weights of this fold", folder / name)
    model = NnunetFolder(
        folder=folder,
        checkpoint=checkpoint,
        plans=_content(folder / PLANS),
        dataset=_content(folder / DATASET),
        settings=_settings(checkpoint),
        folds=tuple(folds),
    )
    _check(model)
    return model


def _check(model: NnunetFolder) -> None:
    plans = model.folder / PLANS
    configuration = model.configuration
    spacing = configuration.get("spacing")
    if not isinstance(spacing, list) or len(spacing) != 3:
        raise refused(
            f"configuration {model.configuration_name}, of images of two axes",
            "one of three axes, such as 3d_fullres",
            "name the folder of that configuration",
            plans,
        )
    if configuration.get("previous_stage"):
        raise refused(
            f"configuration {model.configuration_name}, which reads the result of "
            f"{configuration['previous_stage']}",
            "one that reads images alone, such as 3d_fullres",
            "name the folder of that configuration",
            plans,
        )
    if configuration.get("preprocessor_name", "DefaultPreprocessor") != "DefaultPreprocessor":
        raise refused(
            f"preprocessor {configuration['preprocessor_name']}",
            "DefaultPreprocessor",
            "read its network alone, as an imported pathway with nnunet",
            plans,
        )
    patch = configuration.get("patch_size")
    if not isinstance(patch, list) or len(patch) != 3:
        raise damaged(f"patch_size {patch}", plans)


def _content(file: Path) -> Mapping[str, Any]:
    raise_if_unreadable(file)
    if not file.is_file():
        raise _missing(f"no {file.name}", f"{PLANS} and {DATASET}", file.parent)
    try:
        values = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise damaged("content that is no JSON", file) from error
    if not isinstance(values, dict):
        raise damaged("no mapping", file)
    return values


def _settings(checkpoint: Path) -> Mapping[str, Any]:
    """Entries of a checkpoint besides its tensors; what is wrong with it is said when they are."""
    read_tensors(checkpoint)
    content = read_container(checkpoint)
    value = None if content is None else content.value
    return cast(Mapping[str, Any], value) if isinstance(value, dict) else {}


def damaged(got: str, file: Path) -> DeepsegError:
    """``nnunet-damaged``: a file that lacks what nnU-Net writes into it."""
    return DeepsegError(
        Problem(
            code="nnunet-damaged",
            got=got,
            expected="the file as nnU-Net has written it",
            fix="copy the folder again",
            where=str(file),
        )
    )


def refused(got: str, expected: str, fix: str, file: Path) -> DeepsegError:
    """``nnunet-refused``: a model that works in a way that is not covered."""
    return DeepsegError(Problem("nnunet-refused", got, expected, fix, str(file)))


def _missing(got: str, expected: str, folder: Path) -> DeepsegError:
    return DeepsegError(
        Problem(
            code="nnunet-missing",
            got=got,
            expected=expected,
            fix="name the folder that nnU-Net has written, such as "
            "Dataset291/nnUNetTrainer__nnUNetPlans__3d_fullres, or a fold in it",
            where=str(folder),
        )
    )
