"""A wider U-Net that computes what the narrower one did: maps are repeated, and readers share.

What reads the copies of a map divides the old weights among them, in unequal parts, so that the
copies do not learn alike (Net2Wider, doi:10.48550/arXiv.1511.05641). Levels on top are filled by
`unet_level`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from deepseg.config.blocks.unet import UnetPathway
from deepseg.config.model import ModelConfig
from deepseg.errors import Problem
from deepseg.model.graph.graph import Graph, GraphNode
from deepseg.model.graph.initialisation import initialised
from deepseg.model.unet import IMAGE
from deepseg.transfer.unet_level import Level, UnetSize

Maps: TypeAlias = tuple[int | None, ...]  # of every map, its number in the older network

_FURTHER = "only the numbers of feature maps may differ"


def growth_problems(source: ModelConfig, target: ModelConfig) -> Iterator[Problem]:
    """Why a U-Net cannot be the older one made wider."""
    old, new = source.unet, target.unet
    if old is None or new is None or source.fc != "none" or target.fc != "none":
        yield _refusal("pathways beside a U-Net, or a classifier on it", "U-Nets with fc: none")
        return
    if len(old.levels) > len(new.levels):
        yield _refusal(f"{len(new.levels)} levels", f"the {len(old.levels)} of the older U-Net")
        return
    for key in ("preset", "norm", "activation", "padding", "margin"):
        if getattr(old, key) != getattr(new, key):
            yield _refusal(f"unet.{key} {getattr(new, key)}", str(getattr(old, key)))
    for number, (before, now) in enumerate(zip(old.levels, new.levels, strict=False)):
        if before.model_dump(exclude={"feature_maps"}) != now.model_dump(exclude={"feature_maps"}):
            yield _refusal(f"other kernels, strides or blocks in level {number}", _FURTHER)
        if now.feature_maps < before.feature_maps:
            yield _refusal(f"{now.feature_maps} feature maps in level {number}", "no fewer")
    if new.norm == "group" and _widths(old) != _widths(new)[: len(old.levels)]:
        yield _refusal("other feature maps with the norm group", "groups of as many maps as before")


def _widths(block: UnetPathway) -> list[int]:
    return [level.feature_maps for level in block.levels]


def _refusal(got: str, expected: str) -> Problem:
    return Problem(
        code="function-not-kept",
        got=got,
        expected=expected,
        fix="leave -width and -depth out, or change the model file",
    )


@dataclass(frozen=True)
class GrownWeights:
    """Weights of a U-Net that grew.

    Attributes:
        weights: By name within the pathway.
        notes: How far the function is kept.
    """

    weights: dict[str, Tensor]
    notes: tuple[str, ...]


def grown_weights(
    older: UnetSize,
    newer: UnetSize,
    weights: Mapping[str, Tensor],
    initial: Mapping[str, Tensor],
    maps: tuple[Maps, Maps],
) -> GrownWeights:
    """Weights of a U-Net with more levels, or wider ones, that computes what the older one did.

    Args:
        older: The older U-Net.
        newer: The new one, which `growth_problems` accepts.
        weights: Of the older one, by name within the pathway.
        initial: Of the new one, as initialised.
        maps: Of every channel of the new one, its number in the older one; likewise of classes.
    """
    steps = [newer]
    while steps[-1].top > older.top:
        steps.append(steps[-1].without_top())
    values = wider_weights(older, steps.pop(), weights, *maps)
    new_classes = [number for number, row in enumerate(maps[1]) if row is None]
    for name, value in values.items():
        if ".head." in name:
            value[new_classes] = initial[name][new_classes]
    notes: list[str] = []
    for step in reversed(steps):
        begin = initial if step is newer else initialised(step.graph(), rng=_rng()).weights
        level = Level(step, values, begin)
        share, change = level.agreement()
        values = level.weights
        notes += [
            f"level{step.top} is new on top: a random image keeps the labels of {share:.1%} of its "
            f"voxels, and scores change by {change:.2g} of their standard deviation",
            *level.notes,
        ]
    return GrownWeights(values, tuple(notes))


def _rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def wider_weights(
    older: UnetSize,
    newer: UnetSize,
    weights: Mapping[str, Tensor],
    channels: Maps,
    classes: Maps,
) -> dict[str, Tensor]:
    """Weights of a wider U-Net, by their names within the pathway.

    Args:
        older: The older U-Net.
        newer: The new one, with as many levels.
        weights: Of the older one.
        channels: Of every channel of the new model, its number in the older one.
        classes: Likewise for classes.
    """
    walk = _Widening(older.graph(), newer.graph(), weights, classes)
    walk.maps[IMAGE] = channels
    for node in walk.new.nodes:
        walk.visit(node)
    return walk.weights


@dataclass
class _Widening:
    """A walk through a wider graph, with the maps that every tensor repeats."""

    old: Graph
    new: Graph
    values: Mapping[str, Tensor]
    classes: Maps

    def __post_init__(self) -> None:
        self.maps: dict[str, Maps] = {}
        self.weights: dict[str, Tensor] = {}

    def visit(self, node: GraphNode) -> None:
        """Fill the weights of a node, and note which maps its result repeats."""
        (output,) = node.outputs
        incoming = self.maps[node.inputs[0]]
        match node.operator:
            case "Conv" | "ConvTranspose":
                self.maps[output] = self._convolution(node, incoming)
            case "Concat":
                self.maps[output] = self._joined(node)
            case _:
                self.maps[output] = incoming
                for name in node.inputs[1:]:
                    if name in self.new.weights:
                        self.weights[name] = _chosen(self.values[name], incoming, axis=0)

    def _convolution(self, node: GraphNode, incoming: Maps) -> Maps:
        kernel, *bias = node.inputs[1:]
        reads, makes = (1, 0) if node.operator == "Conv" else (0, 1)
        before, now = (graph.weights[kernel].shape[makes] for graph in (self.old, self.new))
        is_head = node.outputs[0].endswith(".head")
        outgoing = self.classes if is_head else tuple(n % before for n in range(now))
        value = _chosen(self.values[kernel], incoming, axis=reads)
        form = [1] * value.ndim
        form[reads] = -1
        value = value * shares(incoming).view(form)
        self.weights[kernel] = _chosen(value, outgoing, axis=makes)
        for name in bias:
            self.weights[name] = _chosen(self.values[name], outgoing, axis=0)
        return outgoing

    def _joined(self, node: GraphNode) -> Maps:
        """Maps of several tensors one after the other, in the older network's order."""
        result: list[int | None] = []
        begin = 0
        for name in node.inputs:
            maps = self.maps[name]
            result += [None if n is None else begin + n for n in maps]
            begin += 1 + max(n for n in maps if n is not None)
        return tuple(result)


def shares(maps: Maps) -> Tensor:
    """The part of the old weight that each copy of a map gets; the parts of one map are one.

    >>> shares((0, 1, 0)).tolist() == [torch.tensor(1 / 3).item(), 1.0, torch.tensor(2 / 3).item()]
    True
    """
    counts = {number: maps.count(number) for number in set(maps)}
    counted: dict[int | None, int] = {}
    parts = []
    for number in maps:
        counted[number] = counted.get(number, 0) + 1
        count = counts[number]
        parts.append(2 * counted[number] / (count * (count + 1)))
    return torch.tensor(parts)


def _chosen(value: Tensor, maps: Sequence[int | None], *, axis: int) -> Tensor:
    """The entries of ``value`` at ``maps`` along an axis; zero for None."""
    places = torch.tensor([0 if n is None else n for n in maps])
    result = value.index_select(axis, places)
    new = torch.tensor([n is None for n in maps])
    form = [1] * value.ndim
    form[axis] = -1
    return result.masked_fill(new.view(form), 0)
