"""Arrays in a ``.npz``: read as numpy wrote them, and refused where they are anything else."""

import zipfile

import numpy as np
import pytest
import torch

from deepseg.errors import DeepsegError
from deepseg.transfer.source import read_named_tensors
from deepseg.transfer.sources.numpy_files import read_numpy


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_read_by_name_in_any_order_of_bytes_and_axes(tmp_path, save):
    array = np.arange(24, dtype=">f8").reshape(2, 3, 4) / 2
    save(tmp_path / "a.npz", x=array, y=np.asfortranarray(array), n=np.array(3, ">i4"))
    arrays = read_numpy(tmp_path / "a.npz")
    assert set(arrays) == {"x", "y", "n"}
    assert np.array_equal(arrays["x"], array)
    assert np.array_equal(arrays["y"], array)
    source = read_named_tensors(tmp_path / "a.npz")
    assert source.kind == "numpy arrays"
    assert torch.equal(source.tensors["y"], torch.from_numpy(array.astype("f4")))
    assert source.tensors["n"].item() == 3


def code_of(file):
    with pytest.raises(DeepsegError) as refusal:
        read_named_tensors(file)
    return refusal.value.problems[0].code


def test_objects_are_never_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([object()], dtype=object))
    assert code_of(tmp_path / "a.npz") == "tensors-refused"


def test_a_shape_that_the_file_does_not_fill_takes_no_memory(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(10, "f4"))
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        content = archive.read("x.npy")
    for shape in (b"(99999999999999,)", b"(9,)", b"(10**9,)", b"(10", b"(-10,)"):
        with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
            header = content.replace(b"(10,), }" + b" " * 20, (shape + b", }").ljust(28))
            assert len(header) == len(content)
            archive.writestr("x.npy", header)
        assert code_of(tmp_path / "b.npz") == "tensors-damaged", shape


@pytest.mark.parametrize("keep", [0, 10, 100, -30])
def test_a_file_that_ends_early_is_damaged(tmp_path, keep):
    np.savez(tmp_path / "a.npz", x=np.zeros(100, "f4"))
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(content[:keep])
    assert code_of(tmp_path / "a.npz") == "tensors-damaged"


def test_a_flipped_bit_is_damage(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(100, "f4"))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[300] ^= 1
    (tmp_path / "a.npz").write_bytes(bytes(content))
    assert code_of(tmp_path / "a.npz") == "tensors-damaged"
