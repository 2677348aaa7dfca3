"""``-newModel -pretrained`` as typed: what is written, what is only shown, and what is refused."""

import json
import shutil

import nibabel
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from deepseg.storage.save_file import read_save

OLD = """\
name: old
output: runs
channels: [T1, FLAIR]
classes: [background, rim, core]
normal: {feature_maps: [3, 4, 5]}
subsampled: {factors: [3], feature_maps: [2, 3, 4]}
fc: {feature_maps: [6]}
segments: {train: 17}
"""
NEW = """\
name: new
output: runs
channels: [FLAIR, DWI]
classes: [background, rim]
normal: {feature_maps: [6, 7, 8, 9]}
subsampled: {factors: [3, 5], feature_maps: [4, 5, 6, 7]}
fc: {feature_maps: [10, 12]}
segments: {train: 25}
"""


@pytest.fixture
def old(place, command):
    """An older model A.save, and the description of a new one beside it."""
    place.write("A.yaml", OLD)
    place.write("B.yaml", NEW)
    assert command("-newModel", "A.yaml", "-out", "A.save").returncode == 0
    return read_save(place / "A.save").weights


def build(*options):
    return ("-newModel", "B.yaml", "-pretrained", "A.save", "-out", "B.save", *options)


def test_depths_of_the_older_model_fill_the_new_one(command, place, old):
    result = command(*build("-layers", "1", "2", "4"))
    assert (result.returncode, result.stderr) == (0, "")
    assert "weights from A.save (deepseg model)\n" in result.stdout
    assert "pathways: normal from normal, sub1 from sub1, sub2 from sub1" in result.stdout
    assert result.stdout.endswith("model written to B.save\n")
    actual = read_save(place / "B.save").weights
    first, kernel = old["normal.1.conv.weight"], actual["normal.1.conv.weight"]
    assert torch.equal(kernel[:3, 0], first[:, 1])  # FLAIR
    assert not kernel[:3, 1].any()  # DWI
    assert torch.equal(actual["sub2.2.conv.weight"][:3, :2], old["sub1.2.conv.weight"])
    assert torch.equal(actual["fc.1.conv.weight"][:6, :5], old["fc.1.conv.weight"][:, :5])
    assert torch.equal(actual["fc.1.conv.weight"][:6, 9:13], old["fc.1.conv.weight"][:, 5:])
    assert not torch.equal(actual["normal.3.conv.weight"][:5, :4], old["normal.3.conv.weight"])


def test_the_plan_lies_beside_the_model(command, place, old):
    assert command(*build("-layers", "1", "2", "4", "-seed", "3")).returncode == 0
    record = json.loads((place / "B.transfer.json").read_text("utf-8"))
    assert record["source"]["file"] == "A.save"
    assert record["rules"] == {"layers": ["1", "2", "4"]}
    save = read_save(place / "B.save")
    assert [row["tensor"] for row in record["tensors"]] == list(save.weights)
    assert save.provenance["initialised"] == "seed 3"
    assert save.provenance["sha256"] == record["source"]["sha256"] == place.files()["A.save"]


@pytest.mark.parametrize("out", [(), ("-out", "B.save")])
def test_a_dry_run_shows_the_same_plan_and_writes_nothing(command, place, old, out):
    asked = ("-newModel", "B.yaml", "-pretrained", "A.save", "-layers", "1", "2")
    before = place.files()
    dry = command(*asked, *out, "-dryRun")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert place.files() == before
    real = command(*asked, "-out", "C.save")
    assert real.stdout == dry.stdout + "model written to C.save\n"


def test_without_out_the_name_says_that_there_was_a_transfer(command, place, old):
    for _ in range(2):
        result = command("-newModel", "B.yaml", "-pretrained", "A.save", "-layers", "1")
        assert result.returncode == 0
    assert sorted(path.name for path in (place / "runs/models").iterdir()) == [
        "new.pretrained-2.save",
        "new.pretrained-2.transfer.json",
        "new.pretrained.save",
        "new.pretrained.transfer.json",
    ]


def test_every_option_reaches_the_plan(command, place, old):
    result = command(
        *build(
            "-layers",
            "1",
            "normal.2",
            "head",
            "-pathways",
            "sub2=normal",
            "sub1=sub1",
            "-channels",
            "DWI=copy:T1",
            "FLAIR=mean",
            "-classes",
            "rim=core",
            "-kernels",
            "centre",
            "-width",
            "overlap",
            "-depth",
            "by-name",
            "-map",
            "sub1.3=normal.3",
            "sub1.2=new",
        )
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads((place / "B.transfer.json").read_text("utf-8"))["rules"] == {
        "layers": ["1", "normal.2", "head"],
        "pathways": {"sub2": "normal", "sub1": "sub1"},
        "kernels": "centre",
        "channels": {"DWI": "copy:T1", "FLAIR": "mean"},
        "classes": {"rim": "core"},
        "layer_map": {"sub1.3": "normal.3", "sub1.2": "new"},
    }
    actual = read_save(place / "B.save").weights
    first = old["normal.1.conv.weight"]
    assert torch.equal(actual["normal.1.conv.weight"][:3, 1], first[:, 0])
    assert torch.allclose(actual["sub2.1.conv.weight"][:3, 0], first.mean(1))
    assert torch.equal(actual["fc.3.bias"][1], old["fc.2.bias"][2])


def test_a_checkpoint_of_lightning_gives_its_weights_and_runs_nothing(command, place, old):
    class Bomb:
        def __reduce__(self):
            return open, (str(place / "PWNED"), "w")

    state = {f"model.{name}": tensor for name, tensor in old.items()}
    content = {"epoch": 4, "state_dict": state, "hyper_parameters": {"net": Bomb()}}
    torch.save(content, place / "last.ckpt")
    result = command("-newModel", "A.yaml", "-pretrained", "last.ckpt", "-out", "B.save")
    assert (result.returncode, result.stderr) == (0, "")
    assert "weights from last.ckpt (torch state dict, entry state_dict)\n" in result.stdout
    assert "names are compared without 'model.' in front\n" in result.stdout
    new = read_save(place / "B.save").weights
    assert all(torch.equal(new[name], old[name]) for name in old if not name.startswith("fc.2."))
    assert not (place / "PWNED").exists()


def test_two_older_models_fill_one(command, place, old):
    assert command("-newModel", "A.yaml", "-out", "C.save", "-seed", "7").returncode == 0
    two = ("-newModel", "B.yaml", "-pretrained", "A.save", "C.save", "-layers", "1", "2")
    result = command(*two, "-pathways", "sub2=2:sub1", "-out", "B.save")
    assert (result.returncode, result.stderr) == (0, "")
    assert "weights from A.save (deepseg model)\n" in result.stdout
    assert "weights from C.save (deepseg model)\n" in result.stdout
    new, second = (read_save(place / name).weights for name in ("B.save", "C.save"))
    name = "1.conv.weight"
    assert torch.equal(new[f"normal.{name}"][:3, 0], old[f"normal.{name}"][:, 1])
    assert torch.equal(new[f"sub2.{name}"][:2, 0], second[f"sub1.{name}"][:, 1])
    record = json.loads((place / "B.transfer.json").read_text("utf-8"))
    assert [plan["source"]["file"] for plan in (*record["earlier"], record)] == ["A.save", "C.save"]


def test_a_spacing_is_one_number_or_three(command, place, old):
    record = torch.load(place / "A.save", weights_only=True)
    torch.save({**record, "spacing_mm": [3.0, 3.0, 3.0]}, place / "A.save")
    for words in (["1"], ["1", "1.0", "1"]):
        result = command(
            "-newModel",
            "B.yaml",
            "-pretrained",
            "A.save",
            "-layers",
            "1",
            "-dryRun",
            "-spacing",
            *words,
        )
        assert result.returncode == 0, result.stderr
        assert "pathways: normal from nothing, sub1 from normal, sub2 from nothing" in result.stdout


@pytest.mark.parametrize(("kept", "taken"), [(("best", "last"), "best"), (("last",), "last")])
def test_a_session_gives_its_best_model_or_else_its_last(command, place, old, kept, taken):
    models = place / "runs/session/models"
    models.mkdir(parents=True)
    for seed, name in enumerate(kept, 5):
        out = str(models / f"{name}.save")
        assert command("-newModel", "A.yaml", "-out", out, "-seed", str(seed)).returncode == 0
    result = command("-newModel", "A.yaml", "-pretrained", "runs/session", "-out", "B.save")
    assert (result.returncode, result.stderr) == (0, "")
    assert f"weights from runs/session/models/{taken}.save (deepseg model)" in result.stdout
    actual = read_save(place / "B.save").weights["normal.1.conv.weight"]
    assert torch.equal(actual, read_save(models / f"{taken}.save").weights["normal.1.conv.weight"])


def test_a_file_without_layers_says_what_it_skips(command, place, old):
    tensors = {f"module.{name}": tensor for name, tensor in old.items() if "norm" not in name}
    save_file({**tensors, "module.decoder": torch.ones(2)}, place / "A.safetensors")
    asked = ("-newModel", "A.yaml", "-pretrained", "A.safetensors")
    assert command(*asked, "-out", "B.save").returncode == 2
    result = command(*asked, "-out", "B.save", "-minMatch", "0.2")
    assert (result.returncode, result.stderr) == (0, "")
    assert "Skipping parameter decoder: not found in model\n" in result.stdout
    assert "Skipping parameter normal.2.norm.weight: not found in the source\n" in result.stdout
    actual = read_save(place / "B.save").weights
    assert torch.equal(actual["sub1.3.conv.weight"], old["sub1.3.conv.weight"])


TEST_OF = ("-test", "test.yaml", "-model")


def segmentation(command, place, model, session):
    """Labels and Dice of the test case; the session must have nothing to warn of."""
    place.write(f"{session}.yaml", (place / "test.yaml").read_text().replace("results", session))
    result = command("-test", f"{session}.yaml", "-model", model)
    assert (result.returncode, result.stderr) == (0, "")
    folder = place / f"runs/{session}"
    image = nibabel.load(folder / "predictions/d_Segm.nii.gz")
    record = json.loads((folder / "cases.json").read_text())["cases"]["d"]
    return np.asarray(image.dataobj), record["scores"]


WIDER = "normal: {feature_maps: [6, 8]}\nsubsampled: {factors: [3], feature_maps: [6, 8]}\n"


@pytest.fixture
def wider(place):
    """The description of a network of twice the width of model.yaml."""
    text = (place / "model.yaml").read_text()
    begin, end = text.index("normal:"), text.index("segments:")
    place.write("wider.yaml", text[:begin] + WIDER + text[end:])
    return "wider.yaml"


@pytest.mark.parametrize("width", ["overlap", "net2net"])
def test_a_filled_model_segments_as_the_older_one(command, place, model, wider, width):
    """All its layers are taken, so it must see its cases as the older one did."""
    description = "model.yaml" if width == "overlap" else wider
    fill = ("-newModel", description, "-pretrained", model, "-layers", "all", "-width", width)
    result = command(*fill, "-out", "B.save")
    assert (result.returncode, result.stderr) == (0, "")
    line = "cases are prepared as for the older model, whose first layers are taken over: "
    line += "z_score, orientation LSA\n"
    assert line in result.stdout
    old, old_scores = segmentation(command, place, model, "old")
    new, new_scores = segmentation(command, place, "B.save", "new")
    assert len(np.unique(old)) > 1
    if width == "overlap":
        assert np.array_equal(new, old)
        assert new_scores == old_scores
    else:  # the same to rounding
        assert (new != old).mean() < 1e-3
    assert new_scores["core"]["dice"] == pytest.approx(old_scores["core"]["dice"], abs=0.01)


def test_fine_tuning_a_filled_model_begins_where_the_older_one_stands(command, place, model, wider):
    """Through ``-resetOptimizer``, and in a comparison of both sessions."""
    fill = ("-newModel", wider, "-pretrained", model, "-layers", "all", "-width", "net2net")
    assert command(*fill, "-out", "B.save").returncode == 0
    text = (place / "train.yaml").read_text().replace("\nepochs: 2", "\nepochs: 1")
    text = text.replace("model: model.yaml\n", "")
    for name, start in (("old", model), ("new", "B.save")):
        place.write(f"{name}.yaml", text.replace("name: training", f"name: {name}"))
        place.edit(f"{name}.yaml", "every: 2", "every: 1")
        result = command("-train", f"{name}.yaml", "-model", start, "-resetOptimizer")
        assert (result.returncode, result.stderr) == (0, "")
    before = {
        name: json.loads((place / f"runs/{name}/metrics.jsonl").read_text().splitlines()[0])
        for name in ("old", "new")
    }
    assert before["new"]["epoch"] == -1
    for kind in ("validation_samples", "validation_volumes"):
        dice = before["old"][kind]["dice"]
        assert before["new"][kind]["dice"] == pytest.approx(dice, abs=0.01, nan_ok=True)
    assert command("-compare", "runs/old", "runs/new", "-out", "both").returncode == 0
    record = json.loads((place / "both/comparison.json").read_text())
    starts = [run["scores"]["0"] for group in record["groups"] for run in group["sessions"]]
    assert starts[1] == pytest.approx(starts[0], abs=0.01)


def test_a_model_that_no_case_has_formed_is_called_random(command, place, old):
    place.edit("A.yaml", "name: old", "name: copy")
    fill = ("-newModel", "A.yaml", "-pretrained", "A.save", "-layers", "all", "-out", "B.save")
    assert command(*fill).returncode == 0
    for name in ("A.save", "B.save"):
        result = command(*TEST_OF, name)
        assert f"WARNING {name}: these weights are random, nothing has been learnt" in (
            result.warnings
        )


def test_a_head_that_reads_other_maps_is_left_alone_as_a_whole(command, place, old):
    place.edit("A.yaml", "fc: {feature_maps: [6]}", "fc: {feature_maps: [6, 7]}")
    options = ("-layers", "1", "2", "3", "4", "head", "-out", "B.save", "-seed", "3")
    result = command("-newModel", "A.yaml", "-pretrained", "A.save", *options)
    assert (result.returncode, result.stderr) == (0, "")
    reason = "its inputs are other maps in the source"
    assert f"fc.3 {reason}" in " ".join(result.stdout.split())
    assert command("-newModel", "A.yaml", "-out", "C.save", "-seed", "3").returncode == 0
    new, start = (read_save(place / name).weights for name in ("B.save", "C.save"))
    assert torch.equal(new["fc.1.conv.weight"], old["fc.1.conv.weight"])
    assert all(torch.equal(new[n], start[n]) for n in new if n.startswith("fc.3."))


def test_a_head_alone_that_reads_other_maps_is_refused(refused, place, old):
    place.edit("A.yaml", "fc: {feature_maps: [6]}", "fc: {feature_maps: [6, 7]}")
    options = ("-layers", "head", "-out", "B.save")
    assert refused("-newModel", "A.yaml", "-pretrained", "A.save", *options) == [
        "[nothing-taken] A.save: got no tensor to take over (its inputs are other maps in the "
        "source); expected at least one; fix: choose other layers, or another older model"
    ]


PAIR = "expected NEW=OLD, every NEW once; fix: correct the pair"
MM = "expected one number of mm, or three, above 0; fix: correct it"
SHARE = "expected a share between 0 and 1; fix: choose another number"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("-pathways", "sub2"), f"got -pathways sub2; {PAIR}"),
        (("-channels", "DWI=FLAIR", "T1="), f"got -channels T1=; {PAIR}"),
        (("-classes", "=rim"), f"got -classes =rim; {PAIR}"),
        (("-classes", "rim=core", "rim=rim"), f"got -classes rim=rim; {PAIR}"),
        (("-spacing", "2", "2"), f"got -spacing 2 2; {MM}"),
        (("-spacing", "0"), f"got -spacing 0; {MM}"),
        (("-spacing", "1", "two", "1"), f"got -spacing 1 two 1; {MM}"),
        (("-spacing", "inf"), f"got -spacing inf; {MM}"),
        (("-minMatch", "1.5"), f"got -minMatch 1.5; {SHARE}"),
        (("-minMatch", "half"), f"got -minMatch half; {SHARE}"),
        (("-minMatch", "nan"), f"got -minMatch nan; {SHARE}"),
        (
            ("-layers",),
            "got argument -layers: expected at least one argument; expected options as in "
            "deepseg -help; fix: look at the examples of deepseg -help",
        ),
        (
            ("-layers", "1", "-layers", "2"),
            "got -layers 2 times; expected every option once; fix: remove the others",
        ),
    ],
)
def test_words_that_make_no_sense_are_refused(refused, old, options, problem):
    assert refused(*build(*options)) == [f"[command-line] {problem}"]


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("layers", ("1",)),
        ("pathways", ("a=b",)),
        ("spacing", ("1",)),
        ("width", ("net2net",)),
        ("kernels", ("centre",)),
        ("depth", ("identity",)),
        ("channels", ("a=b",)),
        ("classes", ("a=b",)),
        ("map", ("a=b",)),
        ("minMatch", ("0.5",)),
        ("dryRun", ()),
    ],
)
def test_options_of_a_transfer_mean_nothing_without_one(refused, place, option, values):
    assert refused("-newModel", "model.yaml", f"-{option}", *values) == [
        f"[command-line] got -{option} alone; expected -{option} with -pretrained; fix: add "
        "-pretrained FILE"
    ]
    assert refused("-train", "train.yaml", f"-{option}", *values) == [
        f"[command-line] got -{option} with -train; expected -{option} with -newModel; fix: remove "
        f"-{option}"
    ]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            (),
            "[source-too-short] A.save: got an older model without layers for normal.4, sub1.4, "
            "sub2.4, fc.2; expected at least as many layers as in the new model, in every pathway; "
            "fix: name the layers to take over with -layers, or add -depth first-common, or -depth "
            "identity",
        ),
        (
            ("-layers", "6"),
            "[layer-unknown] A.save: got -layers 6; expected depths of the older model, 1 to 5; "
            "fix: look at its depths with -show",
        ),
        (
            ("-layers", "1", "-width", "net2net"),
            "[transfer-rules] got -layers 1 with -width net2net; expected all layers, without "
            "which the function cannot be kept; fix: leave one of the options out",
        ),
        (
            ("-layers", "1", "-spacing", "2"),
            "[spacing-unknown] A.save: got an older model that has not been trained, or does not "
            "say at which spacing; expected -spacing with a model that knows its own; fix: name "
            "the pathways instead, such as -pathways sub1=normal",
        ),
        (
            ("-layers", "1", "-channels", "DWI=FLARE"),
            "[channel-unknown] A.save: got -channels DWI=FLARE; expected one of T1, FLAIR, zero, "
            "mean, random, share; fix: name a channel of the older model; did you mean 'FLAIR'?",
        ),
    ],
)
def test_a_transfer_that_cannot_be_is_refused_and_leaves_nothing(refused, old, options, problem):
    assert refused(*build(*options)) == [problem]
    assert refused(*build(*options, "-dryRun")) == [problem]


def spoilt(place, change):
    record = torch.load(place / "A.save", weights_only=True)
    change(record["weights"])
    torch.save(record, place / "A.save")


def test_numbers_that_are_none_are_refused_where_they_would_be_taken(command, refused, place, old):
    spoilt(place, lambda weights: weights["fc.1.conv.weight"].fill_(torch.inf))
    assert refused(*build("-layers", "1", "4")) == [
        "[weights-not-finite] A.save: got infinite or undefined numbers in fc.1.conv.weight; "
        "expected finite numbers; fix: use an earlier file of the same session"
    ]
    assert command(*build("-layers", "1")).returncode == 0


def test_an_older_model_whose_weights_are_not_its_own_is_refused(refused, place, old):
    spoilt(place, lambda weights: weights.pop("normal.2.norm.bias"))
    assert refused(*build("-layers", "1")) == [
        "[weights-do-not-fit] A.save: got no normal.2.norm.bias; expected shape (3,); "
        "fix: use the file that belongs to this model"
    ]


def test_a_transfer_never_writes_over_a_model(command, refused, place, old):
    shutil.copy(place / "A.save", place / "B.save")
    assert refused(*build("-layers", "1")) == [
        "[file-exists] B.save: got a file that is there; expected a name that is free; fix: choose "
        "another -out, or remove the file"
    ]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("none.save", "model-missing"),
        ("none", "model-missing"),
        ("none.pt", "tensors-missing"),
        ("none.safetensors", "tensors-missing"),
        ("none.ckpt", "tensors-missing"),
    ],
)
def test_an_older_model_that_is_not_there_is_refused(refused, place, old, name, code):
    (result,) = refused("-newModel", "B.yaml", "-pretrained", name)
    assert result.startswith(f"[{code}] {name}: got ")


def test_a_process_of_its_own_ends_with_the_same_code(run, old):
    assert run(*build()).returncode == 2
