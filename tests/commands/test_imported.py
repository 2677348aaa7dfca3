"""Networks of ONNX files as pathways, through the command line: made, trained, applied, kept."""

import hashlib
import shutil
import signal
import sys

import nibabel
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from deepseg.inference.predictor import Predictor
from deepseg.model.checkpoint import read_checkpoint
from tests.imported_networks import IMPORTED_MODEL, encoder, write_encoder

WIDE = """\
training:
  cases:
    table: data/train.csv
  segments_per_subepoch: 10
  batch_size: 2
optimiser: {name: sgd, learning_rate: 0.05, momentum: 0.9, weight_decay: 0.01}
subepochs: 1
epochs: 1
"""


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("onnx") / "net.onnx"
    write_encoder(file)
    return file


@pytest.fixture
def imported(place, onnx_file):
    """A place whose model file imports the encoder of a network."""
    shutil.copy(onnx_file, place / "net.onnx")
    place.write("model.yaml", IMPORTED_MODEL)
    place.write(
        "train.yaml", f"name: training\noutput: runs\nmodel: model.yaml\n{WIDE}workers: 0\n"
    )
    return place


def backbone(file):
    """Digest of every tensor and buffer of the imported network."""
    weights = read_checkpoint(file).weights
    return {
        name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        for name, tensor in weights.items()
        if name.startswith("imported1.")
    }


def test_the_new_model_holds_the_network_of_the_file(imported, command):
    result = command("-newModel", "model.yaml", "-out", "A.save")
    assert (result.returncode, result.stderr) == (0, "")
    assert "imported1.stem" in result.stdout
    assert "T1 from 0, FLAIR" in result.stdout
    weights, file = read_checkpoint(imported / "A.save").weights, encoder().state_dict()
    imported_weights = {
        name.removeprefix("imported1."): w for name, w in weights.items() if "imp" in name
    }
    stem = imported_weights.pop("stem.weight")
    assert torch.equal(stem[:, :1], file["stem.weight"])
    assert not stem[:, 1:].any()
    assert [
        n for n, w in imported_weights.items() if not torch.equal(w.flatten(), file[n].flatten())
    ] == []
    assert set(file) - set(imported_weights) == {
        "stem.weight", "classifier.weight", "classifier.bias",
        "norm.num_batches_tracked", "down_norm.num_batches_tracked",
    }  # fmt: skip


def test_neither_the_file_nor_its_package_is_needed_afterwards(imported, command, monkeypatch):
    command("-newModel", "model.yaml", "-out", "A.save")
    (imported / "net.onnx").unlink()
    monkeypatch.setitem(sys.modules, "onnx", None)
    train = ("-train", "train.yaml", "-model", "A.save")
    imported.edit("train.yaml", "model: model.yaml\n", "")
    assert command(*train).returncode == 0
    assert command("-test", "test.yaml", "-model", "runs/training/models/last.save").stderr == ""
    assert "imported1.stem" in command("-show", "A.save").stdout


def test_a_session_goes_on_although_the_file_is_gone(imported, command):
    assert command("-train", "train.yaml").returncode == 0
    (imported / "net.onnx").unlink()
    imported.edit("train.yaml", "\nepochs: 1", "\nepochs: 2")
    assert command("-train", "train.yaml").errors == []
    assert read_checkpoint(imported / "runs/training/models/last.save").training["epoch"] == 2


def test_training_the_head_changes_nothing_of_the_backbone(imported, command):
    """Batch normalisation, momentum and decay leave a frozen network alone."""
    command("-newModel", "model.yaml", "-out", "A.save")
    imported.edit("train.yaml", "\nepochs: 1", '\nepochs: 1\nfreeze: {layers: ["imported1.*"]}')
    assert command("-train", "train.yaml").returncode == 0
    before, after = backbone("A.save"), backbone("runs/training/models/last.save")
    assert before == after
    old, new = (read_checkpoint(f).weights for f in ("A.save", "runs/training/models/last.save"))
    assert not torch.equal(old["fc.2.conv.weight"], new["fc.2.conv.weight"])


def test_all_of_it_learns_where_nothing_is_frozen(imported, command):
    command("-newModel", "model.yaml", "-out", "A.save")
    assert command("-train", "train.yaml").returncode == 0
    before, after = backbone("A.save"), backbone("runs/training/models/last.save")
    assert [name for name in before if before[name] == after[name]] == []


def test_nothing_below_a_stopped_gradient_changes(imported, command):
    command("-newModel", "model.yaml", "-out", "A.save")
    imported.edit(
        "train.yaml", "\nepochs: 1", "\nepochs: 1\nfreeze: {stop_gradient: imported1.last}"
    )
    assert command("-train", "train.yaml").returncode == 0
    before, after = backbone("A.save"), backbone("runs/training/models/last.save")
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"imported1.last.weight", "imported1.last.bias"}


def test_rates_go_by_type_and_by_module(imported, command):
    command("-newModel", "model.yaml", "-out", "A.save")
    imported.edit(
        "train.yaml",
        "weight_decay: 0.01}",
        "by_type: {PReLU: {learning_rate: 1.0e-30}, BatchNorm: {learning_rate: 1.0e-30}}, "
        "by_layer: {imported1.stem: {learning_rate: 1.0e-30}}}",
    )
    assert command("-train", "train.yaml").errors == []
    before, after = (
        read_checkpoint(file).weights for file in ("A.save", "runs/training/models/last.save")
    )
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in same if name.startswith("imported1")} == {
        "imported1.stem.bias", "imported1.norm.weight", "imported1.act.weight",
        "imported1.down_norm.weight",
    }  # fmt: skip  # what is 0 changes all the same, by as little


def test_the_topology_alone_is_drawn_anew(imported, command):
    imported.edit("model.yaml", "margin: 4}", "margin: 4, random: true}")
    for name in ("A.save", "B.save"):
        assert command("-newModel", "model.yaml", "-out", name).returncode == 0
    assert backbone("A.save") == backbone("B.save")
    weight = read_checkpoint("A.save").weights["imported1.last.weight"]
    assert not torch.equal(weight, encoder().state_dict()["last.weight"])


@pytest.mark.slow
def test_a_killed_session_comes_to_the_same_end(imported, command, start, wait, same_weights):
    imported.edit("train.yaml", "\nepochs: 1", "\nepochs: 4")
    shutil.copytree(imported.path, imported / "other")
    assert command("-train", "train.yaml").returncode == 0
    unbroken = imported / "other"
    process = start("-train", "train.yaml", cwd=unbroken)
    while not (unbroken / "runs/training/models/last.save").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    wait(process)
    assert command("-train", "other/train.yaml").returncode == 0
    last = "runs/training/models/last.save"
    same_weights(imported / last, unbroken / last)


def test_a_case_is_predicted_as_by_the_network_itself(imported, command):
    """Tiles with a margin, in phase with the stride, make what the whole image makes at once."""
    command("-newModel", "model.yaml", "-out", "A.save")
    checkpoint = read_checkpoint("A.save")
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 41, 37, 33)).astype(np.float32)
    segmented = Predictor(checkpoint, device="cpu", preparation={"z_score": "none"}).segment(
        image, spacing_mm=1, probabilities=True
    )
    padded = np.pad(image, [(0, 0), (4, 7), (4, 7), (4, 7)], mode="reflect")
    file, fc = encoder(), checkpoint.network().eval().fc
    with torch.no_grad():
        maps = file.features(torch.from_numpy(padded[None, :1]))
        full = maps.repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
        *_, head = fc.layers()
        logits = fc(full[:, :, 4:45, 4:41, 4:37]) + head.bias.view(-1, 1, 1, 1)
        expected = F.softmax(logits, 1)[0].numpy()
    for label, name in enumerate(checkpoint.config.classes):
        assert np.abs(segmented.probabilities[name] - expected[label]).max() < 1e-5


def test_overlapping_windows_are_the_default_where_borders_are_padded(imported, command):
    imported.edit("model.yaml", ", margin: 4}", "}")
    command("-newModel", "model.yaml", "-out", "A.save")
    image = np.random.default_rng(0).normal(size=(2, 33, 24, 24)).astype(np.float32)
    results = [
        Predictor("A.save", settings, device="cpu", preparation={"z_score": "none"})
        .segment(image, spacing_mm=1, probabilities=True)
        .probabilities["rim"]
        for settings in ({}, {"overlap": 0.5}, {"overlap": 0.0})
    ]
    assert np.array_equal(results[0], results[1])
    assert not np.allclose(results[0], results[2])


def test_a_case_is_segmented_from_the_command_line(imported, command):
    assert command("-train", "train.yaml").returncode == 0
    result = command("-test", "test.yaml", "-model", "runs/training")
    assert (result.returncode, result.stderr) == (0, "")
    (file,) = (imported / "runs/results").rglob("*.nii.gz")
    assert nibabel.load(file).shape == (24, 22, 20)


def test_an_imported_network_goes_beside_pathways_of_our_own(imported, command):
    imported.edit(
        "model.yaml",
        "fc: {feature_maps: [5], dropout: 0}\nsegments: {train: 20, inference: 24}",
        "normal: {feature_maps: [3, 4]}\nsubsampled: {factors: [3]}\n"
        "segments: {train: 9, inference: 11}",
    )
    assert command("-train", "train.yaml").errors == []
    result = command("-test", "test.yaml", "-model", "runs/training")
    assert (result.returncode, result.stderr) == (0, "")


def test_imported_layers_are_taken_over_from_an_older_model(imported, command):
    imported.edit("model.yaml", "margin: 4}", "margin: 4, random: true}")
    assert command("-newModel", "model.yaml", "-out", "A.save").returncode == 0
    imported.edit("model.yaml", "[T1, FLAIR]", "[FLAIR, PD, T1]")
    result = command(
        *("-newModel", "model.yaml", "-pretrained", "A.save", "-out", "B.save", "-seed", "5"),
        *("-layers", "imported1.stem", "imported1.down*"),
    )
    assert result.errors == []
    old, new = (read_checkpoint(file).weights for file in ("A.save", "B.save"))
    stem = new["imported1.stem.weight"]
    assert torch.equal(stem[:, [2, 0]], old["imported1.stem.weight"])  # T1 and FLAIR
    assert not stem[:, 1].any()
    assert torch.equal(new["imported1.down.weight"], old["imported1.down.weight"])
    assert not torch.equal(new["imported1.last.weight"], old["imported1.last.weight"])


def test_an_onnx_file_fills_imported_layers_by_name(imported, command):
    imported.edit("model.yaml", "[T1, FLAIR]", "[T1]")
    imported.edit("model.yaml", "margin: 4}", "margin: 4, random: true}")
    result = command(
        *("-newModel", "model.yaml", "-pretrained", "net.onnx", "-out", "A.save"),
        *("-layers", "imported1.*"),
    )
    assert result.errors == []
    assert "Skipping parameter classifier.weight: not found in model" in result.stdout
    weights, file = read_checkpoint("A.save").weights, encoder().state_dict()
    assert torch.equal(weights["imported1.last.weight"], file["last.weight"])


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        pytest.param(
            "output: last_act",
            "output: last_atc",
            "[graph-name-unknown] HERE/net.onnx (imported1): got the name 'last_atc'; expected a "
            "node, a tensor that one computes, or a module of the network; fix: correct the name; "
            "-show lists them all; the nearest are 'last_act', 'last', '/last_act/Relu'",
            id="a name that is not there",
        ),
        pytest.param(
            ", channels: {T1: 0}",
            "",
            "[imported-channels] HERE/net.onnx (imported1): got 2 channels of the model (T1, "
            "FLAIR); expected 1, which the network reads, or channels of this pathway; fix: add "
            "channels, such as channels: {T1: 0}",
            id="another number of channels",
        ),
        pytest.param(
            "{T1: 0}",
            "{T1: 1}",
            "[imported-channels] HERE/net.onnx (imported1): got channels T1: 1; expected numbers "
            "from 0 to 0, of the channels that the network reads; fix: correct them",
            id="a channel that the network does not have",
        ),
        pytest.param(
            "{T1: 0}",
            "{T2: 0}",
            "[channel-unknown] model.yaml: got channel 'T2' in channels of imported1; expected "
            "channels of the model: T1, FLAIR; fix: correct the name",
            id="a channel that the model does not have",
        ),
        pytest.param(
            "train: 20",
            "train: 21",
            "[segment-size] model.yaml: got segments.train of 21 x 21 x 21 voxels; expected 10 x "
            "10 x 10 and steps of 2 x 2 x 2 from there, which the network of imported1 computes; "
            "fix: take 22 x 22 x 22",
            id="a segment that the network does not compute",
        ),
        pytest.param(
            "net.onnx",
            "nte.onnx",
            "[onnx-missing] HERE/nte.onnx: got no such file; expected an ONNX file; fix: correct "
            "the path; did you mean 'net.onnx'?",
            id="no file",
        ),
        pytest.param(
            "segments:",
            "subsampled: {factors: [3]}\nsegments:",
            "[pathway-missing] model.yaml: got subsampled without normal; expected the block "
            "normal, of which subsampled pathways are mirror images; fix: add normal, or remove "
            "subsampled",
            id="subsampled pathways that mirror nothing",
        ),
        pytest.param(
            "margin: 4",
            "network: {}",
            "[config-value] model.yaml:6 imported[0].network: got network in an imported pathway; "
            "expected keys such as file and output, or levels; fix: remove it: deepseg writes "
            "the network itself",
            id="what only a .save holds",
        ),
    ],
)
def test_what_is_wrong_with_an_imported_pathway_is_said(imported, refused, old, new, line):
    imported.edit("model.yaml", old, new)
    for command in (("-newModel", "model.yaml", "-out", "A.save"), ("-train", "train.yaml")):
        lines = refused(*command, session="training")
        assert line in [message.replace("HERE/model", "model") for message in lines]


def test_a_model_needs_a_pathway(place, refused):
    place.edit("model.yaml", "normal:\n  feature_maps: [3, 4]\nsubsampled:\n  factors: [3]\n", "")
    assert refused("-newModel", "model.yaml") == [
        "[pathway-missing] model.yaml: got no pathway that reads the image; expected normal, "
        "unet or imported; fix: add the block normal, such as normal: {feature_maps: [30, 40]}"
    ]


def test_maps_of_inner_layers_are_written(imported, command):
    """Where nothing is cut off, they are those of the network itself, repeated."""
    command("-newModel", "model.yaml", "-out", "A.save")
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 41, 37, 33)).astype(np.float32)
    segmented = Predictor("A.save", device="cpu", preparation={"z_score": "none"}).segment(
        image, spacing_mm=1, feature_maps={"imported1.*norm": "all", "imported1.stem": (1, 3)}
    )
    assert {name: m.shape[0] for name, m in segmented.feature_maps.items()} == {
        "imported1.stem": 2, "imported1.norm": 4, "imported1.down_norm": 6,
    }  # fmt: skip
    padded = np.pad(image, [(0, 0), (4, 7), (4, 7), (4, 7)], mode="reflect")
    file = encoder()
    with torch.no_grad():
        stem = file.stem(torch.from_numpy(padded[None, :1]))
        down = file.down_norm(file.down(file.act(file.norm(stem))))
        down = down.repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
    inside = (slice(4, 45), slice(4, 41), slice(4, 37))
    for name, expected in (("stem", stem[0, 1:3]), ("down_norm", down[0])):
        result = segmented.feature_maps[f"imported1.{name}"]
        assert np.abs(result - expected[(slice(None), *inside)].numpy()).max() < 1e-5


def test_maps_of_inner_layers_are_files_of_a_session(imported, command):
    assert command("-train", "train.yaml").returncode == 0
    imported.write(
        "test.yaml",
        (imported / "test.yaml").read_text() + "  feature_maps: {imported1.down: [1, 3]}\n",
    )
    result = command("-test", "test.yaml", "-model", "runs/training")
    assert (result.returncode, result.stderr) == (0, "")
    names = sorted(f.name for f in (imported / "runs/results").rglob("*imported1*.nii.gz"))
    assert [name.partition("imported1")[2] for name in names] == [
        ".down_fm1.nii.gz", ".down_fm2.nii.gz",
    ]  # fmt: skip


def test_a_check_tells_the_rate_of_every_tensor(imported, command):
    command("-newModel", "model.yaml", "-out", "A.save")
    imported.edit(
        "train.yaml",
        "weight_decay: 0.01}",
        "weight_decay: 0.01, by_type: {BatchNorm: {statistics: frozen}, PReLU: {frozen: true}}}\n"
        "freeze: {tune: last:1}",
    )
    imported.edit("train.yaml", "model: model.yaml", "model: A.save")
    result = command("-check", "train.yaml")
    assert result.errors == []
    rows = [line.split() for line in result.stdout.splitlines() if "imported1." in line]
    assert ["imported1.last.weight,", "bias", "0.05", "0.9", "0.01", "default"] in rows
    assert ["imported1.stem.weight,", "bias", "fixed", "freeze"] in rows
    slopes = [line.split() for line in result.stdout.splitlines() if ".activation.weight" in line]
    assert slopes[-1][-1] == "PReLU"


def test_rules_that_freeze_are_no_part_of_a_session_from_scratch(imported, command):
    command("-newModel", "model.yaml", "-out", "A.save")
    imported.edit(
        "train.yaml",
        "weight_decay: 0.01}",
        "weight_decay: 0.01, by_type: {Conv: {frozen: true}, BatchNorm: {frozen: true}}}",
    )
    imported.edit("train.yaml", "model: model.yaml", "model: A.save")
    assert command("-train", "train.yaml").errors == []
    assert command("-train", "train.yaml", "-fromScratch").errors == []
    files = ("A.save", "runs/training/models/last.save", "runs/training-scratch/models/last.save")
    start, frozen, scratch = (read_checkpoint(imported / file).weights for file in files)
    name = "imported1.down.weight"
    assert torch.equal(start[name], frozen[name])
    assert not torch.equal(start["imported1.down.bias"], frozen["imported1.down.bias"])
    assert not torch.equal(start[name], scratch[name])
    mean = "imported1.norm.running_mean"
    assert scratch[mean].any()  # those of new weights are zero
    assert torch.equal(start[mean], frozen[mean])
