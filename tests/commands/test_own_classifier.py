"""Imported networks with their own classifier, through the command line: made, trained, applied."""

import numpy as np
import pytest
import torch

from deepseg.inference.predictor import Predictor
from deepseg.model.checkpoint import read_checkpoint
from tests.commands.test_imported import WIDE
from tests.imported_networks import MODEL_OF_ITS_OWN_HEAD, Segmenter, write_segmenter


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    return write_segmenter(folder / "net.onnx"), folder / "net.onnx"


@pytest.fixture
def own(place, segmenter):
    """A place whose model file imports a network with its classifier."""
    _, file = segmenter
    place.write("model.yaml", MODEL_OF_ITS_OWN_HEAD.replace("net.onnx", str(file)))
    place.write(
        "train.yaml", f"name: training\noutput: runs\nmodel: model.yaml\n{WIDE}workers: 0\n"
    )
    return place


def head(file):
    weights = read_checkpoint(file).weights
    return weights["imported1.head.weight"].flatten(1), weights["imported1.head.bias"]


def test_the_classifier_of_the_file_gives_the_classes(own, segmenter, command):
    result = command("-newModel", "model.yaml", "-out", "A.save")
    assert result.errors == []
    assert "imported1: classes by position: background, rim, core" in result.stdout
    assert not read_checkpoint("A.save").is_random  # its weights are those of the file
    assert "fc" not in read_checkpoint("A.save").network().state_dict()
    network: Segmenter = segmenter[0]
    values = np.random.default_rng(1).normal(size=(2, 16, 12, 20)).astype(np.float32)
    result = Predictor("A.save", device="cpu", preparation={"z_score": "none"}).segment(
        values, spacing_mm=1, probabilities=True
    )
    with torch.no_grad():
        expected = network(torch.from_numpy(values[None]))[0].numpy()
    for label, name in enumerate(("background", "rim", "core")):
        assert np.abs(result.probabilities[name] - expected[label]).max() < 1e-6


def test_classes_go_by_name(own, segmenter, command):
    own.edit("model.yaml", "[background, rim, core]", "[background, oedema, core]")
    own.edit("model.yaml", ".onnx}", ".onnx, classes: {core: 2, background: 0}}")
    result = command("-newModel", "model.yaml", "-out", "A.save")
    line = "imported1: classes that the network does not know begin as zero: oedema"
    assert line in result.stdout
    kernel, bias = head(own / "A.save")
    old = segmenter[0].head
    assert torch.equal(kernel[[0, 2]], old.weight.flatten(1)[[0, 2]])
    assert torch.equal(bias[[0, 2]], old.bias[[0, 2]])
    assert not kernel[1].any()
    assert not bias[1].any()


def test_an_older_model_gives_its_classes_by_name(own, command):
    assert command("-newModel", "model.yaml", "-out", "A.save").errors == []
    own.edit("model.yaml", "[background, rim, core]", "[background, core, oedema]")
    own.edit("model.yaml", ".onnx}", ".onnx, classes: {background: 0}, random: true}")
    result = command(
        *("-newModel", "model.yaml", "-pretrained", "A.save", "-layers", "all", "-out", "B.save")
    )
    assert result.errors == []
    (old, old_bias), (new, bias) = head(own / "A.save"), head(own / "B.save")
    assert torch.equal(new[[0, 1]], old[[0, 2]])
    assert torch.equal(bias[[0, 1]], old_bias[[0, 2]])
    assert not torch.equal(new[2], old[1])


def test_without_being_asked_the_classifier_is_not_taken_over(own, command):
    command("-newModel", "model.yaml", "-out", "A.save")
    own.edit("model.yaml", ".onnx}", ".onnx, random: true}")
    result = command("-newModel", "model.yaml", "-pretrained", "A.save", "-out", "B.save")
    assert "left behind in the source: imported1.head" in result.stdout
    (old, _), (new, _) = head(own / "A.save"), head(own / "B.save")
    assert not torch.equal(old, new)
    weights = [read_checkpoint(own / name).weights for name in ("A.save", "B.save")]
    assert torch.equal(*(w["imported1.up.weight"] for w in weights))


def test_a_network_with_its_classifier_feeds_one_with_a_classifier_of_ours(own, command):
    command("-newModel", "model.yaml", "-out", "A.save")
    own.edit("model.yaml", "fc: none", "fc: {feature_maps: [5]}")
    own.edit("model.yaml", ".onnx}", ".onnx, output: down}")
    result = command("-newModel", "model.yaml", "-pretrained", "A.save", "-out", "B.save")
    assert result.errors == []
    assert "no fc in the source" in result.stdout


def test_a_layer_of_ours_is_filled_from_one_of_the_network(own, command):
    """The classifier on two attach points reads what that of the file did; one class is new."""
    command("-newModel", "model.yaml", "-out", "A.save")
    own.edit("model.yaml", "fc: none", "fc: {feature_maps: [], dropout: 0}")
    own.edit("model.yaml", "[background, rim, core]", "[background, oedema, core, rim]")
    own.edit("model.yaml", ".onnx}", ".onnx, output: [up, norm]}")
    result = command(
        *("-newModel", "model.yaml", "-pretrained", "A.save", "-out", "B.save"),
        *("-map", "fc.1=imported1.head", "imported1.stem=new"),
    )
    assert result.errors == []
    old, new = (read_checkpoint(own / name).weights for name in ("A.save", "B.save"))
    rows = [0, 2, 1]
    assert torch.equal(new["fc.1.conv.weight"][[0, 2, 3]], old["imported1.head.weight"][rows])
    assert torch.equal(new["fc.1.bias"][[0, 2, 3]], old["imported1.head.bias"][rows])
    assert torch.equal(new["imported1.up.weight"], old["imported1.up.weight"])


def test_a_layer_that_does_not_fit_is_refused(own, command, refused):
    command("-newModel", "model.yaml", "-out", "A.save")
    own.edit("model.yaml", "fc: none", "fc: {feature_maps: [5]}")
    command_line = ("-newModel", "model.yaml", "-pretrained", "A.save", "-out", "B.save")
    assert refused(*command_line, "-map", "fc.1=imported1.head") == [
        "[layer-map] A.save: got -map fc.1=imported1.head, of which no kernel or bias fits; "
        "expected layers whose kernels or biases have one shape; fix: name another layer; -show "
        "lists their shapes"
    ]
    (line,) = refused(*command_line, "-map", "fc.1=imported1.haed")
    assert "[layer-unknown] A.save: got -map fc.1=imported1.haed; " in line


def test_it_is_trained_and_segments(own, command):
    assert command("-train", "train.yaml").errors == []
    result = command("-test", "test.yaml", "-model", "runs/training")
    assert result.errors == []
    result = command("-show", "runs/training")
    assert "imported1.head" in result.stdout


def test_only_the_head_of_it_can_learn(own, command):
    own.edit("train.yaml", "workers: 0\n", "workers: 0\nfreeze: {stop_gradient: head}\n")
    command("-newModel", "model.yaml", "-out", "A.save")
    own.edit("train.yaml", "model: model.yaml", "model: A.save")
    assert command("-train", "train.yaml").errors == []
    before, after = (
        read_checkpoint(file).weights
        for file in (own / "A.save", own / "runs/training/models/last.save")
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"imported1.head.weight", "imported1.head.bias"}


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        pytest.param(
            "[background, rim, core]",
            "[background, rim]",
            "[imported-classes] NET (imported1): got 2 classes of the model (background, rim); "
            "expected 3, which the network's classifier gives, or classes of this pathway; fix: "
            "add classes, such as classes: {background: 0}",
            id="fewer classes",
        ),
        pytest.param(
            ".onnx}",
            ".onnx, classes: {background: 0, core: 3}}",
            "[imported-classes] NET (imported1): got classes core: 3; expected numbers from 0 to "
            "2, of the maps that the network's classifier gives; fix: correct them",
            id="a map that the network does not have",
        ),
        pytest.param(
            ".onnx}",
            ".onnx, classes: {bakground: 0}}",
            "[class-unknown] model.yaml: got class 'bakground' in classes of imported1; expected "
            "classes of the model: background, rim, core; fix: correct the name; did you mean "
            "'background'?",
            id="a class that the model does not have",
        ),
        pytest.param(
            ".onnx}",
            ".onnx, output: norm}",
            "[imported-classes] NET (imported1): got 3 classes of the model (background, rim, "
            "core); expected 4, which the network gives; fix: name as many classes, or put a "
            "classifier of your own on it with fc",
            id="no classifier",
        ),
        pytest.param(
            ".onnx}",
            ".onnx, output: norm, classes: {core: 0}}",
            "[imported-classes] NET (imported1): got classes core, and BatchNormalization "
            "'/norm/BatchNormalization' at the end of the network; expected a convolution at its "
            "end, whose weights belong to classes; fix: leave classes out and give the model the "
            "classes of the network, in its order",
            id="classes of what is no classifier",
        ),
        pytest.param(
            "fc: none",
            "fc: none\nnormal: {feature_maps: [3]}",
            "[classifier-missing] model.yaml: got fc: none; expected it where the only pathway is "
            "a U-Net, or an imported network with one output, its own classifier; fix: remove "
            "fc, for a classifier on all pathways",
            id="a pathway beside it",
        ),
        pytest.param(
            ".onnx}\nfc: none",
            ".onnx, classes: {core: 0}}",
            "[classifier-missing] model.yaml: got classes of imported1 in a model with a "
            "classifier of its own; expected them with fc: none, for the network's own classifier; "
            "fix: add fc: none, or remove classes of the pathway",
            id="two classifiers",
        ),
        pytest.param(
            "imported:\n  - {file: FILE}\nfc: none",
            "normal: {feature_maps: [3]}\nwindows: {overlap: 0.3}",
            "[windows-without-imported] model.yaml: got windows in a model without imported "
            "networks or U-Net; expected them with imported networks or a U-Net only; fix: remove "
            "windows",
            id="windows of nothing imported",
        ),
    ],
)
def test_what_is_wrong_with_a_classifier_is_said(own, segmenter, refused, old, new, line):
    file = str(segmenter[1])
    own.edit("model.yaml", old.replace("FILE", file), new)
    lines = refused("-newModel", "model.yaml", "-out", "A.save")
    assert line in [
        message.replace(file, "NET").replace("HERE/model", "model") for message in lines
    ]
