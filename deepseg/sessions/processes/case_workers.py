"""``-devices N``: the cases of a testing session shared by N processes of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deepseg.config.load import load
from deepseg.config.testing import TestConfig
from deepseg.data.cases.case import list_cases
from deepseg.errors import DeepsegError
from deepseg.report.console import Console
from deepseg.sessions.folder import discard, missing_folders
from deepseg.sessions.model_files import NamedFiles, session_models
from deepseg.sessions.processes.part_workers import PartCommand, Watched, run_parts

REFUSED = DeepsegError.exit_code


def share_cases(
    config_file: Path,
    options: Sequence[str],
    *,
    files: NamedFiles,
    count: int,
    device: str,
    console: Console,
) -> None:
    """Let ``count`` processes segment a shard of the cases each, and wait for all of them.

    The session that collects the results reports on the cases. A shard that fails is named in a
    warning; its cases are still to be done.

    Args:
        config_file: A test file.
        options: Further options of the command, such as ``-model M.save``.
        files: Files named there, if any.
        count: Of processes; on GPUs, each takes the next one.
        device: As for any command.
        console: For progress and warnings.

    Raises:
        DeepsegError: All that is wrong with the settings, the model, or the list of cases.
    """
    config = load(TestConfig, config_file).config
    files = replace(files, configured=config.models)
    channels = session_models(files, seed=0, warn=console.warn)[0].config.channels
    records = [
        config.folder / "cases" / f"{case.name}.json" for case in list_cases(config.cases, channels)
    ]
    new_folders = missing_folders(config.folder)
    before = _times(records)

    def done() -> int:
        return sum(changed != before.get(name) for name, changed in _times(records).items())

    codes = run_parts(
        PartCommand(("-test", str(config_file), *options), count, device),
        Watched(f"cases of {count} processes", len(records), done),
        console,
    )
    if new_folders and all(code == REFUSED for code in codes):
        discard(config.folder, new_folders)


def _times(files: Sequence[Path]) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in files if file.exists()}
