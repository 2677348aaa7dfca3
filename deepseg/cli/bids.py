"""``deepseg-bids``: the command line of a BIDS app, which segments the participants of a tree.

Source: K. Gorgolewski et al., "BIDS apps: improving ease of use, accessibility, and
reproducibility of neuroimaging data analysis methods", PLoS Computational Biology 13(3), 2017,
doi:10.1371/journal.pcbi.1005209.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from deepseg.cli.arguments import PRECISIONS
from deepseg.cli.main import command_module, supervised
from deepseg.config.user_paths import user_path
from deepseg.errors import DeepsegError, Problem
from deepseg.version import VERSION

PROGRAM = "deepseg-bids"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise DeepsegError(_problem(message, f"options as in {PROGRAM} --help"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the app; return its exit code (documentation/errors.md).

    Args:
        arguments: The words after the name of the program. Default: those of this process.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    return supervised(lambda: _run(words), way_on="the same command goes on")


def _run(words: Sequence[str]) -> None:
    options = argument_parser().parse_args(words)
    segment_bids = command_module().segment_bids
    segment_bids(
        user_path(options.bids_dir),
        user_path(options.output_dir),
        model=user_path(options.model),
        participants=options.participant_label,
        channels=_named(options.channels),
        roi=options.roi,
        precision=options.precision,
        device=options.dev,
        quiet=options.quiet,
    )


def argument_parser() -> argparse.ArgumentParser:
    """The parser of the app's words."""
    parser = _Parser(
        prog=PROGRAM, description="Segment the participants of a BIDS tree.", allow_abbrev=False
    )
    parser.add_argument("bids_dir", help="a BIDS tree")
    parser.add_argument("output_dir", help="folder for the derivatives")
    parser.add_argument("analysis_level", choices=["participant"])
    parser.add_argument("--model", required=True, help="a .save, or the folder of a session")
    parser.add_argument(
        "--participant-label",
        "--participant_label",
        nargs="+",
        default=[],
        metavar="LABEL",
        help="participants, with or without sub- (all)",
    )
    parser.add_argument(
        "--channels",
        nargs="+",
        default=[],
        metavar="NAME=FILE",
        help="suffix, with entities where these decide, of the file of each channel of the model, "
        "such as T1=T1w T1c=ce-gd_T1w (the names of the channels)",
    )
    parser.add_argument(
        "--roi", metavar="FILE", help="the same of a mask, such as desc-brain_mask; or nonzero"
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--dev", default="auto", help="cpu, cuda, cudaN, auto (auto)")
    parser.add_argument("--quiet", action="store_true", help="print warnings and errors only")
    parser.add_argument(
        "--skip-bids-validation",
        "--skip_bids_validator",
        action="store_true",
        help="understood, as nothing is validated but the files that are read",
    )
    parser.add_argument("--version", "-v", action="version", version=f"{PROGRAM} {VERSION}")
    return parser


def _named(words: Sequence[str]) -> dict[str, str]:
    """Patterns by channel.

    Raises:
        DeepsegError: ``command-line`` for a word without a name, or a name that comes twice.
    """
    pairs = [word.partition("=") for word in words]
    names = [name for name, _, _ in pairs]
    for word, (name, _, pattern) in zip(words, pairs, strict=True):
        if not name or not pattern or names.count(name) > 1:
            raise DeepsegError(_problem(f"--channels {word}", "every channel once, as T1=T1w"))
    return {name: pattern for name, _, pattern in pairs}


def _problem(got: str, expected: str) -> Problem:
    return Problem("command-line", got, expected, f"look at {PROGRAM} --help")


if __name__ == "__main__":
    sys.exit(main())
