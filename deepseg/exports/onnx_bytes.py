"""A graph as the bytes of an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from deepseg.errors import DeepsegError, Problem
from deepseg.model.graph.graph import AttributeValue, Graph, GraphInput, GraphNode
from deepseg.version import VERSION

AXES = ("batch", "channels", "x", "y", "z")
_LARGEST = (1 << 31) - 1  # bytes of a protocol buffer
_TYPES = {  # of numbers, as attributes state them
    "float32": torch.float32,
    "int64": torch.int64,
    "int32": torch.int32,
    "int16": torch.int16,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "bool": torch.bool,
}


def onnx_bytes(
    graph: Graph, *, output_maps: Mapping[str, int], metadata: Mapping[str, str]
) -> bytes:
    """The ONNX file of a graph: weights as initialisers, constants as nodes, no other domain.

    Args:
        graph: Whose inputs and outputs are images of any size.
        output_maps: Feature maps of each output by its name.
        metadata: Written into the file, for programs.

    Raises:
        DeepsegError: ``onnx-extra-missing``, or ``export-too-large`` above 2 GiB.
    """
    onnx = package_onnx()
    helper = onnx.helper
    images = [_image(helper, entry) for entry in graph.inputs]
    results = [
        _image(helper, GraphInput(name, (None, maps, None, None, None)))
        for name, maps in output_maps.items()
    ]
    constants = [
        helper.make_node("Constant", [], [name], value=_tensor(onnx, name, value))
        for name, value in graph.constants.items()
    ]
    nodes = [_node(onnx, node) for node in graph.nodes]
    weights = [_tensor(onnx, name, value) for name, value in graph.weights.items()]
    opset = helper.make_opsetid("", graph.opset)
    model = helper.make_model(
        helper.make_graph([*constants, *nodes], "deepseg", images, results, weights),
        opset_imports=[opset],
        producer_name="deepseg",
        producer_version=VERSION,
        ir_version=helper.find_min_ir_version_for([opset]),
    )
    helper.set_model_props(model, dict(metadata))
    size = model.ByteSize()
    if size > _LARGEST:
        raise DeepsegError(
            Problem(
                code="export-too-large",
                got=f"a network of {size} bytes",
                expected="at most 2 GiB, which is all that an ONNX file can hold",
                fix="export a network with fewer feature maps, or as safetensors",
            )
        )
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def package_onnx() -> Any:
    """The package onnx.

    Raises:
        DeepsegError: ``onnx-extra-missing``.
    """
    try:
        import onnx
    except ImportError as error:
        raise missing_package("onnx", "to write this file") from error
    return onnx


def missing_package(package: str, purpose: str) -> DeepsegError:
    """The error for a package of the extra ``onnx`` that is not there."""
    return DeepsegError(
        Problem(
            code="onnx-extra-missing",
            got=f"no package {package}",
            expected=f"the package, {purpose}",
            fix="pip install 'deepseg-pathways[onnx]'",
        )
    )


def _image(helper: Any, entry: GraphInput) -> Any:
    assert entry.shape is not None
    shape = [word if n is None else n for word, n in zip(AXES, entry.shape, strict=True)]
    if entry.name != "image":  # sizes of its own
        shape = [f"{entry.name}_{n}" if n in ("x", "y", "z") else n for n in shape]
    return helper.make_tensor_value_info(entry.name, 1, shape)  # 1: float32


def _tensor(onnx: Any, name: str, value: Tensor) -> Any:
    return onnx.numpy_helper.from_array(value.numpy(), name)


def _node(onnx: Any, node: GraphNode) -> Any:
    proto = onnx.helper.make_node(
        node.operator, list(node.inputs), list(node.outputs), name=node.name
    )
    for name, value in _attributes(onnx, node).items():
        proto.attribute.append(onnx.helper.make_attribute(name, value))
    return proto


def _attributes(onnx: Any, node: GraphNode) -> dict[str, Any]:
    """The attributes of a node as ONNX has them: types of numbers as codes."""
    values: dict[str, AttributeValue] = {
        name: value for name, value in node.attributes.items() if value != ()
    }
    if node.operator == "Cast":
        word = node.text("to", "float32")
        return {**values, "to": _tensor(onnx, "", torch.zeros(1, dtype=_TYPES[word])).data_type}
    if node.operator == "ConstantOfShape":
        dtype = _TYPES[node.text("dtype", "float32")]
        filling = torch.tensor([node.number("value", 0.0)]).to(dtype)
        return {"value": _tensor(onnx, "", filling)}
    return dict(values)
