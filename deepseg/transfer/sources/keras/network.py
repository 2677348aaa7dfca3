"""A network of Keras as a graph: layers in the order of their calls, networks within unfolded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseg.errors import DeepsegError
from deepseg.model.graph.graph import Graph, GraphInput, joined
from deepseg.transfer.sources.keras.builder import (
    AXES,
    Facts,
    Layer,
    LayerCall,
    Parts,
    UnsupportedLayerError,
)
from deepseg.transfer.sources.keras.layers import HANDLERS
from deepseg.transfer.sources.keras.model_file import KerasFile, Place, open_keras
from deepseg.transfer.sources.keras.problems import damaged, refused

OPSET = 21
NETWORKS = ("Functional", "Model", "Sequential")
_PACKAGES = ("keras", "tensorflow.keras", "tf_keras", "builtins")


def read_keras(file: Path, *, needs_weights: bool = True) -> Graph:
    """The network in a file of Keras, with weights named as torch names them.

    Args:
        file: See `open_keras`.
        needs_weights: False where the topology alone is wanted; weights are zero where none are.

    Raises:
        DeepsegError: ``keras-missing``, ``keras-damaged``, ``keras-refused``, ``keras-weights`` or
            ``keras-extra-missing``; ``graph-incomplete`` or ``graph-cycle``.
    """
    try:
        opened = open_keras(file)
        if opened.weights is None and needs_weights:
            raise refused(
                "a description without weights",
                "weights beside it, such as net.weights.h5 beside net.json",
                "save them with Keras: model.save_weights('net.weights.h5'); or take the topology "
                "alone, with random: true",
            )
        return joined(_graph(opened))
    except DeepsegError as error:
        raise error.at(str(file)) from error


def _graph(opened: KerasFile) -> Graph:
    try:
        unfolding = _Unfolding(opened, _channels_first(opened.description))
        outputs = unfolding.network(opened.description, _Place(), None)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise damaged(f"a description that cannot be read ({error!r})"[:160]) from error
    parts = unfolding.parts
    return Graph(
        nodes=tuple(parts.nodes),
        inputs=tuple(unfolding.images),
        outputs=tuple(dict.fromkeys(outputs)),
        weights=parts.weights,
        constants=parts.constants,
        opset=OPSET,
    )


def _channels_first(description: Any) -> bool:
    """Where images have their channels, which all layers have to agree on."""
    formats = set(_formats(description))
    if len(formats) > 1:
        raise refused("images with channels in front and behind", "one of both", "change a layer")
    return "channels_first" in formats


def _formats(value: Any) -> Iterator[str]:
    match value:
        case dict():
            word = value.get("data_format")
            if isinstance(word, str):
                yield word
            for entry in value.values():
                yield from _formats(entry)
        case list():
            for entry in value:
                yield from _formats(entry)


@dataclass(frozen=True)
class _Place:
    """Where a network stands.

    Attributes:
        names: Of the networks that it is in, and its own.
        classes: Of these, as Keras 3 names the groups of their weights.
        call: Which use of it this is, for the labels of its nodes.
    """

    names: Place = ()
    classes: Place = ()
    call: str = ""

    def label(self, name: str, number: int) -> str:
        """Label of the nodes of a use of a layer."""
        again = f":{number}" if number else ""
        return ".".join((*self.names, name)) + self.call + again


class _Unfolding:
    """A graph in the making."""

    def __init__(self, opened: KerasFile, channels_first: bool) -> None:
        self.parts = Parts()
        self.images: list[GraphInput] = []
        self._opened = opened
        self._channels_first = channels_first

    def network(
        self, description: Mapping[str, Any], place: _Place, inputs: Sequence[str] | None
    ) -> list[str]:
        """The results of a network.

        Args:
            description: Class and config.
            place: Where it stands.
            inputs: That it reads; None for the images of the file.
        """
        config = description["config"]
        entries = config if isinstance(config, list) else config["layers"]
        entries = [_entry(entry) for entry in entries]
        if not entries:
            raise damaged("a network without layers")
        classes = dict(zip((e["name"] for e in entries), _numbered_classes(entries), strict=True))
        if len(classes) < len(entries):
            raise damaged("two layers of one name")
        work = _Network(entries, classes, place)
        if description["class_name"] == "Sequential":
            return self._chain(work, inputs)
        return self._functional(work, config if isinstance(config, dict) else {}, inputs)

    def _chain(self, work: _Network, inputs: Sequence[str] | None) -> list[str]:
        tensors = list(inputs or ())
        for entry in work.entries:
            if not tensors:
                tensors = [self._image(entry, "image" if _has_shape(entry) else None)]
                if entry["class_name"] == "InputLayer":
                    continue
            if entry["class_name"] != "InputLayer":
                tensors = self._call(work, entry, 0, tensors)
        return tensors

    def _functional(
        self, work: _Network, config: Mapping[str, Any], inputs: Sequence[str] | None
    ) -> list[str]:
        results: dict[tuple[str, int], list[str]] = {}
        images = [e for e in work.entries if e["class_name"] == "InputLayer"]
        order = [name for name, *_ in _references(config.get("input_layers") or [])]
        if order:
            images.sort(key=lambda entry: order.index(entry["name"]))
        for number, entry in enumerate(images):
            results[entry["name"], 0] = [self._image(entry) if inputs is None else inputs[number]]
        pending = [
            (entry, number, _references(node))
            for entry in work.entries
            if entry["class_name"] != "InputLayer"
            for number, node in enumerate(entry["inbound_nodes"])
        ]
        while pending:
            waiting = []
            for entry, number, reads in pending:
                if not reads:
                    raise damaged(f"layer {entry['name']!r}, which reads nothing")
                if all((name, node) in results for name, node, _ in reads):
                    tensors = [results[name, node][place] for name, node, place in reads]
                    results[entry["name"], number] = self._call(work, entry, number, tensors)
                else:
                    waiting.append((entry, number, reads))
            if len(waiting) == len(pending):
                raise damaged(f"layer {waiting[0][0]['name']!r}, which waits for no other layer")
            pending = waiting
        ends = _references(config.get("output_layers") or [])
        if ends:
            return [results[name, node][place] for name, node, place in ends]
        read = {
            n for e in work.entries for node in e["inbound_nodes"] for n, *_ in _references(node)
        }
        return [t for (name, _), tensors in results.items() if name not in read for t in tensors]

    def _image(self, entry: Mapping[str, Any], name: str | None = "") -> str:
        settings = entry["config"]
        shape = next((settings[k] for k in _SHAPES if settings.get(k)), None)
        if name is None or shape is None:
            raise refused(
                f"layer {entry['name']!r} without the shape of the image",
                "an InputLayer in front",
                "save the model after it was built: model.build((None, None, None, None, 1))",
            )
        has_batch = "batch" in next(key for key in _SHAPES if settings.get(key))
        sizes = list(shape) if has_batch else [None, *shape]
        if len(sizes) == AXES and not self._channels_first:
            sizes = [sizes[0], sizes[4], *sizes[1:4]]
        name = name or entry["name"]
        self.images.append(GraphInput(name, tuple(sizes)))
        self.parts.facts[name] = Facts(sizes[1] if len(sizes) > 1 else None, len(sizes) == AXES)
        return name

    def _call(
        self, work: _Network, entry: Mapping[str, Any], number: int, tensors: Sequence[str]
    ) -> list[str]:
        kind, name, place = entry["class_name"], entry["name"], work.place
        classes = (*place.classes, work.classes[name])
        if kind in NETWORKS and _is_builtin(entry):
            again = place.call + (f":{number}" if number else "")
            inner = _Place((*place.names, name), classes, again)
            return self.network(entry, inner, tensors)
        weights = self._opened.weights
        names = (*place.names, name)
        layer = Layer(
            name=".".join(names),
            kind=kind,
            settings=entry["config"],
            arrays=None if weights is None else weights(names, classes),
            is_legacy=self._opened.is_legacy,
            channels_first=self._channels_first,
        )
        call = LayerCall(layer, place.label(name, number), tensors, self.parts)
        return [self._computed(call, entry, number)]

    def _computed(self, call: LayerCall, entry: Mapping[str, Any], number: int) -> str:
        if not _is_builtin(entry):
            return call.refused("code of its own, which is never run")
        remark = _settings_of_call(entry["inbound_nodes"][number : number + 1])
        if remark:
            return call.refused(remark)
        try:
            handler = HANDLERS.get(call.layer.kind)
            if handler is None:
                return call.refused("")
            return handler(call)
        except UnsupportedLayerError as error:
            return call.refused(str(error))


@dataclass(frozen=True)
class _Network:
    """The layers of a network.

    Attributes:
        classes: Group of the weights of each layer, by its name.
    """

    entries: Sequence[Mapping[str, Any]]
    classes: Mapping[str, str]
    place: _Place


_SHAPES = ("batch_shape", "batch_input_shape", "shape", "input_shape")


def _has_shape(entry: Mapping[str, Any]) -> bool:
    return any(entry["config"].get(key) for key in _SHAPES)


def _entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A layer with its name, which some versions write into its config only."""
    config = entry.get("config") or {}
    name = entry.get("name") or config["name"]
    return {"inbound_nodes": [], **entry, "config": config, "name": str(name)}


def _is_builtin(entry: Mapping[str, Any]) -> bool:
    """True for classes of Keras itself; others come with code, which is never run."""
    registered, module = entry.get("registered_name"), entry.get("module")
    is_builtin = registered in (None, entry["class_name"])
    return is_builtin and (module is None or _is_known(str(module)))


def _is_known(module: str) -> bool:
    return any(module == root or module.startswith(f"{root}.") for root in _PACKAGES)


def _numbered_classes(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Groups of the weights in files of Keras 3: the class, counted from the second one on."""
    counts: dict[str, int] = {}
    for entry in entries:
        name = snake_case(entry["class_name"])
        number = counts.get(name, 0)
        counts[name] = number + 1
        yield f"{name}_{number}" if number else name


def snake_case(name: str) -> str:
    """The name of a class as Keras writes it into files of weights.

    >>> snake_case("Conv3DTranspose"), snake_case("PReLU"), snake_case("BatchNormalization")
    ('conv3d_transpose', 'p_re_lu', 'batch_normalization')
    """
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _references(node: Any) -> list[tuple[str, int, int]]:
    """The results that a node reads: name of a layer, which use of it, which result of it.

    >>> _references([["conv", 0, 0, {}], ["pool", 1, 0, {}]])
    [('conv', 0, 0), ('pool', 1, 0)]
    """
    match node:
        case {"class_name": "__keras_tensor__", "config": {"keras_history": [name, use, place]}}:
            return [(str(name), int(use), int(place))]
        case {"args": args}:
            return _references(args)
        case [str(name), int(use), int(place), *_]:
            return [(name, use, place)]
        case [str(name)]:
            return [(name, 0, 0)]
        case list():
            return [reference for entry in node for reference in _references(entry)]
        case dict():
            return [reference for entry in node.values() for reference in _references(entry)]
    return []


def _settings_of_call(node: Any) -> str:
    """What a call passes to a layer beside tensors, in words; nothing where it is as usual.

    >>> _settings_of_call([{"args": [2.0], "kwargs": {}}])
    'the value 2.0 among its inputs'
    >>> _settings_of_call([["conv", 0, 0, {"training": None}]])
    ''
    """
    for entry in node:
        args = entry.get("args", []) if isinstance(entry, dict) else []
        for value in _flat(args):
            if value is not None and not _references(value):
                return f"the value {str(value)[:20]} among its inputs"
        for settings in _keywords(entry):
            for key, value in settings.items():
                if value not in (None, False) or (key != "training" and value is not None):
                    return f"{key} in its call"
    return ""


def _flat(values: Any) -> Iterator[Any]:
    for value in values if isinstance(values, list) else [values]:
        if isinstance(value, list):
            yield from _flat(value)
        else:
            yield value


def _keywords(entry: Any) -> Iterator[Mapping[str, Any]]:
    match entry:
        case {"kwargs": dict(settings)}:
            yield settings
        case [str(), int(), int(), dict(settings)]:
            yield settings
        case list():
            for inner in entry:
                yield from _keywords(inner)
