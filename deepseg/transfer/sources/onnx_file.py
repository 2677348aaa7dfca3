"""ONNX files: networks as a graph of operators with weights, read without running anything.

The package ``onnx`` parses the file. Weights may lie in files beside it, in the same folder or
below; their places are checked before anything is read. What the operators mean is known in
`deepseg.model.graph`.

Sources: ``onnx.proto`` and ``docs/ExternalData.md`` of https://github.com/onnx/onnx.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepseg.errors import DeepsegError, Problem, did_you_mean, raise_if_any
from deepseg.model.graph.graph import AttributeValue, Graph, GraphInput, GraphNode, joined
from deepseg.storage.readable import raise_if_unreadable

SUFFIX = ".onnx"
LARGEST_FILE = (1 << 31) - 1  # bytes of a protocol buffer

# TensorProto.DataType: the name of each type, and numpy's for those that are read.
_TYPES = {
    1: ("float32", "<f4"),
    2: ("uint8", "u1"),
    3: ("int8", "i1"),
    5: ("int16", "<i2"),
    6: ("int32", "<i4"),
    7: ("int64", "<i8"),
    9: ("bool", "?"),
    10: ("float16", "<f2"),
    11: ("float64", "<f8"),
    16: ("bfloat16", "<u2"),
}
_REFUSED = {4: "uint16", 8: "text", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128"}
_FLOATS = ("float32", "float16", "float64", "bfloat16")
_FIELDS = {
    "float32": "float_data",
    "float64": "double_data",
    "int64": "int64_data",
}  # where values lie that are not in raw_data; all others are in int32_data
_ATTRIBUTES = {1: "f", 2: "i", 3: "s", 6: "floats", 7: "ints"}  # AttributeProto.AttributeType
_TENSOR = 4
_SCOPES = "pkg.torch.onnx.name_scopes"  # torch's exporter writes there which module a node is of


@dataclass(frozen=True)
class StoredTensor:
    """Where the values of a tensor lie.

    Attributes:
        dtype: Name of the type of its numbers.
        content: The TensorProto, for values inside the ONNX file; None for a file beside it.
        file: Beside the ONNX file.
        offset: First byte in that file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    content: Any = None
    file: Path | None = None
    offset: int = 0

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * np.dtype(_numpy_type(self.dtype)).itemsize


def is_onnx_file(file: Path) -> bool:
    """True for the name of an ONNX file, there or not."""
    return file.suffix.lower() == SUFFIX


def read_onnx(file: Path) -> Graph:
    """The network in an ONNX file.

    Floats of every precision become 32 bits wide. Copies that an exporter has left of equal weights
    become weights of their own again, with the names that torch has for them.

    Raises:
        DeepsegError: ``onnx-missing``, ``onnx-damaged``, ``onnx-refused``, ``onnx-external-data``
            or ``onnx-extra-missing``; ``graph-incomplete`` or ``graph-cycle``.
    """
    model = _parsed(file)
    try:
        graph = _graph(model, file)
        return joined(_unshared(graph))
    except DeepsegError as error:
        raise error.at(str(file)) from error


def read_onnx_weights(file: Path) -> dict[str, Tensor]:
    """The weights of an ONNX file that are floats, by name.

    Raises:
        DeepsegError: See `read_onnx`.
    """
    weights = read_onnx(file).weights
    return {name: value for name, value in weights.items() if value.is_floating_point()}


def read_onnx_metadata(file: Path) -> dict[str, str]:
    """Notes of the program that wrote an ONNX file, by key.

    Raises:
        DeepsegError: ``onnx-missing``, ``onnx-damaged``, ``onnx-refused`` or
            ``onnx-extra-missing``.
    """
    return {entry.key: entry.value for entry in _parsed(file).metadata_props}


def folded_norms(file: Path) -> int:
    """The number of batch normalisations that torch's exporter has folded into convolutions.

    Raises:
        DeepsegError: As of `read_onnx_metadata`.
    """
    return sum(
        any(entry.key.endswith(".rule_name") and "BatchNorm" in entry.value for entry in notes)
        for notes in (node.metadata_props for node in _parsed(file).graph.node)
    )


def _parsed(file: Path) -> Any:
    """The ModelProto of a file, without what lies beside it."""
    raise_if_unreadable(file)
    if not file.is_file():
        raise _missing(file)
    size = file.stat().st_size
    if size > LARGEST_FILE:
        raise DeepsegError(
            _refused(
                f"{size} bytes",
                "at most 2 GiB, which is all that such a file can hold",
                "export the network with its weights beside it (external_data=True)",
            )
        ).at(str(file))
    try:
        import onnx
    except ImportError as error:
        raise DeepsegError(
            Problem(
                code="onnx-extra-missing",
                got="no package onnx",
                expected="the package, to read this file",
                fix="pip install 'deepseg-pathways[onnx]'",
                where=str(file),
            )
        ) from error
    model = onnx.ModelProto()
    try:
        model.ParseFromString(file.read_bytes())
    except Exception as error:  # protobuf's DecodeError, of a package that is not ours to import
        if type(error).__name__ != "DecodeError":
            raise
        raise DeepsegError(_damaged("content that cannot be parsed")).at(str(file)) from error
    if not model.graph.node or not model.graph.output:
        raise DeepsegError(_damaged("no nodes or no outputs")).at(str(file))
    return model


def _graph(model: Any, file: Path) -> Graph:
    raise_if_any(_problems_of(model))
    stored = [_stored(tensor, file) for tensor in model.graph.initializer]
    in_nodes = {
        node.output[0]: _stored(attribute.t, file)
        for node in model.graph.node
        if node.op_type == "Constant" and node.output
        for attribute in node.attribute
        if attribute.type == _TENSOR
    }
    tensors = [*stored, *in_nodes.values()]
    raise_if_any(problem for tensor in tensors for problem in _problem_of(tensor))
    weights = {tensor.name: _values(tensor) for tensor in stored}
    constants = {name: _values(tensor) for name, tensor in in_nodes.items()}
    constants |= dict(_plain_constants(model.graph.node))
    return Graph(
        nodes=tuple(_node(node) for node in model.graph.node if node.op_type != "Constant"),
        inputs=tuple(
            GraphInput(entry.name, _shape(entry))
            for entry in model.graph.input
            if entry.name not in weights
        ),
        outputs=tuple(entry.name for entry in model.graph.output),
        weights=weights,
        constants=constants,
        opset=max(
            (o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1
        ),
    )


def _problems_of(model: Any) -> Iterator[Problem]:
    if model.graph.sparse_initializer:
        yield _refused("sparse weights", "dense ones", "export the network without compression")
    if model.graph.quantization_annotation:
        yield _refused("a quantised network", "one of floats", "export it before it is quantised")


def _stored(tensor: Any, file: Path) -> StoredTensor:
    """The place of a tensor; nothing is read."""
    shape = tuple(int(n) for n in tensor.dims)
    dtype = _TYPES.get(tensor.data_type, ("", ""))[0]
    if not dtype:
        word = _REFUSED.get(tensor.data_type, f"number {tensor.data_type}")
        raise DeepsegError(
            _refused(
                f"tensor {tensor.name!r} of type {word}",
                f"one of {', '.join(name for name, _ in _TYPES.values())}",
                "export the network with plain floats",
            )
        )
    if min(shape, default=0) < 0:
        raise DeepsegError(_damaged(f"tensor {tensor.name!r} of shape {shape}"))
    if tensor.data_location != 1:  # TensorProto.EXTERNAL
        return StoredTensor(tensor.name, dtype, shape, content=tensor)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    offset = entries.get("offset", "0")
    length = entries.get("length", "")
    place = StoredTensor(
        tensor.name,
        dtype,
        shape,
        file=_beside(file, entries.get("location", "")),
        offset=int(offset) if offset.isascii() and offset.isdigit() else -1,
    )
    if place.offset < 0 or (length and length != str(place.size)):
        raise DeepsegError(
            _external(
                f"tensor {place.name!r} at byte {offset or '0'} of length {length or 'unknown'}",
                f"{place.size} bytes for its shape",
                "export the network again",
            )
        )
    return place


def _beside(file: Path, location: str) -> Path:
    """A file beside the ONNX file; links out of its folder are followed, and refused."""
    folder = file.parent.resolve()
    with contextlib.suppress(OSError, ValueError):
        path = (folder / location).resolve()
        if location and not Path(location).is_absolute() and path.is_relative_to(folder):
            return path
    raise DeepsegError(
        _external(
            f"weights in {location!r}, outside the folder of the ONNX file",
            "a file in that folder or below",
            "move both into one folder and export again; do not trust this file",
        )
    )


def _problem_of(tensor: StoredTensor) -> Iterator[Problem]:
    """A tensor whose values are not all there."""
    if tensor.file is None:
        count = _count_inside(tensor)
        expected = math.prod(tensor.shape)
        if count != expected:
            yield _damaged(
                f"{count:g} values of tensor {tensor.name!r}, whose shape has {expected}"
            )
    elif not tensor.file.is_file():
        yield _external(
            f"no file {tensor.file.name!r}, which holds {tensor.name!r}",
            "the file beside the ONNX file",
            "copy it there",
        )
    elif tensor.file.stat().st_size < tensor.offset + tensor.size:
        yield _external(
            f"{tensor.file.stat().st_size} bytes in {tensor.file.name!r},"
            f" but {tensor.name!r} up to byte {tensor.offset + tensor.size}",
            "the whole file",
            "copy it again",
        )


def _count_inside(tensor: StoredTensor) -> float:
    content = tensor.content
    if content.HasField("raw_data"):
        return len(content.raw_data) / np.dtype(_numpy_type(tensor.dtype)).itemsize
    return float(len(getattr(content, _FIELDS.get(tensor.dtype, "int32_data"))))


def _values(tensor: StoredTensor) -> Tensor:
    """The values of a checked tensor; floats of 32 bits, other numbers as they are."""
    kind = np.dtype(_numpy_type(tensor.dtype))
    if tensor.file is not None:
        flat = np.fromfile(tensor.file, kind, math.prod(tensor.shape), offset=tensor.offset)
    elif tensor.content.HasField("raw_data"):
        flat = np.frombuffer(tensor.content.raw_data, kind).copy()
    else:
        flat = _listed(tensor, kind)
    array = torch.from_numpy(flat.reshape(tensor.shape))
    if tensor.dtype == "bfloat16":
        return array.view(torch.bfloat16).to(torch.float32)
    return array.to(torch.float32) if tensor.dtype in _FLOATS else array


def _listed(tensor: StoredTensor, kind: np.dtype[Any]) -> np.ndarray[Any, Any]:
    values = getattr(tensor.content, _FIELDS.get(tensor.dtype, "int32_data"))
    if tensor.dtype == "float16":  # the bits of a half, as a whole number
        return np.array(values, np.uint16).view(kind)
    return np.array(values).astype(kind)


def _numpy_type(dtype: str) -> str:
    return next(code for name, code in _TYPES.values() if name == dtype)


def _plain_constants(nodes: Sequence[Any]) -> Iterator[tuple[str, Tensor]]:
    """Constants that are written as numbers rather than as tensors."""
    for node in nodes:
        if node.op_type != "Constant":
            continue
        for attribute in node.attribute:
            match attribute.name:
                case "value_float":
                    yield node.output[0], torch.tensor(attribute.f, dtype=torch.float32)
                case "value_int":
                    yield node.output[0], torch.tensor(attribute.i)
                case "value_floats":
                    yield node.output[0], torch.tensor(list(attribute.floats), dtype=torch.float32)
                case "value_ints":
                    yield node.output[0], torch.tensor(list(attribute.ints), dtype=torch.int64)


def _node(node: Any) -> GraphNode:
    domain = "" if node.domain in ("", "ai.onnx") else f"{node.domain}."
    attributes = {a.name: _attribute(a) for a in node.attribute}
    if node.op_type == "Cast":
        code = attributes.get("to")
        attributes["to"] = _type_name(code if isinstance(code, int) else 0)
    if node.op_type == "ConstantOfShape":
        attributes |= _filling(node)
    return GraphNode(
        operator=f"{domain}{node.op_type}",
        inputs=tuple(node.input),
        outputs=tuple(node.output),
        attributes=attributes,
        name=node.name,
        scope=_scope(node),
    )


def _attribute(attribute: Any) -> AttributeValue:
    """The value of an attribute; a word for what is no number, which only operators have that are
    refused."""
    field = _ATTRIBUTES.get(attribute.type)
    if field is None:
        return f"attribute of type {attribute.type}"
    value = getattr(attribute, field)
    if field == "s":
        return str(value.decode("utf-8", "replace"))
    if field in ("floats", "ints"):
        return tuple(value)
    return float(value) if field == "f" else int(value)


def _type_name(code: int) -> str:
    name = _TYPES.get(code, (_REFUSED.get(code, f"number {code}"), ""))[0]
    return "float32" if name in _FLOATS else name


def _filling(node: Any) -> dict[str, AttributeValue]:
    for attribute in node.attribute:
        if attribute.name == "value" and attribute.type == _TENSOR:
            tensor = StoredTensor(
                attribute.t.name,
                _TYPES.get(attribute.t.data_type, ("", ""))[0] or "float32",
                tuple(attribute.t.dims),
                content=attribute.t,
            )
            raise_if_any(_problem_of(tensor))
            value = float(_values(tensor).reshape(-1)[0])
            return {"value": value, "dtype": _type_name(attribute.t.data_type)}
    return {}


def _scope(node: Any) -> str:
    """The module that a node is a part of, which the exporters of torch write down."""
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            names = [part.strip(" '\"") for part in entry.value.strip("[]").split(",")]
            return names[-2] if len(names) > 1 else ""
    if not node.name.startswith("/"):
        return ""
    scope = ""
    for part in node.name.strip("/").split("/")[:-1]:
        scope = _inner(scope, part)
    return scope


def _inner(scope: str, part: str) -> str:
    """The module ``part`` of ``scope``; entries of lists repeat the name of their list.

    >>> _inner("model.1.submodule", "submodule.0")
    'model.1.submodule.0'
    >>> _inner("model.1", "conv")
    'model.1.conv'
    """
    words = part.split(".")
    for n in range(len(words) - 1, 0, -1):
        repeated = ".".join(words[:n])
        if scope == repeated or scope.endswith(f".{repeated}"):
            return ".".join([scope, *words[n:]])
    return f"{scope}.{part}" if scope else part


def _shape(entry: Any) -> tuple[int | None, ...] | None:
    kind = entry.type.tensor_type
    if not entry.type.HasField("tensor_type") or not kind.HasField("shape"):
        return None
    return tuple(
        int(axis.dim_value) if axis.HasField("dim_value") and axis.dim_value > 0 else None
        for axis in kind.shape.dim
    )


def _unshared(graph: Graph) -> Graph:
    """Weights of their own for the copies that torch's exporter makes of equal ones."""
    weights: dict[str, Tensor] = dict(graph.weights)
    nodes = []
    for node in graph.nodes:
        if node.operator == "Identity" and node.inputs[0] in weights:
            weights[node.outputs[0]] = weights[node.inputs[0]].clone()
        else:
            nodes.append(node)
    read = {name for node in nodes for name in node.inputs} | set(graph.outputs)
    return Graph(
        nodes=tuple(nodes),
        inputs=graph.inputs,
        outputs=graph.outputs,
        weights=_used(weights, read),
        constants=graph.constants,
        opset=graph.opset,
    )


def _used(weights: Mapping[str, Tensor], read: set[str]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if name in read}


def _missing(file: Path) -> DeepsegError:
    near: list[str] = []
    with contextlib.suppress(OSError):
        near = sorted(path.name for path in file.parent.glob(f"*{SUFFIX}"))
    return DeepsegError(
        Problem(
            code="onnx-missing",
            got="a folder" if file.is_dir() else "no such file",
            expected="an ONNX file",
            fix="correct the path" + did_you_mean(file.name, near),
            where=str(file),
        )
    )


def _damaged(got: str) -> Problem:
    return Problem("onnx-damaged", got, "a whole ONNX file", "copy the file again")


def _refused(got: str, expected: str, fix: str) -> Problem:
    return Problem("onnx-refused", got, expected, fix)


def _external(got: str, expected: str, fix: str) -> Problem:
    return Problem("onnx-external-data", got, expected, fix)
