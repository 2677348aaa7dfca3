"""Random changes of the intensities of a segment: contrast, resolution, noise.

They are drawn per channel, and are the same in all pathways but for the noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepseg.config.blocks.augmentation import (
    Augmentation,
    GammaAugmentation,
    LowResolutionAugmentation,
    NoiseAugmentation,
)
from deepseg.geometry.boxes import Int3

Block = NDArray[np.float32]
Factors = NDArray[np.float32]


@dataclass(frozen=True)
class IntensityChange:
    """One change of all channels, applied in the order of these attributes.

    Attributes:
        gamma: ``(C,)`` exponents of the intensities, scaled to 0 … 1; 1 changes nothing.
        shift: ``(C,)`` added.
        scale: ``(C,)`` multiplied then.
        voxel_size: ``(C,)`` in voxels of the image: as if it had been taken that coarsely.
        noise: ``(C,)`` standard deviations.
        noise_seed: From which the noise is drawn.
    """

    gamma: Factors | None = None
    shift: Factors | None = None
    scale: Factors | None = None
    voxel_size: Factors | None = None
    noise: Factors | None = None
    noise_seed: int = 0

    def of(self, blocks: Sequence[Block], steps: Sequence[Int3]) -> tuple[Block, ...]:
        """``blocks``, the ``(C, X, Y, Z)`` of each pathway, after the change.

        Args:
            blocks: What the pathways read.
            steps: Voxels of the image from one of their voxels to the next.

        >>> block = np.array([0, 1, 4], np.float32).reshape(1, 3, 1, 1)
        >>> change = IntensityChange(gamma=np.array([0.5]), shift=np.array([1.0]))
        >>> (changed,) = change.of([block], [(1, 1, 1)])
        >>> changed.ravel().tolist()  # 4 (I / 4)^0.5 + 1
        [1.0, 3.0, 5.0]
        """
        changed = list(blocks)
        if self.gamma is not None:
            changed = _with_gamma(changed, self.gamma)
        if self.shift is not None:
            changed = [block + _per_channel(self.shift) for block in changed]
        if self.scale is not None:
            changed = [block * _per_channel(self.scale) for block in changed]
        if self.voxel_size is not None:
            changed = [
                coarsened(block, self.voxel_size, step)
                for block, step in zip(changed, steps, strict=True)
            ]
        if self.noise is not None:
            rng = np.random.default_rng(self.noise_seed)
            changed = [
                block + rng.standard_normal(block.shape, np.float32) * _per_channel(self.noise)
                for block in changed
            ]
        return tuple(changed)


NO_CHANGE = IntensityChange()


def random_change(
    settings: Augmentation, channels: int, *, rng: np.random.Generator
) -> IntensityChange:
    """A random change; what ``settings`` leave out draws nothing from ``rng``."""
    shift = scale = None
    if settings.intensity is not None:
        shift, scale = (
            rng.normal(numbers.mean, numbers.deviation, channels).astype(np.float32)
            for numbers in (settings.intensity.shift, settings.intensity.scale)
        )
    gamma = _gamma(settings.gamma, channels, rng=rng)
    voxel_size = _voxel_size(settings.low_resolution, channels, rng=rng)
    noise = _noise(settings.noise, channels, rng=rng)
    seed = 0 if noise is None else int(rng.integers(2**63))
    return IntensityChange(gamma, shift, scale, voxel_size, noise, seed)


def _gamma(
    settings: GammaAugmentation | None, channels: int, *, rng: np.random.Generator
) -> Factors | None:
    if settings is None:
        return None
    limit = np.log(settings.max_gamma)
    gamma = np.exp(rng.uniform(-limit, limit, channels))
    return _where_drawn(settings.probability, gamma, 1, rng=rng)


def _voxel_size(
    settings: LowResolutionAugmentation | None, channels: int, *, rng: np.random.Generator
) -> Factors | None:
    if settings is None:
        return None
    size = rng.uniform(1, settings.max_factor, channels)
    return _where_drawn(settings.probability, size, 1, rng=rng)


def _noise(
    settings: NoiseAugmentation | None, channels: int, *, rng: np.random.Generator
) -> Factors | None:
    if settings is None:
        return None
    deviation = rng.uniform(0, settings.max_deviation, channels)
    return _where_drawn(settings.probability, deviation, 0, rng=rng)


def _where_drawn(
    probability: float, drawn: NDArray[np.float64], neutral: float, *, rng: np.random.Generator
) -> Factors | None:
    """``drawn`` in the channels that change, else ``neutral``; None if none does."""
    changes = rng.random(len(drawn)) < probability
    if not changes.any():
        return None
    return np.where(changes, drawn, neutral).astype(np.float32)


def _per_channel(numbers: Factors) -> Factors:
    return numbers.astype(np.float32)[:, None, None, None]


def _with_gamma(blocks: Sequence[Block], gamma: Factors) -> list[Block]:
    axes = (1, 2, 3)
    low = np.min([block.min(axes) for block in blocks], axis=0)
    span = np.max([block.max(axes) for block in blocks], axis=0) - low
    low, span = _per_channel(low), _per_channel(np.where(span > 0, span, 1))
    exponents = _per_channel(gamma)
    shares = [((block - low) / span).clip(0, 1) for block in blocks]
    return [np.asarray(low + span * share**exponents, np.float32) for share in shares]


def coarsened(block: Block, voxel_size: Factors, step: Int3) -> Block:
    """``block`` as if each channel had been taken with larger voxels.

    The nearest of its voxels at every place of the coarser grid is kept, and what lies between is
    interpolated linearly.

    Args:
        block: ``(C, X, Y, Z)``.
        voxel_size: ``(C,)``, in voxels of the image.
        step: Voxels of the image from one of the block to the next.

    >>> line = np.arange(6, dtype=np.float32).reshape(1, 6, 1, 1) ** 2
    >>> coarsened(line, np.array([2.0]), (1, 1, 1)).ravel().tolist()
    [0.0, 2.0, 4.0, 10.0, 16.0, 16.0]
    """
    result = np.array(block)
    for channel, size in enumerate(voxel_size):
        for axis, (count, spacing) in enumerate(zip(block.shape[1:], step, strict=True)):
            if size > spacing and count > 1:
                weights = _thinning(count, float(size) / spacing)
                moved = np.tensordot(weights, result[channel], (1, axis))
                result[channel] = np.moveaxis(moved, 0, axis)
    return result


def _thinning(count: int, factor: float) -> Block:
    """``(count, count)``: weights of the voxels of a line in those of the coarsened line."""
    grid = np.unique(np.round(np.arange(0, count, factor)).astype(int).clip(max=count - 1))
    places = np.interp(np.arange(count), grid, np.arange(len(grid)))
    below = places.astype(int)
    above = (below + 1).clip(max=len(grid) - 1)
    weights = np.zeros((count, count), np.float32)
    lines = np.arange(count)
    np.add.at(weights, (lines, grid[below]), 1 - (places - below))
    np.add.at(weights, (lines, grid[above]), places - below)
    return weights
