"""Imported networks within a network: built from their record, their maps brought to one grid."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepseg.config.blocks.imported import AttachPoint, ImportedNetwork
from deepseg.errors import DeepsegError, Problem
from deepseg.geometry.boxes import Int3, sub
from deepseg.geometry.context import margin
from deepseg.model.feature_maps import AXES, map_size
from deepseg.model.graph.cut import cut
from deepseg.model.graph.geometry import AttachGeometry, graph_geometry
from deepseg.model.graph.graph import Graph
from deepseg.model.graph.network import GraphNetwork
from deepseg.model.graph.program import program
from deepseg.model.graph.record import graph_from_record, graph_record
from deepseg.model.layout import Layout, PathwayLayout

_TENSOR = "base64"  # the key that tells a tensor from other dictionaries


def stored_graph(graph: Graph) -> dict[str, Any]:
    """The graph as plain data without tensors: parameters and statistics by their shapes only."""
    record = graph_record(graph, with_weights=False)
    stored: dict[str, Any] = _without_tensors(record)
    return stored


def graph_of(network: ImportedNetwork) -> Graph:
    """The graph of a stored network; parameters and statistics are on torch's meta device.

    Raises:
        DeepsegError: ``graph-record``, or what else is wrong with the graph.
    """
    record: Mapping[str, Any] = _with_tensors(network.graph)
    return graph_from_record(record)


def graph_network(network: ImportedNetwork) -> GraphNetwork:
    """The network as a module; its weights are zero."""
    return GraphNetwork(graph_of(network), drops_softmax=False)


@dataclass(frozen=True)
class AuxiliaryScores:
    """Scores of a coarser level, for deep supervision.

    Attributes:
        scores: ``(N, K, …)`` at the level's own resolution.
        point: Where its voxels lie in the image of the pathway.
        start: First voxel of that image that is predicted.
    """

    scores: Tensor
    point: AttachPoint
    start: Int3

    def labels(self, labels: Tensor) -> Tensor:
        """The label of the image voxel next to each voxel of the level; -1 where there is none.

        Args:
            labels: ``(N, X, Y, Z)`` of the predicted voxels.

        >>> place = {"stride": (2, 1, 1), "offset": (0.5, 0, 0), "loss": (0, 0, 0)}
        >>> point = AttachPoint(output="y", maps=2, **place)
        >>> level = AuxiliaryScores(torch.zeros(1, 2, 3, 1, 1), point, start=(1, 0, 0))
        >>> level.labels(torch.tensor([10, 11, 12, 13]).view(1, 4, 1, 1)).flatten().tolist()
        [-1, 11, 13]
        """
        for axis, offset, stride, first in zip(
            AXES, self.point.offset, self.point.stride, self.start, strict=True
        ):
            count, voxels = self.scores.shape[axis], labels.shape[axis - 1]
            places = torch.arange(count, device=labels.device) * stride
            places = places + (math.ceil(offset - 0.5) - first)
            chosen = labels.index_select(axis - 1, places.clamp(0, voxels - 1))
            outside = (places < 0) | (places >= voxels)
            shape = [-1 if other == axis - 1 else 1 for other in range(4)]
            labels = chosen.masked_fill(outside.view(shape), -1)
        return labels


def imported_maps(
    module: GraphNetwork, pathway: PathwayLayout, x: Tensor
) -> tuple[Tensor, tuple[AuxiliaryScores, ...]]:
    """``(N, C, X, Y, Z)`` to the maps of all attach points, ``(N, F, *core)`` at full resolution.

    Beside them come scores of coarser levels, where the network has some.

    Args:
        module: That computes.
        pathway: Of the module; its geometry tells which voxels of ``x`` are the core.
        x: Of a type that is not float32 where the network is trained so.
    """
    is_plain = x.dtype == torch.float32
    with nullcontext() if is_plain else torch.autocast(x.device.type, dtype=x.dtype):
        outputs = module(x if is_plain else x.float())
    shrink = pathway.geometry.shrink
    low, _ = margin(shrink)
    size = sub(map_size(x), shrink)
    maps = [
        at_full_resolution(y, point, low, size)
        for y, point in zip(outputs, pathway.attach_points, strict=False)
    ]
    joined = (maps[0] if len(maps) == 1 else torch.cat(maps, 1)).to(x.dtype)
    network = pathway.network
    further = () if network is None else network.auxiliary
    return joined, tuple(
        AuxiliaryScores(y, point, low)
        for y, point in zip(outputs[len(maps) :], further, strict=True)
    )


def attach_point(geometry: AttachGeometry, *, is_interpolated: bool = False) -> AttachPoint:
    """The place of a tensor, as a model keeps it."""
    return AttachPoint(
        output=geometry.output,
        maps=geometry.maps,
        stride=geometry.stride,
        offset=geometry.offset,
        loss=geometry.loss,
        receptive_field=geometry.receptive_field,
        reach=geometry.reach,
        uses_statistics_of_image=geometry.uses_statistics_of_image,
        is_interpolated=is_interpolated,
    )


def inner_points(plan: Layout, addresses: Iterable[str]) -> dict[str, AttachPoint]:
    """The places of the results of layers of imported networks, by address; of others none.

    Raises:
        DeepsegError: ``feature-maps-imported`` for a layer whose result is no image.
    """
    points: dict[str, AttachPoint] = {}
    for pathway in plan.pathways:
        tensors = {
            layer.address: layer.nodes[-1]
            for layer in pathway.imported_layers
            if layer.address in addresses
        }
        if pathway.network is None or not tensors:
            continue
        graph = graph_of(pathway.network)
        for address, tensor in tensors.items():
            part = cut(graph, outputs=[tensor], drops_softmax=False).graph
            try:
                (geometry,) = graph_geometry(program(part)).outputs
            except DeepsegError as error:
                raise _no_image(address, error) from error
            points[address] = attach_point(geometry)
    return points


def _no_image(address: str, error: DeepsegError) -> DeepsegError:
    return DeepsegError(
        Problem(
            code="feature-maps-imported",
            got=f"feature maps of {address}: {error.problems[0].got}",
            expected="layers whose results are images",
            fix="leave it out",
        )
    )


def at_full_resolution(y: Tensor, point: AttachPoint, start: Int3, size: Int3) -> Tensor:
    """``(N, F, *size)``: an output at the voxels of the image, repeated or linearly interpolated.

    Args:
        y: ``(N, F, …)``
        point: Where its voxels lie.
        start: First image voxel.
        size: Image voxels; those beyond the first and the last voxel of ``y`` get its value.

    >>> pooled = {"stride": (2, 1, 1), "offset": (0.5, 0, 0), "loss": (0, 0, 0)}
    >>> point = AttachPoint(output="y", maps=1, **pooled)
    >>> y = torch.arange(3.0).view(1, 1, 3, 1, 1)
    >>> at_full_resolution(y, point, (1, 0, 0), (5, 1, 1)).flatten().tolist()
    [0.0, 1.0, 1.0, 2.0, 2.0]
    >>> point = AttachPoint(output="y", maps=1, is_interpolated=True, **pooled)
    >>> at_full_resolution(y, point, (1, 0, 0), (5, 1, 1)).flatten().tolist()
    [0.25, 0.75, 1.25, 1.75, 2.0]
    """
    for axis, begin, offset, stride, first, n in zip(
        AXES, point.begin, point.offset, point.stride, start, size, strict=True
    ):
        voxels = y.shape[axis]
        if stride == 1 and begin <= first and first - begin + n <= voxels:
            y = y.narrow(axis, first - begin, n)
        elif point.is_interpolated:
            places = (torch.arange(first, first + n, device=y.device) - offset) / stride
            y = _interpolated(y, axis, places.clamp(0, voxels - 1))
        else:
            places = torch.arange(first - begin, first - begin + n, device=y.device) // stride
            y = y.index_select(axis, places.clamp(0, voxels - 1))
    return y


def _interpolated(y: Tensor, axis: int, places: Tensor) -> Tensor:
    """``y`` at places between its voxels along one axis."""
    low = places.floor().long()
    high = (low + 1).clamp(max=y.shape[axis] - 1)
    share = (places - low).to(y.dtype).view(-1, *[1] * (y.ndim - axis - 1))
    before, after = y.index_select(axis, low), y.index_select(axis, high)
    return torch.lerp(before, after, share)


def _without_tensors(value: Any) -> Any:
    match value:
        case Tensor():
            array = value.detach().cpu().contiguous().numpy()
            return {
                _TENSOR: base64.b64encode(array.tobytes()).decode("ascii"),
                "dtype": str(array.dtype),
                "shape": list(array.shape),
            }
        case dict():
            return {key: _without_tensors(entry) for key, entry in value.items()}
        case list() | tuple():
            return [_without_tensors(entry) for entry in value]
    return value


def _with_tensors(value: Any) -> Any:
    match value:
        case {"base64": str(content), "dtype": str(dtype), "shape": list(shape)}:
            array = np.frombuffer(base64.b64decode(content), np.dtype(dtype))
            return torch.from_numpy(array.reshape(shape).copy())
        case dict():
            return {key: _with_tensors(entry) for key, entry in value.items()}
        case list():
            return [_with_tensors(entry) for entry in value]
    return value
