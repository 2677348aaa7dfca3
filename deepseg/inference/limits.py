"""Sizes and shares that decide into which pieces a case is cut; nothing else depends on them.

Tests make them small, so that small cases are cut too. Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Where pieces of a case begin and end.

    Attributes:
        edges: Longest sides of a box, in voxels, from which the memory chooses; descending.
        step: Voxels between the planes at which a box may be cut.
        voxels_per_call: Voxels of the FC pathway that cost as much as beginning another box.
        fc_voxels: Voxels whose FC maps exist at once.
        fc_voxels_of_gpu: On a GPU, at most, as its memory allows.
        context_edge: Coarse voxels along an axis that a subsampled pathway computes at once.
        smallest_edge: Longest side, in voxels, of boxes that are not halved any more.
        thinnest_block: Planes of a block of an ensemble; in thinner ones, most would be border.
        blocks_share: Share of the memory for blocks of an ensemble; the rest is for boxes.
        maps_share: Share of the memory for maps of a box; the rest is for FC maps and scratch.
        channels_share: Share of the memory for channels; those of larger cases stay on the disk.
    """

    edges: tuple[int, ...] = (96, 80, 64, 56, 48, 40, 32, 24, 16)
    step: int = 8
    voxels_per_call: int = 1000
    fc_voxels: int = 1 << 14
    fc_voxels_of_gpu: int = 1 << 20
    context_edge: int = 64
    smallest_edge: int = 8
    thinnest_block: int = 16
    blocks_share: float = 0.4
    maps_share: float = 0.6
    channels_share: float = 0.25


DEFAULT_LIMITS = Limits()
