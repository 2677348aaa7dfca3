"""Models of Theano's DeepMedic: recognised, and refused, because they are pickles."""

from __future__ import annotations

import contextlib
import re
import zlib
from pathlib import Path

from deepseg.errors import Problem

_GZIP = b"\x1f\x8b"
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how torch.save began before its 1.6


def refusal_of_theano_save(path: Path) -> Problem | None:
    """Why a model of Theano's DeepMedic cannot be taken; None for any other file.

    Told by the first bytes; nothing is unpickled.
    """
    if not path.is_file():
        return None
    try:
        with path.open("rb") as stream:
            start = stream.read(1 << 16)
    except OSError:
        return None  # whoever reads the file says so better
    is_compressed = start.startswith(_GZIP)
    if is_compressed:
        start = _decompressed(start)
    is_pickle = re.match(rb"\x80[\x02-\x05]", start) and not start.startswith(_OLD_TORCH)
    if not is_pickle and not (is_compressed and path.suffix == ".save"):
        return None
    kind = "gzip-compressed pickle" if is_compressed else "pickle"
    return Problem(
        code="checkpoint-refused",
        got=f"a {kind}, as Theano's DeepMedic wrote",
        expected="weights as plain numbers, which a pickle is not: opening it could run any code",
        fix="load it in the DeepMedic that wrote it and export its weights with numpy.savez, "
        "or use a TensorFlow checkpoint of the model",
        where=str(path),
    )


def _decompressed(start: bytes) -> bytes:
    """The first bytes of a gzip stream; none of a damaged one."""
    with contextlib.suppress(zlib.error):
        return zlib.decompressobj(wbits=31).decompress(start, 32)
    return b""
