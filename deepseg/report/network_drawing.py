"""The network as a picture: pathways from left to right, as SVG in the page's colour of ink.

Boxes are layers, as high as they have feature maps; above a box stands their number, below it the
kernel. Colours say where the weights of a layer come from, dashes that it is frozen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from deepseg.geometry.boxes import Int3, text
from deepseg.model.layout import Layout, PathwayLayout

BOX, GAP, SMALLEST, LARGEST = 46, 20, 22, 84
NARROW = 240  # width of a pathway with more layers than have room for words
MOST_WORDS = 14
LEFT, TOP, ROW = 190, 16, 140
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#b8a800")
NEUTRAL = "#8a93a0"


@dataclass(frozen=True)
class _Layer:
    """A box.

    Attributes:
        address: Of the layer.
        maps: Feature maps that it makes; None where they are not known.
        words: Below the box.
        is_residual: It adds the input of the layer before.
    """

    address: str
    maps: int | None
    words: str
    is_residual: bool = False


@dataclass(frozen=True)
class _Box:
    """Where a layer is drawn, in pixels."""

    layer: _Layer
    left: float
    middle: float
    width: float

    @property
    def height(self) -> float:
        maps = 32 if self.layer.maps is None else self.layer.maps
        return min(LARGEST, SMALLEST + 6 * math.log2(1 + maps))

    @property
    def top(self) -> float:
        return self.middle - self.height / 2

    @property
    def right(self) -> float:
        return self.left + self.width


def network_svg(
    plan: Layout,
    classes: Sequence[str],
    *,
    origins: Mapping[str, str] | None = None,
    frozen: Collection[str] = (),
) -> str:
    """The network as an SVG element.

    Args:
        plan: Its layers.
        classes: Names of the labels.
        origins: Where the weights of a layer come from, by address; the others have no colour.
        frozen: Addresses of layers that keep their weights.
    """
    origins = origins or {}
    rows = [
        _row(pathway, LEFT, TOP + ROW * (number + 0.5))
        for number, pathway in enumerate(plan.pathways)
    ]
    join = max(row[-1].right for row in rows) + 2 * GAP
    middle = TOP + ROW * len(rows) / 2
    last = _row(plan.fc, join + 2 * GAP, middle)  # none where a network has its own classifier
    end = last[-1] if last else rows[0][-1]
    width = end.right + 40 + 8 * max(map(len, classes))
    colours = dict(zip(dict.fromkeys(origins.values()), COLOURS * len(origins), strict=False))
    legend = [*colours.items()]
    height = TOP + ROW * len(rows) + (34 if legend or frozen else 0)

    def colour(address: str) -> str:
        return colours.get(origins.get(address, ""), NEUTRAL)

    parts = [
        *(part for row in rows for part in _row_parts(row, colour, frozen)),
        *_row_parts(last, colour, frozen),
        *(_title(path, row[0].middle) for path, row in zip(plan.pathways, rows, strict=True)),
        *(_joining(rows, join, last[0], plan) if last else ()),
        *_classes(end, classes),
        *_legend(legend, bool(frozen), height - 14),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" font-family="system-ui, sans-serif" '
        f'font-size="12" fill="currentColor" role="img">{"".join(parts)}</svg>'
    )


def _row(pathway: PathwayLayout, left: float, middle: float) -> list[_Box]:
    layers = _layers(pathway)
    is_narrow = len(layers) > MOST_WORDS
    width = NARROW / len(layers) if is_narrow else BOX
    gap = 0.3 * width if is_narrow else GAP
    return [
        _Box(layer, left + number * (width + gap), middle, width)
        for number, layer in enumerate(layers)
    ]


def _layers(pathway: PathwayLayout) -> list[_Layer]:
    if pathway.network is not None:
        return [
            _Layer(layer.address, None, " ".join(layer.operators))
            for layer in pathway.imported_layers
        ]
    return [
        _Layer(layer.address, layer.outputs, _kernel(layer.kernel), layer.adds_earlier_input)
        for layer in pathway.layers
    ]


def _kernel(kernel: Int3) -> str:
    """A kernel in few letters.

    >>> _kernel((3, 3, 3)), _kernel((3, 3, 1))
    ('3³', '3 x 3 x 1')
    """
    x, y, z = kernel
    return f"{x}\N{SUPERSCRIPT THREE}" if x == y == z else text(kernel)


def _row_parts(
    row: Sequence[_Box], colour: Callable[[str], str], frozen: Collection[str]
) -> Iterator[str]:
    """Boxes of a row, the arrows between them, and arcs over layers with a residual."""
    words = len(row) <= MOST_WORDS
    for before, box in pairwise(row):
        yield _line(before.right, before.middle, box.left, box.middle)
    for number, box in enumerate(row):
        is_frozen = box.layer.address in frozen
        dashes = (
            ' stroke="currentColor" stroke-width="2" stroke-dasharray="4 3"' if is_frozen else ""
        )
        yield (
            f'<rect x="{box.left:.1f}" y="{box.top:.1f}" width="{box.width:.1f}" '
            f'height="{box.height:.1f}" rx="4" fill="{colour(box.layer.address)}" '
            f'fill-opacity="0.75"{dashes}><title>{escape(_tooltip(box.layer))}</title></rect>'
        )
        if words and box.layer.maps is not None:
            yield _text(box.left + BOX / 2, box.top - 5, str(box.layer.maps), anchor="middle")
            yield _text(
                box.left + BOX / 2, box.top + box.height + 14, box.layer.words, anchor="middle"
            )
        if box.layer.is_residual and number:
            yield _arc(row[number - 1], box)


def _tooltip(layer: _Layer) -> str:
    maps = "" if layer.maps is None else f", {layer.maps} feature maps"
    return f"{layer.address}{maps}, {layer.words}"


def _title(pathway: PathwayLayout, middle: float) -> str:
    factor = pathway.geometry.factor
    sees = "full resolution" if max(factor) == 1 else f"every {text(factor)} voxels"
    return _text(8, middle - 4, pathway.name, weight=600) + _text(8, middle + 12, sees)


def _joining(
    rows: Sequence[Sequence[_Box]], join: float, first: _Box, plan: Layout
) -> Iterator[str]:
    """The bar at which feature maps of all pathways are put together."""
    top, bottom = rows[0][0].middle - 14, rows[-1][0].middle + 14
    maps = sum(pathway.outputs for pathway in plan.pathways)
    yield (
        f'<rect x="{join:.1f}" y="{top:.1f}" width="8" height="{bottom - top:.1f}" rx="3" '
        f'fill="currentColor" fill-opacity="0.5"><title>{maps} feature maps together</title></rect>'
    )
    for row in rows:
        yield _line(row[-1].right, row[-1].middle, join, row[-1].middle)
    yield _text(join + 4, top - 6, str(maps), anchor="middle")
    yield _line(join + 8, first.middle, first.left, first.middle)


def _classes(head: _Box, classes: Sequence[str]) -> Iterator[str]:
    left, step = head.right + 24, 16
    top = head.middle - step * (len(classes) - 1) / 2
    yield _line(head.right, head.middle, left - 6, head.middle)
    for number, name in enumerate(classes):
        yield _text(left, top + step * number + 4, name)


def _legend(colours: Sequence[tuple[str, str]], has_frozen: bool, bottom: float) -> Iterator[str]:
    left = 8.0
    for name, colour in colours:
        yield f'<rect x="{left}" y="{bottom - 11}" width="12" height="12" rx="3" fill="{colour}"/>'
        yield _text(left + 18, bottom, name)
        left += 40 + 7 * len(name)
    if has_frozen:
        yield (
            f'<rect x="{left}" y="{bottom - 11}" width="12" height="12" rx="3" fill="none" '
            'stroke="currentColor" stroke-width="2" stroke-dasharray="4 3"/>'
        )
        yield _text(left + 18, bottom, "frozen")


def _arc(before: _Box, box: _Box) -> str:
    """From in front of the layer before to behind ``box``, above both."""
    start, end = before.left - GAP / 2, box.right + GAP / 2
    top = min(before.top, box.top) - 22
    return (
        f'<path d="M{start:.1f} {box.middle:.1f} V{top + 6:.1f} Q{start:.1f} {top:.1f} '
        f"{start + 6:.1f} {top:.1f} H{end - 6:.1f} Q{end:.1f} {top:.1f} {end:.1f} {top + 6:.1f} "
        f'V{box.middle:.1f}" fill="none" stroke="currentColor" stroke-opacity="0.6"/>'
    )


def _line(x: float, y: float, to_x: float, to_y: float) -> str:
    return (
        f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" stroke="currentColor" '
        'stroke-opacity="0.6"/>'
    )


def _text(x: float, y: float, words: str, *, anchor: str = "start", weight: int = 400) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">'
        f"{escape(words)}</text>"
    )
