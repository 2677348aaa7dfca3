"""Whatever bytes come in, a `DeepsegError` says what is wrong: no hang, no trace, little memory.

Every file that deepseg reads from others is changed at random places: bytes are replaced, taken
out, put in, and parts of it are repeated. Examples are the same in every run.
"""

import gzip
import json
import re
import tracemalloc
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from deepseg.config.cases import CasesConfig
from deepseg.config.files.kind_of_file import kind_of_file
from deepseg.config.load import load
from deepseg.config.model import ModelConfig
from deepseg.config.testing import TestConfig
from deepseg.config.training import TrainConfig
from deepseg.data.cases.case import list_cases
from deepseg.data.images.volumes import read_geometry, read_image, read_labels
from deepseg.errors import DeepsegError
from deepseg.sessions.segmentation.completed_cases import CompletedCases
from deepseg.storage.save_file import SaveFile, read_save, write_save
from deepseg.transfer.source import read_named_tensors
from tests.transfer.test_tensor_bundle import written

ROOT = Path(__file__).resolve().parents[2]
MOST_BYTES = 100e6  # that Python and numpy may ask for, of files of some kilobytes
PICKLE = b"cposix\nsystem\n(S'touch PWNED'\ntR."

few = settings(
    max_examples=60,
    deadline=4000,  # ms: nothing hangs
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
changes = st.lists(
    st.tuples(
        st.sampled_from(("replace", "remove", "insert", "repeat", "cut", "big")),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=4,
)


def changed(content, steps):
    """``content`` after each of the steps, at places that are shares of its length."""
    for kind, share, new in steps:
        at, size = int(share * len(content)), len(new)
        rest = content[at + size :]
        match kind:
            case "replace":
                content = content[:at] + new + rest
            case "remove":
                content = content[:at] + rest
            case "insert":
                content = content[:at] + new + content[at:]
            case "repeat":
                content = (
                    content[:at] + content[at : at + 40 * size] * 2 + content[at + 40 * size :]
                )
            case "cut":
                content = content[:at]
            case "big":
                content = content[:at] + b"\xff\xff\xff\x7f"[:size] + rest
    return content


@contextmanager
def tried(folder):
    """Demand that a block ends well or with a `DeepsegError`, in little memory, running no code."""
    tracemalloc.start()
    try:
        yield
    except DeepsegError as error:
        problems = error.problems
    else:
        problems = None
    finally:
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert problems != ()
    for problem in problems or ():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", problem.code)
        assert len(str(problem)) < 100_000
    assert most < MOST_BYTES
    assert not (folder / "PWNED").exists()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read_config(file):
    model = {"model": ModelConfig, "train": TrainConfig, "test": TestConfig}[kind_of_file(file)]
    load(model, file)


CONFIGS = [
    path.read_bytes()
    for kind in ("model", "train", "test")
    for path in sorted((ROOT / "configs" / kind).glob("*.yaml"))
]
CFG = b"""\
modelName = 'm'
numberOfOutputClasses = 3
numberOfInputChannels = 2
numberFMsPerLayerNormal = [3, 4] * 2
kernelDimPerLayerNormal = [[3, 3, 3]] * 4
segmentsDimTrain = [25 + 2, 25, 25]
"""


@few
@given(content=st.sampled_from(CONFIGS), steps=changes)
def test_config_files_in_yaml(folder, content, steps):
    file = folder / "a.yaml"
    file.write_bytes(changed(content, steps))
    with tried(folder):
        read_config(file)


@few
@given(steps=changes)
def test_config_files_of_deepmedic(folder, steps):
    file = folder / "a.cfg"
    file.write_bytes(changed(CFG, steps))
    with tried(folder):
        read_config(file)


keys = st.sampled_from(
    ["normal", "classes", "segments", "channels", "cases", "training", "fc", "x"]
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True)
    | st.text(max_size=8)
    | st.just("10**9"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)


@few
@given(tree=st.dictionaries(keys, values, min_size=1, max_size=5))
def test_config_files_with_any_values(folder, tree):
    file = folder / "a.yaml"
    file.write_text(json.dumps(tree))
    with tried(folder):
        read_config(file)


@few
@given(lines=st.lists(st.text(max_size=30) | st.just("a.nii.gz") | st.just("-"), max_size=6))
def test_list_files(folder, lines):
    for name in ("T1.txt", "labels.txt"):
        (folder / name).write_text("\n".join(lines), "utf-8", errors="surrogatepass")
    with tried(folder):
        list_cases(CasesConfig(channels=(folder / "T1.txt",), labels=folder / "labels.txt"), ["T1"])


TABLE = b'case,channel_T1,labels\na,a.nii.gz,"b,c.nii.gz"\nd,d.nii.gz,\n'


@few
@given(steps=changes)
def test_tables(folder, steps):
    (folder / "a.csv").write_bytes(changed(TABLE, steps))
    with tried(folder):
        list_cases(CasesConfig(table=folder / "a.csv"), ["T1"])


DATASET = json.dumps(
    {
        "modality": {"0": "T1"},
        "labels": {"0": "background", "1": "lesion"},
        "training": [{"image": "a.nii.gz", "label": "b.nii.gz"}],
        "test": ["c.nii.gz"],
    }
).encode()


@few
@given(steps=changes)
def test_dataset_files(folder, steps):
    (folder / "dataset.json").write_bytes(changed(DATASET, steps))
    with tried(folder):
        list_cases(CasesConfig(dataset=folder), ["T1"])


@pytest.fixture(scope="module")
def nifti():
    image = nibabel.Nifti1Image(
        np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.diag([1, 2, 3, 1])
    )
    return image.to_bytes()


@few
@given(steps=changes, zipped=st.booleans(), in_header=st.booleans())
def test_nifti_files(folder, nifti, steps, zipped, in_header):
    content = changed(nifti[:352], steps) + nifti[352:] if in_header else changed(nifti, steps)
    file = folder / ("a.nii.gz" if zipped else "a.nii")
    file.write_bytes(gzip.compress(content, 1) if zipped else content)
    for read in (read_geometry, read_image, read_labels):
        with tried(folder):
            read(file)


@few
@given(steps=changes)
def test_zipped_bytes_of_nifti_files(folder, nifti, steps):
    file = folder / "a.nii.gz"
    file.write_bytes(changed(gzip.compress(nifti, mtime=0), steps))
    with tried(folder):
        read_image(file)


@pytest.fixture(scope="module")
def save(tmp_path_factory):
    file = tmp_path_factory.mktemp("save") / "a.save"
    weights = {"normal.1.conv.weight": torch.arange(24.0).reshape(2, 3, 4)}
    return write_save(file, SaveFile(model={"name": "m"}, weights=weights)).read_bytes()


@few
@given(steps=changes)
def test_containers_of_models(folder, save, steps):
    file = folder / "a.save"
    file.write_bytes(changed(save, steps))
    with tried(folder):
        read_save(file)


@pytest.mark.parametrize("first", [b"\x80", b"\x80P", PICKLE])
def test_a_container_behind_other_bytes_is_no_model(folder, save, first):
    (folder / "a.save").write_bytes(first + save)
    with pytest.raises(DeepsegError, match="no complete zip container"):
        read_save(folder / "a.save")


@few
@given(content=st.binary(max_size=300), pickled=st.booleans())
def test_any_bytes_as_a_model(folder, content, pickled):
    for name in ("a.save", "a.pt", "a.safetensors"):
        (folder / name).write_bytes(PICKLE + content if pickled else content)
    with tried(folder):
        read_save(folder / "a.save")
    for name in ("a.pt", "a.safetensors"):
        with tried(folder):
            read_named_tensors(folder / name)


@pytest.fixture(scope="module")
def tensors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensors")
    weights = {"conv.weight": torch.arange(24.0).reshape(2, 3, 4), "norm.bias": torch.ones(3)}
    torch.save(weights, folder / "a.pt")
    save_file(weights, folder / "a.safetensors")
    return folder


@few
@given(steps=changes, name=st.sampled_from(("a.pt", "a.safetensors")))
def test_files_of_tensors(folder, tensors, steps, name):
    (folder / name).write_bytes(changed((tensors / name).read_bytes(), steps))
    with tried(folder):
        read_named_tensors(folder / name)


@few
@given(size=st.integers(0, 2**64 - 1), head=st.binary(max_size=60))
def test_headers_of_safetensors_that_claim_any_size(folder, size, head):
    (folder / "a.safetensors").write_bytes(size.to_bytes(8, "little") + head)
    with tried(folder):
        read_named_tensors(folder / "a.safetensors")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    arrays = {"W_0": np.arange(24, dtype="<f4").reshape(2, 3, 4), "b_0": np.ones(3, "<f4")}
    return written(tmp_path_factory.mktemp("bundle"), arrays)


@few
@given(steps=changes, in_index=st.booleans())
def test_checkpoints_of_tensorflow(folder, bundle, steps, in_index):
    for file in bundle.parent.iterdir():
        is_changed = (file.suffix == ".index") == in_index
        content = file.read_bytes()
        (folder / file.name).write_bytes(changed(content, steps) if is_changed else content)
    with tried(folder):
        read_named_tensors(folder / f"{bundle.name}.index")


@few
@given(record=values)
def test_records_of_completed_cases(folder, record):
    (folder / "cases").mkdir(exist_ok=True)
    (folder / "keep").write_text("mine")
    (folder / "cases/a.json").write_text(json.dumps({"files": record, "key": "k"}))
    completed = CompletedCases(folder)
    completed.record("a", "k")
    completed.clear("a")
    assert not (folder / "cases/a.json").exists()
