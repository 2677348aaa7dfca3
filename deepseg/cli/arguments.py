"""The words of the command line as one record; nothing of the work is known here.

The program goes by the name that is typed: ``deepseg`` once installed, ``run.py`` in a checkout.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn, get_args

from deepseg.cli import transfer_options
from deepseg.config.user_paths import user_path
from deepseg.errors import DeepsegError, Problem, did_you_mean, raise_if_any
from deepseg.exports.options import KINDS, ExportOptions, segment_size
from deepseg.sessions.processes.shard import Shard, shard
from deepseg.transfer.rules import TransferRules
from deepseg.version import VERSION

Command = Literal[
    "newModel",
    "train",
    "test",
    "segment",
    "check",
    "show",
    "export",
    "convert",
    "compare",
    "plan",
    "prepare",
    "demo",
]
COMMANDS: tuple[Command, ...] = get_args(Command)

# As in the settings, whose packages are not imported for the words of a command.
Precision = Literal["float32", "tf32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

# Options that mean nothing to the other commands; -dev and -quiet never do harm.
OPTIONS: dict[str, tuple[Command, ...]] = {
    "model": ("train", "test", "check", "prepare"),
    "load": ("train", "test", "check", "prepare"),
    "out": ("newModel", "segment", "show", "export", "convert", "compare", "plan", "demo"),
    "seed": ("newModel", "train"),
    "pretrained": ("newModel",),
    "resetOptimizer": ("train",),
    "fromScratch": ("train", "compare"),
    "seeds": ("compare",),
    "minutes": ("plan",),
    "memory": ("plan",),
    "speed": ("plan",),
    "reach": ("compare",),
    **dict.fromkeys(transfer_options.NAMES, ("newModel",)),
    "precision": ("train", "test", "segment"),
    "keepGoing": ("test",),
    "part": ("train", "test", "prepare"),
    "dicomSeg": ("segment",),
    "devices": ("train", "test", "prepare"),
    "json": ("check", "show"),
    "trainable": ("export",),
    "batch": ("export",),
}

# What other programs call our commands and options, in small letters without separators.
SYNONYMS = {
    **dict.fromkeys(("predict", "prediction", "infer", "inference"), "-test"),
    **dict.fromkeys(("apply", "evaluate", "eval", "score"), "-test"),
    **dict.fromkeys(("preprocess", "preparation", "cache"), "-prepare"),
    **dict.fromkeys(("fit", "training", "resume", "continue"), "-train"),
    **dict.fromkeys(("new", "build", "create", "init"), "-newModel"),
    **dict.fromkeys(("validate", "verify", "lint", "preflight"), "-check"),
    **dict.fromkeys(("info", "inspect", "summary", "describe", "print"), "-show"),
    **dict.fromkeys(("diff", "versus", "vs"), "-compare"),
    **dict.fromkeys(("weights", "checkpoint", "ckpt", "m"), "-model"),
    **dict.fromkeys(("transfer", "source", "initfrom"), "-pretrained"),
    **dict.fromkeys(("finetune", "reset"), "-resetOptimizer"),
    **dict.fromkeys(("output", "o", "outputdir", "outdir"), "-out"),
    **dict.fromkeys(("device", "gpu", "cuda", "cpu"), "-dev"),
    **dict.fromkeys(("gpus", "ngpus", "numgpus", "nproc", "workers"), "-devices"),
    **dict.fromkeys(("silent", "q"), "-quiet"),
    **dict.fromkeys(("amp", "fp16", "bf16", "dtype"), "-precision"),
    "shard": "-part",
    "v": "-version",
}

EXAMPLES = """\
examples:
  {program} -plan SCANS -minutes 60 -out DIR  settings files for a folder of scans
  {program} -newModel model.yaml              build a model and save it
  {program} -train train.yaml -model M.save   train it; the same command continues
  {program} -test test.yaml -model M.save     segment cases, score them
"""


@dataclass(frozen=True)
class Arguments:
    """One command with its options.

    Attributes:
        program: The name under which it was started.
        command: The verb, without its dash.
        file: The config or model file it is about; None for the demo and comparisons.
        models: ``-model``; several only for ``-test``.
        load: ``-load``, or None.
        out: ``-out``.
        seed: ``-seed``.
        device: ``-dev``.
        quiet: ``-quiet``.
        json: ``-json``.
        pretrained: ``-pretrained``.
        rules: Of the transfer; None without ``-pretrained``.
        dry_run: ``-dryRun``.
        reset_optimizer: ``-resetOptimizer``.
        kind: Of the export; empty for other commands.
        export_options: Of the export; the defaults for other commands.
        images: To be segmented, as they are typed: a file, or ``NAME=FILE``.
        runs: Session folders and train files to compare.
        minutes: ``-minutes``, or None.
        memory: ``-memory`` in bytes, or None.
        speed: ``-speed``, or None.
        seeds: ``-seeds``, none where they are not given.
        from_scratch: ``-fromScratch``.
        reach: ``-reach``.
        precision: ``-precision``, or None.
        keep_going: ``-keepGoing``.
        dicom_seg: ``-dicomSeg``.
        shard: ``-part``, or None.
        devices: ``-devices``, 1 where it is not given.
    """

    program: str
    command: Command
    file: Path | None
    models: tuple[Path, ...]
    load: Path | None
    out: Path | None
    seed: int | None
    device: str
    quiet: bool
    json: bool
    pretrained: tuple[Path, ...] | None
    rules: TransferRules | None
    dry_run: bool
    reset_optimizer: bool
    kind: str
    export_options: ExportOptions
    images: tuple[str, ...]
    runs: tuple[Path, ...]
    minutes: float | None
    memory: int | None
    speed: Path | None
    seeds: tuple[int, ...]
    from_scratch: bool
    reach: float | None
    precision: Precision | None
    keep_going: bool
    dicom_seg: bool
    shard: Shard | None
    devices: int

    @property
    def model(self) -> Path | None:
        """The first model, of commands that take no more; None where none is typed."""
        return self.models[0] if self.models else None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise DeepsegError(self.problem(message, fix=f"look at the examples of {self.prog} -help"))

    def problem(self, got: str, *, fix: str) -> Problem:
        """A word that the command line does not understand."""
        return _problem(got, f"options as in {self.prog} -help", fix=fix)


def _problem(got: str, expected: str, *, fix: str) -> Problem:
    return Problem("command-line", got, expected, fix)


def _parser(program: str) -> _Parser:
    parser = _Parser(
        prog=program,
        usage=f"{program} COMMAND [options]",
        description=EXAMPLES.format(program=program),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    _add_commands(parser)
    _add_options(parser)
    transfer_options.add_options(parser)
    return parser


def _add_commands(parser: _Parser) -> None:
    commands = parser.add_argument_group("commands (one of them)")
    commands.add_argument(
        "-plan", metavar="CASES", help="write the settings files for a table or folder of cases"
    )
    commands.add_argument(
        "-prepare",
        metavar="TRAIN",
        help="prepare the cases of -train beforehand, without a GPU",
    )
    commands.add_argument("-newModel", metavar="MODEL", help="build the model of a model file")
    commands.add_argument("-train", metavar="TRAIN", help="train; the same command continues")
    commands.add_argument("-test", metavar="TEST", help="segment cases, score them where possible")
    commands.add_argument(
        "-segment",
        metavar="WORD",
        nargs="+",
        help="-segment MODEL IMAGE...: segment files, one per channel in the model's order or as "
        "T1=FILE; with -export: voxels of a segment, such as 25 or 25,27,29",
    )
    commands.add_argument(
        "-check", metavar="CONFIG", help="list all that is wrong with config and data"
    )
    commands.add_argument(
        "-compare", metavar="RUN", nargs="+", help="sessions and train files side by side"
    )
    commands.add_argument(
        "-show", metavar="FILE", help="contents of a model, weights or config file"
    )
    commands.add_argument(
        "-export",
        metavar="WORD",
        nargs="+",
        help=f"-export MODEL KIND: a model for other programs; {', '.join(KINDS)}",
    )
    commands.add_argument("-convert", metavar="CFG", help="a .cfg file of DeepMedic as YAML")
    commands.add_argument("-demo", action="store_true", help="the whole story on generated brains")


def _add_options(parser: _Parser) -> None:
    options = parser.add_argument_group("options")
    options.add_argument(
        "-model",
        metavar="FILE",
        nargs="+",
        help="a .save, or a model file; several .save files for the mean of their predictions",
    )
    options.add_argument(
        "-load",
        metavar="FILE",
        help="weights for the network of -model: a .save, or a checkpoint of DeepMedic; "
        "of a session that has begun, an older model to go back to",
    )
    options.add_argument(
        "-pretrained",
        nargs="+",
        metavar="FILE",
        help="older model that fills the new one; of several, each fills what the ones before left",
    )
    options.add_argument(
        "-out",
        metavar="PATH",
        help="file of -newModel, SVG picture of -show, folder of -compare, -demo",
    )
    options.add_argument("-minutes", type=_minutes, help="time that -plan gives to training (60)")
    options.add_argument(
        "-memory", metavar="SIZE", type=_memory, help="memory for -plan, such as 8GB (what is free)"
    )
    options.add_argument(
        "-speed", metavar="PLAN", help="-plan: plan.json of a study, whose times of steps are used"
    )
    options.add_argument(
        "-resetOptimizer",
        "-resetopt",
        action="store_const",
        const=True,
        help="fine-tune: keep the weights of -model, begin everything else anew",
    )
    options.add_argument(
        "-fromScratch",
        action="store_const",
        const=True,
        help="-train: take only the architecture of -model, in a session NAME-scratch; "
        "-compare: run the first train file like this too",
    )
    options.add_argument(
        "-seed",
        type=_seed,
        help="seed of -newModel's random weights (0), or of -train, in a session NAME-seedN",
    )
    options.add_argument(
        "-seeds",
        metavar="SEED",
        nargs="+",
        type=_seed,
        help="seeds with which -compare runs each train file",
    )
    options.add_argument(
        "-reach",
        metavar="SCORE",
        type=_score,
        help="score for which -compare lists the first epoch",
    )
    options.add_argument("-dev", default="auto", help="cpu, cuda (or gpu), cudaN, mps, auto (auto)")
    options.add_argument(
        "-devices",
        metavar="N",
        type=_count,
        help="work as N processes, each with a GPU of its own: -train together, or a part of "
        "the folds each; -test and -prepare a part of the cases each",
    )
    options.add_argument(
        "-precision", choices=PRECISIONS, help="precision of the arithmetic (float32)"
    )
    options.add_argument(
        "-keepGoing",
        action="store_const",
        const=True,
        help="-test: a case that fails does not stop the others",
    )
    options.add_argument(
        "-dicomSeg",
        action="store_const",
        const=True,
        help="-segment: also write a DICOM-SEG of images that are DICOM series",
    )
    options.add_argument(
        "-part",
        metavar="I/N",
        help="every N-th case of -test and -prepare, or fold of -train, beginning with I",
    )
    options.add_argument(
        "-trainable",
        action="store_const",
        const=True,
        help="-export M onnx: keep batch normalisation and all names, to train it again",
    )
    options.add_argument(
        "-batch",
        metavar="N",
        type=_batch,
        help="-export M train-step: segments of a step; its -train LAYERS names those that learn "
        "(head; fc.2,head; tune:last:2; all)",
    )
    options.add_argument("-quiet", action="store_true", help="print warnings and errors only")
    options.add_argument(
        "-json",
        action="store_const",
        const=True,
        help="-check, -show: print JSON for programs, and nothing else on stdout",
    )
    options.add_argument(
        "-version", action="version", version=f"deepseg {VERSION}", help="print the version"
    )
    options.add_argument("-help", "-h", action="help", help="print this text")


def short_help(program: str) -> str:
    """The text that is printed where no command is typed."""
    examples = EXAMPLES.format(program=program)
    return f"usage: {program} COMMAND [options]\n\n{examples}\n{program} -help lists all options"


def parsed(words: Sequence[str], *, program: str = "deepseg") -> Arguments:
    """The command that ``words`` ask for.

    >>> parsed(["-train", "train.yaml", "-model", "M.save", "-dev", "cpu"]).command
    'train'
    >>> parsed(["--test=test.yaml", "-part", "2/5"]).shard
    Shard(number=2, count=5)

    Args:
        words: What stands after the name of the program.
        program: Its name, for usage and problems.

    Raises:
        DeepsegError: ``command-line``.
    """
    parser = _parser(program)
    single = [_with_single_dash(word) for word in words]
    raise_if_any(_misspelt(single, parser))
    options = parser.parse_args(single)
    command, file = _command(options)
    kind, export_options = _export(options)
    raise_if_any(_without_meaning(command, options))
    if "" in (options.compare or [file]):
        raise DeepsegError(_problem(f"an empty name after -{command}", "a file", fix="name it"))
    return Arguments(
        program=program,
        command=command,
        file=_path(file),
        models=tuple(map(user_path, options.model or ())),
        load=_path(options.load),
        out=_path(options.out),
        seed=options.seed,
        device=options.dev,
        quiet=options.quiet,
        json=options.json is not None,
        pretrained=None
        if options.pretrained is None
        else tuple(user_path(word) for word in options.pretrained),
        rules=None if options.pretrained is None else transfer_options.transfer_rules(options),
        dry_run=options.dryRun is True,
        kind=kind,
        export_options=export_options,
        images=tuple(options.segment[1:]) if command == "segment" else (),
        reset_optimizer=options.resetOptimizer is not None,
        runs=tuple(map(user_path, options.compare or ())),
        minutes=options.minutes,
        memory=options.memory,
        speed=_path(options.speed),
        seeds=tuple(options.seeds or ()),
        from_scratch=options.fromScratch is not None,
        reach=options.reach,
        precision=options.precision,
        keep_going=options.keepGoing is not None,
        dicom_seg=options.dicomSeg is not None,
        shard=None if options.part is None else shard(options.part),
        devices=1 if options.devices is None else options.devices,
    )


def _path(word: str | None) -> Path | None:
    return None if word is None else user_path(word)


def _command(options: argparse.Namespace) -> tuple[Command, str | None]:
    """The one command that was typed, and its file, which the demo and comparisons lack.

    Raises:
        DeepsegError: ``command-line``, for none and for several.
    """
    typed = [command for command in COMMANDS if vars(options)[command] not in (None, False)]
    if "export" in typed:  # -train names the layers that learn there, -segment a size
        typed = [command for command in typed if command not in ("train", "segment")]
    if len(typed) != 1:
        got = " and ".join(f"-{command}" for command in typed) or "no command"
        expected = "one of " + ", ".join(f"-{command}" for command in COMMANDS)
        raise DeepsegError(_problem(got, expected, fix="give exactly one command"))
    (command,) = typed
    value = vars(options)[command]
    file = value[0] if command in ("export", "segment") else value
    return command, file if isinstance(file, str) else None


def _export(options: argparse.Namespace) -> tuple[str, ExportOptions]:
    """Kind and options of an export.

    Raises:
        DeepsegError: ``command-line``, for anything but one model and one kind.
    """
    if options.export is None:
        return "", ExportOptions()
    words = options.export
    if len(words) != 2:
        kinds = f"{', '.join(KINDS[:-1])} or {KINDS[-1]}"
        got = f"-export {' '.join(words)}"
        fix = "name one model and one kind; of an ensemble, export each model by itself"
        raise DeepsegError(_problem(got, f"-export MODEL KIND, the kind {kinds}", fix=fix))
    return words[1], ExportOptions(
        trainable=options.trainable is True,
        train=options.train,
        batch=options.batch,
        segment=None if options.segment is None else segment_size(options.segment),
    )


def _misspelt(words: Sequence[str], parser: _Parser) -> Iterator[Problem]:
    """Options that do not exist, and those typed more than once."""
    actions = {option: action for action in parser._actions for option in action.option_strings}
    typed: list[str] = []
    for word in words:
        if not word.startswith("-") or word.lstrip("-").isdigit():
            continue
        action = actions.get(word.split("=")[0])
        if action is not None:
            typed.append(action.option_strings[0])
        else:
            hint = did_you_mean(word.split("=")[0], actions, synonyms=SYNONYMS)
            yield parser.problem(f"unknown option {word}", fix=f"correct the option{hint}")
    for option, times in Counter(typed).items():
        if times > 1:
            yield _problem(f"{option} {times} times", "every option once", fix="remove the others")


def _without_meaning(command: Command, options: argparse.Namespace) -> Iterator[Problem]:
    """Options that do not go with the command, or with each other."""
    if command != "test" and len(options.model or ()) > 1:
        got = f"{len(options.model)} models with -{command}"
        yield _problem(got, "one, or several with -test", fix="give one model")
    if options.part is not None and options.devices is not None:
        yield _problem("-part with -devices", "one of the two", fix="remove one of them")
    if command == "newModel":
        yield from transfer_options.without_meaning(options)
    for option, commands in OPTIONS.items():
        if vars(options)[option] is not None and command not in commands:
            expected = f"-{option} with {', '.join(f'-{name}' for name in commands)}"
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


def _batch(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        expected = "a whole number from 1 to 1024"
        raise DeepsegError(_problem(f"-batch {text}", expected, fix="choose another number"))
    return int(text)


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0
    if not 0 < minutes < 1e6:
        expected = "a number of minutes above 0"
        raise DeepsegError(_problem(f"-minutes {text}", expected, fix="choose another number"))
    return minutes


def _memory(text: str) -> int:
    """Bytes of ``8GB``, ``8 GB``, ``500MB`` or ``8e9``."""
    match = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)\s*([kmgt]?i?b?)", text.strip().lower())
    units = {"": 1, "b": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
    try:
        size = 0.0 if match is None else float(match[1]) * units[match[2][:1]]
    except ValueError:
        size = 0.0
    if not 1e6 <= size < 1e16:
        expected = "a size of at least 1 MB, such as 8GB"
        raise DeepsegError(_problem(f"-memory {text}", expected, fix="choose another size"))
    return int(size)


def _score(text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = 0
    if not 0 < score <= 1:
        expected = "a score above 0 and up to 1"
        raise DeepsegError(_problem(f"-reach {text}", expected, fix="choose another number"))
    return score


def _with_single_dash(argument: str) -> str:
    return argument[1:] if argument.startswith("--") and len(argument) > 2 else argument
