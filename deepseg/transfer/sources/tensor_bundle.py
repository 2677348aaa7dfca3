"""TensorFlow checkpoints, read without TensorFlow: its "tensor bundle", version 2.

A checkpoint NAME is ``NAME.index`` and ``NAME.data-00000-of-00001``, or several such shards. The
index is a sorted table as LevelDB writes it; it leads from the name of each tensor to a protocol
buffer with type, shape, place and checksum. The shards hold the bare numbers, little-endian.

Reading runs nothing that is in a file. Every checksum is compared, every size is held against the
file before memory is taken for it, and what is not understood is refused. Tensors of text, such as
the object graph of TensorFlow 2, are left out. Layers and models are not known here.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deepseg.errors import DeepsegError, did_you_mean
from deepseg.storage.readable import raise_if_unreadable
from deepseg.transfer.sources.bundle_index import NUMBERS, BundleEntry, bundle_entries
from deepseg.transfer.sources.checkpoint_problems import (
    damaged,
    first_five,
    missing,
    refused,
    unreadable,
)
from deepseg.transfer.sources.crc32c import crc32c, masked

Array: TypeAlias = NDArray[Any]

_ENDING = re.compile(r"(?<=.)\.(index|data-[0-9]{5,}-of-[0-9]{5,})\Z")
_NAME_OF_DEEPMEDIC = ".model.ckpt"
_LARGEST_INDEX = 1 << 24  # bytes; that of a network of 250 tensors has 13 kB


def looks_like_bundle(path: Path) -> bool:
    """``path`` is named like a file of a checkpoint, or names one without its ending.

    Nothing is read, so that `read_bundle` can say what a broken checkpoint lacks.
    """
    if _ENDING.search(path.name):
        return True
    is_named_so = path.name.endswith(_NAME_OF_DEEPMEDIC)
    return not _is_file(path) and (is_named_so or bool(_files_of(path)))


def latest_in_folder(folder: Path) -> Path | None:
    """The latest checkpoint in a folder, as TensorFlow's file ``checkpoint`` names it there.

    Only the name counts, so that the folder may have been moved. A single checkpoint needs no such
    file.

    Returns:
        The checkpoint without an ending; None for a folder that holds none.

    Raises:
        DeepsegError: ``checkpoint-missing``: several, and no file that tells which is meant.
    """
    names = sorted({_ENDING.sub("", n) for n in _names_in(folder) if n.endswith(".index")})
    if len(names) < 2:
        return folder / names[0] if names else None
    latest = _named_as_latest(folder / "checkpoint")
    if latest in names:
        return folder / latest
    raise missing(
        f"a folder with {len(names)} checkpoints and no file 'checkpoint' that names one of them",
        expected="one checkpoint",
        fix=f"name one: {first_five(names)}",
    ).at(str(folder))


def _named_as_latest(file: Path) -> str:
    """Name of the checkpoint that TensorFlow wrote last; empty where ``file`` does not tell."""
    try:
        text = file.read_bytes()[:_LARGEST_INDEX].decode("utf-8", "replace")
    except OSError:
        return ""
    named = re.search(r'^model_checkpoint_path: "([^"\n]*)"', text, flags=re.MULTILINE)
    return "" if named is None else re.split(r"[/\\]", named[1])[-1]


def read_bundle(prefix: Path) -> dict[str, Array]:
    """All tensors of numbers, by name, in the order of their names.

    Args:
        prefix: The checkpoint without an ending, or its ``.index``, or one of its data files.

    Raises:
        DeepsegError: ``checkpoint-missing``, ``checkpoint-damaged`` or ``checkpoint-refused``.
    """
    prefix = _prefix_of(prefix)
    index = _with_ending(prefix, ".index")
    raise_if_unreadable(index)
    if not _is_file(index):
        raise _index_is_missing(prefix)
    try:
        shards, entries = bundle_entries(_content(index))
    except DeepsegError as error:
        raise error.at(str(index)) from error
    files = {n: _with_ending(prefix, f".data-{n:05d}-of-{shards:05d}") for n in _shards_of(entries)}
    _raise_if_missing(index, list(files.values()))
    by_shard = {n: [entry for entry in entries if entry.shard == n] for n in files}
    arrays: dict[str, Array] = {}
    for n, file in files.items():
        try:
            arrays |= _arrays(file, by_shard[n])
        except OSError as error:
            raise unreadable(error).at(str(file)) from error
        except DeepsegError as error:
            raise error.at(str(file)) from error
    return {entry.name: arrays[entry.name] for entry in entries}


def _prefix_of(path: Path) -> Path:
    return path.parent / _ENDING.sub("", path.name)


def _with_ending(prefix: Path, ending: str) -> Path:
    return prefix.parent / (prefix.name + ending)


def _is_file(path: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):  # a forbidden folder, a name that is too long
        return path.is_file()
    return False


def _names_in(folder: Path) -> list[str]:
    with contextlib.suppress(OSError, ValueError):
        return sorted(path.name for path in folder.iterdir())
    return []


def _files_of(prefix: Path) -> list[str]:
    """Names of those files of the checkpoint that are there."""
    endings = [n for n in _names_in(prefix.parent) if _ENDING.search(n)]
    return [name for name in endings if _ENDING.sub("", name) == prefix.name]


def _shards_of(entries: Iterable[BundleEntry]) -> list[int]:
    return sorted({entry.shard for entry in entries})


def _content(index: Path) -> bytes:
    try:
        if index.stat().st_size > _LARGEST_INDEX:
            raise refused(f"an index of more than {_LARGEST_INDEX >> 20} MiB")
        return index.read_bytes()
    except OSError as error:
        raise unreadable(error) from error


def _arrays(file: Path, entries: Sequence[BundleEntry]) -> dict[str, Array]:
    """Tensors of one shard.

    Raises:
        DeepsegError: ``checkpoint-damaged``.
        OSError: The shard cannot be read.
    """
    _raise_if_outside(entries, file.stat().st_size)
    arrays, wrong = {}, []
    with file.open("rb") as stream:
        for entry in entries:
            stream.seek(entry.offset)
            content = np.fromfile(stream, dtype=np.uint8, count=entry.size)
            if len(content) != entry.size or masked(crc32c(content)) != entry.checksum:
                wrong.append(entry.shown)
            else:
                arrays[entry.name] = content.view(NUMBERS[entry.dtype]).reshape(entry.shape)
    if wrong:
        raise damaged(f"a wrong checksum of {first_five(wrong)}")
    return arrays


def _raise_if_outside(entries: Sequence[BundleEntry], size: int) -> None:
    """Refuse tensors after the end of their file, or on shared bytes, to be read many times."""
    outside = [entry.shown for entry in entries if entry.end > size]
    if outside:
        ends = max(entry.end for entry in entries)
        raise damaged(f"{size} bytes, but tensors up to byte {ends}: {first_five(outside)}")
    ordered = sorted((e for e in entries if e.size), key=lambda entry: entry.offset)
    shared = [f"{a.shown} and {b.shown}" for a, b in pairwise(ordered) if b.offset < a.end]
    if shared:
        raise damaged(f"the same bytes for {first_five(shared)}")


def _index_is_missing(prefix: Path) -> DeepsegError:
    index, data = f"{prefix.name}.index", f"{prefix.name}.data-00000-of-00001"
    inside = [name for name in _names_in(prefix) if name.endswith(".index")]
    there = _files_of(prefix)
    if inside:
        got, expected = f"a folder with {first_five(inside)}", "the name of one checkpoint"
    else:
        got = f"{first_five(there)} without {index}" if there else f"no {index}"
        expected = f"{index} and {data} in one folder"
    near = [name for name in _names_in(prefix.parent) if name.endswith(".index")]
    return missing(
        got,
        expected=expected,
        fix=f"name a file of a complete checkpoint{did_you_mean(index, near)}",
    ).at(str(prefix))


def _raise_if_missing(index: Path, files: Sequence[Path]) -> None:
    absent = [file.name for file in files if not _is_file(file)]
    if not absent:
        return
    near = [name for name in _names_in(index.parent) if ".data-" in name]
    raise missing(
        f"{index.name} without {first_five(absent)}",
        expected=f"{first_five([index.name, *(file.name for file in files)])} in one folder",
        fix=f"put all files of the checkpoint side by side{did_you_mean(absent[0], near)}",
    ).at(str(index))
