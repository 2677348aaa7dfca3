"""A case in memory, prepared for every model that predicts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseg.config.cases import Preparation
from deepseg.data.cases.case import Case
from deepseg.data.images.orientation import Reorientation
from deepseg.data.images.resampling import resample, voxels_read
from deepseg.data.images.volumes import Geometry, Volume, read_labels
from deepseg.data.preparation import (
    CaseImages,
    PreparedCase,
    images_of,
    prepare_images,
    with_roi,
)

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class LoadedCase:
    """A case that has been read and prepared.

    Attributes:
        name: Of the case.
        prepared: For each model, without labels and weight maps; one and the same for models whose
            cases are prepared alike. On another grid than `grid`, every voxel has to be computed
            that a result inside the region of interest is interpolated from.
        roi: ``(X, Y, Z)`` on `grid`, the region of interest, or None where the whole image counts.
        truth: ``(X, Y, Z)`` labels on the grid of the source, or None.
    """

    name: str
    prepared: tuple[PreparedCase, ...]
    roi: Mask | None
    truth: NDArray[np.integer[Any]] | None = None

    @property
    def source(self) -> Volume:
        """The first channel, on whose grid results are."""
        source = self.prepared[0].reference
        assert source is not None
        return source

    @property
    def turn(self) -> Reorientation:
        """From the axes of the source to those of the first model's cases."""
        return self.prepared[0].turn

    @property
    def grid(self) -> Geometry:
        """The voxels of the source with their axes turned to those of the first model's cases."""
        return self.turn.geometry(self.source.geometry)

    def channels_on_source(self, names: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Channels as the first model saw them, ``(X, Y, Z)`` on the grid of the source, by name.

        Where that model saw other voxels, they are interpolated. A channel with one value only,
        such as one that the case lacks, is left out, but for the first of all.
        """
        case, back = self.prepared[0], self.turn.inverse
        channels = dict(zip(names, case.channels, strict=True))
        varied = {name: values for name, values in channels.items() if values.min() < values.max()}
        on_grid = varied or {names[0]: channels[names[0]]}
        if case.geometry != self.grid:
            on_grid = {
                name: np.asarray(resample(values, case.geometry, self.grid, order=1), np.float32)
                for name, values in on_grid.items()
            }
        return {name: back.array(values) for name, values in on_grid.items()}

    def forget(self) -> None:
        """Give back the memory of voxels that can be read from files again."""
        for case in self.prepared:
            case.forget()


def load_case(
    case: Case,
    preparations: Sequence[Preparation],
    channels: Sequence[str],
    *,
    scratch: Path | None = None,
) -> LoadedCase:
    """Read a case and prepare it as the training cases of each model were.

    Args:
        case: Where its files are.
        preparations: Of the models, in their order.
        channels: Names of the models' channels.
        scratch: Folder for channels that stay on the disk; None to hold all in memory.
    """
    images = images_of(replace(case, labels=None, weight_maps=()))  # nothing that no network reads
    loaded = prepare_case(images, preparations, channels, scratch=scratch)
    labels = None if case.labels is None else read_labels(case.labels, dict(case.label_map))
    return loaded if labels is None else replace(loaded, truth=labels.array)


def prepare_case(
    images: CaseImages,
    preparations: Sequence[Preparation],
    channels: Sequence[str],
    *,
    scratch: Path | None = None,
) -> LoadedCase:
    """Prepare images, wherever they come from; for the arguments see `load_case`."""
    different = unique(preparations)
    cases, rois = [], []
    for preparation in different:
        complete = with_roi(images, preparation, channels)
        cases.append(prepare_images(complete, preparation, channels, scratch=scratch))
        rois.append(None if complete.roi is None else complete.roi.array)
    # A model that has seen whole images predicts everywhere.
    roi = None if any(mask is None for mask in rois) else rois[0]
    turned = None if roi is None else cases[0].turn.copied(roi)
    cases = [replace(case, to_compute=_to_compute(turned, case, cases[0])) for case in cases]
    per_model = tuple(cases[different.index(preparation)] for preparation in preparations)
    return LoadedCase(images.name, per_model, turned)


def unique(preparations: Sequence[Preparation]) -> list[Preparation]:
    """Preparations without those that occur before.

    >>> plain, scored = Preparation(z_score="none"), Preparation()
    >>> unique([scored, plain, scored]) == [scored, plain]
    True
    """
    result: list[Preparation] = []
    for preparation in preparations:
        if preparation not in result:
            result.append(preparation)
    return result


def _to_compute(roi: Mask | None, case: PreparedCase, first: PreparedCase) -> Mask | None:
    """Voxels, on the grid of ``case``, that results inside ``roi`` follow from.

    Args:
        roi: ``(X, Y, Z)`` with the axes of ``first``.
        case: For some model.
        first: For the first model.
    """
    if roi is None:
        return None
    assert case.reference is not None
    inside = first.turn.inverse.then(case.turn).copied(roi)
    grid = case.turn.geometry(case.reference.geometry)
    return inside if case.geometry == grid else voxels_read(inside, case.geometry, grid)
