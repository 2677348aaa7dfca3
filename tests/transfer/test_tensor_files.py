"""Files of named tensors: what is in them comes out, and nothing of them is run or guessed."""

import os
import pickle
import random
import sys
import zipfile
from pathlib import Path

import numpy as np
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
    with pytest.raises(DeepsegError) as result:
        read_tensors(file)
    return str(result.value).replace(f"{file.parent}/", "")


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
    kind, result = read_tensors(folder / name)
    assert kind == ("safetensors" if written == "safetensors" else "torch state dict")
    assert are_same(result)


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
    write(folder / name, {prefix + sample: tensor for sample, tensor in TENSORS.items()})
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
        ("m.ts", True),
        ("m.pth.tar", True),
        ("m.tar", False),
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
    result = refusal(folder / "m.pt")
    assert result == (
        f"[tensors-refused] m.pt: got no named tensors, but objects of {os.system.__module__}"
        f".system; {PLAIN}"
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
    assert refusal(folder / "m.pt") == f"[tensors-refused] m.pt: got no named tensors; {PLAIN}"


def test_damaged_safetensors_say_what_their_reader_says(folder):
    save_file(TENSORS, folder / "m.safetensors")
    content = (folder / "m.safetensors").read_bytes()
    (folder / "m.safetensors").write_bytes(content[:-1])
    message = refusal(folder / "m.safetensors")
    assert message.startswith(
        "[tensors-damaged] m.safetensors: got Error while deserializing header"
    )
    assert message.endswith(AGAIN)


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
    message = set()
    for _ in range(300):
        flipped = bytearray(content)
        flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        (folder / "m.pth").write_bytes(flipped)
        try:
            read_tensors(folder / "m.pth")
        except DeepsegError as error:
            message |= {problem.code for problem in error.problems}
    assert message <= {"tensors-damaged", "tensors-refused"}


def test_a_missing_package_is_named(folder, monkeypatch):
    save_file(TENSORS, folder / "m.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert refusal(folder / "m.safetensors") == (
        "[safetensors-extra-missing] m.safetensors: got no package safetensors; expected the "
        "package, to read this file; fix: pip install 'deepseg-pathways[safetensors]'"
    )


# ---- Files of other programs ----


class Settings:
    """Hyper-parameters of a class that the reader does not have."""

    def __init__(self):
        self.rate = 0.1
        self.itself = self


def state(prefix=""):
    return {prefix + name: tensor for name, tensor in TENSORS.items()}


@pytest.mark.parametrize(
    ("content", "entry"),
    [
        pytest.param({"network": state()}, "network", id="MONAI"),
        pytest.param({"ema": {"state_dict": state()}}, "ema.state_dict", id="averaged"),
        pytest.param(
            {
                "epoch": 3,
                "global_step": np.int64(7),
                "state_dict": state(),
                "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
                "callbacks": {"best": torch.tensor(0.5)},
                "hyper_parameters": {"settings": Settings(), "folder": Path("runs")},
            },
            "state_dict",
            id="Lightning",
        ),
        pytest.param(
            {
                "network_weights": state(),
                "optimizer_state": {"state": {}, "param_groups": [{"lr": np.float64(0.01)}]},
                "grad_scaler_state": None,
                "logging": {"mean_fg_dice": [np.float32(0.5)], "shape": np.arange(3)},
                "_best_ema": np.float64(0.8),
                "init_args": {"plans": {}, "device": torch.device("cpu")},
                "trainer_name": "nnUNetTrainer",
            },
            "network_weights",
            id="nnU-Net",
        ),
        pytest.param({"state_dict": state(), "bomb": Bomb()}, "state_dict", id="a bomb beside"),
    ],
)
@pytest.mark.parametrize("write", [as_state_dict, as_old_torch])
def test_checkpoints_of_other_programs_are_read_and_their_objects_are_not_made(
    folder, write, content, entry
):
    write(folder / "m.pth.tar", content)
    kind, result = read_tensors(folder / "m.pth.tar")
    assert kind == f"torch state dict, entry {entry}"
    assert are_same(result)
    assert not (folder / "PWNED").exists()


class Net(torch.nn.Module):
    """A network that was pickled whole, or compiled."""

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv3d(1, 2, (3, 2, 1))
        self.norm = torch.nn.BatchNorm3d(2)
        self.tied = self.stem

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.tied(self.stem(x)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit
@pytest.mark.parametrize("form", ["module", "script"])
def test_modules_that_were_saved_whole_give_their_weights(folder, form):
    with torch.random.fork_rng():
        net = Net()
    if form == "module":
        torch.save({"model": net, "epoch": 3}, folder / "m.pt")
    else:
        torch.jit.save(torch.jit.script(net), folder / "m.ts")
    kind, result = read_tensors(folder / ("m.pt" if form == "module" else "m.ts"))
    expected = {name: tensor.detach() for name, tensor in net.state_dict().items()}
    assert are_same(result, expected)
    assert kind == (
        "torch state dict, entry model"
        if form == "module"
        else "TorchScript, of which the weights are read"
    )


def test_views_and_tied_and_half_tensors_are_as_they_were(folder):
    whole = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "a": whole[1:, ::2],
        "b": whole.T,
        "c": whole,
        "half": whole.bfloat16(),
        "wide": torch.ones(1).expand(5),
        "none": torch.empty(0, 3),
        "yes": torch.tensor([True, False]),
        "small": whole.to(torch.float8_e4m3fn),
        "unsigned": torch.tensor([1, 2, 3], dtype=torch.uint16),
    }
    for write in (as_state_dict, as_old_torch):
        if write is as_old_torch:
            del tensors["small"], tensors["unsigned"]
        write(folder / "m.pt", tensors)
        assert are_same(read_tensors(folder / "m.pt")[1], tensors)


@pytest.mark.parametrize(
    ("content", "got", "fix"),
    [
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes", "save its weights by name, as "
         "safetensors"),
        (b"<!DOCTYPE html><p>", "a web page", "download the file itself"),
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS", "fetch the file "
         "itself: git lfs pull"),
        (b"\x1f\x8b\x08", "a gzip archive", "unpack it, and name the file of weights in it"),
        (b"\0" * 257 + b"ustar" + b"\0" * 250, "a tar archive", "unpack it, and name the file of "
         "weights in it"),
    ],
)  # fmt: skip
def test_other_files_are_refused_with_what_they_are(folder, content, got, fix):
    (folder / "m.pth").write_bytes(content)
    assert refusal(folder / "m.pth") == (
        f"[tensors-refused] m.pth: got {got}; expected a state dict: named tensors only; fix: {fix}"
    )


@pytest.mark.parametrize(
    "steps",
    [
        b"cposix\nsystem\n(S'touch PWNED'\ntR.",
        b"\x80\x02cbuiltins\neval\n(X\x16\0\0\0open('PWNED','w').flushtR.",
        b"\x80\x02(S'touch PWNED'\nios\nsystem\n.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0btouch PWNED\x85\x81.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x08\0\0\0__code__K\x01sbK\x01.",
        b"\x80\x02r\xff\xff\xff\xff.",
        b"\x80\x02K\x01r\xff\xff\xff\xff.",
    ],
)
def test_pickles_that_want_to_act_do_nothing(folder, steps):
    with zipfile.ZipFile(folder / "m.pt", "w") as container:
        container.writestr("archive/data.pkl", steps)
    assert refusal(folder / "m.pt").startswith("[tensors-")
    assert not (folder / "PWNED").exists()


def test_a_tensor_that_claims_more_values_than_there_are_is_refused(folder):
    torch.save({"a": torch.ones(2)}, folder / "n.pt")
    with zipfile.ZipFile(folder / "n.pt") as old, zipfile.ZipFile(folder / "m.pt", "w") as new:
        for entry in old.namelist():
            content = old.read(entry)
            if entry.endswith("data.pkl"):
                assert content.count(b"K\x02\x85") == 1
                content = content.replace(b"K\x02\x85", b"J\xff\xff\xff\x7f\x85")
            new.writestr(entry, content)
    assert refusal(folder / "m.pt") == (
        f"[tensors-damaged] m.pt: got content that cannot be read; {AGAIN}"
    )


def test_many_tensors_that_repeat_one_value_never_fill_the_memory(folder):
    unit = torch.ones(1)
    torch.save({f"t{n}": unit.expand(1 << 20) for n in range(100)}, folder / "m.pt")
    assert refusal(folder / "m.pt") == (
        f"[tensors-damaged] m.pt: got content that cannot be read; {AGAIN}"
    )
