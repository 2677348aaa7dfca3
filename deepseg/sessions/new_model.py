"""``-newModel``: build a network from its description and save it."""

from __future__ import annotations

from pathlib import Path

from deepseg.config.loading import load
from deepseg.config.model import ModelConfig
from deepseg.errors import DeepsegError, Problem
from deepseg.report.console import Console
from deepseg.sessions.models import fresh, to_save
from deepseg.sessions.tables import network_table
from deepseg.storage.save_file import write_save


def new_model(
    config_file: Path, *, out: Path | None = None, seed: int = 0, console: Console | None = None
) -> Path:
    """Build the model that ``config_file`` describes, with random weights, and save it.

    Args:
        config_file: A model file, YAML or DeepMedic's.
        out: Where to write. Default: ``<output>/models/<name>.save``, or the next free name.
        seed: Of the random weights.
        console: Where to speak.

    Returns:
        The file written.

    Raises:
        DeepsegError: The description is wrong, or ``out`` exists.
    """
    console = Console() if console is None else console
    loaded = load(ModelConfig, config_file)
    for warning in loaded.warnings:
        console.warn(warning)
    model = fresh(loaded.config, seed=seed, origin=f"new, from {config_file}")
    path = _free_path(loaded.config) if out is None else _not_there_yet(out)
    network_table(console, loaded.config)
    write_save(path, to_save(model))
    console.say(f"model written to {path}")
    return path


def _free_path(config: ModelConfig) -> Path:
    folder = config.output / "models"
    path, number = folder / f"{config.name}.save", 2
    while path.exists():
        path, number = folder / f"{config.name}-{number}.save", number + 1
    return path


def _not_there_yet(out: Path) -> Path:
    path = out if out.suffix == ".save" or not out.name else out.with_name(f"{out.name}.save")
    for taken in (out, path):
        if taken.exists():
            raise DeepsegError(
                Problem(
                    code="file-exists",
                    got="a folder of this name" if taken.is_dir() else "a file that is there",
                    expected="a name that is free",
                    fix="choose another -out, or remove the file",
                    where=str(taken),
                )
            )
    return path
