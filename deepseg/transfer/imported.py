"""Imported pathways of a model file: their networks are read, cut, probed and taken over.

The result is a model file's settings with everything that the files hold but for the weights, and
the weights, by the names that they have in the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from deepseg.config.blocks.imported import (
    ImportedLayer,
    ImportedNetwork,
    ImportedPathway,
    ImportedWeight,
)
from deepseg.config.blocks.optimisers import WeightType
from deepseg.config.blocks.unet import UnetPathway
from deepseg.config.model import ModelConfig
from deepseg.errors import DeepsegError, Problem, raise_if_any
from deepseg.model.graph.cut import cut
from deepseg.model.graph.geometry import GraphGeometry, graph_geometry
from deepseg.model.graph.graph import Graph, GraphInput, GraphNode
from deepseg.model.graph.network import GraphNetwork
from deepseg.model.imported import attach_point, stored_graph
from deepseg.model.unet import unet_geometry, unet_graph
from deepseg.transfer.imported_source import read_network

_SIZES = ("Shape", "Size")  # operators that read no values of an image
_TYPES: dict[str, WeightType] = {
    "BatchNormalization": "BatchNorm",
    "InstanceNormalization": "InstanceNorm",
    "GroupNormalization": "GroupNorm",
    "LayerNormalization": "LayerNorm",
    "PRelu": "PReLU",
}
_KERNELS: dict[str, WeightType] = {"Conv": "Conv", "ConvTranspose": "ConvTranspose"}
_PRODUCTS = ("MatMul", "Gemm")
_RESHAPING = ("Unsqueeze", "Squeeze", "Reshape", "Transpose", "Expand", "Cast", "Identity")


@dataclass(frozen=True)
class ImportedModel:
    """A model whose imported networks were read.

    Attributes:
        config: With the networks.
        weights: Of the files, by name in the model; none of pathways that begin at random.
        notices: What a user should know of the networks.
        rows: Of every layer: address, operators, where its weights come from, remarks.
    """

    config: ModelConfig
    weights: dict[str, Tensor]
    notices: tuple[str, ...] = ()
    rows: tuple[tuple[str, str, str, str], ...] = ()


def read_imported(
    config: ModelConfig, file: Path, *, stored: ModelConfig | None = None
) -> ImportedModel:
    """Read the networks of a model file, and lay out its U-Net; without any, it stays as it is.

    Args:
        config: Of the model file.
        file: The model file, for messages.
        stored: Settings of a `.save`: networks with the same keys need not be read again.

    Raises:
        DeepsegError: Everything that is wrong with the networks, and with the sizes of segments for
            them.
    """
    if config.is_resolved:
        return ImportedModel(config, {})
    blocks, problems = [], list[Problem]()
    weights: dict[str, Tensor] = {}
    notices: list[str] = []
    rows: list[tuple[str, str, str, str]] = []
    for number, block in enumerate(config.imported, start=1):
        name = f"imported{number}"
        records = () if stored is None else stored.imported
        same = next((other for other in records if _has_same_keys(other, block)), None)
        if same is not None:
            blocks.append(same)
            continue
        try:
            network = _read(block, config)
        except DeepsegError as error:
            problems += error.at(f"{block.origin} ({name})").problems
            continue
        blocks.append(block.model_copy(update={"network": network.record}))
        if network.has_weights:
            weights |= {f"{name}.{key}": value for key, value in network.weights.items()}
        notices += [f"{name}: {notice}" for notice in network.notices]
        rows += _rows(name, block, network)
    raise_if_any(problems)
    networks = {"imported": tuple(blocks), "unet": _laid_out(config, stored)}
    return ImportedModel(_validated(config, networks, file), weights, tuple(notices), tuple(rows))


def _has_same_keys(record: ImportedPathway, block: ImportedPathway) -> bool:
    return record.model_copy(update={"network": None}) == block


def _laid_out(config: ModelConfig, stored: ModelConfig | None) -> UnetPathway | None:
    """The U-Net with the layers that it has for the channels and classes of the model."""
    block = config.unet
    if block is None:
        return None
    facts = ("channels", "classes", "fc")
    if stored is not None and stored.unet is not None:
        same_block = stored.unet.model_copy(update={"network": None}) == block
        if same_block and all(getattr(stored, f) == getattr(config, f) for f in facts):
            return stored.unet
    sizes, has_head = (len(config.channels), len(config.classes)), config.fc == "none"
    module = GraphNetwork(unet_graph(block, *sizes, has_head=has_head), drops_softmax=False)
    geometry = unet_geometry(block, *sizes, has_head=has_head)
    record = _record(module, geometry, sha256="", outputs=1)
    return block.model_copy(update={"network": record})


def _record(
    module: GraphNetwork,
    geometry: GraphGeometry,
    *,
    sha256: str,
    outputs: int | None = None,
    is_interpolated: bool = False,
) -> ImportedNetwork:
    """A network as a model holds it.

    Args:
        module: The network.
        geometry: Of its outputs.
        sha256: Of its file.
        outputs: How many of them are joined; the further ones are for deep supervision.
        is_interpolated: Whether these are brought to full resolution linearly.
    """
    points = tuple(
        attach_point(point, is_interpolated=is_interpolated) for point in geometry.outputs
    )
    return ImportedNetwork(
        graph=stored_graph(module.graph),
        channels=geometry.channels,
        smallest=geometry.sizes.smallest,
        step=geometry.sizes.step,
        outputs=points[:outputs],
        layers=tuple(_layers(module)),
        sha256=sha256,
        auxiliary=() if outputs is None else points[outputs:],
    )


@dataclass(frozen=True)
class _Network:
    """A network that was read.

    Attributes:
        weights: By name within the pathway.
        channels: The network's channel for each of the model's, None for a new one.
        stems: Names of the weights that have an axis of channels.
        has_weights: False where new weights are drawn.
    """

    record: ImportedNetwork
    weights: dict[str, Tensor]
    notices: tuple[str, ...]
    channels: tuple[str, ...]
    stems: frozenset[str]
    has_weights: bool


def _read(block: ImportedPathway, config: ModelConfig) -> _Network:
    channels = config.channels
    source = read_network(block)
    has_weights = source.has_weights and not block.random
    part = cut(source.graph, outputs=block.output_names, ignore=block.ignore)
    whole = GraphNetwork(part.graph, drops_softmax=False)
    places = _channel_places(block, channels, graph_geometry(whole.program).channels)
    chosen = _with_channels(part.graph, places)
    classifier = _classifier(block, config, chosen.graph)
    module = GraphNetwork(classifier.graph, drops_softmax=False)
    geometry = graph_geometry(module.program)
    _check_classes(config, geometry)
    record = _record(
        module,
        geometry,
        sha256=source.sha256,
        is_interpolated=block.upsampling == "linear",
    )
    return _Network(
        record,
        {key: module.state_dict()[key] for key in module.keys.values()},
        (
            *source.notices,
            *part.notices,
            *_channel_notices(block, channels, places, has_weights),
            *classifier.notices,
        ),
        tuple(
            f"{name} new, zero" if place is None else f"{name} from {place}"
            for name, place in zip(channels, places, strict=True)
        ),
        frozenset(module.keys[name] for name in chosen.stems if name in module.keys),
        has_weights,
    )


def _channel_places(
    block: ImportedPathway, channels: Sequence[str], count: int
) -> list[int | None]:
    """The network's channel for each of the model's; None for one that it does not know."""
    words = _End("channels", "imported-channels", "the network reads", "channels")
    return _places(block.channels, channels, count, words)


def _channel_notices(
    block: ImportedPathway, channels: Sequence[str], places: Sequence[int | None], has_weights: bool
) -> Iterator[str]:
    if not block.channels and len(places) > 1:
        yield f"channels by position: {', '.join(channels)}"
    new = [name for name, place in zip(channels, places, strict=True) if place is None]
    if new and has_weights:
        yield f"channels that the network does not know begin as zero: {', '.join(new)}"


def _unfitting_channels(got: str, expected: str, fix: str) -> DeepsegError:
    return DeepsegError(Problem("imported-channels", got, expected, fix))


@dataclass(frozen=True)
class _ChosenChannels:
    """A graph that reads other channels, and the weights that changed."""

    graph: Graph
    stems: tuple[str, ...]


def _with_channels(graph: Graph, places: Sequence[int | None]) -> _ChosenChannels:
    """The graph for an image of ``len(places)`` channels, each one of its own or a new one."""
    (image,) = graph.inputs
    readers = [n for n in graph.consumers()[image.name] if n.operator not in _SIZES]
    stems = [node.inputs[1] for node in readers if _is_stem(node, graph)]
    if len(stems) == len(readers):
        weights = dict(graph.weights)
        for name in dict.fromkeys(stems):
            weights[name] = selected(graph.weights[name], places, axis=1)
        shape = image.shape
        if shape is not None and len(shape) > 1:
            shape = (shape[0], len(places), *shape[2:])
        inputs = (GraphInput(image.name, shape),)
        return _ChosenChannels(replace(graph, weights=weights, inputs=inputs), tuple(stems))
    if list(places) == list(range(len(places))):
        return _ChosenChannels(graph, ())
    other = next(node for node in readers if not _is_stem(node, graph))
    raise _unfitting_channels(
        f"other channels than those of the network, whose image is read by {other}",
        "convolutions of the image, whose weights belong to channels",
        "give the model the channels of the network, in its order, and leave channels out",
    )


@dataclass(frozen=True)
class _Classifier:
    """A graph that ends in the classes of the model, and what a user should know of them."""

    graph: Graph
    notices: tuple[str, ...] = ()


def _classifier(block: ImportedPathway, config: ModelConfig, graph: Graph) -> _Classifier:
    """The network's own classifier for the classes of the model; without one the graph as it is.

    Raises:
        DeepsegError: ``imported-classes``.
    """
    if config.fc != "none":
        return _Classifier(graph)
    last = next((node for node in reversed(graph.nodes) if node.outputs[0] in graph.outputs), None)
    kernel = graph.weights.get(last.inputs[1]) if last is not None and _is_kernel(last) else None
    if last is None or kernel is None:
        return _Classifier(graph) if not block.classes else _refused_classes(block, last)
    axis = 0 if last.operator == "Conv" else 1
    count = kernel.shape[axis]
    places = _class_places(block, config.classes, count)
    if places == list(range(count)):
        return _Classifier(graph, (f"classes by position: {', '.join(config.classes)}",))
    weights = dict(graph.weights)
    for name, along in zip(last.inputs[1:], (axis, 0), strict=False):
        weights[name] = selected(graph.weights[name], places, axis=along)
    new = [name for name, place in zip(config.classes, places, strict=True) if place is None]
    notice = f"classes that the network does not know begin as zero: {', '.join(new)}"
    return _Classifier(replace(graph, weights=weights), (notice,) if new else ())


def _check_classes(config: ModelConfig, geometry: GraphGeometry) -> None:
    """Refuse a network that is used with its own classifier but has not a map for every class."""
    maps = sum(point.maps for point in geometry.outputs)
    if config.fc == "none" and maps != len(config.classes):
        raise _unfitting_classes(
            f"{len(config.classes)} classes of the model ({', '.join(config.classes)})",
            f"{maps}, which the network gives",
            "name as many classes, or put a classifier of your own on it with fc",
        )


def _is_kernel(node: GraphNode) -> bool:
    return node.operator in _KERNELS and node.integer("group", 1) == 1


def _refused_classes(block: ImportedPathway, last: GraphNode | None) -> _Classifier:
    raise _unfitting_classes(
        f"classes {', '.join(block.classes)}, and {last or 'no node'} at the end of the network",
        "a convolution at its end, whose weights belong to classes",
        "leave classes out and give the model the classes of the network, in its order",
    )


def _class_places(block: ImportedPathway, classes: Sequence[str], count: int) -> list[int | None]:
    """The network's map for each class of the model; None for one that it does not know."""
    words = _End("classes", "imported-classes", "the network's classifier gives", "maps")
    return _places(block.classes, classes, count, words)


@dataclass(frozen=True)
class _End:
    """An end of an imported network, its images or its scores, in problems.

    Attributes:
        key: Of the pathway that tells which is which.
        code: Of problems.
        role: Of the network at this end.
        noun: Things of the network that are numbered here.
    """

    key: str
    code: str
    role: str
    noun: str


def _places(
    chosen: Mapping[str, int], names: Sequence[str], count: int, end: _End
) -> list[int | None]:
    """The number in the network for each name in the model; None for one that it does not know.

    Args:
        chosen: Numbers by name, as the user gave them; empty for the order of ``names``.
        names: Of the model.
        count: Numbers that there are in the network.
        end: For the words of problems.

    Raises:
        DeepsegError: Of the code of ``end``.
    """
    beyond = {name: place for name, place in chosen.items() if place >= count}
    if beyond:
        got = f"{end.key} {', '.join(f'{name}: {place}' for name, place in beyond.items())}"
        expected = f"numbers from 0 to {count - 1}, of the {end.noun} that {end.role}"
        raise DeepsegError(Problem(end.code, got, expected, "correct them"))
    if not chosen and len(names) != count:
        got = f"{len(names)} {end.key} of the model ({', '.join(names)})"
        expected = f"{count}, which {end.role}, or {end.key} of this pathway"
        fix = f"add {end.key}, such as {end.key}: {{{names[0]}: 0}}"
        raise DeepsegError(Problem(end.code, got, expected, fix))
    return [chosen.get(name) for name in names] if chosen else list(range(count))


def _unfitting_classes(got: str, expected: str, fix: str) -> DeepsegError:
    return DeepsegError(Problem("imported-classes", got, expected, fix))


def _is_stem(node: GraphNode, graph: Graph) -> bool:
    is_convolution = node.operator == "Conv" and node.integer("group", 1) == 1
    return is_convolution and node.inputs[1] in graph.weights


def selected(weights: Tensor, places: Sequence[int | None], *, axis: int) -> Tensor:
    """The entries of ``weights`` at ``places`` along an axis, zero for None.

    >>> selected(torch.tensor([[1, 2], [3, 4]]), [1, None, 0], axis=1).tolist()
    [[2, 0, 1], [4, 0, 3]]
    """
    zero = torch.zeros_like(weights.select(axis, 0))
    return torch.stack(
        [zero if place is None else weights.select(axis, place) for place in places], axis
    )


def _layers(module: GraphNetwork) -> Iterator[ImportedLayer]:
    """The layers of a network: nodes with weights, those of one name together."""
    graph = module.graph
    name_of = {layer.node: layer.name for layer in module.layers}
    uses = _Uses(graph)
    nodes: dict[str, list[GraphNode]] = {}
    for node in graph.nodes:
        if node.outputs[0] in name_of:
            nodes.setdefault(name_of[node.outputs[0]], []).append(node)
    below = _layers_below(graph, name_of)
    owned: set[str] = set()
    for name, members in nodes.items():
        weights = [
            weight
            for node in members
            for weight in _weights(module, node, uses)
            if weight.name not in owned
        ]
        unique = {weight.name: weight for weight in weights}
        owned |= unique.keys()
        lower = dict.fromkeys(n for node in members for n in below[node.outputs[0]] if n != name)
        yield ImportedLayer(
            name=name,
            operators=tuple(dict.fromkeys(uses.meaning(node)[0].operator for node in members)),
            nodes=tuple(node.outputs[0] for node in members),
            weights=tuple(unique.values()),
            below=tuple(lower),
        )


@dataclass(frozen=True)
class _Uses:
    """The nodes for which weights are meant, also where their shapes are changed before."""

    graph: Graph

    @cached_property
    def _readers(self) -> dict[str, list[GraphNode]]:
        return self.graph.consumers()

    def meaning(self, node: GraphNode, place: int = 0) -> tuple[GraphNode, int]:
        """The node that computes with the input at ``place`` of ``node``, and its place there."""
        readers = self._readers.get(node.outputs[0], [])
        if node.operator not in _RESHAPING or node.inputs[0] not in self.graph.weights:
            return node, place
        if len(readers) != 1:
            return node, place
        return self.meaning(readers[0], readers[0].inputs.index(node.outputs[0]))


def _weights(module: GraphNetwork, node: GraphNode, uses: _Uses) -> Iterator[ImportedWeight]:
    roles, keys, weights = module.program.roles, module.keys, module.graph.weights
    for place, name in enumerate(node.inputs):
        if name in keys:
            yield ImportedWeight(
                name=keys[name],
                shape=tuple(weights[name].shape),
                type=_type(*uses.meaning(node, place), weights[name]),
                learns=roles[name] == "parameter",
            )


def _type(node: GraphNode, place: int, weight: Tensor) -> WeightType:
    if node.operator in _TYPES:
        return _TYPES[node.operator]
    if node.operator in _KERNELS and place == 1:
        return _KERNELS[node.operator]
    return "Linear" if node.operator in _PRODUCTS and weight.ndim > 1 else "Bias"


def _layers_below(graph: Graph, name_of: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """Of every node, by its first output, the layers whose results come to it directly."""
    reads: dict[str, tuple[str, ...]] = {}  # by tensor: the layers that it comes from
    below = {}
    for node in graph.nodes:
        lower = tuple(dict.fromkeys(layer for name in node.inputs for layer in reads.get(name, ())))
        below[node.outputs[0]] = lower
        layer = name_of.get(node.outputs[0])
        for output in node.outputs:
            reads[output] = lower if layer is None else (layer,)
    return below


def _rows(
    name: str, block: ImportedPathway, network: _Network
) -> Iterator[tuple[str, str, str, str]]:
    origin = Path(block.weights or block.origin).name if network.has_weights else "new"
    for layer in network.record.layers:
        is_stem = any(weight.name in network.stems for weight in layer.weights)
        remarks = ", ".join(network.channels) if is_stem and network.has_weights else ""
        yield f"{name}.{layer.name}", ", ".join(layer.operators), origin, remarks


def _validated(config: ModelConfig, networks: Mapping[str, Any], file: Path) -> ModelConfig:
    """The settings with their networks, judged again: sizes of segments depend on them."""
    values = {name: getattr(config, name) for name in ModelConfig.model_fields}
    try:
        return ModelConfig.model_validate(values | dict(networks))
    except ValidationError as error:
        problems = [
            Problem(*(str(entry["ctx"][key]) for key in ("code", "got", "expected", "fix")))
            for entry in error.errors()
        ]
        raise DeepsegError(*problems).at(str(file)) from None
