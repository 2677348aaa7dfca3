"""A case read from the disk, prepared as each of the models wants it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseg.config.cases import Preparation
from deepseg.data.cases.case import Case
from deepseg.data.images.resampling import voxels_read
from deepseg.data.images.volumes import Volume, read_labels, read_mask
from deepseg.data.preparation import PreparedCase, channel_bytes, prepare
from deepseg.inference import memory
from deepseg.sessions.segmentation.ensemble import Ensemble

SHARE_FOR_CHANNELS = 0.25  # of the memory; the channels of larger cases stay on the disk


@dataclass(frozen=True)
class LoadedCase:
    """A case that has been read.

    Attributes:
        ready: Prepared for each member, without labels and weight maps; one and the same where they
            want the same. On another grid than the case's own, every voxel has to be computed that
            a result inside the region of interest is interpolated from.
        roi: ``(X, Y, Z)``, the case's own region of interest, or None where the whole image counts.
        truth: ``(X, Y, Z)`` labels, or None.
    """

    case: Case
    ready: tuple[PreparedCase, ...]
    roi: NDArray[np.bool_] | None
    truth: NDArray[np.integer[Any]] | None

    @property
    def source(self) -> Volume:
        """The first channel, on whose grid results are."""
        source = self.ready[0].reference
        assert source is not None
        return source


def is_large(how: Ensemble, case: Case) -> bool:
    """Whether the channels of a case, prepared in all ways, take too much of the memory."""
    channels = how.members[0].network.config.channels
    needed = sum(channel_bytes(case, way, channels) for way in _ways(how))
    return needed > SHARE_FOR_CHANNELS * memory.left(how.inference.memory_bytes)


def load_case(how: Ensemble, case: Case, scratch: Path | None = None) -> LoadedCase:
    """Read a case and prepare it as the training cases of each model were.

    Args:
        how: The models, and what memory they may use.
        case: Where its files are.
        scratch: Folder for the channels of a large case; None to hold all in memory.
    """
    disk = scratch if scratch is not None and is_large(how, case) else None
    channels = how.members[0].network.config.channels
    ways = _ways(how)
    images = replace(case, labels=None, weight_maps=())  # a network is asked with nothing more
    made = [prepare(images, way, channels, scratch=disk) for way in ways]
    roi = _own_roi(case, made)
    made = [replace(ready, to_compute=_to_compute(roi, ready)) for ready in made]
    return LoadedCase(
        case=case,
        ready=tuple(made[ways.index(one.preparation)] for one in how.members),
        roi=roi,
        truth=None if case.labels is None else read_labels(case.labels, dict(case.label_map)).array,
    )


def _ways(how: Ensemble) -> list[Preparation]:
    """How the members want a case prepared, each way once."""
    ways: list[Preparation] = []
    for one in how.members:
        if one.preparation not in ways:
            ways.append(one.preparation)
    return ways


def _own_roi(case: Case, made: Sequence[PreparedCase]) -> NDArray[np.bool_] | None:
    """The region of interest on the case's own grid; the file is read again only if need be."""
    for ready in made:
        if ready.reference is not None and ready.geometry == ready.reference.geometry:
            return ready.roi
    return None if case.roi is None else read_mask(case.roi).array


def _to_compute(roi: NDArray[np.bool_] | None, ready: PreparedCase) -> NDArray[np.bool_] | None:
    """What results inside a case's own region of interest follow from, on the grid of ``ready``."""
    assert ready.reference is not None
    own = ready.reference.geometry
    if roi is None or ready.geometry == own:
        return roi
    return voxels_read(roi, ready.geometry, own)
