"""Sessions as a Python caller meets them: build, train, continue, segment, show."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest
import torch

import deepseg
from deepseg.model.checkpoint import read_checkpoint

SHAPE = (20, 24, 18)

MODEL = """\
name: small
channels: [T1, FLAIR]
classes: [background, lesion]
normal: {feature_maps: [4, 5]}
subsampled: {factors: [3]}
fc: {feature_maps: [6], dropout: [0, 0.2]}
segments: {train: [11, 10, 9], inference: 16}
"""

TRAIN = """\
name: first
output: .
training:
  cases: {table: cases.csv}
  sampling: {type: foreground_background}
  segments_per_subepoch: 16
  batch_size: 4
  augmentation: {reflect: [0.5, 0, 0], affine: {probability: 0.5}}
validation:
  cases: {table: cases.csv}
  samples: {segments: 8}
  volumes: {every: 2}
epochs: 3
subepochs: 2
optimiser: {name: adam, learning_rate: 0.01}
schedule: {type: plateau, patience: 1}
checkpoints: {every: 2}
workers: 0
"""

TEST = """\
name: results
output: .
cases: {table: cases.csv}
groups: {everything: [1]}
save: {probabilities: true, feature_maps: {normal.2: [1, 3], sub*.1: all}}
"""


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    affine = np.array([[-2.0, 0, 0, 30], [0, 1.5, 0, -20], [0, 0.1, 3, 5], [0, 0, 0, 1]])
    rows = ["case,channel_T1,channel_FLAIR,labels,roi"]
    for name in ("anna", "bert"):
        labels = np.zeros(SHAPE, np.uint8)
        start = rng.integers(4, 9, 3)
        labels[tuple(slice(a, a + 6) for a in start)] = 1
        roi = np.zeros(SHAPE, np.uint8)
        roi[2:-2, 2:-2, 2:-2] = 1
        arrays = {
            "T1": rng.normal(100, 10, SHAPE).astype(np.float32),
            "FLAIR": (rng.normal(50, 5, SHAPE) + 40 * labels).astype(np.float32),
            "labels": labels,
            "roi": roi,
        }
        for kind, array in arrays.items():
            nib.save(nib.Nifti1Image(array, affine), tmp_path / f"{name}_{kind}.nii.gz")
        rows.append(",".join([name, *(f"{name}_{kind}.nii.gz" for kind in arrays)]))
    (tmp_path / "cases.csv").write_text("\n".join(rows))
    (tmp_path / "model.yaml").write_text(MODEL)
    (tmp_path / "train.yaml").write_text(TRAIN)
    (tmp_path / "test.yaml").write_text(TEST)
    return tmp_path


@pytest.fixture
def trained(folder):
    model = deepseg.new_model(str(folder / "model.yaml"), out=str(folder / "model.save"))
    train = str(folder / "train.yaml")
    return deepseg.train(train, model=str(model), device="cpu", quiet=True)


def weights(path):
    return read_checkpoint(path).weights


def test_a_session_trains_keeps_its_models_and_writes_down_every_epoch(folder, trained):
    session = folder / "first"
    assert trained == session / "models" / "last.save"
    assert {path.name for path in (session / "models").iterdir()} == {
        "last.save", "previous.save", "best.save", "epoch-0002.save",
    }  # fmt: skip
    records = [json.loads(line) for line in (session / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [0, 1, 2]
    assert [("validation_volumes" in record) for record in records] == [False, True, True]
    assert records[-1]["training"]["loss"] < records[0]["training"]["loss"]
    assert records[-1]["validation_volumes"]["dice"]["lesion"] > 0.5
    assert (session / "progress.png").stat().st_size > 0
    outcome = json.loads((session / "outcome.json").read_text())
    assert (outcome["exit_code"], outcome["errors"]) == (0, [])
    assert outcome["warnings"] == [
        "validation cases that are also trained on: anna, bert; their scores say nothing about new "
        "cases"
    ]


def test_the_model_remembers_how_its_cases_were_prepared(folder, trained):
    model = deepseg.load(trained)
    assert model.preparation.z_score.cutoff_percentiles is None
    assert model.spacing_mm == pytest.approx((2.0, (1.5**2 + 0.1**2) ** 0.5, 3.0))
    assert model.config.channels == ("T1", "FLAIR")
    assert model.training["epoch"] == 3
    logits = model.network().eval()([torch.zeros(1, 2, 11, 10, 9), torch.zeros(1, 2, 7, 6, 6)])
    assert tuple(logits.shape) == (1, 2, 7, 6, 5)


def test_more_epochs_continue_a_session_where_it_ended(folder, trained):
    longer = TRAIN.replace("epochs: 3\n", "epochs: 4\n").replace(
        "{type: plateau, patience: 1}", "{type: constant}"
    )
    (folder / "train.yaml").write_text(longer)
    deepseg.train(folder / "train.yaml", device="cpu", quiet=True)
    lines = (folder / "first" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1, 2, 3]


def test_an_interrupted_session_ends_as_if_nothing_had_happened(folder, trained):
    short = TRAIN.replace("epochs: 3\n", "epochs: 1\n").replace("name: first", "name: second")
    (folder / "again.yaml").write_text(short)
    model = folder / "model.save"
    deepseg.train(folder / "again.yaml", model=model, device="cpu", quiet=True)
    (folder / "again.yaml").write_text(short.replace("epochs: 1\n", "epochs: 3\n"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        again = deepseg.train(folder / "again.yaml", device="cpu", quiet=True)
    whole, continued = weights(trained), weights(again)
    assert whole.keys() == continued.keys()
    assert all(torch.equal(whole[name], continued[name]) for name in whole)


def test_a_damaged_newest_file_is_passed_over(folder, trained):
    trained.write_bytes(trained.read_bytes()[:-100])
    deepseg.train(folder / "train.yaml", device="cpu", quiet=True)
    outcome = json.loads((folder / "first" / "outcome.json").read_text())
    assert any("previous.save" in text for text in outcome["warnings"])
    assert read_checkpoint(trained).training["epoch"] == 3


def test_results_lie_on_the_grid_of_the_case_and_are_scored(folder, trained):
    results = deepseg.segment(folder / "test.yaml", model=trained, device="cpu", quiet=True)
    names = {path.name for path in (results / "predictions").iterdir()}
    assert {
        "anna_Segm.nii.gz", "anna_ProbMapClass0.nii.gz", "anna_ProbMapClass1.nii.gz",
        "anna_normal.2_fm1.nii.gz", "anna_normal.2_fm2.nii.gz", "anna_sub1.1_fm3.nii.gz",
        "anna.png",
    } <= names  # fmt: skip
    assert "anna_normal.2_fm3.nii.gz" not in names
    source = nib.load(folder / "anna_T1.nii.gz")
    result = nib.load(results / "predictions" / "anna_Segm.nii.gz")
    assert np.array_equal(result.affine, source.affine)
    assert result.get_data_dtype() == np.uint8
    maps = [
        np.asarray(nib.load(results / "predictions" / f"anna_ProbMapClass{c}.nii.gz").dataobj)
        for c in range(2)
    ]
    segmentation = np.asarray(result.dataobj)
    assert np.array_equal(segmentation, (maps[1] > maps[0]).astype(np.uint8))
    roi = np.asarray(nib.load(folder / "anna_roi.nii.gz").dataobj) > 0
    assert (segmentation[~roi] == 0).all()
    assert (maps[0][~roi] == 0).all()
    truth = np.asarray(nib.load(folder / "anna_labels.nii.gz").dataobj)
    dice = 2 * (segmentation * truth).sum() / (segmentation.sum() + truth.sum())
    with (results / "cases.csv").open() as file:
        rows = {(row["case"], row["class"]): row for row in csv.DictReader(file)}
    assert float(rows["anna", "lesion"]["dice"]) == pytest.approx(dice, rel=1e-5)
    assert rows["anna", "everything"]["dice"] == rows["anna", "lesion"]["dice"]
    voxel_ml = abs(np.linalg.det(source.affine[:3, :3])) / 1000
    expected = pytest.approx(segmentation.sum() * voxel_ml, rel=1e-4)
    assert float(rows["anna", "lesion"]["predicted_ml"]) == expected


def test_a_resampled_model_answers_on_the_grid_of_the_case(folder):
    settings = TRAIN.replace("name: first", "name: coarse") + "preparation: {resample: 2.5}\n"
    (folder / "train.yaml").write_text(settings.replace("epochs: 3\n", "epochs: 2\n"))
    model = deepseg.new_model(folder / "model.yaml", out=folder / "model.save")
    coarse = deepseg.train(folder / "train.yaml", model=model, device="cpu", quiet=True)
    assert read_checkpoint(coarse).spacing_mm == (2.5, 2.5, 2.5)
    results = deepseg.segment(folder / "test.yaml", model=coarse, device="cpu", quiet=True)
    source = nib.load(folder / "anna_T1.nii.gz")
    for kind in ("Segm", "ProbMapClass1", "normal.2_fm1"):
        result = nib.load(results / "predictions" / f"anna_{kind}.nii.gz")
        assert result.shape == source.shape
        assert np.array_equal(result.affine, source.affine)


def test_a_case_of_another_voxel_size_gives_a_warning(folder, trained):
    for kind in ("T1", "FLAIR", "labels", "roi"):
        image = nib.load(folder / f"bert_{kind}.nii.gz")
        wider = image.affine @ np.diag([1, 1, 1.2, 1])
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), wider), folder / f"bert_{kind}.nii.gz")
    results = deepseg.segment(folder / "test.yaml", model=trained, device="cpu", quiet=True)
    warnings = json.loads((results / "outcome.json").read_text())["warnings"]
    assert (
        "bert has voxels of 2 x 1.5 x 3.6 mm, the model learnt with 2 x 1.5 x 3 mm: expect a worse "
        "segmentation, or train with the key 'resample'"
    ) in warnings
    assert not any(text.startswith("anna has") for text in warnings)


def test_a_model_file_beside_a_save_in_the_config_only_describes_it(folder, trained):
    (folder / "test.yaml").write_text(TEST + f"model: {trained}\n")
    results = deepseg.segment(
        folder / "test.yaml", model=folder / "model.yaml", device="cpu", quiet=True
    )
    segmentation = results / "predictions" / "anna_Segm.nii.gz"
    content = segmentation.read_bytes()
    deepseg.segment(folder / "test.yaml", model=trained, device="cpu", quiet=True)
    assert segmentation.read_bytes() == content


def test_a_second_new_model_never_overwrites_the_first(folder, monkeypatch):
    (folder / "model.yaml").write_text(MODEL + "output: out\n")
    first, second = (deepseg.new_model(folder / "model.yaml", seed=s) for s in (1, 2))
    assert first == folder / "out" / "models" / "small.save"
    assert second == folder / "out" / "models" / "small-2.save"
    assert not torch.equal(weights(first)["fc.1.conv.weight"], weights(second)["fc.1.conv.weight"])


def test_frozen_layers_stay_bit_for_bit(folder):
    model = deepseg.new_model(folder / "model.yaml", out=folder / "model.save")
    (folder / "train.yaml").write_text(TRAIN + "freeze: {layers: [normal.1-2, fc.1]}\n")
    trained = deepseg.train(folder / "train.yaml", model=model, device="cpu", quiet=True)
    before, after = weights(model), weights(trained)
    for name, tensor in after.items():
        frozen = name.startswith(("normal.1.", "normal.2.", "fc.1."))
        assert torch.equal(tensor, before[name]) == frozen, name


def test_show_gives_the_contents_of_a_model_and_prints_nothing(trained, capsys):
    text = deepseg.show(trained)
    assert capsys.readouterr() == ("", "")
    for part in ("normal.2", "sub1.1", "fc.2", "head", "epochs finished", "T1, FLAIR", "z_score"):
        assert part in text


def test_check_finds_nothing_wrong_with_good_files(folder, capsys):
    for file in ("model.yaml", "train.yaml", "test.yaml"):
        report = deepseg.check(folder / file, model=folder / "model.yaml")
        assert report.problems == ()
        printed = capsys.readouterr().out
        tables, _, last = printed.rstrip("\n").rpartition("\n")
        count = len(report.warnings)
        verdict = "1 warning, nothing that stops it" if count else "nothing wrong"
        assert (count, last) == (file == "train.yaml", f"{folder / file}: {verdict}")
        assert report.text.startswith("network small: 2 channels (T1, FLAIR) → 2 classes")
        lines = [line for line in tables.splitlines() if not line.startswith("checking ")]
        assert report.text.splitlines() == lines


def test_check_lists_settings_and_data_problems_together(folder):
    bad = TRAIN.replace(
        "sampling: {type: foreground_background}",
        "sampling: {type: per_class, proportions: [1, 1, 1]}",
    )
    (folder / "train.yaml").write_text(bad)
    labels = nib.load(folder / "bert_labels.nii.gz")
    array = np.asarray(labels.dataobj) * 4
    nib.save(nib.Nifti1Image(array.astype(np.uint8), labels.affine), folder / "bert_labels.nii.gz")
    report = deepseg.check(folder / "train.yaml", model=folder / "model.yaml", quiet=True)
    assert report.text == ""
    codes = [problem.code for problem in report.problems]
    assert codes[0] == "list-length"
    assert codes.count("label-values") == 1  # the same file in training and in validation


def test_the_plateau_schedule_follows_the_scores_of_the_session(folder):
    still = TRAIN.replace("learning_rate: 0.01", "learning_rate: 1.0e-12")
    (folder / "train.yaml").write_text(still.replace("epochs: 3\n", "epochs: 4\n"))
    model = deepseg.new_model(folder / "model.yaml", out=folder / "model.save")
    deepseg.train(folder / "train.yaml", model=model, device="cpu", quiet=True)
    lines = (folder / "first" / "metrics.jsonl").read_text().splitlines()
    # the first score is the best there is; each of the others waits one epoch in vain
    rates = [json.loads(line)["learning_rate"] for line in lines]
    assert rates == [1e-12, 1e-12, 5e-13, 2.5e-13]
