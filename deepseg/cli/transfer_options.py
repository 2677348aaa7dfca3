"""The options that say how an older model fills a new one."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence

from deepseg.errors import DeepsegError, Problem
from deepseg.transfer.rules import TransferRules

NAMES = (
    "layers",
    "pathways",
    "spacing",
    "width",
    "kernels",
    "depth",
    "channels",
    "classes",
    "map",
    "minMatch",
    "dryRun",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Teach ``parser`` the options of a transfer."""
    options = parser.add_argument_group("with -newModel MODEL -pretrained FILE")
    options.add_argument(
        "-layers",
        nargs="+",
        metavar="L",
        help="layers of the older model: depths (1 2 5), names (normal.1-3 sub1.2 fc.1), head, "
        "or all (all but the head)",
    )
    options.add_argument(
        "-pathways", nargs="+", metavar="NEW=OLD", help="such as sub2=sub1, or sub1=new (left new)"
    )
    options.add_argument(
        "-map",
        nargs="+",
        metavar="NEW=OLD",
        help="layer by layer, such as normal.3=normal.2, or fc.1=new (left new)",
    )
    options.add_argument(
        "-spacing",
        nargs="+",
        metavar="MM",
        help="voxel size of the new model: pathways correspond by their resolution in mm",
    )
    options.add_argument(
        "-channels",
        nargs="+",
        metavar="NEW=OLD",
        help="such as DWI=copy:FLAIR, or =zero, =mean, =share, =random (by name, others zero)",
    )
    options.add_argument(
        "-classes", nargs="+", metavar="NEW=OLD", help="such as oedema=lesion, or =new"
    )
    options.add_argument(
        "-width",
        choices=["overlap", "net2net"],
        help="wider layers: the shared kernels (overlap), or the same function (net2net)",
    )
    options.add_argument(
        "-kernels",
        choices=["same", "centre"],
        help="larger kernels: refused (same), or filled in the middle (centre)",
    )
    options.add_argument(
        "-depth",
        choices=["by-name", "first-common", "identity"],
        help="other numbers of layers: refused (by-name), walked along until something differs, "
        "or filled so that the function is kept",
    )
    options.add_argument(
        "-minMatch",
        metavar="SHARE",
        type=_share,
        help="share of the tensors that a file without layers must fill (0.5)",
    )
    options.add_argument(
        "-dryRun", action="store_true", default=None, help="show the plan, write nothing"
    )


def transfer_rules(options: argparse.Namespace) -> TransferRules:
    """The rules that the options ask for.

    Raises:
        DeepsegError: ``command-line`` or ``transfer-rules``.
    """
    default = TransferRules()
    return TransferRules(
        layers=None if options.layers is None else tuple(options.layers),
        pathways=_pairs("pathways", options.pathways),
        spacing_mm=None if options.spacing is None else _spacing(options.spacing),
        width=options.width or default.width,
        kernels=options.kernels or default.kernels,
        depth=options.depth or default.depth,
        channels=_pairs("channels", options.channels),
        classes=_pairs("classes", options.classes),
        layer_map=_pairs("map", options.map),
        min_match=default.min_match if options.minMatch is None else options.minMatch,
    )


def without_meaning(options: argparse.Namespace) -> Iterator[Problem]:
    """Options of a transfer where there is none."""
    if options.pretrained is not None:
        return
    for name in NAMES:
        if vars(options)[name] is not None:
            yield _problem(f"-{name} alone", f"-{name} with -pretrained", "add -pretrained FILE")


def _pairs(option: str, words: Sequence[str] | None) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for word in words or ():
        new, equals, old = word.partition("=")
        if not (new and equals and old) or new in pairs:
            expected = "NEW=OLD, every NEW once"
            raise DeepsegError(_problem(f"-{option} {word}", expected, "correct the pair"))
        pairs[new] = old
    return pairs


def _spacing(words: Sequence[str]) -> tuple[float, float, float]:
    numbers = [_number(word) for word in words]
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3 or not all(0 < number < math.inf for number in numbers):
        expected = "one number of mm, or three, above 0"
        raise DeepsegError(_problem(f"-spacing {' '.join(words)}", expected, "correct it"))
    return numbers[0], numbers[1], numbers[2]


def _share(text: str) -> float:
    number = _number(text)
    if not 0 <= number <= 1:
        expected = "a share between 0 and 1"
        raise DeepsegError(_problem(f"-minMatch {text}", expected, "choose another number"))
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _problem(got: str, expected: str, fix: str) -> Problem:
    return Problem("command-line", got, expected, fix)
