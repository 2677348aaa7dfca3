"""Costs of imported networks: multiply-adds of their layers, and values that a training step keeps.

Both follow from the shapes of all tensors for an image of some size; nothing is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from deepseg.config.blocks.imported import ImportedNetwork
from deepseg.geometry.boxes import Int3, add, volume
from deepseg.model.graph.graph import GraphNode
from deepseg.model.graph.program import program
from deepseg.model.graph.trace import Tracer
from deepseg.model.imported import graph_of
from deepseg.model.layout import Layout

IMAGES = 2  # a graph that is pinned to one image is none of ours
USUAL = (64, 64, 64)  # voxels of an image whose border does not count

Shapes = Mapping[str, tuple[int, ...]]


def imported_multiply_adds(plan: Layout) -> dict[str, float]:
    """Multiply-adds of every layer of imported networks, per voxel of their image, by address."""
    costs: dict[str, float] = {}
    for pathway in plan.pathways:
        if pathway.network is None:
            continue
        sizes = pathway.geometry.sizes
        size = USUAL if sizes is None else sizes.at_least(USUAL)
        shapes = _shapes(pathway.network, size)
        nodes = {node.outputs[0]: node for node in graph_of(pathway.network).nodes}
        costs |= {
            layer.address: sum(_multiply_adds(nodes[name], shapes) for name in layer.nodes)
            / (IMAGES * volume(size))
            for layer in pathway.imported_layers
        }
    return costs


def imported_values(plan: Layout, core: Int3) -> int:
    """Values of all images within imported networks that predict ``core`` of one segment."""
    values = 0
    for pathway in plan.pathways:
        if pathway.network is not None:
            size = add(core, pathway.geometry.shrink)
            sizes = pathway.geometry.sizes
            shapes = _shapes(pathway.network, size if sizes is None else sizes.at_least(size))
            outputs = [n for node in graph_of(pathway.network).nodes for n in node.outputs]
            values += sum(prod(shapes[n]) for n in outputs if len(shapes.get(n, ())) == 5) // IMAGES
    return values


def _shapes(network: ImportedNetwork, size: Int3) -> Shapes:
    """Shapes of all tensors and weights for images of a size."""
    graph = graph_of(network)
    (image,) = graph.inputs
    weights = {name: tuple(value.shape) for name, value in graph.weights.items()}
    shape = (IMAGES, network.channels, *size)
    return weights | Tracer(program(graph)).shapes({image.name: shape})


def _multiply_adds(node: GraphNode, shapes: Shapes) -> int:
    """Multiply-adds of a convolution or a product of matrices; 0 of other nodes."""
    match node.operator:
        case "Conv":
            batch, _, *voxels = shapes[node.outputs[0]]
            return batch * prod(voxels) * prod(shapes[node.inputs[1]])
        case "ConvTranspose":
            batch, _, *voxels = shapes[node.inputs[0]]
            return batch * prod(voxels) * prod(shapes[node.inputs[1]])
        case "MatMul" | "Gemm":
            return prod(shapes[node.outputs[0]]) * shapes[node.inputs[0]][-1]
    return 0
