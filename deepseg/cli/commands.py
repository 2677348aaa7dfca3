"""Each command as one call into ``sessions/``."""

from __future__ import annotations

from pathlib import Path

from deepseg.cli.arguments import Arguments
from deepseg.commands.check import check as check_config
from deepseg.commands.compare import compare as compare_runs
from deepseg.commands.demo import demo as run_demo
from deepseg.commands.new_model import new_model as build_model
from deepseg.commands.new_model import plan_transfer
from deepseg.commands.segment import segment as segment_cases
from deepseg.commands.show import show as show_file
from deepseg.commands.train import train as train_model
from deepseg.report.console import Console
from deepseg.sessions.processes.case_workers import share_cases
from deepseg.sessions.processes.launcher import launch


def new_model(given: Arguments) -> None:
    """``-newModel``."""
    console = Console(quiet=given.quiet)
    seed = 0 if given.seed is None else given.seed
    if given.dry_run and given.pretrained is not None:
        plan_transfer(_file(given), given.pretrained, rules=given.rules, seed=seed, console=console)
        return
    build_model(
        _file(given),
        pretrained=given.pretrained,
        rules=given.rules,
        out=given.out,
        seed=seed,
        console=console,
    )


def train(given: Arguments) -> None:
    """``-train``, by this process or by several."""
    if given.devices > 1:
        launch(_train_arguments(given), devices=given.devices, device=given.device)
        return
    train_model(
        _file(given),
        model_file=given.model,
        reset_optimizer=given.reset_optimizer,
        from_scratch=given.from_scratch,
        seed=given.seed,
        precision=given.precision,
        device=given.device,
        quiet=given.quiet,
    )


def _train_arguments(given: Arguments) -> list[str]:
    arguments = ["-train", str(_file(given)), "-dev", given.device]
    if given.model is not None:
        arguments += ["-model", str(given.model)]
    if given.seed is not None:
        arguments += ["-seed", str(given.seed)]
    if given.precision is not None:
        arguments += ["-precision", given.precision]
    flags = {
        "-resetOptimizer": given.reset_optimizer,
        "-fromScratch": given.from_scratch,
        "-quiet": given.quiet,
    }
    return arguments + [flag for flag, is_given in flags.items() if is_given]


def test(given: Arguments) -> None:
    """``-test``."""
    if given.devices > 1:
        share_cases(
            _file(given),
            _options(given),
            models=given.models,
            count=given.devices,
            device=given.device,
            console=Console(quiet=given.quiet),
        )
    segment_cases(
        _file(given),
        model_file=given.models,
        device=given.device,
        precision=given.precision,
        keep_going=True if given.keep_going else None,
        part=given.shard,
        quiet=given.quiet,
    )


def _options(given: Arguments) -> list[str]:
    """What parts of the cases are given too."""
    options = ["-model", *map(str, given.models)] if given.models else []
    options += ["-precision", given.precision] if given.precision else []
    return options + (["-keepGoing"] if given.keep_going else [])


def check(given: Arguments) -> None:
    """``-check``."""
    check_config(_file(given), model_file=given.model, console=Console(quiet=given.quiet))


def show(given: Arguments) -> None:
    """``-show``."""
    show_file(_file(given), console=Console(quiet=given.quiet))


def compare(given: Arguments) -> None:
    """``-compare``."""
    compare_runs(
        given.runs,
        seeds=given.seeds,
        from_scratch=given.from_scratch,
        reach=given.reach,
        out=given.out,
        device=given.device,
        quiet=given.quiet,
    )


def demo(given: Arguments) -> None:
    """``-demo``."""
    folder = Path("runs/demo") if given.out is None else given.out
    run_demo(folder, device=given.device, quiet=given.quiet)


def _file(given: Arguments) -> Path:
    assert given.file is not None
    return given.file
