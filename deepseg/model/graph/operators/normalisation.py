"""Normalisations; batch normalisation stays alive and learns."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from deepseg.model.graph.graph import GraphNode, node_error
from deepseg.model.graph.operators.call import Call, Operator

EPSILON = 1e-5
MOMENTUM = 0.9  # the share of the running statistics that stays


def batch_normalisation(call: Call) -> Tensor:
    """Of the batch in training, which moves the running statistics; of those otherwise."""
    return F.batch_norm(
        call.tensor(0),
        call.tensor(3),
        call.tensor(4),
        call.tensor(1),
        call.tensor(2),
        call.trains,
        1 - call.node.number("momentum", MOMENTUM),  # torch has the share of the new ones
        call.node.number("epsilon", EPSILON),
    )


def instance_normalisation(call: Call) -> Tensor:
    """Of each map of each image."""
    epsilon = call.node.number("epsilon", EPSILON)
    return F.instance_norm(call.tensor(0), weight=call.tensor(1), bias=call.tensor(2), eps=epsilon)


def group_normalisation(call: Call) -> Tensor:
    """Of groups of maps; scale and shift are by group before version 21, by map since."""
    x, weight, bias = call.tensor(0), call.tensor(1), call.tensor(2)
    groups = call.node.integer("num_groups", 0)
    if groups < 1 or x.shape[1] % groups:
        raise node_error(call.node, f"{groups} groups", f"a divisor of {x.shape[1]} maps")
    if call.opset < 21:
        maps = x.shape[1] // groups
        weight, bias = weight.repeat_interleave(maps), bias.repeat_interleave(maps)
    return F.group_norm(x, groups, weight, bias, call.node.number("epsilon", EPSILON))


def layer_normalisation(call: Call) -> Tensor:
    """Over all axes from ``axis`` on."""
    x, axis = call.tensor(0), call.node.integer("axis", -1)
    shape = list(x.shape[axis:])
    weight, bias = call.tensor(1).expand(shape), call.optional(2)
    bias = None if bias is None else bias.expand(shape)
    return F.layer_norm(x, shape, weight, bias, call.node.number("epsilon", EPSILON))


def _batch_refusal(node: GraphNode) -> str | None:
    return "statistics of single voxels" if node.attributes.get("spatial", 1) == 0 else None


OPERATORS = {
    "BatchNormalization": Operator(batch_normalisation, _batch_refusal, statistics=(3, 4)),
    "InstanceNormalization": Operator(instance_normalisation),
    "GroupNormalization": Operator(group_normalisation),
    "LayerNormalization": Operator(layer_normalisation),
}
