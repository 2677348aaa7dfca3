"""A whole testing session: no more numbers per voxel in memory than its results need."""

import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import deepseg
from deepseg.commands.segment import segment
from deepseg.data.preparation import PreparedCase
from deepseg.inference.predictor import Predictor
from deepseg.sessions.segmentation import case_stages as segmenting

SHAPE = (150, 160, 170)
VOXELS = 150 * 160 * 170
MODEL = """\
channels: [T1, FLAIR]
classes: [background, a, b, c, d]
normal: {feature_maps: [3, 4]}
subsampled: {factors: [3]}
fc: {feature_maps: [5]}
segments: {train: 11}
"""
TEST = """\
name: test
output: .
cases: {table: cases.csv}
inference: {memory: 1 MB}
save: {pictures: false}
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two large cases with a small region of interest, and a model with random weights."""
    rng = np.random.default_rng(0)
    roi = np.zeros(SHAPE, np.uint8)
    roi[70:80, 30:40, 90:99] = 1
    rows = ["case,channel_T1,channel_FLAIR,roi"]
    for case in ("one", "two"):
        arrays = {"roi": roi} | {
            channel: rng.integers(0, 900, SHAPE, np.int16) for channel in ("T1", "FLAIR")
        }
        for name, array in arrays.items():
            nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"{case}_{name}.nii")
        rows.append(f"{case},{case}_T1.nii,{case}_FLAIR.nii,{case}_roi.nii")
    (tmp_path / "cases.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "test.yaml").write_text(TEST)
    (tmp_path / "model.yaml").write_text(MODEL)
    deepseg.new_model(tmp_path / "model.yaml", out=tmp_path / "model.save", quiet=True)
    return tmp_path


def segmented(folder: Path) -> list[np.ndarray]:
    done = segment(folder / "test.yaml", model=folder / "model.save", device="cpu", quiet=True)
    files = sorted((done / "predictions").glob("*_Segm.nii.gz"))
    return [np.asarray(nib.load(file).dataobj) for file in files]


def test_large_cases_are_segmented_with_few_bytes_per_voxel(folder):
    tracemalloc.start()
    result = segmented(folder)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [item.shape for item in result] == [SHAPE, SHAPE]
    # A stored channel (2), the same as float32 (4), what is not finite (1), the mask (1), and what
    # does not grow with the image; probabilities of five classes would be 20 more.
    assert most < 14 * VOXELS
    assert list((folder / "test/cache").glob("tmp*")) == []


def test_channels_on_disk_give_the_same_segmentation(folder, monkeypatch):
    on_disk = segmented(folder)
    monkeypatch.setattr(Predictor, "is_large", lambda *_: False)
    (folder / "test").rename(folder / "before")
    assert all(map(np.array_equal, on_disk, segmented(folder)))
    assert any(item.any() for item in on_disk)


def test_what_a_picture_has_read_of_the_disk_is_given_back_at_once(folder, monkeypatch):
    events = []

    def noted(name, function):
        def call(*given):
            events.append(name)
            return function(*given)

        return call

    monkeypatch.setattr(PreparedCase, "forget", noted("given back", PreparedCase.forget))
    monkeypatch.setattr(segmenting, "write_results", noted("written", segmenting.write_results))
    segmented(folder)
    assert events.count("written") == 2
    assert events[-2:] == ["written", "given back"]
