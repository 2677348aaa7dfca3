"""The one box of the image from which all pathways of an exported network read.

Pathways read lattices of their own around the core of a segment. In an exported network they are
cut out of one box inside the graph: around a core of any size lie as many voxels as the pathway
that reaches furthest may need. Context lies where it lies for a segment inside the image: the
steps that DeepMedic restarts at the image's corner are not. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from deepseg.geometry.boxes import (
    Box,
    Int3,
    add,
    ceil_div,
    maximum,
    mul,
    per_axis,
    sub,
)
from deepseg.geometry.context import NetworkGeometry, PathwayGeometry
from deepseg.geometry.receptive_field import receptive_field
from deepseg.geometry.size_rule import SizeRule
from deepseg.model.layout import LayerPlan, Layout

FAR = (1 << 20, 1 << 20, 1 << 20)  # from the corner of the image: context has its regular place
ANY_SIZE = SizeRule((1, 1, 1), (1, 1, 1))


@dataclass(frozen=True)
class PathwayRead:
    """The voxels of the box that a pathway reads.

    Attributes:
        start: First voxel, in the box.
        step: Voxels from one to the next; the pathway's factor.
        shrink: Voxels that the pathway takes off, at its own resolution.
        sizes: Of the images that an imported pathway computes; None where every size is.
    """

    start: Int3
    step: Int3
    shrink: Int3
    sizes: SizeRule | None

    def count(self, core: Int3) -> Int3:
        """Voxels along each axis that are read for a core.

        >>> read = PathwayRead((0, 0, 0), (3, 1, 1), (4, 4, 0), None)
        >>> read.count((7, 7, 7))
        (7, 11, 7)
        """
        count = add(ceil_div(core, self.step), self.shrink)
        return count if self.sizes is None else self.sizes.at_least(count)


@dataclass(frozen=True)
class ImageBox:
    """The box of the image that an exported network reads.

    Attributes:
        before: Voxels of the box in front of the core.
        after: Voxels of the box after the core.
        reads: What each parallel pathway reads of it.
        fc_shrink: Voxels by which a prediction is smaller than its core.
        core_offset: Voxels from the first voxel of the core to the first one that is predicted.
        sizes: Of the cores.
    """

    before: Int3
    after: Int3
    reads: tuple[PathwayRead, ...]
    fc_shrink: Int3
    core_offset: Int3
    sizes: SizeRule

    @property
    def context(self) -> tuple[Int3, Int3]:
        """Voxels of the box before and after those that are predicted."""
        low = add(self.before, self.core_offset)
        return low, sub(add(self.before, self.after, self.fc_shrink), low)

    @cached_property
    def input_sizes(self) -> SizeRule:
        """Sizes of the box."""
        return SizeRule(add(self.sizes.smallest, self.before, self.after), self.sizes.step)

    def core(self, size: Int3) -> Int3:
        """Voxels of the core of a box of this size."""
        return sub(size, add(self.before, self.after))


def image_box(layout: Layout, geometry: NetworkGeometry) -> ImageBox:
    """The box that a network reads."""
    first = geometry.pathways[0]
    low, _ = geometry.margin
    normal_low = per_axis(lambda n: n // 2, first.shrink)
    starts = _starts(geometry)
    ends = [
        add(start, _reach(pathway, is_first=number == 0))
        for number, (start, pathway) in enumerate(zip(starts, geometry.pathways, strict=True))
    ]
    before = maximum((0, 0, 0), *(per_axis(lambda n: -n, start) for start in starts))
    return ImageBox(
        before=before,
        after=maximum((0, 0, 0), *ends),
        reads=tuple(
            PathwayRead(
                add(start, before),
                pathway.factor,
                pathway.shrink,
                None if number == 0 else pathway.sizes,
            )
            for number, (start, pathway) in enumerate(zip(starts, geometry.pathways, strict=True))
        ),
        fc_shrink=geometry.fc_shrink,
        core_offset=sub(low, normal_low),
        sizes=_core_sizes(layout, geometry),
    )


def _starts(geometry: NetworkGeometry) -> list[Int3]:
    """First voxel that each pathway reads, counted from the first of the core."""
    normal_low = per_axis(lambda n: n // 2, geometry.pathways[0].shrink)
    segment = Box(FAR, add(geometry.shrink, 1))
    core = add(segment.start, normal_low)
    return [sub(points.start, core) for points in geometry.lattices(segment)]


def _reach(pathway: PathwayGeometry, *, is_first: bool) -> Int3:
    """Voxels from the first one that is read of the box to its end, less the core, at most.

    Of a subsampled pathway most for a core of one voxel more than a multiple of its factor.
    """
    if pathway.sizes is not None and not is_first:
        return add(pathway.shrink, pathway.sizes.step, -1)
    return mul(pathway.factor, pathway.shrink)


def _core_sizes(layout: Layout, geometry: NetworkGeometry) -> SizeRule:
    """Cores from which at least one voxel is predicted, and which imported networks compute."""
    kernels = [layer.kernel for layer in layout.fc.layers if layer.padding == "none"]
    smallest = receptive_field(kernels)
    for pathway in geometry.pathways[1:]:
        if pathway.sizes is not None:
            smallest = maximum(smallest, sub(pathway.sizes.smallest, pathway.shrink))
    first = geometry.pathways[0]
    if first.sizes is None:
        return SizeRule(smallest, (1, 1, 1))
    least = first.sizes.at_least(add(smallest, first.shrink))
    return SizeRule(sub(least, first.shrink), first.sizes.step)


def border(layout: Layout) -> Int3:
    """Voxels of a prediction near its borders that padded layers compute otherwise inside an image.

    Layers with padding see zeros or mirrored voxels where a part of an image ends.
    """
    parallel = [
        per_axis(
            lambda reach, factor: factor * (reach + (factor > 1)) if reach else 0,
            _padded_reach(pathway.layers),
            pathway.geometry.factor,
        )
        for pathway in layout.pathways
    ]
    return add(maximum(*parallel, (0, 0, 0)), _padded_reach(layout.fc.layers))


def _padded_reach(layers: tuple[LayerPlan, ...]) -> Int3:
    """Voxels from which padding can be seen, at the resolution of the layers."""
    return add((0, 0, 0), *(_halves(layers)))


def _halves(layers: tuple[LayerPlan, ...]) -> Iterator[Int3]:
    for layer in layers:
        if layer.padding != "none":
            yield per_axis(lambda k: k // 2, layer.kernel)
