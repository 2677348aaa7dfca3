"""A graph as an ONNX file: default domain, static shapes, operators that every runtime has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepseg.errors import DeepsegError, Problem
from deepseg.exports.gradients.tape import Variable
from deepseg.exports.train_step.step import StepGraph
from deepseg.model.graph.graph import GraphNode

OPSET = 17
FILE_VERSION = 8  # of the ONNX format, as old as the operators allow


def onnx_content(
    graph: StepGraph, *, defaults: Mapping[str, ArrayLike], metadata: Mapping[str, str]
) -> bytes:
    """The bytes of the file.

    Args:
        graph: That is written.
        defaults: Values of inputs that need not be fed.
        metadata: Words for people and programs.

    Raises:
        DeepsegError: ``onnx-extra-missing``.
    """
    onnx = _onnx()
    nodes, constants = _needed(graph)
    constants |= {name: np.asarray(value, np.float32) for name, value in defaults.items()}
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [_node(onnx, node) for node in nodes],
            "deepseg",
            [_described(onnx, variable) for variable in graph.tape.inputs],
            [_described(onnx, variable) for variable in graph.outputs],
            [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=FILE_VERSION,
        producer_name="deepseg",
    )
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _needed(graph: StepGraph) -> tuple[list[GraphNode], dict[str, NDArray[Any]]]:
    """Nodes and constants that an output depends on."""
    needed = {variable.name for variable in graph.outputs}
    nodes = []
    for node in reversed(graph.tape.nodes):
        if needed & set(node.outputs):
            nodes.append(node)
            needed |= set(node.inputs)
    constants = {n: value for n, value in graph.tape.constants.items() if n in needed}
    return nodes[::-1], constants


def _node(onnx: Any, node: GraphNode) -> Any:
    attributes = dict(node.attributes)
    if node.operator == "Cast":
        attributes["to"] = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(str(attributes["to"])))
    return onnx.helper.make_node(
        node.operator, node.inputs, node.outputs, name=node.label, **attributes
    )


def _described(onnx: Any, variable: Variable) -> Any:
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(variable.dtype))
    return onnx.helper.make_tensor_value_info(variable.name, kind, variable.shape)


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise DeepsegError(
            Problem(
                code="onnx-extra-missing",
                got="no package onnx",
                expected="it, to write ONNX files",
                fix="pip install 'deepseg-pathways[onnx]'",
            )
        ) from error
    return onnx
