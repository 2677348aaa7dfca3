"""The `.save` file: a model with everything that belongs to it, as plain data.

It holds tensors, text, numbers, lists and dictionaries only, and is read without running anything
from it. The content is checked against the checksums of its zip container before it is trusted.
What the settings mean is known higher up; here they are JSON-like dictionaries.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepseg.errors import DeepsegError, Problem
from deepseg.storage.atomic import writable, write_bytes
from deepseg.storage.container import GARBLED, container_fault
from deepseg.storage.readable import raise_if_unreadable
from deepseg.version import VERSION

FORMAT = 1
RECORDS = ("preparation", "training", "cohort", "lineage")  # dictionaries, where there are any


@dataclass(frozen=True)
class SaveFile:
    """The content of a `.save`.

    Attributes:
        model: The model's settings.
        weights: Parameters and statistics by address, such as ``normal.3.conv.weight``.
        preparation: How cases were prepared, or None for a model that saw none.
        spacing_mm: Voxel size of the training cases, or None; for versions that know no cohort.
        training: State from which a session continues (optimiser, progress), or None.
        provenance: Where the weights come from, in words and numbers for people.
        cohort: What the training cases were like, or None.
        lineage: Where the weights come from, in fields for programs; None in older files.
        version: The deepseg that wrote it.
    """

    model: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    preparation: Mapping[str, Any] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    training: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    cohort: Mapping[str, Any] | None = None
    lineage: Mapping[str, Any] | None = None
    version: str = VERSION


def write_save(path: Path, content: SaveFile) -> Path:
    """Write ``content``; ``path`` holds the old file or the new one, never half of one.

    Returns:
        ``path``.

    Raises:
        OutputNotWritable: The disk is full or the folder not writable.
        TypeError: ``content`` holds what is not plain data; nothing is written.
    """
    record = {"format": FORMAT, **{key: _plain(v) for key, v in vars(content).items()}}
    buffer = io.BytesIO()  # torch's own file writer hides what the system says against writing
    torch.save(record, buffer)
    with writable(path), contextlib.suppress(FileExistsError):  # write_bytes reports that better
        path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())
    return path


def _plain(value: Any) -> Any:
    """Tensors on the CPU; mappings and sequences as dictionaries and lists.

    Raises:
        TypeError: Anything else; `read_save` would refuse it.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu().contiguous()
    if isinstance(value, Mapping):
        return {_plain(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if value is None or type(value) in (str, int, float, bool):
        return value
    raise TypeError(f"{value!r} of {type(value)} is not plain data")  # a bug, found when writing


def read_save(path: Path) -> SaveFile:
    """Read a `.save`, tensors on the CPU; sequences in its dictionaries come back as lists.

    Raises:
        DeepsegError: ``model-missing``, ``file-unreadable``, ``model-damaged``, ``model-refused``
            or ``model-newer``.
    """
    _check_container(path)
    try:
        with warnings.catch_warnings():  # torch warns of files that are refused below
            warnings.simplefilter("ignore")
            record = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(path, "objects that are not plain data") from error
    except GARBLED as error:
        raise _damaged(path, "content that cannot be read") from error
    if not isinstance(record, dict) or not isinstance(record.get("format"), int):
        raise _refused(path, "a file that deepseg did not write")
    if record["format"] > FORMAT:
        raise DeepsegError(
            Problem(
                code="model-newer",
                got=f"format {record['format']}, written by deepseg {record.get('version')}",
                expected=f"format {FORMAT} or older (this is deepseg {VERSION})",
                fix="update deepseg",
                where=str(path),
            )
        )
    if not isinstance(record.get("model"), dict) or not isinstance(record.get("weights"), dict):
        raise _refused(path, "a file that deepseg did not write")
    if any(not isinstance(record.get(key), dict | None) for key in RECORDS):
        raise _refused(path, "a file that deepseg did not write")
    fields = {key: value for key, value in record.items() if key in SaveFile.__dataclass_fields__}
    if isinstance(fields.get("spacing_mm"), list):
        fields["spacing_mm"] = tuple(fields["spacing_mm"])
    return SaveFile(**fields)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _check_container(path: Path) -> None:
    raise_if_unreadable(path)
    if not path.is_file():
        got = "a folder" if path.is_dir() else "no such file"
        inside = sorted(p.name for p in path.glob("*.save")) if path.is_dir() else []
        raise DeepsegError(
            Problem(
                code="model-missing",
                got=got + (f" with {', '.join(inside)}" if inside else ""),
                expected="a .save file",
                fix="give the path of the file",
                where=str(path),
            )
        )
    fault = container_fault(path)
    if fault is not None:
        raise _damaged(path, fault.got) if fault.is_damage else _refused(path, fault.got)


def _damaged(path: Path, got: str) -> DeepsegError:
    return DeepsegError(
        Problem(
            code="model-damaged",
            got=got,
            expected="a whole .save file",
            fix="copy the file again, or use an earlier one of the same session",
            where=str(path),
        )
    )


def _refused(path: Path, got: str) -> DeepsegError:
    return DeepsegError(
        Problem(
            code="model-refused",
            got=got,
            expected="a .save file: tensors, text and numbers only",
            fix="give a file that deepseg wrote",
            where=str(path),
        )
    )
