"""Each command as one call of the function that does it, which Python users call too."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepseg.cli.arguments import Arguments
from deepseg.cli.process import keep_freed_memory
from deepseg.commands.check import check as check_config
from deepseg.commands.compare import compare as compare_runs
from deepseg.commands.convert import convert as convert_config
from deepseg.commands.demo import demo as run_demo
from deepseg.commands.draw import draw
from deepseg.commands.export import export as export_model
from deepseg.commands.json_records import check_record, show_record
from deepseg.commands.new_model import new_model as build_model
from deepseg.commands.new_model import plan_transfer
from deepseg.commands.plan import plan as plan_study
from deepseg.commands.prepare import prepare as prepare_cases
from deepseg.commands.segment import segment as segment_cases
from deepseg.commands.segment_bids import segment_bids
from deepseg.commands.segment_images import segment_images
from deepseg.commands.show import show_contents
from deepseg.commands.train import train as train_model
from deepseg.config.load import load
from deepseg.config.training import TrainConfig
from deepseg.config.user_paths import user_path
from deepseg.errors import DeepsegError, Problem, raise_if_any
from deepseg.report.console import Console
from deepseg.report.streams import LenientStream
from deepseg.sessions.model_files import NamedFiles
from deepseg.sessions.processes.case_workers import share_cases
from deepseg.sessions.processes.fold_workers import share_folds
from deepseg.sessions.processes.launched import refuse_tasks_without_ranks, shard_of_rank
from deepseg.sessions.processes.launcher import launch
from deepseg.sessions.training.starting_point import varied

__all__ = [
    "check",
    "compare",
    "convert",
    "demo",
    "export",
    "new_model",
    "plan",
    "segment",
    "segment_bids",
    "show",
    "test",
    "train",
]


def new_model(arguments: Arguments) -> None:
    """``-newModel``."""
    seed = 0 if arguments.seed is None else arguments.seed
    if arguments.dry_run and arguments.pretrained is not None:
        plan_transfer(
            _file(arguments),
            arguments.pretrained,
            rules=arguments.rules,
            seed=seed,
            quiet=arguments.quiet,
        )
        return
    build_model(
        _file(arguments),
        pretrained=arguments.pretrained,
        rules=arguments.rules,
        out=arguments.out,
        seed=seed,
        quiet=arguments.quiet,
    )


def plan(arguments: Arguments) -> None:
    """``-plan``."""
    keep_freed_memory()
    plan_study(
        _file(arguments),
        minutes=60 if arguments.minutes is None else arguments.minutes,
        memory=arguments.memory,
        speed=arguments.speed,
        out=arguments.out,
        device=arguments.device,
        quiet=arguments.quiet,
    )


def prepare(arguments: Arguments) -> None:
    """``-prepare``, by this process or by several."""
    if arguments.shard is None:
        refuse_tasks_without_ranks(
            command="-prepare",
            remedy="share the cases with -part $((SLURM_PROCID + 1))/$SLURM_NTASKS",
        )
    prepare_cases(
        _file(arguments),
        model=arguments.model,
        load=arguments.load,
        shard=arguments.shard or shard_of_rank(),
        processes=arguments.devices,
        quiet=arguments.quiet,
    )


def train(arguments: Arguments) -> None:
    """``-train``, by this process or by several, together or each with folds of its own."""
    if arguments.shard is None:
        refuse_tasks_without_ranks(
            command="-train",
            remedy="start one task with 'srun --ntasks-per-node 1 torchrun ...', as in "
            "documentation/clusters.md, or with -devices; share folds with "
            "-part $((SLURM_PROCID + 1))/$SLURM_NTASKS",
        )
    if arguments.devices > 1:
        config, words = _train_config(arguments), _train_arguments(arguments)
        if config.folds is None:
            words += ["-dev", arguments.device, *["-quiet"] * arguments.quiet]
            launch(
                words,
                devices=arguments.devices,
                device=arguments.device,
                outcome=config.folder / "outcome.json",
            )
            return
        share_folds(
            config,
            words,
            count=arguments.devices,
            device=arguments.device,
            console=Console(quiet=arguments.quiet),
        )
    keep_freed_memory()
    train_model(
        _file(arguments),
        model=arguments.model,
        load=arguments.load,
        reset_optimizer=arguments.reset_optimizer,
        from_scratch=arguments.from_scratch,
        seed=arguments.seed,
        precision=arguments.precision,
        shard=arguments.shard,
        device=arguments.device,
        quiet=arguments.quiet,
    )


def _train_config(arguments: Arguments) -> TrainConfig:
    config = load(TrainConfig, _file(arguments), model_file=arguments.model).config
    return varied(config, from_scratch=arguments.from_scratch, seed=arguments.seed)


def _train_arguments(arguments: Arguments) -> list[str]:
    """The command line of each of several processes that train together."""
    words = ["-train", str(_file(arguments)), *_model_options(arguments)]
    if arguments.seed is not None:
        words += ["-seed", str(arguments.seed)]
    if arguments.precision is not None:
        words += ["-precision", arguments.precision]
    flags = {
        "-resetOptimizer": arguments.reset_optimizer,
        "-fromScratch": arguments.from_scratch,
    }
    return words + [flag for flag, is_set in flags.items() if is_set]


def test(arguments: Arguments) -> None:
    """``-test``, of all cases, of a part of them, or of those of this rank of torchrun."""
    if arguments.shard is None:
        refuse_tasks_without_ranks(
            command="-test",
            remedy="share the cases with -part $((SLURM_PROCID + 1))/$SLURM_NTASKS",
        )
    if arguments.devices > 1:
        share_cases(
            _file(arguments),
            _options(arguments),
            files=NamedFiles(arguments.models, arguments.load),
            count=arguments.devices,
            device=arguments.device,
            console=Console(quiet=arguments.quiet),
        )
    segment_cases(
        _file(arguments),
        model=arguments.models,
        load=arguments.load,
        keep_going=True if arguments.keep_going else None,
        shard=arguments.shard or shard_of_rank(),
        precision=arguments.precision,
        device=arguments.device,
        quiet=arguments.quiet,
    )


def segment(arguments: Arguments) -> None:
    """``-segment``."""
    segment_images(
        _file(arguments),
        _images(arguments.images),
        out=arguments.out,
        dicom_seg=arguments.dicom_seg,
        precision=arguments.precision or "float32",
        device=arguments.device,
        quiet=arguments.quiet,
    )


def _images(words: Sequence[str]) -> list[Path] | dict[str, Path | None]:
    """Images in their order, or by name where every word is ``NAME=FILE`` or ``NAME=``.

    Raises:
        DeepsegError: ``command-line`` for no image, and for names on some of them only.
    """
    named = {word: word.partition("=") for word in words if "=" in word and not Path(word).exists()}
    names = [name for name, _, _ in named.values()]
    if not words:
        got, fix = "-segment without an image", "name the images behind the model"
    elif 0 < len(named) < len(words):
        got, fix = "images with and without a name", "give all of them as NAME=FILE, or none"
    elif len(names) > len(set(names)):
        got, fix = "two images with one name", "give every channel once"
    else:
        by_name = {name: user_path(file) if file else None for name, _, file in named.values()}
        return by_name or [user_path(word) for word in words]
    raise DeepsegError(
        Problem("command-line", got, expected="-segment MODEL IMAGE..., or T1=FILE ...", fix=fix)
    )


def _options(arguments: Arguments) -> list[str]:
    """Options that the processes of a shared session are started with too."""
    options = _model_options(arguments)
    options += ["-precision", arguments.precision] if arguments.precision else []
    return options + (["-keepGoing"] if arguments.keep_going else [])


def _model_options(arguments: Arguments) -> list[str]:
    options = ["-model", *map(str, arguments.models)] if arguments.models else []
    return options + (["-load", str(arguments.load)] if arguments.load is not None else [])


def check(arguments: Arguments) -> None:
    """``-check``."""
    report = check_config(
        _file(arguments),
        model=arguments.models,
        load=arguments.load,
        quiet=arguments.quiet or arguments.json,
    )
    if arguments.json:
        _print_json(check_record(_file(arguments), report))
    raise_if_any(report.problems)


def show(arguments: Arguments) -> None:
    """``-show``."""
    if arguments.json:
        _print_json(show_record(_file(arguments)))
        return
    if arguments.out is not None:
        draw(_file(arguments), arguments.out, quiet=arguments.quiet)
        return
    show_contents(_file(arguments), Console(quiet=arguments.quiet))


def export(arguments: Arguments) -> None:
    """``-export``."""
    options = arguments.export_options
    export_model(
        _file(arguments),
        arguments.kind,
        trainable=options.trainable,
        train=options.train,
        batch=options.batch,
        segment=options.segment,
        out=arguments.out,
        quiet=arguments.quiet,
    )


def convert(arguments: Arguments) -> None:
    """``-convert``."""
    convert_config(_file(arguments), out=arguments.out, quiet=arguments.quiet)


def compare(arguments: Arguments) -> None:
    """``-compare``."""
    keep_freed_memory()
    compare_runs(
        arguments.runs,
        seeds=arguments.seeds,
        from_scratch=arguments.from_scratch,
        reach=arguments.reach,
        out=arguments.out,
        device=arguments.device,
        quiet=arguments.quiet,
    )


def demo(arguments: Arguments) -> None:
    """``-demo``."""
    folder = Path("runs/demo") if arguments.out is None else arguments.out
    keep_freed_memory()
    run_demo(folder, program=arguments.program, device=arguments.device, quiet=arguments.quiet)


def _print_json(record: Mapping[str, Any]) -> None:
    stream = LenientStream(sys.stdout)
    stream.write(json.dumps(record, indent=2, allow_nan=False) + "\n")
    stream.flush()


def _file(arguments: Arguments) -> Path:
    assert arguments.file is not None
    return arguments.file
