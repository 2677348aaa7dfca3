"""Masks that are made of images, for cases to which nobody gave one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from scipy import ndimage

from deepseg.data.images.volumes import Volume


def nonzero_roi(volumes: Iterable[Volume]) -> Volume:
    """Voxels that are not 0 in any of the images, and the holes that they enclose.

    Args:
        volumes: At least one; all of one shape.
    """
    first, inside = None, np.zeros((), bool)
    for volume in volumes:
        first = volume if first is None else first
        inside = inside | (volume.array != 0)
    assert first is not None
    return replace(first, array=ndimage.binary_fill_holes(inside), warnings=())
