"""What the user typed, as one record; nothing of the work is known here."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from deepseg.cli import transfer_options
from deepseg.errors import DeepsegError, Problem, did_you_mean, raise_if_any
from deepseg.sessions.processes.shard import Shard, shard
from deepseg.transfer.rules import TransferRules
from deepseg.version import VERSION

Command = Literal["newModel", "train", "test", "check", "show", "compare", "demo"]
COMMANDS: tuple[Command, ...] = ("newModel", "train", "test", "check", "show", "compare", "demo")

Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")

# Options that mean nothing to the other commands; -dev and -quiet never do harm.
OPTIONS: dict[str, tuple[Command, ...]] = {
    "model": ("train", "test", "check"),
    "load": ("train", "test", "check"),
    "out": ("newModel", "compare", "demo"),
    "seed": ("newModel", "train"),
    "pretrained": ("newModel",),
    "resetOptimizer": ("train",),
    "fromScratch": ("train", "compare"),
    "seeds": ("compare",),
    "reach": ("compare",),
    **dict.fromkeys(transfer_options.NAMES, ("newModel",)),
    "precision": ("train", "test"),
    "keepGoing": ("test",),
    "part": ("test",),
    "devices": ("train", "test"),
}

EXAMPLES = """\
examples:
  run.py -newModel configs/model/tiny.yaml              build a model and save it
  run.py -train configs/train/tiny.yaml -model M.save   train it; the same command continues
  run.py -test configs/test/tiny.yaml -model M.save     segment cases, score them
"""


@dataclass(frozen=True)
class Arguments:
    """One command with its options.

    Attributes:
        command: What to do.
        file: The config or model file it is about; None for the demo and comparisons.
        models: ``-load``, or else ``-model``; several only for ``-test``.
        out: ``-out``.
        seed: ``-seed``.
        device: ``-dev``.
        quiet: ``-quiet``.
        pretrained: ``-pretrained``.
        rules: Of the transfer; None without ``-pretrained``.
        dry_run: ``-dryRun``.
        reset_optimizer: ``-resetOptimizer``.
        runs: Session folders and train files to compare.
        seeds: ``-seeds``, none where they are not given.
        from_scratch: ``-fromScratch``.
        reach: ``-reach``.
        precision: ``-precision``, or None.
        keep_going: ``-keepGoing``.
        shard: ``-part``, or None.
        devices: ``-devices``, 1 where it is not given.
    """

    command: Command
    file: Path | None
    models: tuple[Path, ...]
    out: Path | None
    seed: int | None
    device: str
    quiet: bool
    pretrained: Path | None
    rules: TransferRules | None
    dry_run: bool
    reset_optimizer: bool
    runs: tuple[Path, ...]
    seeds: tuple[int, ...]
    from_scratch: bool
    reach: float | None
    precision: Precision | None
    keep_going: bool
    shard: Shard | None
    devices: int

    @property
    def model(self) -> Path | None:
        """The one model of commands that take one."""
        return self.models[0] if self.models else None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise DeepsegError(_problem(message, fix="look at the examples of run.py -help"))


def _problem(got: str, expected: str = "options as in run.py -help", *, fix: str) -> Problem:
    return Problem("command-line", got, expected, fix)


def _parser() -> _Parser:
    parser = _Parser(
        prog="run.py",
        usage="run.py COMMAND [options]",
        description=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    what = parser.add_argument_group("commands (one of them)")
    what.add_argument("-newModel", metavar="MODEL", help="build the model of a model file")
    what.add_argument("-train", metavar="TRAIN", help="train; the same command continues")
    what.add_argument("-test", metavar="TEST", help="segment cases, score them where possible")
    what.add_argument("-check", metavar="CONFIG", help="everything wrong with config and data")
    what.add_argument(
        "-compare", metavar="RUN", nargs="+", help="sessions and train files side by side"
    )
    what.add_argument(
        "-show", metavar="FILE", help="what is inside a model, weights or config file"
    )
    what.add_argument("-demo", action="store_true", help="the whole story on generated brains")
    how = parser.add_argument_group("options")
    how.add_argument(
        "-model",
        metavar="FILE",
        nargs="+",
        help="a .save, or a model file; several .save files for the mean of their answers",
    )
    how.add_argument("-load", metavar="FILE", help="a .save; wins over -model, as in DeepMedic")
    how.add_argument("-pretrained", metavar="FILE", help="older model that fills the new one")
    how.add_argument("-out", metavar="PATH", help="file of -newModel, folder of -compare, -demo")
    how.add_argument(
        "-resetOptimizer",
        "-resetopt",
        action="store_const",
        const=True,
        help="fine-tune: keep the weights of -model, begin everything else anew",
    )
    how.add_argument(
        "-fromScratch",
        action="store_const",
        const=True,
        help="-train: take only the architecture of -model, in a session NAME-scratch; "
        "-compare: the first train file so too",
    )
    how.add_argument(
        "-seed",
        type=_seed,
        help="of -newModel's random weights (0), or of -train, in a session NAME-seedN",
    )
    how.add_argument("-seeds", metavar="SEED", nargs="+", type=_seed, help="of -compare's sessions")
    how.add_argument("-reach", metavar="SCORE", type=_score, help="when -compare's sessions got it")
    how.add_argument("-dev", default="auto", help="cpu, cuda, cudaN or auto (auto)")
    how.add_argument(
        "-devices",
        metavar="N",
        type=_count,
        help="work as N processes, each with its own GPU: -train together, -test a part each",
    )
    how.add_argument("-precision", choices=PRECISIONS, help="of the arithmetic (float32)")
    how.add_argument(
        "-keepGoing",
        action="store_const",
        const=True,
        help="of -test: a case that fails does not stop the others",
    )
    how.add_argument("-part", metavar="I/N", help="of -test: every N-th case, beginning with I")
    how.add_argument("-quiet", action="store_true", help="say warnings and errors only")
    how.add_argument("-version", action="version", version=f"deepseg {VERSION}")
    how.add_argument("-help", "-h", action="help", help="this text")
    transfer_options.add_options(parser)
    return parser


def short_help() -> str:
    """What is shown without arguments."""
    return f"usage: run.py COMMAND [options]\n\n{EXAMPLES}\nrun.py -help lists all options"


def parsed(arguments: Sequence[str]) -> Arguments:
    """The command that ``arguments`` ask for.

    Raises:
        DeepsegError: ``command-line``.
    """
    parser = _parser()
    single = [_with_one_dash(one) for one in arguments]
    raise_if_any(_misspelt(single, parser))
    found = parser.parse_args(single)
    files: dict[Command, str | None] = {
        "newModel": found.newModel, "train": found.train, "test": found.test,
        "check": found.check, "show": found.show,
        "compare": None if found.compare is None else "", "demo": "" if found.demo else None,
    }  # fmt: skip
    given = [command for command in COMMANDS if files[command] is not None]
    if len(given) != 1:
        got = " and ".join(f"-{command}" for command in given) or "no command"
        expected = "one of " + ", ".join(f"-{command}" for command in COMMANDS)
        raise DeepsegError(_problem(got, expected, fix="give exactly one command"))
    command = given[0]
    raise_if_any(_without_meaning(command, found))
    file = files[command]
    if "" in (found.compare or [file if command != "demo" else None]):
        raise DeepsegError(_problem(f"an empty name behind -{command}", "a file", fix="name it"))
    return Arguments(
        command=command,
        file=Path(file) if file else None,
        models=tuple(map(Path, (found.model or ()) if found.load is None else (found.load,))),
        out=None if found.out is None else Path(found.out),
        seed=found.seed,
        device=found.dev,
        quiet=found.quiet,
        pretrained=None if found.pretrained is None else Path(found.pretrained),
        rules=None if found.pretrained is None else transfer_options.rules_given(found),
        dry_run=found.dryRun is True,
        reset_optimizer=found.resetOptimizer is not None,
        runs=tuple(map(Path, found.compare or ())),
        seeds=tuple(found.seeds or ()),
        from_scratch=found.fromScratch is not None,
        reach=found.reach,
        precision=found.precision,
        keep_going=found.keepGoing is not None,
        shard=None if found.part is None else shard(found.part),
        devices=1 if found.devices is None else found.devices,
    )


def _misspelt(arguments: Sequence[str], parser: _Parser) -> Iterator[Problem]:
    """Options that do not exist, and those given more than once."""
    known = {option: action for action in parser._actions for option in action.option_strings}
    given: list[str] = []
    for one in arguments:
        if not one.startswith("-") or one.lstrip("-").isdigit():
            continue
        action = known.get(one.split("=")[0])
        if action is not None:
            given.append(action.option_strings[0])
        else:
            hint = did_you_mean(one, known)
            yield _problem(f"unknown option {one}", fix=f"correct the option{hint}")
    for option, times in Counter(given).items():
        if times > 1:
            yield _problem(f"{option} {times} times", "every option once", fix="remove the others")


def _without_meaning(command: Command, found: argparse.Namespace) -> Iterator[Problem]:
    if command != "test" and len(found.model or ()) > 1:
        got = f"{len(found.model)} models with -{command}"
        yield _problem(got, "one, or several with -test", fix="give one model")
    if found.part is not None and found.devices is not None:
        yield _problem("-part with -devices", "one of the two", fix="remove one of them")
    if command == "newModel":
        yield from transfer_options.without_meaning(found)
    for option, commands in OPTIONS.items():
        if vars(found)[option] is not None and command not in commands:
            expected = f"-{option} with {', '.join(f'-{one}' for one in commands)}"
            yield _problem(f"-{option} with -{command}", expected, fix=f"remove -{option}")


def _seed(text: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        expected = "a whole number of up to 18 digits"
        raise DeepsegError(_problem(f"-seed {text}", expected, fix="choose another number"))
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        expected = "a whole number from 1 to 1024"
        raise DeepsegError(_problem(f"-devices {text}", expected, fix="choose another number"))
    return int(text)


def _score(text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = 0
    if not 0 < score <= 1:
        expected = "a score above 0 and up to 1"
        raise DeepsegError(_problem(f"-reach {text}", expected, fix="choose another number"))
    return score


def _with_one_dash(argument: str) -> str:
    return argument[1:] if argument.startswith("--") and len(argument) > 2 else argument
