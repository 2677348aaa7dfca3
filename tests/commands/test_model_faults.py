"""Faults in model files: refused by every command before anything of them is believed."""

import os
import pickle
import re
import zipfile

import pytest
import torch

from deepseg.storage.save_file import read_save
from deepseg.version import VERSION

COMMANDS = {
    "test": ("-test", "test.yaml", "-model", "M.save"),
    "train": ("-train", "train.yaml", "-model", "M.save"),
    "check": ("-check", "test.yaml", "-model", "M.save"),
    "show": ("-show", "M.save"),
}
SESSIONS = {"test": "results", "train": "training"}
DAMAGED = (
    "expected a whole .save file; fix: copy the file again, or use an earlier one of the same "
    "session"
)
REFUSED = (
    "expected a .save file: tensors, text and numbers only; fix: give a file that deepseg wrote"
)


class Bomb:
    """Runs a command in whoever unpickles it."""

    def __reduce__(self):
        return os.system, ("touch PWNED",)


def cut_to(share):
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def flip_a_bit(path):
    """In the first number of a weight; the container has padding where a flip does no harm."""
    weight = read_save(path).weights["normal.2.conv.weight"].numpy().tobytes()
    content = bytearray(path.read_bytes())
    content[content.index(weight)] ^= 1
    path.write_bytes(content)


def rewritten(**changes):
    def rewrite(path):
        torch.save({**torch.load(path, weights_only=True), **changes}, path)

    return rewrite


def add_entry_outside(path):
    with zipfile.ZipFile(path, "a") as container:
        container.writestr("../../PWNED", b"")


def compress(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as container:
        container.writestr("archive/data.pkl", bytes(10_000_000))


def narrow_first_kernel(path):
    record = torch.load(path, weights_only=True)
    record["weights"]["normal.1.conv.weight"] = record["weights"]["normal.1.conv.weight"][:, :1]
    torch.save(record, path)


def spoil_first_kernel(path):
    record = torch.load(path, weights_only=True)
    record["weights"]["normal.1.conv.weight"][0, 0, 0, 0, 0] = float("nan")
    torch.save(record, path)


def make_folder_of_models(path):
    path.unlink()
    path.mkdir()
    for name in ("B.save", "A.save"):
        (path / name).touch()


@pytest.mark.parametrize("asked", COMMANDS)
@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        pytest.param(
            cut_to(0.3),
            f"[model-damaged] M.save: got no complete zip container; {DAMAGED}",
            id="a third of it",
        ),
        pytest.param(
            cut_to(0.999),
            f"[model-damaged] M.save: got no complete zip container; {DAMAGED}",
            id="almost all of it",
        ),
        pytest.param(
            flip_a_bit,
            f"[model-damaged] M.save: got a wrong checksum of archive/data/NUMBER; {DAMAGED}",
            id="a flipped bit",
        ),
        pytest.param(
            rewritten(model=Bomb()),
            f"[model-refused] M.save: got objects that are not plain data; {REFUSED}",
            id="code in its settings",
        ),
        pytest.param(
            lambda path: path.write_bytes(pickle.dumps(Bomb())),
            "[checkpoint-refused] M.save: got a pickle, as Theano's DeepMedic wrote; expected "
            "weights as plain numbers, which a pickle is not: opening it could run any code; fix: "
            "load it in the DeepMedic that wrote it and export its weights with numpy.savez, or "
            "use a TensorFlow checkpoint of the model",
            id="code in a bare pickle",
        ),
        pytest.param(
            compress,
            "[model-refused] M.save: got a compressed container, which torch does not write; "
            f"{REFUSED}",
            id="a zip bomb",
        ),
        pytest.param(
            add_entry_outside,
            f"[model-refused] M.save: got an entry '../../PWNED' outside its container; {REFUSED}",
            id="an entry that points elsewhere",
        ),
        pytest.param(
            rewritten(format=9, version="9.1.0"),
            "[model-newer] M.save: got format 9, written by deepseg 9.1.0; expected format 1 or "
            f"older (this is deepseg {VERSION}); fix: update deepseg",
            id="a file of the future",
        ),
        pytest.param(
            narrow_first_kernel,
            "[weights-do-not-fit] M.save: got normal.1.conv.weight of shape (3, 1, 3, 3, 3); "
            "expected shape (3, 2, 3, 3, 3); fix: use the file that belongs to this model",
            id="a kernel of another shape",
        ),
        pytest.param(
            spoil_first_kernel,
            "[weights-not-finite] M.save: got infinite or undefined numbers in "
            "normal.1.conv.weight; expected finite numbers; fix: use an earlier file of the same "
            "session",
            id="a weight that is no number",
        ),
        pytest.param(
            make_folder_of_models,
            "[model-missing] M.save: got a folder with A.save, B.save; expected a .save file; "
            "fix: give the path of the file",
            id="a folder",
        ),
        pytest.param(
            os.remove,
            "[model-missing] M.save: got no such file; expected a .save file; fix: give the path "
            "of the file",
            id="nothing",
        ),
    ],
)
def test_a_model_file_with_a_fault_is_refused(refused, place, model, asked, harm, problem):
    harm(place / model)
    (result,) = refused(*COMMANDS[asked], session=SESSIONS.get(asked))
    assert re.sub(r"data/\d+", "data/NUMBER", result) == problem
    assert not (place / "PWNED").exists()


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        pytest.param(
            "case,channel_T1\nd,d/T1.nii.gz\n",
            "[channel-missing] HERE/data/test.csv:1: got no channel 'FLAIR'; expected the "
            "channels of the model: T1, FLAIR; fix: add this channel",
            id="one channel",
        ),
        pytest.param(
            "case,channel_T1,channel_FLAIR,channel_T2\nd,d/T1.nii.gz,d/FLAIR.nii.gz,d/T1.nii.gz\n",
            "[channel-unknown] HERE/data/test.csv:1: got channel 'T2'; expected the channels of "
            "the model: T1, FLAIR; fix: rename or remove it",
            id="three channels",
        ),
    ],
)
def test_a_model_of_two_channels_takes_two(refused, place, model, table, problem):
    place.write("data/test.csv", table)
    arguments = ("-test", "test.yaml", "-model", model)
    assert refused(*arguments, session="results") == [problem]


def test_torch_says_nothing_beside_the_error(command, place):
    torch.save({"a": torch.ones(2)}, place / "M.save", pickle_protocol=4)
    assert command("-show", "M.save").stderr == (
        "ERROR [model-refused] M.save: got objects that are not plain data; expected a .save file: "
        "tensors, text and numbers only; fix: give a file that deepseg wrote\n"
    )
