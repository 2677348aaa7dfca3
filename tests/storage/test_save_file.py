"""The `.save`: what is written comes back, and what deepseg did not write is refused, never run."""

import os
import pickle
import warnings
import zipfile
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deepseg.errors import DeepsegError, OutputNotWritable
from deepseg.storage.save_file import FORMAT, SaveFile, read_save, write_save
from deepseg.version import VERSION

WEIGHTS = {
    "normal.1.conv.weight": torch.arange(2 * 3 * 5, dtype=torch.float32).view(2, 3, 5) + 0.25,
    "normal.2.norm.steps": torch.tensor(7, dtype=torch.int64),
    "fc.1.bias": torch.tensor([0.5, -0.125], dtype=torch.float64),
}
CONTENT = SaveFile(
    model={"name": "tiny", "channels": ["FLAIR", "T1c"], "deep": {"factor": 3, "on": True}},
    weights=WEIGHTS,
    preparation={"z_score": "none"},
    spacing_mm=(1.0, 0.5, 2.25),
    training={"epoch": 3, "scores": [None, 0.5], "optimizer": {"fc.1.bias": torch.ones(2)}},
    provenance={"initialised": "seed 0 — für Leute"},
)


def refused(path):
    with pytest.raises(DeepsegError) as refusal:
        read_save(path)
    (problem,) = refusal.value.problems
    assert problem.where == str(path)
    return str(refusal.value).replace(str(path), "FILE")


DAMAGED = (
    "[model-damaged] FILE: got {}; expected a whole .save file; fix: copy the file again, or use "
    "an earlier one of the same session"
)
REFUSED = (
    "[model-refused] FILE: got {}; expected a .save file: tensors, text and numbers only; fix: "
    "give a file that deepseg wrote"
)


def entries(path):
    with zipfile.ZipFile(path) as container:
        return {name: container.read(name) for name in container.namelist()}


def write_container(path, content, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as container:
        for name, data in content.items():
            container.writestr(name, data)


@pytest.fixture
def file(tmp_path):
    return write_save(tmp_path / "models" / "tiny.save", CONTENT)


def test_what_is_written_comes_back(file, tmp_path):
    assert file == tmp_path / "models" / "tiny.save"
    read = read_save(file)
    assert list(read.weights) == list(WEIGHTS)
    for name, tensor in WEIGHTS.items():
        assert read.weights[name].dtype == tensor.dtype
        assert torch.equal(read.weights[name], tensor)
    assert read.model == CONTENT.model
    assert read.preparation == CONTENT.preparation
    assert read.spacing_mm == CONTENT.spacing_mm
    assert read.provenance == CONTENT.provenance
    assert read.version == VERSION
    state = read.training["optimizer"].pop("fc.1.bias")
    assert torch.equal(state, torch.ones(2))
    assert read.training == {"epoch": 3, "scores": [None, 0.5], "optimizer": {}}


def test_a_model_that_saw_no_cases_comes_back_as_such(tmp_path):
    read = read_save(write_save(tmp_path / "new.save", SaveFile(model={}, weights={})))
    assert read == SaveFile(model={}, weights={})


def test_parameters_and_slices_are_written_as_plain_tensors(tmp_path):
    whole = nn.Parameter(torch.arange(24.0).view(4, 6))
    path = write_save(
        tmp_path / "a.save", SaveFile(model={}, weights={"p": whole, "s": whole[:, 1:3]})
    )
    read = read_save(path).weights
    assert type(read["p"]) is torch.Tensor
    assert not read["p"].requires_grad
    assert torch.equal(read["s"], whole.detach()[:, 1:3])
    assert read["s"].is_contiguous()


def test_tuples_come_back_as_lists(tmp_path):
    content = SaveFile(model={"kernel": (3, 1, 5)}, weights={})
    assert read_save(write_save(tmp_path / "a.save", content)).model == {"kernel": [3, 1, 5]}


class Colour(Enum):
    RED = 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(
            {"score": np.float64(0.5)},
            "np.float64(0.5) of <class 'numpy.float64'> is not plain data",
            id="a numpy scalar",
        ),
        pytest.param(
            {"a": [{"b": Path("x")}]},
            f"{Path('x')!r} of {type(Path('x'))} is not plain data",
            id="deep inside",
        ),
        pytest.param(
            {np.int64(3): 1}, "np.int64(3) of <class 'numpy.int64'> is not plain data", id="a key"
        ),
        pytest.param(
            {"c": Colour.RED}, f"<Colour.RED: 1> of {Colour!r} is not plain data", id="an enum"
        ),
        pytest.param({"s": {1}}, "{1} of <class 'set'> is not plain data", id="a set"),
    ],
)
def test_what_could_not_be_read_back_is_refused_when_written(content, message, tmp_path):
    file = write_save(tmp_path / "a.save", CONTENT)
    before = file.read_bytes()
    with pytest.raises(TypeError) as refusal:
        write_save(file, SaveFile(model={}, weights={}, training=content))
    assert str(refusal.value) == message
    assert file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.save"]


def test_a_folder_that_cannot_be_made_is_reported(tmp_path):
    (tmp_path / "models").write_text("a file")
    with pytest.raises(OutputNotWritable) as refusal:
        write_save(tmp_path / "models" / "a.save", CONTENT)
    assert str(refusal.value) == (
        f"[output-not-writable] {tmp_path / 'models' / 'a.save'}: got a file in place of the "
        "folder; expected a place where this file can be written; fix: choose another output folder"
    )


@pytest.mark.parametrize("share", [0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_damaged(file, share):
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    assert refused(file) == DAMAGED.format("no complete zip container")


def test_one_flipped_bit_in_a_weight_is_damage(file):
    name = next(name for name in entries(file) if name.endswith("data/0"))
    content = bytearray(file.read_bytes())
    place = content.index(WEIGHTS["normal.1.conv.weight"].numpy().tobytes())
    content[place + 7] ^= 0b00010000
    file.write_bytes(content)
    assert refused(file) == DAMAGED.format(f"a wrong checksum of {name}")


def outcome(path):
    """What reading gives: the weights, or the code of the refusal."""
    try:
        return read_save(path).weights
    except DeepsegError as error:
        return error.problems[0].code


@settings(max_examples=150, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_flipped_bit_anywhere_is_refused_or_harmless(place, bit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("flip")
    file = write_save(folder / "a.save", SaveFile(model={"n": 1}, weights=dict(WEIGHTS)))
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    file.write_bytes(content)
    result = outcome(file)
    if isinstance(result, str):
        assert result in ("model-damaged", "model-refused")
    else:
        assert all(torch.equal(result[name], tensor) for name, tensor in WEIGHTS.items())


@pytest.mark.parametrize("flag", [0x01, 0x20, 0x41], ids=["encrypted", "patched", "strong"])
def test_a_directory_that_asks_for_what_zipfile_cannot_do_is_damage(file, flag):
    content = bytearray(file.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= flag  # general purpose flags of the first entry
    file.write_bytes(content)
    assert refused(file) == DAMAGED.format("no complete zip container")


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def test_code_in_a_container_is_refused_and_not_run(file, tmp_path):
    content = entries(file)
    name = next(n for n in content if n.endswith("data.pkl"))
    content[name] = pickle.dumps({"format": 1, "weights": Bomb(tmp_path / "PWNED")}, protocol=2)
    write_container(file, content)
    assert refused(file) == REFUSED.format("objects that are not plain data")
    assert not (tmp_path / "PWNED").exists()
    pickle.loads(content[name])["weights"]
    assert (tmp_path / "PWNED").exists()  # the bomb is a real one


def test_a_bare_pickle_is_refused_and_not_run(tmp_path):
    file = tmp_path / "a.save"
    file.write_bytes(pickle.dumps(Bomb(tmp_path / "PWNED")))
    assert refused(file) == DAMAGED.format("no complete zip container")
    assert not (tmp_path / "PWNED").exists()


def test_objects_that_torch_saved_whole_are_refused(tmp_path):
    torch.save({"format": 1, "model": {}, "weights": nn.Flatten()}, tmp_path / "a.save")
    assert refused(tmp_path / "a.save") == REFUSED.format("objects that are not plain data")


@pytest.mark.parametrize(
    "record",
    [
        pytest.param({"conv.weight": torch.ones(2)}, id="the weights of another framework"),
        pytest.param([torch.ones(2)], id="a list"),
        pytest.param({"format": "1", "model": {}, "weights": {}}, id="a format that is no number"),
        pytest.param({"format": FORMAT, "weights": {}}, id="no settings"),
        pytest.param({"format": FORMAT, "model": {}}, id="no weights"),
        pytest.param({"format": FORMAT, "model": {}, "weights": [1]}, id="weights without names"),
    ],
)
def test_a_torch_file_that_deepseg_did_not_write_is_refused(record, tmp_path):
    torch.save(record, tmp_path / "a.save")
    assert refused(tmp_path / "a.save") == REFUSED.format("a file that deepseg did not write")


def test_a_container_without_a_model_is_damaged(tmp_path):
    np.savez(tmp_path / "a.npz", weights=np.ones(3))
    assert refused(tmp_path / "a.npz") == DAMAGED.format("content that cannot be read")


def test_content_that_no_torch_wrote_is_damaged(file):
    whole = entries(file)
    name = next(n for n in whole if n.endswith("data.pkl"))
    rng = np.random.default_rng(8)
    calls = set()
    for _ in range(150):
        garbled = bytearray(whole[name])
        for place in rng.integers(2, len(garbled), 3):  # behind the number of the protocol
            garbled[place] = rng.integers(256)
        write_container(file, {**whole, name: bytes(garbled)})
        result = outcome(file)
        calls |= {result} if isinstance(result, str) else set()
    assert calls >= {"model-damaged", "model-refused"}


def test_a_newer_format_asks_for_an_update(tmp_path):
    torch.save({"format": FORMAT + 1, "version": "9.1"}, tmp_path / "a.save")
    assert refused(tmp_path / "a.save") == (
        f"[model-newer] FILE: got format {FORMAT + 1}, written by deepseg 9.1; expected format "
        f"{FORMAT} or older (this is deepseg {VERSION}); fix: update deepseg"
    )


def test_unknown_entries_of_the_record_are_passed_over(tmp_path):
    torch.save(
        {"format": FORMAT, "model": {"a": 1}, "weights": {}, "later": 1}, tmp_path / "a.save"
    )
    assert read_save(tmp_path / "a.save").model == {"a": 1}


def test_a_compressed_container_is_refused_before_it_is_unpacked(file):
    content = entries(file)
    content["archive/data/9"] = bytes(3_000_000)
    write_container(file, content, zipfile.ZIP_DEFLATED)
    assert file.stat().st_size < 10_000
    assert refused(file) == REFUSED.format("a compressed container, which torch does not write")


@pytest.mark.parametrize("name", ["../../x", "archive/../../x"])
def test_an_entry_outside_the_container_is_refused_and_nothing_is_written(file, name, tmp_path):
    write_container(file, {**entries(file), name: b"PWNED"})
    before = sorted(tmp_path.rglob("*"))
    assert refused(file) == REFUSED.format(f"an entry {name!r} outside its container")
    assert sorted(tmp_path.rglob("*")) == before
    assert not (file.parent / name).exists()


def test_a_missing_file_is_named(tmp_path):
    assert refused(tmp_path / "a.save") == (
        "[model-missing] FILE: got no such file; expected a .save file; fix: give the path of the "
        "file"
    )


@pytest.mark.parametrize(
    ("names", "got"),
    [
        pytest.param((), "a folder", id="empty"),
        pytest.param(
            ("last.save", "best.save", "notes.txt"), "a folder with best.save, last.save", id="two"
        ),
    ],
)
def test_a_folder_is_refused_with_the_model_files_inside(tmp_path, names, got):
    for name in names:
        (tmp_path / name).touch()
    assert refused(tmp_path) == (
        f"[model-missing] FILE: got {got}; expected a .save file; fix: give the path of the file"
    )


def test_reading_and_writing_warn_of_nothing(file):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_save(file, read_save(file))
