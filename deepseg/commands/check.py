"""``-check``: everything that is wrong with a config and its data, all at once, nothing started."""

from __future__ import annotations

from pathlib import Path

from deepseg.config.files.kind_of_file import kind_of_file
from deepseg.config.load import load
from deepseg.config.model import ModelConfig
from deepseg.config.testing import TestConfig
from deepseg.config.training import TrainConfig
from deepseg.errors import raise_if_any
from deepseg.report.console import Console
from deepseg.sessions.checked_cases import checked_cases, training_and_held_out
from deepseg.sessions.compatibility import testing_incompatibilities
from deepseg.sessions.model_files import session_model, session_models
from deepseg.sessions.tables import network_table


def check(
    config_file: Path | str,
    *,
    model_file: Path | str | None = None,
    console: Console | None = None,
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
    config_file = Path(config_file)
    model_file = None if model_file is None else Path(model_file)
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
    _say(console, loaded.warnings)
    model = session_model(model_file, loaded.config.model, seed=0)
    network_table(console, model.config)
    training_and_held_out(loaded.config, model.config, console)


def _check_test(config_file: Path, model_file: Path | None, console: Console) -> None:
    loaded = load(TestConfig, config_file)
    _say(console, loaded.warnings)
    typed = () if model_file is None else (model_file,)
    models = session_models(typed, loaded.config.models, seed=0)
    network_table(console, models[0].config)
    raise_if_any(testing_incompatibilities(loaded.config, models))
    checked_cases(loaded.config.cases, models[0].config, console, needs_labels=False, what="cases")


def _say(console: Console, warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        console.warn(warning)
