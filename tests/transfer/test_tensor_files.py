"""Files of named tensors: what is in them comes out, and nothing of them is run or guessed."""

import os
import pickle
import random
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deepseg.errors import DeepsegError
from deepseg.transfer.sources.tensor_files import is_tensor_file, read_tensors

TENSORS = {
    "normal.1.conv.weight": torch.arange(12.0).reshape(2, 1, 3, 2, 1),
    "fc.1.norm.weight": torch.tensor([0.5, -1.0, 4.0]),
    "fc.1.norm.steps": torch.tensor(7),
}
AGAIN = "expected a file of named tensors; fix: copy the file again"
PLAIN = (
    "expected a state dict: named tensors only; fix: save it again with "
    "torch.save(model.state_dict(), FILE), or as safetensors"
)


class Bomb:
    """Runs a command in whoever unpickles it."""

    def __reduce__(self):
        return os.system, ("touch PWNED",)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def are_same(found, expected=TENSORS) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
        for name, tensor in expected.items()
    )


def refusal(file) -> str:
    with pytest.raises(DeepsegError) as found:
        read_tensors(file)
    return str(found.value).replace(f"{file.parent}/", "")


def as_safetensors(file, tensors):
    save_file(tensors, file)


def as_state_dict(file, tensors):
    torch.save(tensors, file)


def as_old_torch(file, tensors):
    torch.save(tensors, file, _use_new_zipfile_serialization=False)


WRITERS = {
    "safetensors": ("m.safetensors", as_safetensors),
    "state dict": ("m.pt", as_state_dict),
    "before torch 1.6": ("m.pth", as_old_torch),
}


@pytest.mark.parametrize("written", WRITERS)
def test_what_was_written_is_read(folder, written):
    name, write = WRITERS[written]
    write(folder / name, TENSORS)
    kind, found = read_tensors(folder / name)
    assert kind == ("safetensors" if written == "safetensors" else "torch state dict")
    assert are_same(found)


@pytest.mark.parametrize("holder", ["state_dict", "model_state_dict", "network_weights", "model"])
def test_a_state_dict_may_lie_in_a_checkpoint_beside_other_things(folder, holder):
    optimiser = {"state": {0: torch.ones(2)}, "lr": 0.1}
    torch.save({"epoch": 3, "optimizer": optimiser, holder: TENSORS}, folder / "m.ckpt")
    assert are_same(read_tensors(folder / "m.ckpt")[1])


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."]
)
@pytest.mark.parametrize("written", WRITERS)
def test_names_of_wrappers_are_taken_off(folder, prefix, written):
    name, write = WRITERS[written]
    write(folder / name, {prefix + own: tensor for own, tensor in TENSORS.items()})
    assert are_same(read_tensors(folder / name)[1])


def test_names_that_only_begin_like_a_wrapper_stay(folder):
    tensors = {"modules.1.weight": torch.ones(1), "net.module.weight": torch.zeros(2)}
    torch.save(tensors, folder / "m.pt")
    assert are_same(read_tensors(folder / "m.pt")[1], tensors)


def test_two_tensors_never_become_one(folder):
    tensors = {"module.weight": torch.ones(1), "weight": torch.zeros(2)}
    torch.save(tensors, folder / "m.pt")
    assert are_same(read_tensors(folder / "m.pt")[1], tensors)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("m.safetensors", True),
        ("m.pt", True),
        ("m.pth", True),
        ("m.bin", True),
        ("m.ckpt", True),
        ("m.save", False),
        ("m.yaml", False),
        ("m", False),
    ],
)
def test_files_are_told_by_their_names(name, expected):
    assert is_tensor_file(Path("somewhere") / name) is expected


def test_a_file_that_is_not_there_is_named_with_the_nearest_one(folder):
    (folder / "model.pt").touch()
    (folder / "modal.txt").touch()
    expected = "expected a file of named tensors; fix: correct the path"
    assert refusal(folder / "modal.pt") == (
        f"[tensors-missing] modal.pt: got no such file; {expected}; did you mean 'model.pt'?"
    )
    (folder / "old.safetensors").mkdir()
    assert refusal(folder / "old.safetensors").startswith(
        f"[tensors-missing] old.safetensors: got a folder; {expected}"
    )


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda file: torch.save({"a": Bomb()}, file), id="in a container"),
        pytest.param(lambda file: as_old_torch(file, {"a": Bomb()}), id="in an old file"),
        pytest.param(lambda file: file.write_bytes(pickle.dumps(Bomb())), id="bare"),
    ],
)
def test_code_in_a_file_is_refused_and_not_run(folder, write):
    write(folder / "m.pt")
    assert refusal(folder / "m.pt") == (
        f"[tensors-refused] m.pt: got objects that are not plain data; {PLAIN}"
    )
    assert not (folder / "PWNED").exists()


def test_a_compressed_container_is_refused_unpacked(folder):
    with zipfile.ZipFile(folder / "m.pt", "w", zipfile.ZIP_DEFLATED) as container:
        container.writestr("archive/data.pkl", bytes(1_000_000))
    assert refusal(folder / "m.pt") == (
        "[tensors-refused] m.pt: got a compressed container, which torch does not write; " + PLAIN
    )


@pytest.mark.parametrize(
    ("content", "got"),
    [
        pytest.param(b"", "content that torch did not write", id="nothing"),
        pytest.param(b"PK\x03\x04 and so on", "no complete zip container", id="a torn container"),
        pytest.param(b"not a model at all", "content that torch did not write", id="text"),
        pytest.param(b"\x80\x02}q", "content that cannot be read", id="a torn pickle"),
    ],
)
def test_files_that_torch_did_not_write_are_damaged(folder, content, got):
    (folder / "m.pth").write_bytes(content)
    assert refusal(folder / "m.pth") == f"[tensors-damaged] m.pth: got {got}; {AGAIN}"


@pytest.mark.parametrize(
    "content", [{}, {"epoch": 3}, [torch.ones(2)], torch.ones(2), {"state_dict": {"a": 1}}]
)
def test_a_file_without_named_tensors_is_refused(folder, content):
    torch.save(content, folder / "m.pt")
    assert refusal(folder / "m.pt") == f"[tensors-damaged] m.pt: got no named tensors; {AGAIN}"


def test_damaged_safetensors_say_what_their_reader_says(folder):
    save_file(TENSORS, folder / "m.safetensors")
    content = (folder / "m.safetensors").read_bytes()
    (folder / "m.safetensors").write_bytes(content[:-1])
    said = refusal(folder / "m.safetensors")
    assert said.startswith("[tensors-damaged] m.safetensors: got Error while deserializing header")
    assert said.endswith(AGAIN)


@pytest.mark.parametrize("written", WRITERS)
def test_a_file_that_ends_early_is_refused_wherever_it_ends(folder, written):
    name, write = WRITERS[written]
    write(folder / name, TENSORS)
    content = (folder / name).read_bytes()
    for length in range(0, len(content), 13):
        (folder / name).write_bytes(content[:length])
        refusal(folder / name)


def test_no_flipped_bit_in_a_container_changes_a_tensor_unnoticed(folder):
    torch.save(TENSORS, folder / "m.pt")
    content = (folder / "m.pt").read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(300):
        flipped = bytearray(content)
        flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        (folder / "m.pt").write_bytes(flipped)
        try:
            assert are_same(read_tensors(folder / "m.pt")[1])  # in the padding
        except DeepsegError:
            refused += 1
    assert refused > 50


def test_flipped_bits_in_an_old_file_never_break_the_reader(folder):
    as_old_torch(folder / "m.pth", TENSORS)
    content = (folder / "m.pth").read_bytes()
    rng = random.Random(0)
    told = set()
    for _ in range(300):
        flipped = bytearray(content)
        flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        (folder / "m.pth").write_bytes(flipped)
        try:
            read_tensors(folder / "m.pth")
        except DeepsegError as error:
            told |= {problem.code for problem in error.problems}
    assert told <= {"tensors-damaged", "tensors-refused"}


def test_a_missing_package_is_named(folder, monkeypatch):
    save_file(TENSORS, folder / "m.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert refusal(folder / "m.safetensors") == (
        "[safetensors-extra-missing] m.safetensors: got no package safetensors; expected the "
        "package, to read this file; fix: pip install 'deepseg-pathways[safetensors]'"
    )
