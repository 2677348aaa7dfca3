"""HDF5 files as plain arrays and attributes by path.

Only what lies in the file itself is read: links to other files, other paths and other storage are
refused, and no size is believed before it is held against the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from itertools import count, takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseg.errors import DeepsegError, Problem
from deepseg.transfer.sources.keras.problems import damaged, refused

MAGIC = b"\x89HDF\r\n\x1a\n"
LARGEST_DEPTH = 64  # groups within groups
LARGEST_COUNT = 200_000  # entries of a file
LARGEST_RATIO = 64  # bytes of all arrays for one of the file; more would be a trap


@dataclass(frozen=True)
class HdfContent:
    """All that a file holds.

    Attributes:
        arrays: By path, such as ``layers/conv3d/vars/0``.
        attributes: By path of their group (``""`` for the file), then by name; lists of words for
            arrays of text.
    """

    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def words(self, path: str, name: str) -> list[str]:
        """The text of an attribute, which Keras cuts into pieces where it is long.

        >>> pieces = {"layer_names0": ["a", "b"], "layer_names1": ["c"]}
        >>> HdfContent(attributes={"": pieces}).words("", "layer_names")
        ['a', 'b', 'c']
        """
        attributes = self.attributes.get(path, {})
        if name in attributes:
            return list(attributes[name])
        pieces = takewhile(attributes.__contains__, (f"{name}{n}" for n in count()))
        return [word for piece in pieces for word in attributes[piece]]


def read_hdf5(content: bytes) -> HdfContent:
    """The arrays and attributes of an HDF5 file.

    Raises:
        DeepsegError: ``keras-extra-missing``, ``keras-damaged`` or ``keras-refused``.
    """
    try:
        import h5py
    except ImportError as error:
        raise DeepsegError(
            Problem(
                code="keras-extra-missing",
                got="no package h5py",
                expected="the package, to read weights of Keras",
                fix="pip install 'deepseg-pathways[keras]'",
            )
        ) from error
    if not content.startswith(MAGIC):
        raise damaged("weights that are no HDF5 file")
    try:
        with h5py.File(BytesIO(content), "r") as file:
            return _content(h5py, file, LARGEST_RATIO * len(content))
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise damaged(f"weights that cannot be read ({str(error)[:80]})") from error


def _content(h5py: Any, file: Any, limit: int) -> HdfContent:
    arrays: dict[str, NDArray[Any]] = {}
    attributes = {"": _attributes(file)}
    total = 0
    for number, (path, entry) in enumerate(_entries(h5py, file, "", 0)):
        if number > LARGEST_COUNT:
            raise refused(f"more than {LARGEST_COUNT} entries", "a file of weights", _SAVE_AGAIN)
        attributes[path] = _attributes(entry)
        if not isinstance(entry, h5py.Dataset):
            continue
        if entry.is_virtual or entry.external:
            raise refused(f"{path!r}, whose values lie in another file", "all in one", _SAVE_AGAIN)
        if entry.dtype.kind not in "fiub":
            continue  # text and the like: no weights
        total += math.prod(entry.shape) * entry.dtype.itemsize
        if total > limit:
            raise refused(f"{path!r} of shape {entry.shape}", "no more than the file", _SAVE_AGAIN)
        arrays[path] = np.asarray(entry[()])
    return HdfContent(arrays, attributes)


_SAVE_AGAIN = "save the model again with Keras; do not trust this file"


def _entries(h5py: Any, group: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Groups and arrays by path; those of a group after it, in the order of their names."""
    if depth > LARGEST_DEPTH:
        raise refused("groups that hold each other", "a file of weights", _SAVE_AGAIN)
    for name in group:
        inner = f"{path}/{name}" if path else name
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise refused(f"{inner!r}, a link to elsewhere", "weights in the file", _SAVE_AGAIN)
        entry = group[name]
        yield inner, entry
        if isinstance(entry, h5py.Group):
            yield from _entries(h5py, entry, inner, depth + 1)


def _attributes(entry: Any) -> dict[str, Any]:
    return {name: _plain(value) for name, value in entry.attrs.items()}


def _plain(value: Any) -> Any:
    """Text of either kind as words, arrays as lists."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        return [_plain(entry) for entry in value.tolist()]
    return value
