"""Which maps fill each layer of a new model: along its inputs, along its outputs, or by itself.

Two ways: maps are copied one by one as far as both models have them, or so that the new model
computes what the old one did.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deepseg.config.model import ModelConfig
from deepseg.errors import DeepsegError
from deepseg.model.layout import LayerPlan, Layout
from deepseg.transfer.map_selection import (
    MapBlock,
    MapSelection,
    channels,
    classes,
    joined,
    overlap,
)
from deepseg.transfer.matching import Matching
from deepseg.transfer.net2net import Growth
from deepseg.transfer.rules import TransferRules


@dataclass(frozen=True)
class LayerMapping:
    """The maps that fill one layer.

    Attributes:
        incoming: Along the inputs of its kernels, and for what belongs to each input.
        outgoing: Along its outputs.
        passes: For a layer that only passes its input on: the input of every output, or None
            where a residual brings it.
    """

    incoming: MapSelection
    outgoing: MapSelection
    passes: tuple[int | None, ...] = ()

    def plane(self, source: LayerPlan, target: LayerPlan, name: str) -> MapSelection:
        """The part of ``outgoing`` that belongs to one of three flat kernels."""
        begin, size = target.planes[name]
        old, _ = source.planes[name]
        maps = self.outgoing.maps[begin : begin + size]
        return MapSelection(
            tuple(row and {i - old: factor for i, factor in row.items()} for row in maps)
        )


def layer_mappings(
    source_config: ModelConfig,
    config: ModelConfig,
    source: Layout,
    target: Layout,
    matching: Matching,
    rules: TransferRules,
) -> dict[str, LayerMapping]:
    """Mappings of every layer that does not stay as initialised, by address.

    Raises:
        DeepsegError: ``channel-unknown``, ``channels-unmatched``, ``class-unknown``, or
            ``function-not-kept`` where the rules demand that.
    """
    by_channel = channels(config.channels, source_config.channels, rules.channels)
    by_class = classes(config.classes, source_config.classes, rules.classes)
    if not rules.keeps_function:
        return _overlapping(source, target, matching, (by_channel, by_class), rules.layer_map)
    growth = Growth(source, target, matching, rules, by_channel, by_class)
    if growth.problems:
        raise DeepsegError(*growth.problems)
    return {
        address: LayerMapping(
            grown.incoming,
            by_class if address == target.head else _as_selection(grown.outputs),
            grown.passes,
        )
        for address, grown in growth.layers.items()
    }


def _as_selection(maps: tuple[int | None, ...]) -> MapSelection:
    return MapSelection(tuple(None if index is None else {index: 1.0} for index in maps))


def _overlapping(
    source: Layout,
    target: Layout,
    matching: Matching,
    named: tuple[MapSelection, MapSelection],
    layer_map: Mapping[str, str],
) -> dict[str, LayerMapping]:
    by_channel, by_class = named
    first = target.fc.addresses[0] if target.fc.addresses else ""
    mappings = {}
    for match in matching.layers:
        new, old = match.target, match.source
        if old is None:
            continue
        if new.reads_image:
            incoming = by_channel
        elif new.address == old.address == first:
            incoming = _joined(source, target, matching)
        elif new.is_head and new.address not in layer_map and new.address != old.address:
            # another number of hidden layers
            incoming = MapSelection(
                (None,) * new.inputs, ("its inputs are other maps in the source",)
            )
        else:
            incoming = overlap(new.inputs, old.inputs, "inputs")
        outgoing = by_class if new.is_head else _planes(old, new)
        mappings[new.address] = LayerMapping(incoming, outgoing)
    return mappings


def _joined(source: Layout, target: Layout, matching: Matching) -> MapSelection:
    old = {pathway.name: pathway for pathway in source.pathways}
    begins = source.blocks
    blocks: list[MapBlock] = []
    for pathway in target.pathways:
        name = matching.blocks[pathway.name]
        if name is None:
            blocks.append(MapBlock(pathway.name, pathway.outputs, None))
            continue
        selection = overlap(pathway.outputs, old[name].outputs, "inputs")
        if pathway.network is not None:
            blocks.append(MapBlock(pathway.name, pathway.outputs, selection, begins[name]))
            continue
        last, old_last = pathway.layers[-1].address, old[name].layers[-1].address
        if len(pathway.layers) != len(old[name].layers):
            note = f"reads {last}, in the source {old_last}"
            selection = MapSelection(selection.maps, (*selection.notes, note))
        blocks.append(MapBlock(pathway.name, pathway.outputs, selection, begins[name]))
    return joined(blocks)


def _planes(source: LayerPlan, target: LayerPlan) -> MapSelection:
    """Outputs map by map; those of flat kernels within their plane."""
    if not target.is_low_rank:
        return overlap(target.outputs, source.outputs, "kernels")
    return joined(
        [
            MapBlock(name, size, overlap(size, count, "kernels"), begin)
            for name, (_, size) in target.planes.items()
            for begin, count in [source.planes[name]]
        ]
    )
