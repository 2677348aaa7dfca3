"""``-show net.onnx``, ``-show net.keras``: a foreign network, and what its images have to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

from deepseg.errors import DeepsegError
from deepseg.geometry.boxes import text
from deepseg.model.graph.geometry import AttachGeometry, GraphGeometry, graph_geometry, strides
from deepseg.model.graph.graph import Graph, GraphNode, pruned
from deepseg.model.graph.operators.table import check_operators
from deepseg.model.graph.program import program
from deepseg.report.console import Console
from deepseg.transfer.sources.graph_files import notices_of_graph_file, read_graph

Shapes = Mapping[str, tuple[tuple[int, ...], tuple[Fraction, ...] | None]]


def show_graph(file: Path, console: Console) -> None:
    """Print the nodes of a foreign network, with the names that they have, and its geometry.

    A network that cannot be computed is shown as well, with a warning that says why.

    Raises:
        DeepsegError: The file is missing, damaged or not understood.
    """
    graph = read_graph(file, needs_weights=False)
    shapes: Shapes = {}
    geometry: GraphGeometry | None = None
    faults: list[str] = []
    try:
        check_operators(graph)
        work = program(pruned(graph))
        shapes = strides(work)
        geometry = graph_geometry(work)
    except DeepsegError as error:
        faults = [str(problem) for problem in error.at(str(file)).problems]
    console.table(
        "nodes",
        ["name", "first output", "operator", "shape", "stride", "parameters"],
        [_row(graph, node, shapes) for node in graph.nodes],
    )
    if geometry is not None:
        console.table("images", ["", ""], _geometry_rows(geometry))
    for notice in notices_of_graph_file(file):
        console.warn(notice)
    for fault in faults:
        console.warn(fault)


def _row(graph: Graph, node: GraphNode, shapes: Shapes) -> list[str]:
    shape, stride = shapes.get(node.outputs[0], ((), None))
    weights = (graph.weights[name] for name in dict.fromkeys(node.inputs) if name in graph.weights)
    parameters = sum(value.numel() for value in weights if value.is_floating_point())
    return [
        node.name or "-",
        node.outputs[0],
        node.operator,
        _product(shape[1:]),
        "-" if stride is None else _product(stride),
        f"{parameters:,}" if parameters else "-",
    ]


def _product(values: Sequence[int | Fraction]) -> str:
    return "x".join(str(value) for value in values) or "-"


def _geometry_rows(geometry: GraphGeometry) -> list[list[str]]:
    rows = [
        ["channels", str(geometry.channels)],
        ["smallest image", text(geometry.sizes.smallest)],
        ["in steps of", text(geometry.sizes.step)],
    ]
    for attach in geometry.outputs:
        rows += _attach_rows(attach)
    return rows


def _attach_rows(attach: AttachGeometry) -> list[list[str]]:
    field = attach.receptive_field
    extent = "the whole image" if field is None else text(field)
    if attach.uses_statistics_of_image:
        extent += ", and statistics of the whole image"
    return [
        ["output", attach.output],
        ["maps", str(attach.maps)],
        ["stride", text(attach.stride)],
        ["first voxel at", " x ".join(f"{place:g}" for place in attach.offset)],
        ["border", attach.border],
        ["receptive field", extent],
    ]
