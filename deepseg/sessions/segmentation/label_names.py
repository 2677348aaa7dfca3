"""Names and colours of labels beside the results of a session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from deepseg.config.blocks.saved_results import SavedResults
from deepseg.report.label_files import label_files
from deepseg.sessions.segmentation.completed_cases import CompletedCases
from deepseg.storage.atomic import write_text


def write_label_files(
    session: Path, settings: SavedResults, classes: Sequence[str]
) -> tuple[Path, ...]:
    """Write the files that ``settings`` ask for beside the segmentations, if there are any.

    Args:
        session: Folder of the session.
        settings: Of its results.
        classes: Name of every label, the background (label 0) first.

    Returns:
        The new places of files of these names that others have written, and that are set aside.
    """
    folder = session / "predictions"
    if not settings.segmentation or not folder.is_dir():
        return ()
    texts = {
        folder / name: text for name, text in label_files(classes, settings.label_names).items()
    }
    if not changed_files(texts):
        return ()
    records = CompletedCases(session, "written")
    set_aside = records.begin("labels", list(texts))
    for file, text in texts.items():
        write_text(file, text)
    records.keep("labels", "", {"files": [str(file.relative_to(session)) for file in texts]})
    return set_aside


def changed_files(texts: Mapping[Path, str]) -> list[Path]:
    """Files that are not there, or hold another text."""
    return [file for file, text in texts.items() if _content(file) != text.encode()]


def _content(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except OSError:
        return None
