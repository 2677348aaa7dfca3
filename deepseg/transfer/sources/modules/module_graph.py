"""A module of torch as a graph: traced once, its operations translated, the result compared.

The module is computed with images that it accepts, `torch.export` writes down what it does while
the size of images stays free, and the graph has to give the values that the module gives.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind

from deepseg.errors import DeepsegError, Problem
from deepseg.geometry.boxes import Int3, text
from deepseg.model.graph.graph import Graph, GraphInput, GraphNode, pruned
from deepseg.model.graph.network import GraphNetwork
from deepseg.model.graph.operators.table import OPERATORS
from deepseg.transfer.sources.modules.aten_call import (
    OPSET,
    AtenCall,
    GraphParts,
    Result,
    operation_of,
)
from deepseg.transfer.sources.modules.aten_operators import TRANSLATIONS

SIZES: tuple[Int3, ...] = (
    *((16, 32, 48), (32, 48, 64), (64, 64, 96)),
    *((32, 32, 32), (64, 64, 64), (96, 96, 96), (128, 128, 128)),
)
"""Images that are tried."""
TOLERANCE = 1e-5  # of the largest value
_BATCH = 2  # one image alone would become a part of what is traced
_CHANNELS = (1, 2, 3, 4)  # that are tried after those of the first convolution


def graph_of_module(module: nn.Module) -> Graph:
    """The graph of a module that reads one 3D image, in the state that it has after training.

    Parameters and running statistics have the names of the module; nodes know the module that they
    are a part of. Operations that no graph has keep their name, and are refused where they are
    needed.

    >>> network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU())
    >>> graph = graph_of_module(network)
    >>> [(node.operator, node.scope) for node in graph.nodes], sorted(graph.weights)
    ([('Conv', '0'), ('Relu', '1')], ['0.bias', '0.weight'])

    Args:
        module: On any device; it is not changed.

    Raises:
        DeepsegError: ``module-image`` if it computes none of the images that are tried;
            ``module-untraceable`` if its computation depends on values, or its graph computes
            something else.
    """
    module = copy.deepcopy(module).cpu().float().eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    image = _accepted_image(module)
    program = _traced(module, image)
    graph = _translated(program, _first_names(module))
    _compare(graph, program, image)
    return graph


def _accepted_image(module: nn.Module) -> Tensor:
    """An image that the module computes."""
    reasons: list[str] = []
    rng = torch.Generator().manual_seed(0)
    for channels in _channels(module):
        for size in SIZES:
            image = torch.randn(_BATCH, channels, *size, generator=rng)
            try:
                with torch.no_grad():
                    module(image)
            except Exception as error:  # of code that is not ours
                reasons.append(_first_line(error))
            else:
                return image
    raise DeepsegError(
        Problem(
            code="module-image",
            got=f"a module that computes no image of {text(SIZES[0])} to {text(SIZES[-1])} voxels: "
            f"{reasons[0]}",
            expected="a module that reads one image (N, C, X, Y, Z)",
            fix="correct its arguments, such as spatial_dims: 3, or choose another module",
        )
    )


def _channels(module: nn.Module) -> list[int]:
    kernels = (part.in_channels for part in module.modules() if isinstance(part, nn.Conv3d))
    return list(dict.fromkeys((*[next(kernels, 1)], *_CHANNELS)))


def _traced(module: nn.Module, image: Tensor) -> ExportedProgram:
    free = dict.fromkeys((0, 2, 3, 4), Dim.AUTO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(module, (image,), dynamic_shapes=(free,), strict=False)
    except Exception as error:  # of torch, in many kinds
        got = f"a computation that torch.export cannot trace: {_first_line(error)}"
        raise _untraceable(got) from error


def _first_names(module: nn.Module) -> dict[str, str]:
    """The first name of every parameter and buffer; some have several."""
    tensors = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    first: dict[int, str] = {}
    for name, tensor in tensors:
        first.setdefault(id(tensor), name)
    return {name: first[id(tensor)] for name, tensor in tensors}


def _translated(program: ExportedProgram, first_names: Mapping[str, str]) -> Graph:
    weights, constants, image = _placeholders(program, first_names)
    values = {**weights, **constants}
    parts = GraphParts([name for name, _ in values.values()] + [image.name])
    names = {node: name for node, (name, _) in values.items()} | {image: image.name}
    for node in _operations(program.graph):
        _translate(node, names, parts)
    shape = image.meta["val"].shape
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    outputs = [names[node] for node in output.all_input_nodes if node in names]
    return pruned(
        Graph(
            nodes=tuple(parts.nodes),
            inputs=(GraphInput(image.name, tuple(n if type(n) is int else None for n in shape)),),
            outputs=tuple(dict.fromkeys(outputs)),
            weights=dict(weights.values()),
            constants={**dict(constants.values()), **parts.constants},
            opset=OPSET,
        )
    )


_Named = dict[fx.Node, tuple[str, Tensor]]


def _placeholders(
    program: ExportedProgram, first_names: Mapping[str, str]
) -> tuple[_Named, _Named, fx.Node]:
    """Weights and constants by the node that stands for them, and the node of the image."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    weights: _Named = {}
    constants: _Named = {}
    images = []
    for entry in program.graph_signature.input_specs:
        node, target = nodes[entry.arg.name], entry.target
        if entry.kind == InputKind.USER_INPUT:
            images.append(node)
        elif target is not None:
            learns = entry.kind == InputKind.PARAMETER or _is_statistics(node)
            named = (first_names.get(target, target), _values(program, target))
            (weights if learns else constants)[node] = named
    return weights, constants, images[0]


def _is_statistics(node: fx.Node) -> bool:
    return any(
        operation_of(user) == "aten.batch_norm" and node in user.args[3:5] for user in node.users
    )


def _values(program: ExportedProgram, name: str) -> Tensor:
    value = program.state_dict.get(name)
    value = program.constants[name] if value is None else value
    assert isinstance(value, Tensor)
    return value.detach().clone()


def _operations(graph: fx.Graph) -> Iterator[fx.Node]:
    """Calls whose results something needs; checks of sizes are none."""
    for node in graph.nodes:
        if node.op == "call_function" and node.users:
            yield node


def _translate(node: fx.Node, names: dict[fx.Node, str], parts: GraphParts) -> None:
    operation = operation_of(node)
    if operation == "python.getitem":
        names[node] = _piece(node, names, parts)
        return
    call = AtenCall(node, names, parts)
    translate = TRANSLATIONS.get(operation)
    done = None if translate is None else translate(call)
    if done is None:
        value = node.meta.get("val")
        count = len(value) if isinstance(value, list | tuple) else 1
        done = Result(operation, call.all_tensors(), {}, count)
    names[node] = done if isinstance(done, str) else call.add(done)


def _piece(node: fx.Node, names: Mapping[fx.Node, str], parts: GraphParts) -> str:
    """The name of one of several results."""
    whole, number = node.args[0], node.args[1]
    assert isinstance(whole, fx.Node)
    assert isinstance(number, int)
    computed = next(entry for entry in parts.nodes if entry.outputs[0] == names[whole])
    return computed.outputs[number]


class _Recorder(fx.Interpreter):
    """Computes a traced module, and keeps the values of some of its nodes."""

    def __init__(self, program: ExportedProgram, names: Sequence[str]) -> None:
        super().__init__(program.graph_module)
        self.values_by_name: dict[str, Tensor] = {}
        self._names = set(names)

    def run_node(self, n: fx.Node) -> Any:
        """The value of a node."""
        value = super().run_node(n)
        if n.name in self._names and isinstance(value, Tensor):
            self.values_by_name[n.name] = (
                value  # as it is at the end, in whatever way it is changed until then
            )
        return value


def _compare(graph: Graph, program: ExportedProgram, image: Tensor) -> None:
    """Compute all of the graph that can be, and compare its last values with the module's."""
    part = _covered(graph)
    if not part.outputs:
        return
    recorder = _Recorder(program, part.outputs)
    inputs = [_value_of(entry, program, image) for entry in program.graph_signature.input_specs]
    with torch.no_grad():
        recorder.run(*inputs)
        values = GraphNetwork(part, drops_softmax=False).eval()(image)
    for name, value in zip(part.outputs, values, strict=True):
        expected = recorder.values_by_name.get(name)
        if expected is None or not expected.is_floating_point():
            continue
        difference = (value - expected).abs().max()
        if not difference <= TOLERANCE * expected.abs().max().clamp(min=1):
            node = next(node for node in part.nodes if name in node.outputs)
            raise _untraceable(f"a graph that differs by {float(difference):.2g} at {node}")


def _value_of(entry: Any, program: ExportedProgram, image: Tensor) -> Tensor:
    return image if entry.kind == InputKind.USER_INPUT else _values(program, entry.target)


def _covered(graph: Graph) -> Graph:
    """What can be computed without any operator that is not covered; its ends are the outputs."""
    available = {entry.name for entry in graph.inputs} | {*graph.weights, *graph.constants, ""}
    nodes: list[GraphNode] = []
    for node in graph.nodes:
        operator = OPERATORS.get(node.operator)
        is_covered = operator is not None and operator.refusal(node) is None
        if is_covered and available.issuperset(node.inputs):
            nodes.append(node)
            available.update(node.outputs)
    read = {name for node in nodes for name in node.inputs}
    ends = [name for node in nodes for name in node.outputs if name not in read]
    ends += [name for name in graph.outputs if name in available and name not in ends]
    return pruned(
        Graph(tuple(nodes), graph.inputs, tuple(ends), graph.weights, graph.constants, graph.opset)
    )


def _untraceable(got: str) -> DeepsegError:
    return DeepsegError(
        Problem(
            code="module-untraceable",
            got=got,
            expected="a module whose operations do not depend on values of the image",
            fix="export it as ONNX and name that file, or choose another module",
        )
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
