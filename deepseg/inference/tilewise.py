"""A whole case through a network, tile by tile.

Every tile is predicted with its own context; where the last tiles of an axis overlap their
neighbours, the later one counts. Tiles whose prediction holds no voxel that has to be
computed are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deepseg.config.blocks.imported import AttachPoint
from deepseg.data.preparation import PreparedCase
from deepseg.data.segments.lattice_reading import mirrored
from deepseg.data.segments.segment import inputs
from deepseg.errors import is_out_of_memory
from deepseg.geometry.boxes import Box, Int3, add, negate, per_axis, sub, volume
from deepseg.geometry.context import NetworkGeometry, coarse_size
from deepseg.geometry.tiles import tiles
from deepseg.inference.boxwise.boxes import bounding_box
from deepseg.inference.out_of_memory import SplitOnOutOfMemory
from deepseg.inference.overlap import WindowGrid
from deepseg.inference.prediction import BoxPrediction
from deepseg.model.feature_maps import largest_map, repeated
from deepseg.model.imported import at_full_resolution, inner_points
from deepseg.model.network import Network

ALL_PATHWAYS = -1  # together; the limit of what a network computes pathway by pathway is another


@dataclass(frozen=True)
class TilewisePrediction:
    """Probabilities and feature maps of a case.

    Attributes:
        probabilities: ``(K, X, Y, Z)`` float32; 0 for every class where nothing was computed;
            K is 0 where only feature maps were requested.
        feature_maps: ``(maps, X, Y, Z)`` by layer address, of the requested layers.
    """

    probabilities: NDArray[np.float32]
    feature_maps: Mapping[str, NDArray[np.float32]]


def predict(
    network: Network,
    case: PreparedCase,
    *,
    tile: Int3,
    batch_size: int,
    feature_maps: Mapping[str, slice] | None = None,
    with_probabilities: bool = True,
    splitter: SplitOnOutOfMemory | None = None,
    on_tiles: Callable[[int], None] = lambda _: None,
) -> TilewisePrediction:
    """Probabilities of every voxel of ``case``.

    Args:
        network: In evaluation mode, on the device that computes.
        case: Prepared as the network's training cases were.
        tile: Size of the segment of one tile.
        batch_size: Tiles computed together.
        feature_maps: Layers whose maps are requested, and which of their maps.
        with_probabilities: False where only feature maps are requested.
        splitter: Halves predictions where memory is exhausted.
        on_tiles: Called with the number of tiles just done.
    """
    requested = {} if feature_maps is None else dict(feature_maps)
    geometry = network.geometry
    segments = tiles_to_compute(network, case, tile, with_feature_maps=bool(requested))
    classes = len(network.config.classes) if with_probabilities else 0
    probabilities = np.zeros((classes, *case.shape), np.float32)
    points = inner_points(network.layout, requested)
    maps = {
        address: np.zeros((_count(network, points, address, numbers), *case.shape), np.float32)
        for address, numbers in requested.items()
    }
    device = next(network.parameters()).device
    splitter = SplitOnOutOfMemory() if splitter is None else splitter
    with (
        torch.inference_mode(),
        watched(network, requested) as outputs,
        watched_imported(network, points) as inner,
    ):

        def compute(boxes: Sequence[Box]) -> None:
            read = [inputs(case, box, geometry) for box in boxes]
            batch = [torch.from_numpy(np.stack(images)) for images in zip(*read, strict=True)]
            logits = network([images.to(device) for images in batch])
            if with_probabilities:
                result = logits.float().softmax(1).cpu().numpy()
                for box, shares in zip(boxes, result, strict=True):
                    _place(probabilities, shares, geometry.prediction(box))
            for address, output in outputs.items():
                size = geometry.prediction(boxes[0]).size
                central = _at_full_resolution(output, network, address, size)
                for box, values in zip(boxes, central.float().cpu().numpy(), strict=True):
                    _place(maps[address], values[requested[address]], geometry.prediction(box))
            for address, point in points.items():
                values = _inner_maps(inner, network, address, point, boxes[0])
                for box, image in zip(boxes, values, strict=True):
                    _place(maps[address], image[requested[address]], geometry.prediction(box))

        for boxes in _grouped(segments, batch_size):
            _compute_in_parts(boxes, compute, geometry, splitter)
            on_tiles(len(boxes))
    return TilewisePrediction(probabilities, maps)


def _compute_in_parts(
    segments: Sequence[Box],
    compute: Callable[[Sequence[Box]], None],
    geometry: NetworkGeometry,
    splitter: SplitOnOutOfMemory,
) -> None:
    """Compute segments together; one after the other, and in halves, as memory allows."""
    if len(segments) > 1:
        try:
            compute(segments)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        else:
            return
        torch.cuda.empty_cache()
    for segment in segments:
        unit = TileUnit(segment, geometry.prediction(segment), ())

        def compute_part(part: Box, unit: TileUnit = unit) -> None:
            compute([_part_of_segment(unit, part, geometry)])

        splitter.in_parts(ALL_PATHWAYS, unit.prediction, compute_part)


@dataclass(frozen=True)
class TileUnit:
    """A tile that is predicted by the network as it is.

    Attributes:
        segment: That the network reads, in the image; it may reach beyond it.
        prediction: The voxels that follow from it, in the image or beyond.
        boxes: To be predicted, in the image: a single one.
        border: Voxels of zeros before and after the image, which the segment may read.
    """

    segment: Box
    prediction: Box
    boxes: tuple[Box, ...]
    border: tuple[Int3, Int3] = ((0, 0, 0), (0, 0, 0))

    @property
    def origin(self) -> Int3:
        """The first predicted voxel."""
        return self.prediction.start


def tile_units(
    network: Network, case: PreparedCase, *, tile: Int3, windows: WindowGrid, within: Box
) -> list[TileUnit]:
    """The tiles by which a part of a case is predicted.

    Args:
        network: That computes.
        case: Prepared as the network's training cases were.
        tile: Size of a segment.
        windows: Where tiles lie.
        within: The part of the image.
    """
    geometry = network.geometry
    border = windows.border(case.shape, tile, geometry)
    low, high = border
    units = []
    for padded in windows.tiles(add(case.shape, low, high), tile, geometry):
        segment = padded.moved(negate(low))
        prediction = geometry.prediction(segment)
        box = bounding_box(case.to_compute, prediction.intersection(within))
        if box is not None and volume(box.size) > 0:
            units.append(TileUnit(segment, prediction, (box,), border))
    return units


@dataclass(frozen=True)
class TileRequest:
    """Maps that are computed of tiles, and in which precision.

    Attributes:
        labels: Of the classes whose maps are computed.
        gives_scores: Whether maps are scores, and not probabilities.
        needs_labels: Whether labels are used, and not only maps.
        dtype: Of the feature maps.
    """

    labels: Sequence[int]
    gives_scores: bool = False
    needs_labels: bool = True
    dtype: torch.dtype = torch.float32


def tile_predictions(
    network: Network,
    case: PreparedCase,
    units: Sequence[TileUnit],
    *,
    request: TileRequest,
    splitter: SplitOnOutOfMemory,
    on_boxes: Callable[[int], None] = lambda _: None,
) -> Iterator[tuple[TileUnit, BoxPrediction]]:
    """Predictions of tiles, one after the other; of their halves where memory is exhausted.

    Args:
        network: In evaluation mode, on the device that computes.
        case: Prepared as the network's training cases were.
        units: Of `tile_units`.
        request: What is computed of them.
        splitter: Halves predictions where memory is exhausted.
        on_boxes: Called with the number of boxes just done.
    """
    border = units[0].border if units else ((0, 0, 0), (0, 0, 0))
    bordered = _with_border(case, border)
    geometry = network.geometry

    def compute(unit: TileUnit, part: Box) -> list[BoxPrediction]:
        segment = _part_of_segment(unit, part, geometry)
        images = inputs(bordered, segment.moved(border[0]), geometry)
        labels, maps = _computed(network, images, request)
        start, pieces = geometry.prediction(segment).start, []
        for box in (box.intersection(part) for box in unit.boxes):
            if min(box.size) > 0:
                inside = box.relative_to(start).slices
                values = {label: maps[n][inside] for n, label in enumerate(request.labels)}
                pieces.append(BoxPrediction(box, labels[inside], values))
        return pieces

    for unit in units:
        for pieces in splitter.in_parts(0, unit.prediction, partial(compute, unit)):
            yield from ((unit, piece) for piece in pieces)
        on_boxes(1)


def _computed(
    network: Network, images: Sequence[NDArray[np.float32]], request: TileRequest
) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Labels ``(X, Y, Z)`` and maps ``(K, X, Y, Z)`` of one segment."""
    device = next(network.parameters()).device
    with torch.inference_mode():
        batch = [torch.from_numpy(image)[None].to(device, request.dtype) for image in images]
        logits = network(batch)[0].float()
        most = largest_map(logits[None])[0] if request.needs_labels else logits[0]
        labels = most.to(torch.int16).cpu().numpy()
        maps = logits if request.gives_scores else logits.softmax(0)
        if list(request.labels) != list(range(len(maps))):
            maps = maps[list(request.labels)]
        return labels, maps.cpu().numpy()


def _part_of_segment(unit: TileUnit, part: Box, geometry: NetworkGeometry) -> Box:
    """The segment from which a part of a tile is predicted, in phase with that of the tile."""
    if part == unit.prediction:
        return unit.segment
    needed = geometry.segment(part)
    late = per_axis(
        lambda n, first, step: (n - first) % step, needed.start, unit.segment.start, geometry.step
    )
    size = add(needed.size, late)
    size = size if geometry.sizes is None else geometry.sizes.at_least(size)
    return Box(sub(needed.start, late), size)


def _with_border(case: PreparedCase, border: tuple[Int3, Int3]) -> PreparedCase:
    """The channels of a case among zeros."""
    low, high = border
    if not any((*low, *high)):
        return case
    pads = [(0, 0), *zip(low, high, strict=True)]
    return replace(case, channels=np.pad(case.channels, pads))


def tiles_to_compute(
    network: Network, case: PreparedCase, tile: Int3, *, with_feature_maps: bool
) -> list[Box]:
    """The segments of a case that `predict` computes.

    Feature maps are computed around those voxels too: of all tiles that DeepMedic computes.
    """
    geometry = network.geometry
    counts = _sees_any if with_feature_maps else _predicts_any
    return [box for box in tiles(case.shape, tile, geometry) if counts(case, box, geometry)]


@contextmanager
def watched(network: Network, addresses: Mapping[str, slice]) -> Iterator[dict[str, Tensor]]:
    """Dictionary in which every pass leaves the convolution outputs of the layers, while open.

    They are taken from the convolution, before a residual is added and the next layer acts.
    """
    outputs: dict[str, Tensor] = {}

    def keep(address: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            outputs[address] = output

        return hook

    handles = [
        layer.conv.register_forward_hook(keep(layer.plan.address))
        for layer in network.layers()
        if layer.plan.address in addresses
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def watched_imported(
    network: Network, points: Mapping[str, AttachPoint]
) -> Iterator[Mapping[str, Mapping[str, Tensor]]]:
    """Results of imported layers that every pass leaves here: by pathway, then by tensor."""
    with ExitStack() as stack:
        inner = {}
        for pathway in network.layout.pathways:
            tensors = [p.output for a, p in points.items() if _pathway_of(a) == pathway.name]
            if tensors:
                inner[pathway.name] = stack.enter_context(
                    network.imported(pathway.name).keeping(tensors)
                )
        yield inner


def _pathway_of(address: str) -> str:
    return address.partition(".")[0]


def _inner_maps(
    inner: Mapping[str, Mapping[str, Tensor]],
    network: Network,
    address: str,
    point: AttachPoint,
    segment: Box,
) -> NDArray[np.float32]:
    """``(N, F, *size)``: the maps of an imported layer where a segment is predicted."""
    names = [pathway.name for pathway in network.layout.pathways]
    number = names.index(_pathway_of(address))
    prediction = network.geometry.prediction(segment)
    start = sub(prediction.start, network.geometry.lattices(segment)[number].start)
    values = at_full_resolution(inner[names[number]][point.output], point, start, prediction.size)
    array: NDArray[np.float32] = values.float().cpu().numpy()
    return array


def _at_full_resolution(maps: Tensor, network: Network, address: str, size: Int3) -> Tensor:
    """``(N, F, *size)``: the middle of a layer's maps, repeated where they are subsampled."""
    pathway = next(p for p in network.pathways() if p.plan.name == address.partition(".")[0])
    factor = pathway.plan.geometry.factor
    coarse = coarse_size(size, factor)
    for axis, n in zip((2, 3, 4), coarse, strict=True):
        maps = maps.narrow(axis, (maps.shape[axis] - n) // 2, n)
    return repeated(maps, factor, size)


def _count(
    network: Network, points: Mapping[str, AttachPoint], address: str, numbers: slice
) -> int:
    if address in points:
        return len(range(points[address].maps)[numbers])
    layer = next(layer for layer in network.layout if layer.address == address)
    return len(range(layer.outputs)[numbers])


def _predicts_any(case: PreparedCase, segment: Box, geometry: NetworkGeometry) -> bool:
    inside = geometry.prediction(segment).within(case.shape)
    return case.to_compute is None or bool(case.to_compute[inside.slices].any())


def _sees_any(case: PreparedCase, segment: Box, _vision: NetworkGeometry) -> bool:
    """Whether any voxel of the segment, mirrored beyond the image, has to be computed."""
    if case.to_compute is None:
        return True
    x, y, z = (
        mirrored(np.arange(a, b), n)
        for a, b, n in zip(segment.start, segment.stop, case.shape, strict=True)
    )
    return bool(case.to_compute[np.ix_(x, y, z)].any())


def _place(target: NDArray[np.float32], part: NDArray[np.float32], box: Box) -> None:
    """Write the part of a tile that lies in the volume; it may end beyond it."""
    inside = box.within((target.shape[1], target.shape[2], target.shape[3]))
    source = inside.relative_to(box.start)
    target[(slice(None), *inside.slices)] = part[(slice(None), *source.slices)]


def _grouped(boxes: Sequence[Box], size: int) -> Iterator[Sequence[Box]]:
    for begin in range(0, len(boxes), size):
        yield boxes[begin : begin + size]
