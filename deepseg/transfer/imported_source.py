"""The network of an imported pathway and its weights, wherever the model file takes them from."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from deepseg.config.blocks.imported import ImportedPathway
from deepseg.model.graph.graph import Graph
from deepseg.transfer.sources.graph_files import (
    digest_of_graph_file,
    notices_of_graph_file,
    read_graph,
)
from deepseg.transfer.sources.modules.module_graph import graph_of_module
from deepseg.transfer.sources.modules.module_registry import built_module, load_weights
from deepseg.transfer.sources.nnunet.folder import nnunet_folder
from deepseg.transfer.sources.nnunet.network import nnunet_graph
from deepseg.transfer.sources.tensor_files import read_tensors


@dataclass(frozen=True)
class ReadNetwork:
    """A network of another program, whole.

    Attributes:
        sha256: Of the file that holds its weights, or of the weights.
        has_weights: False if they mean nothing, because nobody has trained them.
        notices: Lines on what the file lacks.
    """

    graph: Graph
    sha256: str
    has_weights: bool = True
    notices: tuple[str, ...] = ()


def read_network(block: ImportedPathway) -> ReadNetwork:
    """Read or build the network of a pathway.

    Raises:
        DeepsegError: Whatever is wrong with its file, module or folder.
    """
    if block.file is not None:
        graph = read_graph(block.file, needs_weights=not block.random)
        notices = notices_of_graph_file(block.file)
        return ReadNetwork(graph, digest_of_graph_file(block.file), notices=notices)
    if block.nnunet is not None:
        model = nnunet_folder(block.nnunet, block.fold)
        return ReadNetwork(nnunet_graph(model), _digest_of_file(model.checkpoint))
    assert block.module is not None
    return _of_module(block, block.module)


def _of_module(block: ImportedPathway, name: str) -> ReadNetwork:
    built = built_module(name, block.arguments)
    if block.weights is None:
        graph = graph_of_module(built.module)
        return ReadNetwork(graph, _digest(graph.weights), has_weights=built.has_weights)
    module = copy.deepcopy(built.module)
    load_weights(module, read_tensors(block.weights)[1])
    return ReadNetwork(graph_of_module(module), _digest_of_file(block.weights))


def _digest_of_file(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of the values of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
