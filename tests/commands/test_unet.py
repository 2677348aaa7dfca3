"""A U-Net as a pathway, through the command line: made, trained, frozen, applied, resumed."""

import shutil

import nibabel
import pytest
import torch

from deepseg.model.checkpoint import read_checkpoint

MODEL = """\
name: small
output: runs
channels: [T1, FLAIR]
classes: [background, rim, core]
unet:
  levels:
    - {feature_maps: 4}
    - {feature_maps: 3}
    - {feature_maps: 2, stride: [2, 2, 1]}
fc: none
segments: {train: 16}
"""
TRAIN = """\
name: training
output: runs
model: model.yaml
training:
  cases: {table: data/train.csv}
  segments_per_subepoch: 6
  batch_size: 2
loss: {deep_supervision: true, dice: 1}
optimiser: {name: sgd, learning_rate: 0.05, momentum: 0.9, weight_decay: 0.01}
subepochs: 1
epochs: 1
workers: 0
"""


@pytest.fixture
def unet(place):
    """A place whose model is a U-Net of three levels."""
    place.write("model.yaml", MODEL)
    place.write("train.yaml", TRAIN)
    return place


def weights(file):
    return read_checkpoint(file).weights


def changed(old, new):
    """Names of the levels and heads whose weights differ."""
    return {n for n in old if n in new and not torch.equal(old[n], new[n])}


def test_a_u_net_learns_and_segments(unet, command):
    assert command("-train", "train.yaml").errors == []
    result = command("-test", "test.yaml", "-model", "runs/training")
    assert (result.returncode, result.stderr) == (0, "")
    (file,) = (unet / "runs/results").rglob("*.nii.gz")
    assert nibabel.load(file).shape == (24, 22, 20)
    shown = command("-show", "runs/training").stdout
    assert "unet1.level0.encoder.1.conv" in shown


def test_coarser_levels_learn_from_their_own_scores_only_if_asked(unet, command):
    command("-newModel", "model.yaml", "-out", "A.save")
    assert command("-train", "train.yaml", "-model", "A.save").errors == []
    head = "unet1.level1.head.weight"
    assert head in changed(weights("A.save"), weights("runs/training/models/last.save"))
    shutil.rmtree(unet / "runs")
    unet.edit("train.yaml", "deep_supervision: true, ", "")
    unet.edit("train.yaml", ", weight_decay: 0.01", "")
    unet.edit("train.yaml", "dice: 1", "dice: 1, l1: 0, l2: 0")
    assert command("-train", "train.yaml", "-model", "A.save").errors == []
    assert head not in changed(weights("A.save"), weights("runs/training/models/last.save"))


def test_levels_are_frozen_by_name(unet, command):
    command("-newModel", "model.yaml", "-out", "A.save")
    unet.edit("train.yaml", "\nepochs: 1", "\nepochs: 1\nfreeze: {layers: [unet1.level0]}")
    assert command("-train", "train.yaml", "-model", "A.save").errors == []
    names = changed(weights("A.save"), weights("runs/training/models/last.save"))
    assert {name.split(".")[1] for name in names} == {"level1", "level2"}


def test_an_interrupted_session_comes_to_the_same_bits(unet, command, same_weights):
    unet.edit("train.yaml", "\nepochs: 1", "\nepochs: 2")
    shutil.copytree(unet.path, unet / "other")
    assert command("-train", "train.yaml").errors == []
    unet.edit("other/train.yaml", "\nepochs: 2", "\nepochs: 1")
    assert command("-train", "other/train.yaml").errors == []
    unet.edit("other/train.yaml", "\nepochs: 1", "\nepochs: 2")
    assert command("-train", "other/train.yaml").errors == []
    last = "runs/training/models/last.save"
    same_weights(unet / last, unet / "other" / last)


def test_a_u_net_stands_beside_other_pathways(unet, command):
    unet.edit(
        "model.yaml",
        "fc: none\nsegments: {train: 16}",
        "normal: {feature_maps: [3, 4]}\nsubsampled: {factors: [3]}\nfc: {feature_maps: [4]}\n"
        "segments: {train: 9, inference: 11}",
    )
    assert command("-train", "train.yaml").errors == []
    result = command("-test", "test.yaml", "-model", "runs/training")
    assert (result.returncode, result.stderr) == (0, "")


def test_deep_supervision_without_levels_is_refused(unet, command):
    unet.edit("train.yaml", "deep_supervision: true", "deep_supervision: [0.5, 0.25]")
    (line,) = command("-train", "train.yaml").errors
    assert "[deep-supervision]" in line
    assert "got 2 weights in loss.deep_supervision; expected 1," in line


def test_a_segment_of_another_size_names_the_next(unet, command):
    unet.edit("model.yaml", "{train: 16}", "{train: [18, 16, 16]}")
    (line,) = command("-newModel", "model.yaml").errors
    assert "[segment-size] model.yaml: got segments.train of 18 x 16 x 16 voxels;" in line
    assert "which the network of unet1 computes; fix: take 20 x 16 x 16" in line


def test_a_u_net_that_was_exported_to_be_run_is_no_older_model(unet, command, refused):
    assert command("-newModel", "model.yaml", "-out", "U.save").returncode == 0
    assert command("-export", "U.save", "onnx", "-out", "run/U").returncode == 0
    fill = ("-newModel", "model.yaml", "-out", "N.save", "-layers", "all", "-pretrained")
    (line,) = refused(*fill, "run/U.onnx")
    assert line.startswith("[export-not-trainable] run/U.onnx: got a network that was exported to ")
