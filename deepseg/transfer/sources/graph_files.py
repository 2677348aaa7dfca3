"""Files of networks of other programs, whichever it is, as a graph.

What ONNX and Keras mean by a layer is known in `onnx_file` and `keras`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from deepseg.model.graph.graph import Graph, GraphNode
from deepseg.transfer.first_common import WeightedLayer
from deepseg.transfer.sources.keras.model_file import is_keras_file, open_keras
from deepseg.transfer.sources.keras.network import read_keras
from deepseg.transfer.sources.onnx_file import folded_norms, is_onnx_file, read_onnx


def is_graph_file(file: Path) -> bool:
    """True for the name of a file that describes a network, there or not.

    >>> [is_graph_file(Path(name)) for name in ("net.onnx", "net.keras", "net.save")]
    [True, True, False]
    """
    return is_onnx_file(file) or is_keras_file(file)


def read_graph(file: Path, *, needs_weights: bool = True) -> Graph:
    """The network in a file of ONNX or Keras.

    Args:
        file: ``net.onnx``, ``net.keras``, ``net.h5``, or ``net.json`` with weights beside it.
        needs_weights: False where the topology alone is wanted, as of a description without any.

    Raises:
        DeepsegError: The file is missing, damaged or not understood.
    """
    if is_keras_file(file):
        return read_keras(file, needs_weights=needs_weights)
    return read_onnx(file)


def notices_of_graph_file(file: Path) -> tuple[str, ...]:
    """Lines on what the program that wrote a file has left out of it."""
    count = 0 if is_keras_file(file) else folded_norms(file)
    if not count:
        return ()
    norms = "1 batch normalisation was" if count == 1 else f"{count} batch normalisations were"
    return (
        f"{norms} folded into convolutions by the exporter, with weights that are in no file; "
        "torch.onnx.export(…, optimize=False) keeps them",
    )


def kind_of_graph_file(file: Path) -> str:
    """``ONNX`` or ``Keras``.

    >>> kind_of_graph_file(Path("net.weights.h5"))
    'Keras'
    """
    return "Keras" if is_keras_file(file) else "ONNX"


def digest_of_graph_file(file: Path) -> str:
    """SHA-256 of a file, and of the weights beside it that belong to it."""
    if is_keras_file(file):
        return open_keras(file).sha256
    return hashlib.sha256(file.read_bytes()).hexdigest()


def float_weights(graph: Graph) -> dict[str, Tensor]:
    """The weights of a network that are floats, by name."""
    weights = graph.weights
    return {name: value for name, value in weights.items() if value.is_floating_point()}


def weighted_layers(graph: Graph) -> Iterator[WeightedLayer]:
    """The layers with weights, in the order in which they are computed."""
    nodes: dict[str, list[GraphNode]] = {}
    for node in graph.nodes:
        names = [name for name in node.inputs if name in graph.weights]
        if names:
            nodes.setdefault(names[0].rpartition(".")[0] or node.label, []).append(node)
    for layer, members in nodes.items():
        weights = dict.fromkeys(n for m in members for n in m.inputs if n in graph.weights)
        yield WeightedLayer(
            layer,
            tuple(dict.fromkeys(node.operator for node in members)),
            tuple((name, tuple(graph.weights[name].shape)) for name in weights),
        )


def has_weights(file: Path) -> bool:
    """False for a description of Keras without weights beside it."""
    return not is_keras_file(file) or open_keras(file).weights is not None
