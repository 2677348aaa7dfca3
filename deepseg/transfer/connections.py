"""How each layer of a new model is filled: along its inputs, along its outputs, or by itself.

Two ways: maps are copied one by one as far as both models have them, or so that the new model
computes what the old one did.
"""

from __future__ import annotations

from dataclasses import dataclass

from deepseg.config.model import ModelConfig
from deepseg.errors import DeepsegError
from deepseg.model.layout import LayerPlan, Layout
from deepseg.transfer.grow import Growth
from deepseg.transfer.matching import Matching
from deepseg.transfer.rules import TransferRules
from deepseg.transfer.wiring import Wiring, channels, classes, joined, overlap


@dataclass(frozen=True)
class Connection:
    """How one layer is filled.

    Attributes:
        incoming: Along the inputs of its kernels, and for what belongs to each input.
        outgoing: Along its outputs.
        passes: For a layer that only passes its input on: the input of every output, or None
            where a residual brings it.
    """

    incoming: Wiring
    outgoing: Wiring
    passes: tuple[int | None, ...] = ()

    def plane(self, source: LayerPlan, target: LayerPlan, name: str) -> Wiring:
        """The part of ``outgoing`` that belongs to one of three flat kernels."""
        begin, size = _place(target, name)
        old, count = _place(source, name)
        rows = tuple(
            row and {index - old: factor for index, factor in row.items()}
            for row in self.outgoing.rows[begin : begin + size]
        )
        assert all(0 <= index < count for row in rows if row for index in row)
        return Wiring(rows)


def _place(layer: LayerPlan, plane: str) -> tuple[int, int]:
    """First output and number of outputs of a flat kernel."""
    begin = 0
    for name, (outputs, _) in layer.convolutions.items():
        if name == plane:
            return begin, outputs
        begin += outputs
    raise KeyError(plane)


def connections(
    source_config: ModelConfig,
    config: ModelConfig,
    source: Layout,
    target: Layout,
    matching: Matching,
    rules: TransferRules,
) -> dict[str, Connection]:
    """How every layer that does not stay as initialised is filled, by address.

    Raises:
        DeepsegError: ``channel-unknown``, ``channels-unmatched``, ``class-unknown``, or
            ``function-not-kept`` where the rules demand that.
    """
    by_channel = channels(config.channels, source_config.channels, rules.channels)
    by_class = classes(config.classes, source_config.classes, rules.classes)
    if not rules.keeps_function:
        return _overlapping(source, target, matching, by_channel, by_class)
    growth = Growth(source, target, matching, rules, by_channel, by_class)
    if growth.problems:
        raise DeepsegError(*growth.problems)
    return {
        address: Connection(
            grown.incoming,
            by_class if address == target.fc.layers[-1].address else _as_wiring(grown.outputs),
            grown.passes,
        )
        for address, grown in growth.layers.items()
    }


def _as_wiring(maps: tuple[int | None, ...]) -> Wiring:
    return Wiring(tuple(None if index is None else {index: 1.0} for index in maps))


def _overlapping(
    source: Layout, target: Layout, matching: Matching, by_channel: Wiring, by_class: Wiring
) -> dict[str, Connection]:
    first = target.fc.layers[0].address
    found = {}
    for match in matching.layers:
        own, old = match.target, match.source
        if old is None:
            continue
        if own.reads_image:
            incoming = by_channel
        elif own.address == first and old.address == first:
            incoming = _joined(source, target, matching)
        elif first in (own.address, old.address):  # a head behind hidden layers, or without them
            incoming = Wiring((None,) * own.inputs, ("its inputs are others in the source",))
        else:
            incoming = overlap(own.inputs, old.inputs)
        outgoing = by_class if own.is_head else _planes(old, own)
        found[own.address] = Connection(incoming, outgoing)
    return found


def _joined(source: Layout, target: Layout, matching: Matching) -> Wiring:
    starts, begin = {}, 0
    for pathway in source.pathways:
        starts[pathway.name] = (begin, pathway.outputs)
        begin += pathway.outputs
    blocks: list[tuple[str, int, Wiring | None, int]] = []
    for pathway in target.pathways:
        old = matching.blocks[pathway.name]
        if old is None:
            blocks.append((pathway.name, pathway.outputs, None, 0))
        else:
            begin, size = starts[old]
            wiring = overlap(pathway.outputs, size)
            blocks.append((pathway.name, pathway.outputs, wiring, begin))
    return joined(blocks)


def _planes(source: LayerPlan, target: LayerPlan) -> Wiring:
    """Outputs map by map; those of flat kernels within their plane."""
    if not target.is_low_rank:
        return overlap(target.outputs, source.outputs)
    return joined(
        [
            (name, size, overlap(size, _place(source, name)[1]), _place(source, name)[0])
            for name, (size, _) in target.convolutions.items()
        ]
    )
