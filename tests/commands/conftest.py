"""Tiny data, a tiny network, and two ways to give a command: in this process and as a new one.

Every test works in a place of its own, a copy of the same folder, and speaks of files as a user
who stands in it. What a command says comes back with that folder called HERE.
"""

import gzip
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from deepseg.cli.main import main

CHECKOUT = Path(__file__).parents[2]
SHAPE = (24, 22, 20)
AFFINE = np.array([[-1.0, 0, 0, 11], [0, 0, 1.5, -9], [0, 2.0, 0, -7], [0, 0, 0, 1]])
CASES = {"train": ("a", "b"), "validation": ("c",), "test": ("d",)}
FILES = ("T1", "FLAIR", "labels", "roi")
OWN_FILES = (
    r"(log\.txt|outcome\.json|events\.jsonl|lock|cache/facts/\w+-\w+\.json)"  # of a refused session
)

MODEL = """\
name: small
output: runs
channels: [T1, FLAIR]
classes: [background, rim, core]
normal:
  feature_maps: [3, 4]
subsampled:
  factors: [3]
segments:
  train: 9
  inference: 11
"""

TRAIN = """\
name: training
output: runs
model: model.yaml
training:
  cases:
    table: data/train.csv
  segments_per_subepoch: 8
  batch_size: 4
validation:
  cases:
    table: data/validation.csv
  samples:
    segments: 4
  volumes:
    every: 2
epochs: 2
subepochs: 1
workers: 0
"""

TEST = """\
name: results
output: runs
cases:
  table: data/test.csv
save:
  pictures: false
  label_names: []
"""


@dataclass(frozen=True)
class Result:
    """What a command gave back."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def errors(self):
        return [line for line in self.stderr.splitlines() if line.startswith("ERROR")]

    @property
    def warnings(self):
        return [line for line in self.stderr.splitlines() if line.startswith("WARNING")]


@dataclass(frozen=True)
class Place:
    """A folder with config files and data that a test may spoil."""

    path: Path

    def __truediv__(self, name):
        return self.path / name

    def write(self, name, text):
        (self.path / name).write_text(text, encoding="utf-8")

    def edit(self, name, old, new):
        """Replace one part of a text file, which must be there."""
        text = (self.path / name).read_text("utf-8")
        assert text.count(old) == 1
        self.write(name, text.replace(old, new))

    def image(self, name):
        return nibabel.load(self.path / "data" / name)

    def array(self, name):
        return np.asarray(self.image(name).dataobj)

    def store(self, name, array, affine=None, dtype=None):
        """Write an image again with other voxels, or at another place; ``dtype`` in the file."""
        dtype = np.dtype(array.dtype if dtype is None else dtype)
        header = self.image(name).header.as_byteswapped(">" if dtype.byteorder == ">" else "<")
        header.set_data_dtype(dtype)
        image = nibabel.Nifti1Image(array, header.get_best_affine(), header)
        if affine is not None:
            image.set_qform(affine)
            image.set_sform(affine)
        nibabel.save(image, self.path / "data" / name)

    def patch(self, name, offset, new):
        """Overwrite bytes of a zipped image, whatever they mean."""
        path = self.path / "data" / name
        content = bytearray(gzip.decompress(path.read_bytes()))
        content[offset : offset + len(new)] = new
        path.write_bytes(gzip.compress(bytes(content)))

    def damage(self, name, change):
        """Change the bytes of a file as they lie on the disk."""
        path = self.path / name
        path.write_bytes(change(path.read_bytes()))

    def files(self):
        """Digest of every file by its name."""
        return {
            str(path.relative_to(self.path)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in self.path.rglob("*")
            if path.is_file()
        }


def _case(folder, seed):
    """A ball with a core in a larger ball: bright in FLAIR, dark in T1, with noise on both."""
    rng = np.random.default_rng(seed)
    x, y, z = np.indices(SHAPE)
    middle = rng.uniform(9, 12, size=3)
    distance = np.sqrt((x - middle[0]) ** 2 + (y - middle[1]) ** 2 + (z - middle[2]) ** 2)
    labels = np.where(distance < 3, 2, np.where(distance < 5.5, 1, 0)).astype(np.uint8)
    roi = (distance < 9).astype(np.uint8)
    t1 = roi * (400.0 - 100.0 * labels + rng.normal(0, 20, SHAPE))
    flair = roi * (200.0 + 150.0 * labels + rng.normal(0, 20, SHAPE))
    folder.mkdir(parents=True)
    arrays = (t1.astype(np.int16), flair.astype(np.int16), labels, roi)
    for name, array in zip(FILES, arrays, strict=True):
        image = nibabel.Nifti1Image(array, AFFINE)
        image.set_qform(AFFINE, code=1)
        image.set_sform(AFFINE, code=4)
        image.header.set_xyzt_units("mm")
        nibabel.save(image, folder / f"{name}.nii.gz")


def _write_template(folder):
    data = folder / "data"
    for seed, name in enumerate(name for names in CASES.values() for name in names):
        _case(data / name, seed)
    for part, names in CASES.items():
        rows = [",".join((n, *(f"{n}/{file}.nii.gz" for file in FILES))) for n in names]
        text = "\n".join(["case,channel_T1,channel_FLAIR,labels,roi", *rows]) + "\n"
        (data / f"{part}.csv").write_text(text)
    for file in FILES:
        text = "".join(f"{name}/{file}.nii.gz\n" for name in CASES["train"])
        (data / f"{file}.txt").write_text(text)
    for name, text in {"model.yaml": MODEL, "train.yaml": TRAIN, "test.yaml": TEST}.items():
        (folder / name).write_text(text)


@pytest.fixture(scope="session")
def begin():
    """Run a command in this process, on one thread of the CPU; gives the exit code."""

    def run(*arguments, program=main):
        numbers, threads = (signal.SIGTERM, signal.SIGUSR1), torch.get_num_threads()
        handlers = [signal.getsignal(number) for number in numbers]
        torch.set_num_threads(1)  # bits are the same only with the same number of threads
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("torch.cuda.is_available", lambda: False)
                return program(arguments)
        finally:
            for number, handler in zip(numbers, handlers, strict=True):
                signal.signal(number, handler)
            torch.set_num_threads(threads)

    return run


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands") / "place"
    _write_template(folder)
    return folder


@pytest.fixture(scope="session")
def trained(template, tmp_path_factory, begin):
    """A place in which ``-train train.yaml`` has run to its end."""
    folder = tmp_path_factory.mktemp("trained") / "place"
    shutil.copytree(template, folder)
    assert begin("-train", str(folder / "train.yaml"), "-quiet") == 0
    return Place(folder)


@pytest.fixture
def place(template, tmp_path, monkeypatch):
    """A fresh place, and the current folder of the test."""
    folder = tmp_path / "place"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    return Place(folder)


@pytest.fixture
def model(trained, place):
    """A trained model in the place of the test."""
    shutil.copy(trained / "runs/training/models/last.save", place / "M.save")
    return "M.save"


@pytest.fixture
def trained_here(place, begin, capfd):
    """``-train train.yaml`` has run to its end in the place of the test."""
    assert begin("-train", "train.yaml") == 0


@pytest.fixture
def command(place, capfd, begin):
    """Give a command in this process."""

    def given(*arguments, program=main):
        capfd.readouterr()
        code = begin(*arguments, program=program)
        message = capfd.readouterr()
        return Result(code, _from_here(message.out, place), _from_here(message.err, place))

    return given


@pytest.fixture
def refused(place, command):
    """Give a command that must fail with exit code 2 and leave nothing behind.

    Returns its lines on stderr without the word ERROR; warnings are left out.
    """

    def given(*arguments, session=None, program=main):
        before, folders = place.files(), set(place.path.rglob("*/"))
        result = command(*arguments, program=program)
        assert result.returncode == 2, result.stderr
        assert set(place.path.rglob("*/")) - folders == set()
        assert "Traceback" not in result.stderr
        after = place.files()
        changed = {n for n in before.keys() | after.keys() if before.get(n) != after.get(n)}
        session_files = re.compile(f"runs/{session}/{OWN_FILES}")
        assert [name for name in changed if not session_files.fullmatch(name)] == []
        return [line.removeprefix("ERROR ") for line in result.errors]

    return given


@contextmanager
def hearing_ctrl_c():
    """Processes begun inside are ended by SIGINT, also where a shell has this one ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture
def start(place):
    """Start ``run.py`` as a process of its own."""
    processes = []

    def given(*arguments, cwd=None, env=None, program=(str(CHECKOUT / "run.py"),)):
        with hearing_ctrl_c():
            processes.append(
                subprocess.Popen(
                    [sys.executable, *program, *arguments],
                    cwd=place.path if cwd is None else cwd,
                    env={
                        **os.environ,
                        "OMP_NUM_THREADS": "1",
                        "CUDA_VISIBLE_DEVICES": "",
                        **(env or {}),
                    },
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
            )
        return processes[-1]

    yield given
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def run(place, start):
    """Run ``run.py`` as a process of its own to its end."""

    def given(*arguments, **how):
        return _ended(start(*arguments, **how), place)

    return given


@pytest.fixture
def wait(place):
    """Wait for the end of a started process."""
    return lambda process: _ended(process, place)


def _ended(process, place):
    out, err = (message.decode("utf-8", "replace") for message in process.communicate(timeout=300))
    return Result(process.returncode, _from_here(out, place), _from_here(err, place))


def _from_here(text, place):
    return text.replace(str(place.path), "HERE")


@pytest.fixture
def same_weights():
    """Demand that two model files hold the same tensors, bit for bit."""

    def check(one, other):
        first, second = (torch.load(file, weights_only=True)["weights"] for file in (one, other))
        assert first.keys() == second.keys()
        assert [name for name in first if not torch.equal(first[name], second[name])] == []

    return check
