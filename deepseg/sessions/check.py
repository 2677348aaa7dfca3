"""``-check``: everything that is wrong with a config and its data, all at once, nothing started."""

from __future__ import annotations

from pathlib import Path

from deepseg.config.kind_of_file import kind_of_file
from deepseg.config.loading import load
from deepseg.config.model import ModelConfig
from deepseg.config.testing import TestConfig
from deepseg.config.training import TrainConfig
from deepseg.errors import DeepsegError, Problem
from deepseg.report.console import Console
from deepseg.sessions.cases import CheckedCases, checked_cases
from deepseg.sessions.models import Model, read_or_make_model
from deepseg.sessions.tables import cases_table, network_table


def check(
    config_file: Path, *, model_file: Path | None = None, console: Console | None = None
) -> None:
    """Read a model, train or test file, its model and every file of every case.

    Args:
        config_file: Any config file.
        model_file: A `.save` or model file; wins over the one in the config.
        console: Where to speak.

    Raises:
        DeepsegError: All problems found.
    """
    console = Console() if console is None else console
    match kind_of_file(config_file):
        case "model":
            loaded = load(ModelConfig, config_file)
            _say(console, loaded.warnings)
            network_table(console, loaded.config)
        case "train":
            _check_train(config_file, model_file, console)
        case "test":
            _check_test(config_file, model_file, console)
    console.say(f"{config_file}: nothing wrong")


def _check_train(config_file: Path, model_file: Path | None, console: Console) -> None:
    loaded = load(TrainConfig, config_file)
    config = loaded.config
    _say(console, loaded.warnings)
    model = _model(config.model if model_file is None else model_file)
    network_table(console, model.config)
    problems = proportions_problems(config, model.config)
    groups = [("training cases", config.training.cases)]
    if config.validation is not None:
        groups.append(("validation cases", config.validation.cases))
    for what, settings in groups:
        try:
            found = checked_cases(settings, model.config, console, needs_labels=True, what=what)
            _show(console, what, found, model)
        except DeepsegError as error:
            problems += error.problems
    if problems:
        raise DeepsegError(*problems)


def _check_test(config_file: Path, model_file: Path | None, console: Console) -> None:
    loaded = load(TestConfig, config_file)
    _say(console, loaded.warnings)
    model = _model(loaded.config.model if model_file is None else model_file)
    network_table(console, model.config)
    found = checked_cases(
        loaded.config.cases, model.config, console, needs_labels=False, what="cases"
    )
    _show(console, "cases", found, model)


def proportions_problems(config: TrainConfig, model: ModelConfig) -> list[Problem]:
    """Lists of the train file with one entry per class that do not fit the model."""
    wanted = {"training.sampling.proportions": config.training.sampling.proportions}
    if config.training.sampling.type != "per_class":
        wanted = {}
    if config.loss.class_weights is not None:
        wanted["loss.class_weights.weights"] = config.loss.class_weights.weights
    return [
        Problem(
            code="list-length",
            got=f"{len(values)} entries in {key}",
            expected=f"{len(model.classes)}, one per class: {', '.join(model.classes)}",
            fix="give one entry per class of the model, the background first",
            where=config.name,
        )
        for key, values in wanted.items()
        if values is not None and len(values) != len(model.classes)
    ]


def _model(path: Path | None) -> Model:
    if path is None:
        raise DeepsegError(
            Problem(
                code="model-not-given",
                got="no model",
                expected="a .save or a model file",
                fix="add -model FILE, or model: FILE to the config file",
            )
        )
    return read_or_make_model(path, seed=0)


def _show(console: Console, what: str, found: CheckedCases, model: Model) -> None:
    cases_table(console, what, found.facts, model.config.classes)


def _say(console: Console, warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        console.warn(warning)
