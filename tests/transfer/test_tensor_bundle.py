"""TensorFlow checkpoints: read back from a second, independent writer; damaged ones; hostile ones.

The writer below follows LevelDB's table format and TensorFlow's tensor_bundle.proto by itself, with
a checksum that goes bit by bit.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import struct
import tempfile
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from deepseg.errors import DeepsegError
from deepseg.transfer.source import read_named_tensors
from deepseg.transfer.sources.crc32c import crc32c
from deepseg.transfer.sources.tensor_bundle import looks_like_bundle, read_bundle
from deepseg.transfer.sources.theano import refusal_of_theano_save

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(os.environ.get("DEEPSEG_GOLDEN", ROOT / "../shared/golden/deepmedic"))

TYPES = {
    "<f4": 1, "<f8": 2, "<i4": 3, "|u1": 4, "<i2": 5, "|i1": 6, "<i8": 9, "|b1": 10, "<u2": 17,
    "<f2": 19, "<u4": 22, "<u8": 23,
}  # fmt: skip

WHOLE = "expected a whole TensorFlow checkpoint"
AGAIN = "fix: copy the files of the checkpoint again, or use another checkpoint of the same run"
FORM = "expected an uncompressed little-endian TensorFlow checkpoint of whole tensors of numbers"
SAVE_AGAIN = "fix: save the model again in such a form with the program that wrote it"


# ---- A writer ----


def crc_bit_by_bit(content: bytes) -> int:
    register = 0xFFFFFFFF
    for byte in content:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    rotated = crc // 2**15 + crc % 2**15 * 2**17
    return (rotated + 0xA282EAD8) % 2**32


def varint(number: int) -> bytes:
    rest, digits = number % 2**64, []
    while True:
        rest, digit = divmod(rest, 128)
        digits.append(digit + (128 if rest else 0))
        if not rest:
            return bytes(digits)


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number * 8) + varint(value)
    return varint(number * 8 + 2) + varint(len(value)) + value


def axes(*sizes: int) -> bytes:
    return b"".join(field(2, field(1, size)) for size in sizes)


@dataclass(frozen=True)
class Message:
    """A BundleEntryProto; ``more`` is appended to it."""

    dtype: int = 1
    shape: bytes = b""
    shard: int = 0
    offset: int = 0
    size: int = 0
    crc: int = 0
    more: bytes = b""

    def __bytes__(self) -> bytes:
        numbers = {1: self.dtype, 3: self.shard, 4: self.offset, 5: self.size}
        written = b"".join(field(number, value) for number, value in numbers.items() if value)
        crc = varint(6 * 8 + 5) + struct.pack("<I", self.crc)
        return written + field(2, self.shape) + crc + self.more


def message_of(array: np.ndarray, *, offset: int = 0, shard: int = 0) -> Message:
    content = array.tobytes()
    crc, dtype = masked(crc_bit_by_bit(content)), TYPES[array.dtype.str]
    return Message(dtype, axes(*array.shape), shard, offset, len(content), crc)


def header(shards: int = 1, *, more: bytes = b"") -> bytes:
    return field(1, shards) + field(3, field(1, 1)) + more


def block(records, *, restart_every: int = 16) -> bytes:
    """Keys less what they share with the key before, and the offsets of keys in full."""
    content, restarts, before = b"", [], b""
    for n, (key, value) in enumerate(records):
        pairs = zip(before, key, strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if n % restart_every == 0:
            restarts.append(len(content))
            shared = 0
        sizes = varint(shared) + varint(len(key) - shared) + varint(len(value))
        content += sizes + key[shared:] + value
        before = key
    restarts = restarts or [0]
    return content + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def with_trailer(content: bytes, kind: int = 0) -> bytes:
    checked = content + bytes([kind])
    return checked + struct.pack("<I", masked(crc_bit_by_bit(checked)))


def footer(offset: int, size: int) -> bytes:
    handles = varint(0) + varint(0) + varint(offset) + varint(size)
    return handles.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def table(*blocks: bytes, kind: int = 0, again: int = 0) -> bytes:
    """A whole table; its first block is named ``again`` times more."""
    content, handles = b"", []
    for item in blocks:
        handles.append((b"%06d" % len(handles), varint(len(content)) + varint(len(item))))
        content += with_trailer(item, kind)
    first = handles[0][1]
    handles += [(b"%06d" % (len(handles) + n), first) for n in range(again)]
    index = block(handles, restart_every=1)
    return content + with_trailer(index) + footer(len(content), len(index))


def written(folder: Path, tensors, *, shards: int = 1, per_block: int = 7) -> Path:
    """The prefix of a new checkpoint; tensors go to the shards in turn."""
    data = [b""] * shards
    records = [(b"", header(shards))]
    for n, (name, array) in enumerate(sorted(tensors.items(), key=lambda item: item[0].encode())):
        message = message_of(array, offset=len(data[n % shards]), shard=n % shards)
        data[n % shards] += array.tobytes()
        records.append((name.encode(), bytes(message)))
    blocks = [block(records[i : i + per_block]) for i in range(0, len(records), per_block)]
    (folder / "m.ckpt.index").write_bytes(table(*blocks))
    for n, content in enumerate(data):
        (folder / f"m.ckpt.data-{n:05d}-of-{shards:05d}").write_bytes(content)
    return folder / "m.ckpt"


def with_records(folder: Path, *records, data: bytes = b"", head: bytes | None = None) -> Path:
    """A checkpoint of these records behind a header, none of them checked."""
    first = (b"", header() if head is None else head)
    content = table(block([first, *((key, bytes(value)) for key, value in records)]))
    (folder / "m.ckpt.index").write_bytes(content)
    (folder / "m.ckpt.data-00000-of-00001").write_bytes(data)
    return folder / "m.ckpt"


def with_index(folder: Path, content: bytes) -> Path:
    (folder / "m.ckpt.index").write_bytes(content)
    return folder / "m.ckpt"


def message_from(path: Path) -> str:
    """The whole message about the checkpoint ``path``, whose folder stands as FOLDER."""
    with pytest.raises(DeepsegError) as refusal:
        read_bundle(path)
    return str(refusal.value).replace(str(path.parent), "FOLDER")


def damaged(got: str, file: str = "m.ckpt.index") -> str:
    return f"[checkpoint-damaged] FOLDER/{file}: got {got}; {WHOLE}; {AGAIN}"


def refused(got: str) -> str:
    return f"[checkpoint-refused] FOLDER/m.ckpt.index: got {got}; {FORM}; {SAVE_AGAIN}"


W = np.arange(2 * 3 * 5, dtype="<f4").reshape(2, 3, 5)
ONE = message_of(W)


# ---- Checksum ----


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"", 0, id="nothing"),
        pytest.param(b"123456789", 0xE3069283, id="the usual nine digits"),
        # RFC 3720, B.4
        pytest.param(bytes(32), 0x8A9136AA, id="zeros"),
        pytest.param(b"\xff" * 32, 0x62A8AB43, id="ones"),
        pytest.param(bytes(range(32)), 0x46DD794E, id="upwards"),
        pytest.param(bytes(reversed(range(32))), 0x113FDB5C, id="downwards"),
    ],
)
def test_the_checksum_has_its_published_values(content, expected):
    assert crc32c(np.frombuffer(content, np.uint8)) == expected


@pytest.mark.parametrize("piece", [5, 64, 1 << 22])
@settings(deadline=None, max_examples=40)
@given(content=st.one_of(st.binary(max_size=400), st.integers(0, 3000).map(bytes)))
def test_the_checksum_is_that_of_all_bits_in_turn(piece, content):
    checksum = crc32c(np.frombuffer(content, np.uint8), piece_size=piece)
    assert checksum == crc_bit_by_bit(content)


# ---- Whole checkpoints ----

names = st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1, max_size=9)
numbers = st.sampled_from(sorted(TYPES)).flatmap(
    lambda dtype: arrays_of.arrays(dtype, arrays_of.array_shapes(min_dims=0, min_side=0))
)


@settings(deadline=None, max_examples=40)
@given(
    tensors=st.dictionaries(names, numbers, min_size=1, max_size=12),
    shards=st.integers(1, 3),
    per_block=st.integers(1, 20),
)
def test_what_was_written_is_read(tensors, shards, per_block):
    with tempfile.TemporaryDirectory() as folder:
        result = read_bundle(written(Path(folder), tensors, shards=shards, per_block=per_block))
    assert list(result) == sorted(tensors, key=str.encode)
    for name, array in tensors.items():
        assert (result[name].dtype, result[name].shape) == (array.dtype, array.shape)
        assert result[name].tobytes() == array.tobytes()


def test_arrays_may_be_changed(tmp_path):
    result = read_bundle(written(tmp_path, {"W": W}))
    result["W"][0, 0, 0] = 7
    assert result["W"].flags.writeable


def test_many_names_that_share_beginnings_are_read(tmp_path):
    tensors = {f"net/W_{n}": np.full(n % 4, n, "<i4") for n in range(50)}
    result = read_bundle(written(tmp_path, tensors, per_block=40))
    assert {name: array.tolist() for name, array in result.items()} == {
        name: array.tolist() for name, array in tensors.items()
    }


@pytest.mark.parametrize("ending", ["", ".index", ".data-00000-of-00002", ".data-00001-of-00002"])
def test_a_checkpoint_is_named_with_or_without_an_ending(tmp_path, ending):
    prefix = written(tmp_path, {"W": W, "b": W[0]}, shards=2)
    path = prefix.with_name(prefix.name + ending)
    assert looks_like_bundle(path)
    assert list(read_bundle(path)) == ["W", "b"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("gone.index", True, id="an index that is gone"),
        pytest.param("gone.data-00000-of-00001", True, id="a shard that is gone"),
        pytest.param("half", True, id="a checkpoint without its index"),
        pytest.param("half.save", False, id="a file"),
        pytest.param("gone", False, id="nothing"),
        pytest.param(".index", False, id="an ending alone"),
        pytest.param("half.data-0-of-1", False, id="another ending"),
        pytest.param("h" * 300, False, id="a name that no system takes"),
    ],
)
def test_checkpoints_are_told_by_their_names(tmp_path, name, expected):
    (tmp_path / "half.data-00000-of-00001").touch()
    (tmp_path / "half.save").touch()
    (tmp_path / "half.save.index").touch()
    assert looks_like_bundle(tmp_path / name) == expected


def test_tensors_of_text_are_left_out(tmp_path):
    graph = Message(dtype=7, size=10**12)
    prefix = with_records(
        tmp_path, (b"W", ONE), (b"_CHECKPOINTABLE_OBJECT_GRAPH", graph), data=W.tobytes()
    )
    assert list(read_bundle(prefix)) == ["W"]


def test_names_of_axes_and_the_version_of_the_writer_do_not_matter(tmp_path):
    shape = field(2, field(1, 2) + field(2, b"out")) + axes(3, 5)
    head = field(1, 1) + field(2, 0) + field(3, field(1, 9) + field(2, 1) + field(3, b"\2\3"))
    prefix = with_records(tmp_path, (b"W", replace(ONE, shape=shape)), data=W.tobytes(), head=head)
    assert read_bundle(prefix)["W"].tolist() == W.tolist()


# ---- Missing ----


def missing(file: str, got: str, expected: str, fix: str) -> str:
    return f"[checkpoint-missing] FOLDER/{file}: got {got}; expected {expected}; fix: {fix}"


def test_a_missing_index_is_named_with_its_shard_and_the_nearest_one(tmp_path):
    (tmp_path / "m.final.ckpt.index").touch()
    assert message_from(tmp_path / "m.fnal.ckpt.index") == missing(
        "m.fnal.ckpt",
        "no m.fnal.ckpt.index",
        "m.fnal.ckpt.index and m.fnal.ckpt.data-00000-of-00001 in one folder",
        "name a file of a complete checkpoint; did you mean 'm.final.ckpt.index'?",
    )


def test_a_shard_alone_lacks_its_index(tmp_path):
    prefix = written(tmp_path, {"W": W})
    (tmp_path / "m.ckpt.index").unlink()
    assert message_from(prefix) == missing(
        "m.ckpt",
        "m.ckpt.data-00000-of-00001 without m.ckpt.index",
        "m.ckpt.index and m.ckpt.data-00000-of-00001 in one folder",
        "name a file of a complete checkpoint",
    )


def test_a_folder_is_answered_with_the_checkpoints_in_it(tmp_path):
    (tmp_path / "run").mkdir()
    written(tmp_path / "run", {"W": W})
    assert message_from(tmp_path / "run") == missing(
        "run",
        "a folder with m.ckpt.index",
        "the name of one checkpoint",
        "name a file of a complete checkpoint",
    )


def test_missing_shards_are_named_with_the_nearest_one(tmp_path):
    prefix = written(tmp_path, {"W": W, "b": W[0], "c": W[1]}, shards=3)
    (tmp_path / "m.ckpt.data-00000-of-00003").unlink()
    (tmp_path / "m.ckpt.data-00002-of-00003").rename(tmp_path / "n.data-00002-of-00003")
    (tmp_path / "m.ckpt.data-00001-of-00003").rename(tmp_path / "m.ckpd.data-00001-of-00003")
    assert message_from(prefix) == missing(
        "m.ckpt.index",
        "m.ckpt.index without m.ckpt.data-00000-of-00003, m.ckpt.data-00001-of-00003, "
        "m.ckpt.data-00002-of-00003",
        "m.ckpt.index, m.ckpt.data-00000-of-00003, m.ckpt.data-00001-of-00003, "
        "m.ckpt.data-00002-of-00003 in one folder",
        "put all files of the checkpoint side by side; did you mean 'm.ckpd.data-00001-of-00003'?",
    )


def test_a_shard_that_holds_nothing_may_be_missing(tmp_path):
    prefix = written(tmp_path, {"W": W}, shards=2)
    (tmp_path / "m.ckpt.data-00001-of-00002").unlink()
    assert list(read_bundle(prefix)) == ["W"]


@pytest.mark.parametrize(
    ("owner", "function", "file"),
    [
        pytest.param(Path, "read_bytes", "m.ckpt.index", id="index"),
        pytest.param(np, "fromfile", "m.ckpt.data-00000-of-00001", id="shard"),
    ],
)
def test_what_the_system_says_against_reading_is_passed_on(
    tmp_path, monkeypatch, owner, function, file
):
    def forbidden(*_arguments, **_settings):
        raise PermissionError(13, "Permission denied")

    prefix = written(tmp_path, {"W": W})
    monkeypatch.setattr(owner, function, forbidden)
    assert message_from(prefix) == (
        f"[checkpoint-damaged] FOLDER/{file}: got 'Permission denied' from the system; "
        "expected a file that can be read; fix: make the file readable, or copy it again"
    )


# ---- Damaged ----


def read_or_refused(prefix: Path):
    try:
        return {name: array.tolist() for name, array in read_bundle(prefix).items()}
    except DeepsegError:
        return "refused"


def test_no_flipped_bit_changes_a_tensor_unnoticed(tmp_path):
    prefix = written(tmp_path, {"W": W, "b": np.arange(4, dtype="<i8")}, per_block=2)
    whole = read_or_refused(prefix)
    notes = []
    for file in sorted(tmp_path.iterdir()):
        content = file.read_bytes()
        for n in range(len(content)):
            file.write_bytes(content[:n] + bytes([content[n] ^ 1 << n % 8]) + content[n + 1 :])
            notes.append(read_or_refused(prefix))
        file.write_bytes(content)
    assert read_or_refused(prefix) == whole
    silent = [note for note in notes if note != "refused"]
    assert silent == [whole] * len(silent)
    assert len(silent) <= 40 - 4 + 2  # padding of the footer, and its handle that nobody follows


def test_a_file_that_ends_early_is_refused_wherever_it_ends(tmp_path):
    prefix = written(tmp_path, {"W": W, "b": W[0]}, per_block=2)
    for file in sorted(tmp_path.iterdir()):
        content = file.read_bytes()
        for n in range(len(content)):
            file.write_bytes(content[:n])
            assert read_or_refused(prefix) == "refused"
        file.write_bytes(content)


def test_wrong_tensors_are_named_five_of_them(tmp_path):
    prefix = written(tmp_path, {f"b_{n}": np.full(2, n, "<f4") for n in range(9)})
    data = tmp_path / "m.ckpt.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    for n in [0, 1, 3, 4, 5, 7, 8]:
        content[8 * n + 2] ^= 64
    data.write_bytes(content)
    got = "a wrong checksum of 'b_0', 'b_1', 'b_3', 'b_4', 'b_5', 2 more"
    assert message_from(prefix) == damaged(got, data.name)


def test_a_shard_that_ends_early_says_how_early(tmp_path):
    prefix = written(tmp_path, {"W": W, "b": W[0]})  # 120 and 60 bytes
    data = tmp_path / "m.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:179])
    got = "179 bytes, but tensors up to byte 180: 'b'"
    assert message_from(prefix) == damaged(got, data.name)


def test_tensors_on_the_same_bytes_are_refused(tmp_path):
    prefix = with_records(tmp_path, (b"W", ONE), (b"b", ONE), data=W.tobytes())
    assert message_from(prefix) == damaged(
        "the same bytes for 'W' and 'b'", "m.ckpt.data-00000-of-00001"
    )


@pytest.mark.parametrize(
    ("change", "got"),
    [
        pytest.param(
            {"size": 116}, "116 bytes instead of 120 for 'W' of shape (2, 3, 5)", id="size"
        ),
        pytest.param(
            {"shape": axes(2, 1 << 40)},
            f"120 bytes instead of {8 << 40} for 'W' of shape (2, {1 << 40})",
            id="huge",
        ),
        pytest.param({"shape": axes(-2, -15)}, "'W' of shape (-2, -15)", id="negative axes"),
        pytest.param(
            {"shape": axes(0, 1 << 40, 1 << 40), "size": 0},
            f"'W' of shape (0, {1 << 40}, {1 << 40})",
            id="empty, but beyond all memory",
        ),
        pytest.param({"shape": axes(*[1] * 33)}, "'W' of 33 axes", id="many axes"),
        pytest.param({"shard": 1}, "'W' in data file 1, counted from 0, of 1", id="shard"),
        pytest.param({"shard": -1}, "'W' in data file -1, counted from 0, of 1", id="below 0"),
        pytest.param({"offset": -4}, "'W' at byte -4", id="offset"),
    ],
)
def test_impossible_tensors_are_damage(tmp_path, change, got):
    prefix = with_records(tmp_path, (b"W", replace(ONE, **change)), data=W.tobytes())
    assert message_from(prefix) == damaged(got)


def test_a_tensor_far_behind_its_file_takes_no_memory(tmp_path):
    huge = replace(ONE, shape=axes(1 << 50), size=4 << 50)
    prefix = with_records(tmp_path, (b"W", huge), data=W.tobytes())
    got = f"120 bytes, but tensors up to byte {4 << 50}: 'W'"
    assert message_from(prefix) == damaged(got, "m.ckpt.data-00000-of-00001")


def test_32_axes_are_read(tmp_path):
    many = replace(ONE, shape=axes(*[1] * 31, 30))
    prefix = with_records(tmp_path, (b"W", many), data=W.tobytes())
    assert read_bundle(prefix)["W"].shape == (*[1] * 31, 30)


FIRST = block([(b"", header()), (b"W", bytes(ONE))])


@pytest.mark.parametrize(
    ("index", "got"),
    [
        pytest.param(b"", "no end of an index", id="empty"),
        pytest.param(b"\0" * 999, "no end of an index", id="other file"),
        pytest.param(table(FIRST)[-47:], "no end of an index", id="shorter than its own last part"),
        pytest.param(
            footer(0, 1 << 60), "an index with a block behind its end, at byte 0", id="huge block"
        ),
        pytest.param(
            b"\0" * 9 + footer(1, 5), "an index with a block behind its end, at byte 1", id="by one"
        ),
        pytest.param(
            b"\0" * 10 + footer(1, 4), "a wrong checksum of the block at byte 1", id="crc"
        ),
        pytest.param(
            table(struct.pack("<3I", 0, 0, 3)),
            "a block of 12 bytes with 3 restart points",
            id="restart points beyond the block",
        ),
        pytest.param(
            table(b"\xff\xff\xff\xff"),
            "a block of 4 bytes with 4294967295 restart points",
            id="restart points without end",
        ),
        pytest.param(table(b"\1"), "a block of 1 bytes with 1 restart points", id="tiny block"),
        pytest.param(
            table(b"\xff" * 11 + struct.pack("<2I", 0, 1)),
            "an index with a number that does not end",
            id="endless number",
        ),
        pytest.param(
            table(b"\x80" + struct.pack("<2I", 0, 1)),
            "an index with a number that does not end",
            id="number cut off",
        ),
        pytest.param(
            table(b"\1\0\0" + struct.pack("<2I", 0, 1)),
            "an index with a name that continues no other",
            id="shares with nothing",
        ),
        pytest.param(
            table(b"\0\3\0ab" + struct.pack("<2I", 0, 1)),
            "an index with 3 bytes where 2 are left",
            id="name behind its block",
        ),
        pytest.param(
            table(b"\0\0" + varint(1 << 62) + b"ab" + struct.pack("<2I", 0, 1)),
            f"an index with {1 << 62} bytes where 2 are left",
            id="huge value",
        ),
        pytest.param(
            table(block([(b"W", bytes(ONE))])), "an index without a header", id="no header"
        ),
        pytest.param(table(block([])), "an index without a header", id="no record"),
        pytest.param(
            table(FIRST, block([(b"W", bytes(ONE))])),
            "an index whose names are not in order",
            id="a name twice",
        ),
        pytest.param(
            table(FIRST, again=1), "an index whose blocks are not in order", id="a block twice"
        ),
        pytest.param(
            table(block([(b"n" * 999, b"")] * 99, restart_every=99)),
            "an index whose names are far longer than itself",
            id="names that grow out of nothing",
        ),
        pytest.param(table(block([(b"", header(0))])), "an index of 0 data files", id="no shards"),
        pytest.param(
            table(block([(b"", header()), (b"W", b"\x0a\x05ab")])),
            "an index with 5 bytes where 2 are left",
            id="field behind its message",
        ),
    ],
)
def test_a_broken_index_says_what_is_broken(tmp_path, index, got):
    assert message_from(with_index(tmp_path, index)) == damaged(got)


def test_a_huge_index_is_refused_unread(tmp_path):
    with (tmp_path / "m.ckpt.index").open("wb") as stream:
        stream.truncate(2**24 + 1)
    assert message_from(tmp_path / "m.ckpt") == refused("an index of more than 16 MiB")


@settings(deadline=None, max_examples=150)
@given(
    noise=st.binary(max_size=40),
    place=st.integers(0, len(FIRST)),
    replaced=st.integers(0, 12),
)
def test_noise_under_a_right_checksum_is_read_or_refused_but_never_breaks_the_reader(
    noise, place, replaced
):
    with tempfile.TemporaryDirectory() as folder:
        garbled = FIRST[:place] + noise + FIRST[place + replaced :]
        prefix = with_index(Path(folder), table(garbled))
        (Path(folder) / "m.ckpt.data-00000-of-00001").write_bytes(W.tobytes())
        result = read_or_refused(prefix)
    assert result == "refused" or isinstance(result, dict)


# ---- Not understood ----


@pytest.mark.parametrize(
    ("kind", "got"),
    [(1, "an index compressed with snappy"), (7, "an index compressed with method 7")],
)
def test_a_compressed_index_is_refused(tmp_path, kind, got):
    assert message_from(with_index(tmp_path, table(FIRST, kind=kind))) == refused(got)


@pytest.mark.parametrize(
    ("more", "got"),
    [
        pytest.param(
            field(2, 1), "numbers in the byte order of a big-endian machine", id="big-endian"
        ),
        pytest.param(
            field(3, field(2, 2)),
            "a format that readers of version 1 may not read",
            id="format of the future",
        ),
        pytest.param(
            field(3, field(3, 1)), "a format that readers of version 1 may not read", id="barred"
        ),
        pytest.param(
            field(3, field(3, b"\7\1")),
            "a format that readers of version 1 may not read",
            id="barred among others",
        ),
        pytest.param(field(3, field(4, 1)), "an unknown field 4 in the version", id="version"),
        pytest.param(field(4, 1), "an unknown field 4 in the header", id="header"),
        pytest.param(varint(5 * 8 + 3), "a field of wire type 3", id="wire type"),
    ],
)
def test_a_header_that_is_not_understood_is_refused(tmp_path, more, got):
    assert message_from(with_records(tmp_path, head=header(more=more))) == refused(got)


@pytest.mark.parametrize(
    ("message", "got"),
    [
        pytest.param(replace(ONE, dtype=20), "'W' of DT_RESOURCE", id="resource"),
        pytest.param(replace(ONE, dtype=21), "'W' of DT_VARIANT", id="variant"),
        pytest.param(replace(ONE, dtype=14), "'W' of DT_BFLOAT16", id="bfloat16"),
        pytest.param(replace(ONE, dtype=99), "'W' of type 99", id="future type"),
        pytest.param(replace(ONE, dtype=0), "'W' of type 0", id="no type"),
        pytest.param(
            replace(ONE, more=field(8, 1)), "an unknown field 8 in an entry, 'W'", id="entry"
        ),
        pytest.param(
            replace(ONE, shape=axes(30) + field(3, 1)), "an unknown field 3 in a shape", id="shape"
        ),
        pytest.param(
            replace(ONE, shape=field(2, field(3, 1))), "an unknown field 3 in an axis", id="axis"
        ),
    ],
)
def test_a_tensor_that_is_not_understood_is_refused(tmp_path, message, got):
    prefix = with_records(tmp_path, (b"W", message), data=W.tobytes())
    assert message_from(prefix) == refused(got)


def test_all_tensors_that_are_not_understood_are_named(tmp_path):
    records = [(b"W", replace(ONE, dtype=8)), (b"b", ONE), (b"c", replace(ONE, dtype=13))]
    prefix = with_records(tmp_path, *records, data=W.tobytes())
    assert message_from(prefix) == refused("'W' of DT_COMPLEX64, 'c' of DT_QINT32")


def test_a_partitioned_tensor_is_refused_by_its_own_name(tmp_path):
    piece = b"\0\1W\0\1\xff\x80"  # TensorFlow's own order of bytes, no text
    whole = replace(ONE, size=0, more=field(7, field(1, b"")))
    prefix = with_records(tmp_path, (piece, ONE), (b"W", whole), data=W.tobytes())
    assert message_from(prefix) == refused("partitioned tensors: 'W'")


def test_a_name_that_is_no_text_is_refused_and_shown_harmlessly(tmp_path):
    prefix = with_records(tmp_path, (b"\x1b[2J\xff", ONE), data=W.tobytes())
    assert message_from(prefix) == refused(r"'\x1b[2J\udcff', which is no text, as a name")


def test_long_names_are_shortened_in_messages(tmp_path):
    prefix = with_records(tmp_path, (b"n" * 101, replace(ONE, dtype=20)))
    assert message_from(prefix) == refused(f"'{'n' * 100}...' of DT_RESOURCE")


# ---- Theano ----


def theano(path: Path, kind: str) -> str:
    return (
        f"[checkpoint-refused] {path}: got a {kind}, as Theano's DeepMedic wrote; expected weights "
        "as plain numbers, which a pickle is not: opening it could run any code; fix: load it in "
        "the DeepMedic that wrote it and export its weights with numpy.savez, "
        "or use a TensorFlow checkpoint of the model"
    )


class Trap:
    def __reduce__(self):
        return pytest.fail, ("it was unpickled",)


TRAP = pickle.dumps(Trap(), protocol=2)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        pytest.param("m.save", gzip.compress(TRAP), "gzip-compressed pickle", id="as written"),
        pytest.param("m.model", gzip.compress(TRAP), "gzip-compressed pickle", id="other name"),
        pytest.param(
            "m.save", gzip.compress(TRAP)[:11], "gzip-compressed pickle", id="damaged, by its name"
        ),
        pytest.param("m.save", TRAP, "pickle", id="decompressed"),
        pytest.param("m.save", pickle.dumps([1], protocol=5), "pickle", id="new pickle"),
    ],
)
def test_a_model_of_theano_is_refused_unopened(tmp_path, name, content, kind):
    path = tmp_path / name
    path.write_bytes(content)
    assert str(refusal_of_theano_save(path)) == theano(path, kind)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("m.save", b"PK\3\4 and so on", id="a .save of this program"),
        pytest.param("m.save", b"", id="empty"),
        pytest.param("scan.nii.gz", gzip.compress(b"\x5c\1\0\0"), id="an image"),
        pytest.param("scan.nii.gz", b"\x1f\x8b\x08\xff", id="a damaged image"),
        pytest.param("m.pt", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", id="torch before 1.6"),
        pytest.param("m.bin", b"\x80\x01ab", id="no pickle"),
    ],
)
def test_other_files_are_not_taken_for_theano(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert refusal_of_theano_save(path) is None


def test_what_is_no_file_is_not_taken_for_theano(tmp_path):
    assert refusal_of_theano_save(tmp_path / "gone.save") is None
    assert refusal_of_theano_save(tmp_path) is None


# ---- Real checkpoints ----


def golden_indices() -> list[Path]:
    return sorted(GOLDEN.glob("*/*.index"))


@pytest.mark.skipif(not golden_indices(), reason=f"no checkpoints of DeepMedic in {GOLDEN.name}")
def test_checkpoints_of_deepmedic_are_read_to_their_last_byte():
    for index in golden_indices():
        prefix = index.with_suffix("")
        result = read_bundle(prefix)
        shards = index.parent.glob(f"{prefix.name}.data-*")
        assert sum(array.nbytes for array in result.values()) == sum(
            p.stat().st_size for p in shards
        )
        weights = [array for name, array in result.items() if name.startswith("net/")]
        assert {array.dtype for array in weights} == {np.dtype(np.float32)}
        assert all(np.isfinite(array).all() for array in weights)


def test_a_checkpoint_is_read_by_its_own_names_without_a_model(tmp_path):
    tensors = {"net/W": np.ones((2, 3), np.float32), "step": np.array(7)}
    prefix = written(tmp_path, tensors, shards=2)
    data = b"".join(file.read_bytes() for file in sorted(tmp_path.glob("*.data-*")))
    for file in (prefix, tmp_path / "m.ckpt.index", tmp_path / "m.ckpt.data-00000-of-00002"):
        result = read_named_tensors(file)
        assert (result.kind, result.config) == ("TensorFlow checkpoint", None)
        assert result.sha256 == hashlib.sha256(data).hexdigest()
        assert {name: tensor.tolist() for name, tensor in result.tensors.items()} == {
            "net/W": [[1, 1, 1], [1, 1, 1]],
            "step": 7,
        }
