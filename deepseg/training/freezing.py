"""Layers that keep their weights while other layers learn, always or in the first epochs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from torch import nn

from deepseg.config.blocks.freezing import Freeze, FreezeBlocks
from deepseg.config.blocks.optimisers import KERNEL_TYPES, Optimiser
from deepseg.errors import DeepsegError, Problem
from deepseg.model.graph.network import GraphNetwork
from deepseg.model.graph.program import BATCH_NORM
from deepseg.model.layers import Layer, Norm
from deepseg.model.layout import Layout, PathwayLayout
from deepseg.model.network import Network
from deepseg.training.parameter_groups import FixedWeights, fixed_weights


def freeze(
    network: Network, settings: FreezeBlocks, *, epoch: int = 0, rules: Optimiser | None = None
) -> tuple[str, ...]:
    """Freeze the layers that ``settings`` freezes in ``epoch``, and no others; return them.

    A frozen layer has no gradients and no penalty and, unless the settings say otherwise, no
    dropout and batch-norm statistics that are used as they are, also in training. Below the lowest
    layer that learns, nothing is kept for the backward pass. Freezing the head freezes its class
    bias.

    Args:
        network: In training.
        settings: Layers that are frozen.
        epoch: Counted from 0.
        rules: Settings of the optimiser, which freeze by type and by layer; None for none.

    Raises:
        DeepsegError: ``layer-unknown`` or ``everything-frozen``.
    """
    frozen = frozen_layers(network.layout, settings, epoch=epoch)
    weights = dict(network.named_parameters())
    fixed = FixedWeights() if rules is None else fixed_weights(weights, network.layout, rules)
    for layer in network.layers():
        _set(layer, frozen.get(layer.plan.address))
        if isinstance(layer.norm, Norm) and layer.plan.address in fixed.statistics:
            layer.norm.is_frozen = True
    for pathway in network.layout.pathways:
        if pathway.network is not None:
            _set_imported(network.imported(pathway.name), pathway, frozen, fixed.statistics)
    for name in fixed.weights:
        weights[name].requires_grad_(False)
    return tuple(frozen)


def frozen_layers(plan: Layout, settings: FreezeBlocks, *, epoch: int) -> dict[str, Freeze]:
    """The block that decides about each layer frozen in ``epoch``, counted from 0, by address.

    Raises:
        DeepsegError: ``layer-unknown``, or ``everything-frozen`` if no layer is left to learn.
    """
    blocks = (settings,) if isinstance(settings, Freeze) else settings
    plan.addresses(pattern for block in blocks for pattern in (*block.layers, *_stops(block)))
    deciding: dict[str, Freeze] = {}
    for block in blocks:
        if block.until_epoch is None or epoch < block.until_epoch:
            for address in _named_by(block, plan):
                deciding.setdefault(address, block)
    order = plan.order
    if len(deciding) == len(order):
        raise DeepsegError(
            Problem(
                code="everything-frozen",
                got=f"all {len(order)} layers frozen",
                expected="at least one layer that learns",
                fix="leave a layer out of freeze.layers, such as the head",
            )
        )
    return {address: deciding[address] for address in order if address in deciding}


def trainable(network: Network) -> list[tuple[str, nn.Parameter]]:
    """Name and weight of everything that learns."""
    return [(name, weight) for name, weight in network.named_parameters() if weight.requires_grad]


def _named_by(block: Freeze, plan: Layout) -> Iterator[str]:
    yield from plan.addresses(block.layers)
    yield from _below(plan.addresses(_stops(block)), plan)
    yield from _not_tuned(block.tune, plan)


def _not_tuned(tune: str, plan: Layout) -> Iterator[str]:
    """Layers of the parallel pathways that a preset leaves as they are."""
    if tune == "all":
        return
    _, _, number = tune.partition(":")
    for pathway in plan.pathways:
        left = int(number or 0) + (not plan.fc.layers)
        for address in reversed(pathway.addresses):
            if left == 0:
                yield address
            elif _has_kernel(address, pathway):
                left -= 1


def _has_kernel(address: str, pathway: PathwayLayout) -> bool:
    imported = {layer.address: layer for layer in pathway.imported_layers}
    layer = imported.get(address)
    return layer is None or any(weight.type in KERNEL_TYPES for weight in layer.weights)


def _stops(block: Freeze) -> tuple[str, ...]:
    return (block.stop_gradient,) if isinstance(block.stop_gradient, str) else block.stop_gradient


def _below(addresses: Iterable[str], plan: Layout) -> Iterator[str]:
    """Layers through which the image comes to those at ``addresses``."""
    for address in addresses:
        for pathway in (*plan.pathways, plan.fc):
            if address in pathway.addresses:
                yield from pathway.below(address)
            elif address.startswith(f"{plan.fc.name}."):
                yield from pathway.addresses


def _set(layer: Layer, block: Freeze | None) -> None:
    layer.requires_grad_(block is None)
    layer.dropout_enabled = block is None or block.dropout
    if isinstance(layer.norm, Norm):
        layer.norm.is_frozen = block is not None and block.batch_norm == "frozen"
        if block is not None and block.batch_norm == "train":
            layer.norm.requires_grad_(True)


def _set_imported(
    module: GraphNetwork,
    pathway: PathwayLayout,
    frozen: Mapping[str, Freeze],
    fixed_statistics: Collection[str],
) -> None:
    """Freeze layers of an imported network, and its dropout where all below it is frozen."""
    blocks = {layer.address: frozen.get(layer.address) for layer in pathway.imported_layers}
    weights = dict(module.named_parameters())
    for layer in pathway.imported_layers:
        block = blocks[layer.address]
        trains_norm = block is not None and block.batch_norm == "train"
        for weight in layer.weights:
            if weight.learns:
                is_norm = weight.type == "BatchNorm"
                learns = block is None or (is_norm and trains_norm)
                weights[weight.name].requires_grad_(learns)
    fixed = [
        node
        for layer in pathway.imported_layers
        if (block := blocks[layer.address]) is not None and block.batch_norm == "frozen"
        for node in layer.nodes
    ]
    fixed += [
        node
        for layer in pathway.imported_layers
        if layer.address in fixed_statistics and BATCH_NORM in layer.operators
        for node in layer.nodes
    ]
    module.freeze_statistics([*fixed, *_dropout_of_frozen(module, pathway, blocks)])


def _dropout_of_frozen(
    module: GraphNetwork, pathway: PathwayLayout, blocks: Mapping[str, Freeze | None]
) -> Iterator[str]:
    """Dropout nodes that follow from frozen layers only, which drop nothing either."""
    layer_of = {node: layer.address for layer in pathway.imported_layers for node in layer.nodes}
    is_fixed: dict[str, bool] = {entry.name: True for entry in module.graph.inputs}
    for node in module.graph.nodes:
        block = blocks.get(layer_of.get(node.outputs[0], ""))
        is_layer = node.outputs[0] in layer_of
        fixed = all(is_fixed.get(name, True) for name in node.inputs)
        if is_layer:
            fixed = fixed and block is not None and not block.dropout
        is_fixed.update(dict.fromkeys(node.outputs, fixed))
        if node.operator == "Dropout" and fixed:
            yield node.outputs[0]
