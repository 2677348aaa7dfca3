"""Names of the files that an export writes, none of which may be there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deepseg.storage.atomic import writable
from deepseg.storage.free_name import raise_if_taken


def destination(out: Path | None, model: Path, *, suffix: str) -> Path:
    """The file that an export writes: beside the model, in a folder, or as it is called.

    >>> str(destination(None, Path("runs/M.save"), suffix=".onnx"))
    'runs/M.onnx'
    >>> str(destination(Path("net"), Path("M.save"), suffix=".onnx"))
    'net.onnx'

    Args:
        out: As the user names it: None, a file, with its ending or without, or a folder.
        model: File of the model.
        suffix: Ending of the file; empty for a folder.
    """
    if out is None:
        return model.with_suffix(suffix)
    if suffix and out.is_dir():
        return out / model.with_suffix(suffix).name
    return out if out.suffix == suffix or not suffix else out.with_name(out.name + suffix)


def raise_if_there(files: Sequence[Path]) -> None:
    """Refuse names that are taken.

    Raises:
        DeepsegError: ``file-exists``, for each of them.
    """
    raise_if_taken(
        files,
        fix="name another file with -out, in another folder for another model, or remove it",
    )


def make_folder(file: Path) -> None:
    """The folder of a file that is going to be written.

    Raises:
        OutputNotWritable: ``output-not-writable``.
    """
    with writable(file):
        file.parent.mkdir(parents=True, exist_ok=True)
