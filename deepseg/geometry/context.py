"""Image voxels that the pathways of a network read for one segment.

A segment is a box of the image that the first pathway reads: the normal one, or an imported one
where there is no normal one. What this pathway predicts of it is its core. A subsampled pathway
with factor f reads a coarser lattice of single voxels, f apart, that reaches further than the
segment; its output voxels are repeated f times until they cover the core. An imported pathway reads
the voxels around the core, as many as its network can compute. Sizes, starts and factors are whole
voxels along X, Y, Z, and nothing here imports torch.

Two alignments exist. ``centred`` puts every lattice point into the middle of the f voxels for which
its output is repeated (half a voxel low where f is even). ``deepmedic`` follows DeepMedic's own
arithmetic, which sits (f - 1) / 2 voxels towards the origin, because imported weights were trained
with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeAlias

from deepseg.geometry.boxes import (
    Box,
    Int3,
    add,
    ceil_div,
    floor_div,
    minimum,
    mul,
    negate,
    per_axis,
    sub,
)
from deepseg.geometry.size_rule import SizeRule

Alignment: TypeAlias = Literal["centred", "deepmedic"]
EVERYWHERE = (1 << 40, 1 << 40, 1 << 40)  # further out than any voxel that is read


@dataclass(frozen=True)
class Lattice:
    """Image voxels at regular steps, which one pathway reads.

    Attributes:
        start: First voxel along each axis; negative before the image begins.
        step: Voxels from one point to the next; the pathway's factor.
        count: Points along each axis.
    """

    start: Int3
    step: Int3
    count: Int3

    @property
    def last(self) -> Int3:
        """Furthest voxel along each axis.

        >>> Lattice(start=(-4, 0, 5), step=(3, 1, 2), count=(5, 7, 2)).last
        (8, 6, 7)
        """
        return add(self.start, mul(self.step, sub(self.count, 1)))

    def moved(self, by: Int3) -> Lattice:
        """Points shifted by ``by`` voxels."""
        return replace(self, start=add(self.start, by))


@dataclass(frozen=True)
class PathwayGeometry:
    """Sight of one parallel pathway, known from its layers alone.

    Attributes:
        factor: Subsampling along each axis; 1 for the normal pathway.
        shrink: Voxels that the pathway's unpadded convolutions take off its input.
        sizes: Of the images that an imported pathway computes; None where every size is.
    """

    factor: Int3
    shrink: Int3
    sizes: SizeRule | None = None


def margin(shrink: Int3) -> tuple[Int3, Int3]:
    """Voxels of a segment before and after its predicted core: an odd one comes after.

    >>> margin((16, 3, 0))
    ((8, 1, 0), (8, 2, 0))
    """
    low = floor_div(shrink, 2)
    return low, sub(shrink, low)


def core(segment: Box, shrink: Int3) -> Box:
    """Voxels of ``segment`` for which a pathway has an output.

    >>> core(Box((100, 0, -4), (25, 17, 20)), shrink=(16, 16, 16))
    Box(start=(108, 8, 4), size=(9, 1, 4))
    """
    low, _ = margin(shrink)
    return Box(add(segment.start, low), sub(segment.size, shrink))


def coarse_size(size: Int3, factor: Int3) -> Int3:
    """Coarse voxels that cover ``size`` fine ones.

    >>> coarse_size((9, 9, 4), (3, 5, 1))
    (3, 2, 4)
    """
    return ceil_div(size, factor)


def lattice(
    segment: Box, normal: PathwayGeometry, pathway: PathwayGeometry, alignment: Alignment
) -> Lattice:
    """Points that ``pathway`` reads so that its output covers the core of ``segment``.

    Args:
        segment: Box that the first pathway reads; in DeepMedic's alignment its start counts from
            the corner of the padded image, because the arithmetic depends on it there.
        normal: The first pathway, which decides where the core lies.
        pathway: The pathway that asks; the first one gets the segment itself.
        alignment: See the head of this module.
    """
    if pathway == normal:
        return Lattice(segment.start, (1, 1, 1), segment.size)
    target = core(segment, normal.shrink)
    if pathway.sizes is not None:
        low, _ = margin(pathway.shrink)
        size = pathway.sizes.at_least(add(target.size, pathway.shrink))
        return Lattice(sub(target.start, low), (1, 1, 1), size)
    count = add(coarse_size(target.size, pathway.factor), pathway.shrink)
    if alignment == "deepmedic":
        extent = add(pathway.shrink, 1)
        start = per_axis(_deepmedic_start, segment.start, pathway.factor, extent)
    else:
        start = per_axis(_centred_start, target.start, pathway.factor, pathway.shrink)
    return Lattice(start, pathway.factor, count)


def _centred_start(target: int, factor: int, shrink: int) -> int:
    return target + (factor - 1) // 2 - factor * (shrink // 2)


def _deepmedic_start(segment: int, factor: int, extent: int) -> int:
    if factor % 2:
        before, centre = (factor - 1) // 2 * extent, factor // 2
    else:
        before, centre = (factor - 2) // 2 * extent + extent // 2, factor // 2 - 1
    start = segment + centre - before
    # Before the image begins, DeepMedic restarts its steps at voxel 0 whatever the phase.
    return start + (-start % factor if start < 0 else 0)


@dataclass(frozen=True)
class NetworkGeometry:
    """Sight of a whole network.

    Attributes:
        pathways: The parallel pathways; the first one reads the segment itself.
        fc_shrink: Voxels that the final classification pathway takes off.
        alignment: Where context lies; see the head of this module.
    """

    pathways: tuple[PathwayGeometry, ...]
    fc_shrink: Int3
    alignment: Alignment

    @cached_property
    def shrink(self) -> Int3:
        """Voxels by which the prediction is smaller than the segment."""
        return add(self.pathways[0].shrink, self.fc_shrink)

    @cached_property
    def margin(self) -> tuple[Int3, Int3]:
        """Voxels of a segment before and after its prediction."""
        return margin(self.shrink)

    @property
    def mirrored(self) -> tuple[Int3, Int3]:
        """Voxels before and after an image that are mirrored; all, where a network is imported.

        Imported networks read what fits them, which may be more than the margin.
        """
        if self.sizes is None and all(pathway.sizes is None for pathway in self.pathways):
            return self.margin
        return EVERYWHERE, EVERYWHERE

    @property
    def sizes(self) -> SizeRule | None:
        """Sizes that a segment may have; None if every one from the receptive field on."""
        return self.pathways[0].sizes

    @property
    def step(self) -> Int3:
        """Voxels from one place of a segment to the next at which all pathways are in phase.

        A network with strides computes something else of an image that is moved by less. Without
        imported pathways, segments lie anywhere, as in DeepMedic.
        """
        steps = [pathway.sizes.step for pathway in self.pathways if pathway.sizes is not None]
        factors = [pathway.factor for pathway in self.pathways] if steps else []
        return per_axis(math.lcm, (1, 1, 1), *steps, *factors)

    def tile(self, shape: Int3, size: Int3) -> Int3:
        """Size of the segments by which an image of ``shape`` is predicted.

        Args:
            shape: Of the image.
            size: That is wanted; larger ones are cut down to the image with its margin, as far as
                the network computes such images.
        """
        tile = minimum(size, add(shape, self.shrink))
        return tile if self.sizes is None else self.sizes.at_least(tile)

    def prediction(self, segment: Box) -> Box:
        """Voxels of ``segment`` that are predicted."""
        return core(segment, self.shrink)

    def segment(self, prediction: Box) -> Box:
        """Segment from which the voxels of ``prediction`` are predicted."""
        low, _ = self.margin
        return Box(sub(prediction.start, low), add(prediction.size, self.shrink))

    def lattices(self, segment: Box) -> tuple[Lattice, ...]:
        """Points that each parallel pathway reads for ``segment``, in voxels of the image."""
        normal = self.pathways[0]
        low, _ = self.margin
        padded = segment.moved(low)  # counted from the corner of the padded image
        return tuple(
            lattice(padded, normal, pathway, self.alignment).moved(negate(low))
            for pathway in self.pathways
        )
