"""A case in memory, prepared for every model that predicts it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseg.config.cases import Preparation
from deepseg.data.cases.case import Case
from deepseg.data.images.resampling import voxels_read
from deepseg.data.images.volumes import Volume, read_labels, read_mask
from deepseg.data.preparation import CaseImages, PreparedCase, prepare, prepare_images

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class LoadedCase:
    """A case that has been read and prepared.

    Attributes:
        name: Of the case.
        prepared: For each model, without labels and weight maps; one and the same for models whose
            cases are prepared alike. On another grid than the case's own, every voxel has to be
            computed that a result inside the region of interest is interpolated from.
        roi: ``(X, Y, Z)``, the case's own region of interest, or None where the whole image counts.
        truth: ``(X, Y, Z)`` labels, or None.
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
    images = replace(case, labels=None, weight_maps=())  # nothing that no network reads
    loaded = _loaded(
        case.name,
        preparations,
        prepared_by=lambda preparation: prepare(images, preparation, channels, scratch=scratch),
        read_roi=lambda: None if case.roi is None else read_mask(case.roi).array,
    )
    labels = None if case.labels is None else read_labels(case.labels, dict(case.label_map))
    return loaded if labels is None else replace(loaded, truth=labels.array)


def prepare_case(
    images: CaseImages, preparations: Sequence[Preparation], channels: Sequence[str]
) -> LoadedCase:
    """Prepare images, wherever they come from; for the arguments see `load_case`."""
    return _loaded(
        images.name,
        preparations,
        prepared_by=lambda preparation: prepare_images(images, preparation, channels),
        read_roi=lambda: None if images.roi is None else images.roi.array,
    )


def _loaded(
    name: str,
    preparations: Sequence[Preparation],
    *,
    prepared_by: Callable[[Preparation], PreparedCase],
    read_roi: Callable[[], Mask | None],
) -> LoadedCase:
    different = unique(preparations)
    cases = [prepared_by(preparation) for preparation in different]
    roi = _roi_on_case_grid(cases, read_roi)
    cases = [replace(case, to_compute=_to_compute(roi, case)) for case in cases]
    per_model = tuple(cases[different.index(preparation)] for preparation in preparations)
    return LoadedCase(name, per_model, roi)


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


def _roi_on_case_grid(
    cases: Sequence[PreparedCase], read_roi: Callable[[], Mask | None]
) -> Mask | None:
    """The region of interest on the case's own grid; the file is read again only if need be."""
    for case in cases:
        if case.reference is not None and case.geometry == case.reference.geometry:
            return case.roi
    return read_roi()


def _to_compute(roi: Mask | None, case: PreparedCase) -> Mask | None:
    """Voxels, on the grid of ``case``, that results inside the case's own ``roi`` follow from."""
    assert case.reference is not None
    grid = case.reference.geometry
    if roi is None or case.geometry == grid:
        return roi
    return voxels_read(roi, case.geometry, grid)
