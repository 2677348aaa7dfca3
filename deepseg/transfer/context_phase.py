"""Where the context of subsampled pathways lies in two models, as far as growth changes it.

A subsampled pathway predicts one value for a block of voxels. Layers that take voxels off move the
grid of these blocks over the image, and, in DeepMedic's alignment, the voxels that are read for
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from deepseg.config.model import ModelConfig
from deepseg.errors import Problem
from deepseg.geometry.boxes import Box, Int3, add, floor_div, mul, per_axis, sub, text, volume
from deepseg.geometry.context import core
from deepseg.model.layout import Layout

_FAR = 1000  # factors into an image, where nothing depends on its beginning


@dataclass(frozen=True)
class ContextPlace:
    """The place of one pathway's values in an image.

    Attributes:
        factor: Voxels of a block along each axis.
        grid: First voxel of a block, modulo the factor.
        centre: Voxel around which the values of a block are read, counted from its first one.
    """

    factor: Int3
    grid: Int3
    centre: Int3


def context_places(config: ModelConfig, layout: Layout) -> dict[str, ContextPlace]:
    """Places of all subsampled pathways by name."""
    geometry = layout.geometry(config.context_alignment)
    first, *_ = layout.pathways
    places = {}
    for index, pathway in enumerate(layout.pathways):
        factor, shrink = pathway.geometry.factor, pathway.geometry.shrink
        if volume(factor) == 1:
            continue
        segment = geometry.segment(Box(mul(factor, _FAR), (1, 1, 1)))
        block = core(segment, first.geometry.shrink).start
        centre = add(geometry.lattices(segment)[index].start, mul(factor, floor_div(shrink, 2)))
        places[pathway.name] = ContextPlace(
            factor, per_axis(lambda n, f: n % f, block, factor), sub(centre, block)
        )
    return places


def moved_context(
    old: Mapping[str, ContextPlace],
    new: Mapping[str, ContextPlace],
    pairs: Mapping[str, str | None],
) -> Iterator[Problem]:
    """Pathways whose values would belong to other voxels than in the older model.

    Args:
        old: Places in the older model.
        new: Places in the new one.
        pairs: Pathway of the older model by pathway of the new one.
    """
    for name, place in new.items():
        before = old.get(pairs.get(name) or "")
        if before is None or before.factor != place.factor or before == place:
            continue
        yield Problem(
            "function-not-kept",
            got=f"{name} with its blocks of {text(place.factor)} voxels on another grid, because "
            "unpadded kernels are larger than in the source, or further ones",
            expected="FC layers that take as many voxels off as in the source, or by a multiple of "
            f"{text(mul(place.factor, 2))} more, and pathways that take off alike",
            fix="pad these layers, or give them kernels of 1",
        )
