"""The options of the program."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import NoReturn

from deepseg.exports.on_device.cases import ROI
from deepseg.exports.on_device.errors import DeviceError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise DeviceError("device-command", message, "options as in --help", "correct them")


def parser(folder: Path) -> argparse.ArgumentParser:
    """The options, which ``--help`` lists; ``folder`` is trained where none is named."""
    result = _Parser(description="Train an exported network on the cases of a folder.")
    add = result.add_argument
    add("folder", nargs="?", type=Path, default=folder, help="the export (that of the program)")
    add(
        "--data",
        type=Path,
        required=True,
        metavar="CASES",
        help="a folder with a folder per case: CHANNEL.npy, .nii or .nii.gz for every channel, "
        "labels, and perhaps roi",
    )
    add("--steps", type=_whole, metavar="N", default=0, help="steps in all, earlier ones included")
    add("--eval-every", type=_whole, metavar="N", default=20, help="steps between scores (20)")
    add("--stop-at", type=float, metavar="DICE", help="end above this Dice on the second part")
    add("--save-every", type=_whole, metavar="N", default=20, help="steps between states (20)")
    add("--threads", type=_count, metavar="N", default=1, help="threads of a step (1)")
    add("--accumulate", type=_count, metavar="K", default=1, help="batches of one step (1)")
    add("--learning-rate", type=_rate, metavar="R", default=0.01, help="size of a step (0.01)")
    add("--momentum", type=_rate, metavar="M", default=0.9, help="share of the velocity kept (0.9)")
    add("--decay", type=_rate, metavar="D", default=1e-4, help="pull of weights to 0 (0.0001)")
    add("--class-weights", type=_rate, nargs="+", metavar="W", help="of the loss, one per class")
    add("--seed", type=_whole, metavar="N", default=0, help="of the split and the segments (0)")
    add("--state", type=Path, metavar="FILE", help="begin here instead of at the latest state")
    add(
        "--roi",
        default=ROI,
        metavar="NAME",
        help="file of the region of interest (roi); none takes whole images",
    )
    add("--score", action="store_true", help="score all cases with the state, and end")
    add("-v", "--verbose", action="store_true", help="print what each step makes of the tensors")
    return result


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}, which is not a whole number from 0 up")
    return int(text)


def _count(text: str) -> int:
    if _whole(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}, which is below 1")
    return int(text)


def _rate(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}, which is no number from 0 on")
    return number
