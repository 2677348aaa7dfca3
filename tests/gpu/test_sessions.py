"""Whole sessions on a pretended GPU: trained, continued, tuned and applied as on the processor."""

import json

import nibabel
import numpy as np
import pytest
import torch

from deepseg.commands import segment, train
from deepseg.model.checkpoint import read_checkpoint
from deepseg.training.random_state import seeded
from tests.gpu import pretended
from tests.gpu.steps import assert_alike

MODEL = """\
name: small
output: runs
channels: [T1, FLAIR]
classes: [background, rim, core]
normal: {feature_maps: [3, 4]}
subsampled: {factors: [3]}
fc: {feature_maps: [7], dropout: [0, 0]}
segments: {train: 9, inference: 11}
"""
TRAIN = """\
name: training
output: runs
model: model.yaml
training:
  cases: {table: data/train.csv}
  segments_per_subepoch: 4
  batch_size: 2
validation:
  cases: {table: data/validation.csv}
  samples: {segments: 4}
  volumes: {every: 3}
steps: {average: 0.9, clip_norm: 1.0}
checkpoints: {seconds: 0}
epochs: 1
subepochs: 1
workers: 0
report: false
"""
TEST = """\
name: results
output: runs
cases: {table: data/test.csv}
save: {pictures: false, probabilities: true, feature_maps: {normal.1: [0, 2]}}
report: false
"""
SHAPE = (16, 14, 12)


def write_place(folder):
    """Four small cases with a lesion, and the files of three sessions."""
    rng = np.random.default_rng(0)
    for name in "abcd":
        (folder / "data" / name).mkdir(parents=True)
        labels = np.zeros(SHAPE, np.uint8)
        labels[4:10, 3:9, 3:9], labels[6:8, 5:7, 5:7] = 1, 2
        images = {
            channel: (100 + 50 * labels + rng.normal(0, 10, SHAPE)).astype(np.float32)
            for channel in ("T1", "FLAIR")
        }
        for file, array in {**images, "labels": labels}.items():
            image = nibabel.Nifti1Image(array, np.eye(4))
            nibabel.save(image, folder / "data" / name / f"{file}.nii.gz")
    for part, names in {"train": "ab", "validation": "c", "test": "d"}.items():
        rows = [f"{n},{n}/T1.nii.gz,{n}/FLAIR.nii.gz,{n}/labels.nii.gz" for n in names]
        text = "\n".join(["case,channel_T1,channel_FLAIR,labels", *rows]) + "\n"
        (folder / f"data/{part}.csv").write_text(text)
    tuned = TRAIN.replace("name: training", "name: tuned") + "freeze: {layers: [normal.1]}\n"
    texts = {"model": MODEL, "train": TRAIN, "tune": tuned, "test": TEST}
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)


def sessions(folder, device):
    """Weights and losses of a session and of a fine-tuned one, and what both segment together."""
    write_place(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(train, "device_of_rank", lambda _name: device)
        patch.setattr(segment, "chosen_device", lambda _name: device)
        train.train("train.yaml", quiet=True)
        longer = (folder / "train.yaml").read_text().replace("\nepochs: 1", "\nepochs: 2")
        (folder / "train.yaml").write_text(longer)
        last = train.train("train.yaml", quiet=True)  # goes on
        tuned = train.train("tune.yaml", model=last, reset_optimizer=True, quiet=True)
        results = segment.segment("test.yaml", model=[last, tuned], quiet=True)
    lines = (folder / "runs/training/metrics.jsonl").read_text().splitlines()
    return {
        "last": read_checkpoint(folder / last).weights,
        "tuned": read_checkpoint(folder / tuned).weights,
        "losses": [json.loads(line)["training"]["loss"] for line in lines],
        "maps": {
            file.name: nibabel.load(file).get_fdata()
            for file in sorted((folder / results / "predictions").glob("*.nii.gz"))
        },
    }


def test_sessions_are_those_of_the_processor(tmp_path):
    # The generators are as they were: a session seeds its own.
    with seeded(0, torch.device("cpu")):
        there = sessions(tmp_path / "there", pretended.set_up())
        here = sessions(tmp_path / "here", torch.device("cpu"))
    assert not any(isinstance(weight, pretended.OnDevice) for weight in there["last"].values())
    for part in ("last", "tuned", "losses"):
        assert_alike(there[part], here[part], part, rtol=2e-3, atol=2e-4)
    assert len(here["losses"]) == 2
    assert there["maps"].keys() == here["maps"].keys()
    for name, expected in here["maps"].items():
        if name.endswith("Segm.nii.gz"):
            assert (there["maps"][name] != expected).mean() < 0.01
        else:
            np.testing.assert_allclose(there["maps"][name], expected, atol=2e-3, err_msg=name)
