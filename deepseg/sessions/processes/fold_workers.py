"""``-devices N``: the folds of a cross-validation shared by N processes of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deepseg.config.training import TrainConfig
from deepseg.errors import DeepsegError
from deepseg.report.console import Console
from deepseg.sessions.folder import discard, missing_folders
from deepseg.sessions.processes.part_workers import PartCommand, Watched, run_parts

REFUSED = DeepsegError.exit_code


def share_folds(
    config: TrainConfig, words: Sequence[str], *, count: int, device: str, console: Console
) -> None:
    """Let several processes train some folds each, and wait for all of them.

    The session that collects the results reports on them. A part that fails is named in a warning;
    its folds are still to be done.

    Args:
        config: Of the cross-validation, which has folds.
        words: The command that trains them all.
        count: Of processes, not more than folds are started; on GPUs, each takes the next one.
        device: As for any command.
        console: For progress and warnings.
    """
    assert config.folds is not None
    logs = [config.folder / f"fold-{n}" / "metrics.jsonl" for n in range(1, config.folds + 1)]
    before = _lines(logs)
    new_folders = missing_folders(config.folder)
    codes = run_parts(
        PartCommand(tuple(words), min(count, config.folds), device),
        Watched(
            f"epochs of {config.folds} folds",
            max(1, config.folds * config.epochs - before),
            lambda: _lines(logs) - before,
        ),
        console,
    )
    if new_folders and all(code == REFUSED for code in codes):
        discard(config.folder, new_folders)


def _lines(files: Sequence[Path]) -> int:
    return sum(file.read_bytes().count(b"\n") for file in files if file.is_file())
