"""``-export``: files of other programs, what is in them, and the way back."""

import json
import re
import runpy
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file

import deepseg
from deepseg.config.cases import Preparation, ZScore
from deepseg.exports import onnx_export, verification
from deepseg.model.checkpoint import new_checkpoint, read_checkpoint
from deepseg.model.provenance import Provenance, TrainedBy
from deepseg.storage.atomic import OutputNotWritable
from deepseg.transfer.sources.onnx_file import read_onnx_metadata
from tests.imported_networks import IMPORTED_MODEL, write_encoder
from tests.json_schema import faults, schema
from tests.networks import SMALL, trained_network

PAGE = Path(__file__).parents[2] / "documentation" / "pipelines.md"
PROGRAMS = re.findall(r"^```python ?\w*\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
PREPARED = Preparation(
    orientation="SPL",
    clip=(-50, 480),
    z_score=ZScore(
        cutoff_percentiles=(2, 97), cutoff_deviations=(2.5, 1.5), above_mean=True, channels=("T1",)
    ),
)
CONTEXT = {
    "normal": {"feature_maps": [3, 4], "kernels": [3, [5, 3, 1]]},
    "subsampled": {"factors": [[3, 2, 4]]},
    "segments": {"train": 11, "inference": [19, 17, 15]},
}
PADDED = {
    "fc": {"feature_maps": [5], "kernels": [[3, 5, 1], 1], "padding": ["mirror", "none"]},
    "segments": {"train": 11, "inference": [17, 19, 14]},
}


@pytest.fixture
def save(place):
    """Write a model that looks as if it had been trained: ``M.save`` in the place."""

    def given(preparation=PREPARED, name="M.save", **changes):
        network = trained_network(seed=6, **{**CONTEXT, **changes})
        rng = torch.Generator().manual_seed(9)
        weights = {
            key: value + 0.2 * torch.randn(value.shape, generator=rng)
            if key.endswith("conv.weight")
            else value
            for key, value in network.state_dict().items()
        }
        trained = Provenance(seed=6, trained_by=(TrainedBy("lesions", 3),))
        model = new_checkpoint(network.config, seed=6)
        replace(model, weights=weights, preparation=preparation, provenance=trained).write(
            place / name
        )
        return name

    return given


def initialisers(file):
    graph = onnx.load(file).graph
    return {entry.name: onnx.numpy_helper.to_array(entry) for entry in graph.initializer}


def same_bits(one, other):
    return one.keys() == other.keys() and all(
        one[name].tobytes() == other[name].tobytes() for name in one
    )


def test_a_network_lies_beside_its_model_with_all_that_its_users_need(command, place, save):
    result = command("-export", save(), "onnx")
    assert (result.returncode, result.stderr) == (0, "")
    names = ("M.onnx", "prepare.onnx", "finish.onnx", "pipeline.json")
    assert result.stdout == "".join(f"written to {name}\n" for name in names)
    record = json.loads((place / "pipeline.json").read_text())
    assert faults(record, schema("pipeline-1")) == []
    assert record["channels"] == ["T1", "FLAIR"]
    assert record["classes"] == ["background", "a", "b"]
    assert record["preparation"] == {
        "orientation": "SPL",
        "resample_mm": None,
        "roi": None,
        "clip": [-50, 480],
        "nnunet": None,
        "z_score": {
            "channels": ["T1"],
            "cutoff_percentiles": [2, 97],
            "cutoff_deviations": [2.5, 1.5],
            "above_mean": True,
        },
    }
    # As large as a segment of 19 x 17 x 15, in whole steps of 3 x 2 x 4.
    assert record["tiling"]["tile"] == [21, 18, 16]
    assert record["tiling"]["step"] == [3, 2, 4]
    assert record["provenance"] == {"initialised": "seed 6", "trained by lesions": "3 epochs"}
    graphs = ("network", "preparation_network", "finishing_network")
    network, *rest = (record.pop(name) for name in graphs)
    assert [second["file"] for second in rest] == ["prepare.onnx", "finish.onnx"]
    assert (network["opset"], network["trainable"]) == (17, False)
    metadata = read_onnx_metadata(place / "M.onnx")
    assert json.loads(metadata["deepseg.pipeline"]) == record


def test_no_key_of_a_preparation_is_left_out():
    """A new key belongs into the record, and into the program of the page or what it refuses."""
    keys = {"orientation", "resample", "roi", "clip", "z_score", "nnunet"}
    assert set(Preparation.model_fields) == keys
    keys = {"cutoff_percentiles", "cutoff_deviations", "above_mean", "channels"}
    assert set(ZScore.model_fields) == keys


def test_names_and_bits_come_back_through_a_model(command, place, save):
    place.write("same.yaml", json.dumps({**SMALL, **CONTEXT}))
    assert command("-export", save(), "onnx", "-trainable", "-out", "a/net").returncode == 0
    new = ("-newModel", "same.yaml", "-pretrained", "a/net.onnx", "-layers", "all", "-out", "N")
    assert command(*new).returncode == 0
    assert command("-export", "N.save", "onnx", "-trainable", "-out", "b/net").returncode == 0
    first = initialisers(place / "a/net.onnx")
    assert same_bits(first, initialisers(place / "b/net.onnx"))
    assert "normal.2.norm.running_mean" in first
    old, new = read_checkpoint(place / "M.save"), read_checkpoint(place / "N.save")
    assert all(torch.equal(old.weights[name], new.weights[name]) for name in old.weights)
    assert new.preparation == PREPARED
    assert not new.is_random


def test_names_and_bits_come_back_through_an_imported_pathway(command, place, save):
    model = save(subsampled=None)  # of which the geometry is known sooner
    assert command("-export", model, "onnx", "-trainable", "-out", "a/net").returncode == 0
    settings = {
        **SMALL,
        "normal": None,
        "subsampled": None,
        "imported": [{"file": "a/net.onnx", "output": "fc.1"}],
        "segments": {"train": 24},
    }
    place.write("imports.yaml", json.dumps(settings))
    assert command("-newModel", "imports.yaml", "-out", "N", "-quiet").returncode == 0
    assert command("-export", "N.save", "onnx", "-trainable", "-out", "b/net").returncode == 0
    first = initialisers(place / "a/net.onnx")
    second = initialisers(place / "b/net.onnx")
    inner = {
        name.removeprefix("imported1."): value
        for name, value in second.items()
        if name.startswith("imported1.")
    }
    assert same_bits({name: first[name] for name in inner}, inner)
    assert first.keys() - inner.keys() == {name for name in first if name.startswith("fc.2.")}


@pytest.mark.parametrize("options", [(), ("-trainable",)])
def test_a_network_of_another_program_goes_along(command, place, options):
    write_encoder(place / "net.onnx")
    place.write("model.yaml", IMPORTED_MODEL)
    assert command("-newModel", "model.yaml", "-out", "I", "-quiet").returncode == 0
    assert command("-export", "I.save", "onnx", "-out", "x/net", *options).returncode == 0
    weights = read_checkpoint(place / "I.save").weights
    written = initialisers(place / "x/net.onnx")
    names = [name for name in weights if name in written]
    assert [name for name in names if not np.array_equal(written[name], weights[name])] == []
    assert (set(names) == set(weights)) is bool(options)
    tiling = json.loads((place / "x/pipeline.json").read_text())["tiling"]
    assert (tiling["mirrored"], tiling["box_step"], tiling["windows"]) == (None, [2, 2, 2], None)


def test_safetensors_come_back_bit_for_bit(command, place, save, same_weights):
    place.write("same.yaml", json.dumps({**SMALL, **CONTEXT}))
    assert command("-export", save(), "safetensors").returncode == 0
    names = ("-classes", "lesion=a", "b=b")
    place.write(
        "other.yaml", json.dumps({**SMALL, **CONTEXT, "classes": ["background", "lesion", "b"]})
    )
    new = ("-pretrained", "M.safetensors", "-layers", "all", "-out")
    assert command("-newModel", "same.yaml", *new, "N").returncode == 0
    same_weights(place / "M.save", place / "N.save")
    model = read_checkpoint(place / "N.save")
    assert (model.preparation, model.is_random) == (PREPARED, False)
    result = command("-newModel", "other.yaml", *new, "O", *names)
    assert result.returncode == 0  # classes have their names in the file


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="context"),
        pytest.param(PADDED, id="padding"),
        pytest.param({"context_alignment": "deepmedic"}, id="DeepMedic's alignment"),
        pytest.param(
            {"preparation": PREPARED.model_copy(update={"resample": (1.3, 0.9, 1.9)})},
            id="finer and coarser voxels",
        ),
        pytest.param(
            {"preparation": PREPARED.model_copy(update={"resample": (0.5, 3.4, 2.0)})},
            id="voxels so coarse that images are smoothed",
        ),
    ],
)
def test_the_program_of_the_page_gives_the_labels_of_a_test(
    command, place, save, monkeypatch, changes
):
    model = save(**changes)
    size = ("-segment", "17,19,14")  # which predicts less than the image along every axis
    assert command("-export", model, "onnx", *size, "-out", "net/M.onnx").returncode == 0
    place.write("test.yaml", (place / "test.yaml").read_text() + "inference: {tiling: global}\n")
    assert command("-test", "test.yaml", "-model", model, "-dev", "cpu").returncode == 0
    (file,) = place.path.glob("runs/results/**/*Segm*.nii.gz")
    expected = nibabel.load(file)
    (program,) = (text for text in PROGRAMS if text.startswith('"""segment.py'))
    assert sum(bool(line.strip()) for line in program.splitlines()) <= 40
    place.write("segment.py", program)
    images = [f"data/d/{name}.nii.gz" for name in ("roi", "T1", "FLAIR")]
    monkeypatch.setattr(sys, "argv", ["segment.py", "net", "out.nii.gz", *images])
    runpy.run_path("segment.py")
    labels = nibabel.load("out.nii.gz")
    assert np.allclose(labels.affine, expected.affine)
    assert labels.get_data_dtype() == np.uint8
    equal = np.asarray(labels.dataobj) == np.asarray(expected.dataobj)
    assert equal.mean() >= 0.9999
    assert len(np.unique(np.asarray(labels.dataobj))) == 3


def test_exporters_of_torch_take_the_network(place, save):
    save()
    (program,) = (text for text in PROGRAMS if "torch.export.export" in text)
    program = program.replace(", dynamo=True", ", dynamo=True, verbose=False")
    names = {}
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        exec(compile(program, "page", "exec"), names)
    network = names["network"]
    rng = torch.Generator().manual_seed(2)
    images = [torch.randn(image.shape, generator=rng) for image in names["inputs"]]
    with torch.no_grad():
        expected = network(images)
        assert torch.allclose(names["program"].module()(images), expected, atol=1e-4)
    session = verification.inference_session(Path("mine.onnx").read_bytes())
    inputs = [entry.name for entry in session.get_inputs()]
    (scores,) = session.run(
        None, {name: image.numpy() for name, image in zip(inputs, images, strict=True)}
    )
    assert np.allclose(scores, expected.numpy(), atol=1e-4)


def test_a_folder_of_a_session_means_its_best_model(trained_here, command, place):
    best = read_checkpoint(place / "runs/training/models/best.save").weights
    result = command("-export", "runs/training", "safetensors", "-out", ".")
    assert (result.returncode, result.stdout) == (0, "written to best.safetensors\n")
    exported = load_file(place / "best.safetensors")
    assert exported.keys() == best.keys()
    assert [name for name in best if not torch.equal(exported[name], best[name])] == []


def test_the_same_from_python(place, save):
    # It predicts 13 x 13 x 21, of which whole steps are kept.
    path = deepseg.export(save(), "onnx", segment=(19, 17, 23), out="net", quiet=True)
    assert path == Path("net.onnx")
    assert json.loads((place / "pipeline.json").read_text())["tiling"]["tile"] == [12, 12, 20]


def test_what_a_model_does_not_know_is_told(command, place, save):
    assert command("-newModel", "model.yaml", "-out", "new").returncode == 0
    result = command("-export", "new.save", "onnx")
    assert result.warnings == [
        "WARNING new.save: these weights are random, nothing has been learnt"
    ]
    result = command("-export", save(preparation=None), "safetensors")
    assert result.warnings == ["WARNING M.save: the model does not say how its cases were prepared"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        pytest.param(
            ["M.save", "onxn"],
            "[export-kind] M.save: got the kind 'onxn'; expected onnx, safetensors or train-step; "
            "fix: name one of them; did you mean 'onnx'?",
            id="a misspelt kind",
        ),
        pytest.param(
            ["M.save", "tensorrt"],
            "[export-kind] M.save: got the kind 'tensorrt'; expected onnx, safetensors or "
            "train-step; fix: name one of them; did you mean 'onnx'?",
            id="a program that reads ONNX",
        ),
        pytest.param(
            ["M.save"],
            "[command-line] got -export M.save; expected -export MODEL KIND, the kind onnx, "
            "safetensors or train-step; fix: name one model and one kind; of an ensemble, export "
            "each model by itself",
            id="no kind",
        ),
        pytest.param(
            ["M.save", "N.save", "onnx"],
            "[command-line] got -export M.save N.save onnx; expected -export MODEL KIND, the kind "
            "onnx, safetensors or train-step; fix: name one model and one kind; of an ensemble, "
            "export each model by itself",
            id="an ensemble",
        ),
        pytest.param(
            ["M.save", "safetensors", "-trainable"],
            "[command-line] M.save: got -trainable with safetensors; expected -trainable with "
            "onnx; fix: remove -trainable",
            id="an option of another kind",
        ),
        pytest.param(
            ["M.save", "onnx", "-segment", "19", "0", "17"],
            "[command-line] got -segment 19 0 17; expected one number of voxels, or three; "
            "fix: correct it, such as -segment 25 or -segment 25,27,29",
            id="a segment of nothing",
        ),
        pytest.param(
            ["M.save", "onnx", "-segment", "19,17,2"],
            "[segment-too-small] M.save: got -segment of 19 x 17 x 2; expected at least 7 x 5 x 3, "
            "the receptive field; fix: enlarge the segment along Z or use fewer or smaller kernels",
            id="a segment that is too small",
        ),
        pytest.param(
            ["model.yaml", "onnx"],
            "[export-source] model.yaml: got a file of settings, which holds no weights; expected "
            "a .save, or the folder of a training session; fix: build and train the model first "
            "(-newModel, -train)",
            id="a model file",
        ),
        pytest.param(
            ["M.save", "onnx", "-out", "data/test.csv/net"],
            None,
            id="a folder that is a file",
        ),
    ],
)
def test_a_mistake_is_told_and_nothing_is_written(command, place, save, arguments, problem):
    save()
    before = place.files()
    result = command("-export", *arguments)
    assert result.returncode == (5 if problem is None else 2)
    if problem is not None:
        assert result.errors == [f"ERROR {problem}"]
    else:
        assert result.errors[0].startswith("ERROR [output-not-writable] data/test.csv/")
    assert place.files() == before


def test_nothing_is_written_over(command, place, save):
    place.write("M.onnx", "mine")
    place.write("pipeline.json", "mine too")
    result = command("-export", save(), "onnx")
    assert result.errors == [
        f"ERROR [file-exists] {name}: got a file that is there; expected a name that is free; "
        "fix: name another file with -out, in another folder for another model, or remove it"
        for name in ("M.onnx", "pipeline.json")
    ]
    assert (place / "M.onnx").read_text() == "mine"


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "safetensors"])
def test_a_missing_package_is_named(command, place, save, monkeypatch, package):
    save()
    before = place.files()
    kind = "safetensors" if package == "safetensors" else "onnx"
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    result = command("-export", "M.save", kind)
    (error,) = result.errors
    assert f"[{kind}-extra-missing] M.save: got no package {package}; expected the package" in error
    assert f"pip install 'deepseg-pathways[{kind}]'" in error
    assert place.files() == before


def test_a_network_that_computes_something_else_gets_no_name(command, place, save, monkeypatch):
    save()
    before = place.files()
    whole = onnx_export.network_graph

    def changed(network):
        exported = whole(network)
        weights = dict(exported.graph.weights)
        name = "sub1.2.conv.weight"
        weights[name] = weights[name].clone()
        weights[name][0, 0, 1, 1, 0] += 0.01
        return replace(exported, graph=replace(exported.graph, weights=weights))

    monkeypatch.setattr(onnx_export, "network_graph", changed)
    (error,) = command("-export", "M.save", "onnx").errors
    assert re.match(
        r"ERROR \[export-differs\] M.save: got scores that differ by \S+ of the largest one, for "
        r"an image of \d+ x \d+ x \d+ voxels in onnxruntime; expected those of torch, to 0.0001; ",
        error,
    )
    assert place.files() == before


def test_a_full_disk_leaves_neither_of_the_two_files(place, save, monkeypatch):
    def full(path, _content):
        raise OutputNotWritable

    monkeypatch.setattr(onnx_export, "write_bytes", full)
    save()
    before = place.files()
    with pytest.raises(OutputNotWritable):
        deepseg.export("M.save", "onnx", quiet=True)
    assert place.files() == before


def test_a_network_for_use_is_no_older_model(command, refused, place, save):
    place.write("same.yaml", json.dumps({**SMALL, **CONTEXT}))
    assert command("-export", save(), "onnx").returncode == 0
    assert refused("-newModel", "same.yaml", "-pretrained", "M.onnx", "-out", "N") == [
        "[export-not-trainable] M.onnx: got a network that was exported to be run, without "
        "-trainable: weights are folded together, and their names are lost; expected one with "
        "weights of its own for every layer; fix: export it again with -trainable, or use its .save"
    ]
