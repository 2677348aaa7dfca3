"""``-convert``: a `.cfg` file of DeepMedic as YAML, in the house's words."""

from __future__ import annotations

from pathlib import Path

import yaml

from deepseg.config.files.kind_of_file import kind_of_file
from deepseg.config.load import Loaded, load
from deepseg.config.model import ModelConfig
from deepseg.config.testing import TestConfig
from deepseg.config.training import TrainConfig
from deepseg.errors import DeepsegError, Problem
from deepseg.report.console import Console
from deepseg.storage.atomic import write_text
from deepseg.storage.free_name import raise_if_taken


def convert(config_file: Path | str, *, out: Path | str | None = None, quiet: bool = False) -> Path:
    """Write a `.cfg` file again as YAML that means the same.

    Args:
        config_file: A model, train or test file of DeepMedic.
        out: File to write. Default: the name of ``config_file`` with the ending ``.yaml``.
        quiet: Print warnings and errors only.

    Returns:
        The file written; its paths are whole, so it may be moved.

    Raises:
        DeepsegError: ``config-file-type`` for another file than a `.cfg`, ``file-exists``, or what
            is wrong with it.
    """
    console, file = Console(quiet=quiet), Path(config_file)
    if file.suffix.lower() != ".cfg":
        raise DeepsegError(
            Problem(
                "config-file-type",
                got=f"the ending {file.suffix!r}",
                expected=".cfg, for a file of DeepMedic",
                fix="give a .cfg file; others need no conversion",
                where=str(file),
            )
        )
    target = file.with_suffix(".yaml") if out is None else Path(out)
    raise_if_taken([target])
    kind = kind_of_file(file)
    loaded: Loaded[ModelConfig] | Loaded[TrainConfig] | Loaded[TestConfig]
    match kind:
        case "model":
            loaded = load(ModelConfig, file)
        case "train":
            loaded = load(TrainConfig, file)
        case "test":
            loaded = load(TestConfig, file)
    for warning in loaded.warnings:
        console.warn(warning)
    settings = loaded.config.model_dump(mode="json", exclude_unset=True)
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, default_flow_style=None)
    write_text(target, f"# {kind} file, from {file.name} of DeepMedic\n{text}")
    console.say(f"{kind} file written to {target}")
    return target
