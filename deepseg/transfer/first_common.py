"""Layer by layer from the first: the layers that two networks have in common at their beginning.

Layers are compared in their order, by operator and by shapes of weights, whatever they are called.
Those without weights, such as pooling, never end the walk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from deepseg.counts import counted

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class WeightedLayer:
    """A layer with weights.

    Attributes:
        name: In its network.
        operators: Such as ``Conv``.
        weights: Names of its tensors and their shapes, in their order.
    """

    name: str
    operators: tuple[str, ...]
    weights: tuple[tuple[str, Shape], ...]


@dataclass(frozen=True)
class LayerStep:
    """A step of the walk.

    Attributes:
        target: Layer of the new network.
        source: The layer that fills it, or None.
        reason: Why it stays new; empty where it is filled.
        is_stop: The walk ends here.
    """

    target: WeightedLayer
    source: WeightedLayer | None
    reason: str = ""
    is_stop: bool = False


def first_common(
    target: Sequence[WeightedLayer], source: Sequence[WeightedLayer]
) -> list[LayerStep]:
    """Walk along both networks until a layer differs.

    >>> stem = WeightedLayer("stem", ("Conv",), (("stem.weight", (8, 1, 3, 3, 3)),))
    >>> wide = WeightedLayer("deep", ("Conv",), (("deep.weight", (9, 8, 3, 3, 3)),))
    >>> deep = WeightedLayer("deep", ("Conv",), (("deep.weight", (8, 8, 3, 3, 3)),))
    >>> [step.reason for step in first_common([stem, wide, deep], [stem, deep, deep])]
    ['', 'stopped here: of shape 8x8x3x3x3 in the source, 9x8x3x3x3 here', \
'behind deep, where the walk stopped']
    """
    steps: list[LayerStep] = []
    stop = ""
    for number, layer in enumerate(target):
        old = source[number] if number < len(source) else None
        if stop:
            steps.append(LayerStep(layer, None, f"behind {stop}, where the walk stopped"))
            continue
        reason = "; ".join(_differences(layer, old))
        if reason:
            stop = layer.name
            steps.append(LayerStep(layer, None, f"stopped here: {reason}", is_stop=True))
        else:
            steps.append(LayerStep(layer, old))
    return steps


def _differences(layer: WeightedLayer, old: WeightedLayer | None) -> Iterator[str]:
    if old is None:
        yield "only in the new model"
        return
    if layer.operators != old.operators:
        yield f"{', '.join(old.operators)} in the source, {', '.join(layer.operators)} here"
        return
    before, now = ([shape for _, shape in side.weights] for side in (old, layer))
    if len(before) != len(now):
        yield f"{counted(len(before), 'weight')} in the source, {len(now)} here"
        return
    for was, shape in zip(before, now, strict=True):
        if was != shape:
            yield f"of shape {_text(was)} in the source, {_text(shape)} here"
            return


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))


def walk_note(pathway: str, steps: Sequence[LayerStep]) -> str:
    """A line that says how far the walk came, and why it ended.

    >>> stem = WeightedLayer("imported1.stem", ("Conv",), ())
    >>> walk_note("imported1", first_common([stem], [stem]))
    'imported1: 1 of 1 layers taken over layer by layer'
    """
    copied = sum(step.source is not None for step in steps)
    line = f"{pathway}: {copied} of {len(steps)} layers taken over layer by layer"
    stop = next((step for step in steps if step.is_stop), None)
    if stop is None:
        return line
    return f"{line}; stopped at {stop.target.name}: {stop.reason.removeprefix('stopped here: ')}"
