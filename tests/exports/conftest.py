"""A small exported model, and cases on which it is trained."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from deepseg.commands.export import export
from deepseg.commands.new_model import new_model

MODEL = """\
name: small
channels: [T1, FLAIR]
classes: [background, rim, core]
normal: {feature_maps: [3, 4]}
subsampled: {factors: [3]}
fc: {feature_maps: [5], dropout: [0, 0.2]}
segments: {train: 9, inference: 13}
"""
SHAPE = (16, 15, 14)


def write_case(folder: Path, seed: int) -> None:
    """A ball with a core, bright in one channel and dark in the other, with noise on both."""
    rng = np.random.default_rng(seed)
    middle = rng.uniform(6, 9, size=(3, 1, 1, 1))
    distance = np.sqrt(((np.indices(SHAPE) - middle) ** 2).sum(0))
    labels = np.where(distance < 3, 2, np.where(distance < 5, 1, 0))
    folder.mkdir(parents=True)
    np.save(folder / "labels.npy", labels.astype(np.uint8))
    np.save(folder / "roi.npy", distance < 7)
    np.save(folder / "T1.npy", 400 - 100 * labels + rng.normal(0, 20, SHAPE))
    np.save(folder / "FLAIR.npy", 200 + 150 * labels + rng.normal(0, 20, SHAPE))


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A folder with ``model.yaml``, ``M.save``, ``cases`` and the exported ``device``."""
    place = tmp_path_factory.mktemp("device")
    for number in range(6):
        write_case(place / "cases" / f"case{number}", number)
    (place / "model.yaml").write_text(MODEL)
    model = new_model(place / "model.yaml", out=place / "M.save", quiet=True)
    export(model, "train-step", train="all", batch=2, segment=9, out=place / "device", quiet=True)
    return place


@pytest.fixture
def device(exported, tmp_path):
    """A fresh copy of the exported folder."""
    return shutil.copytree(exported / "device", tmp_path / "device")


@pytest.fixture
def cases(exported, tmp_path):
    """A fresh copy of the cases."""
    return shutil.copytree(exported / "cases", tmp_path / "cases")
