"""Files with names of results that others wrote or changed: set aside, and nothing half trusted."""

import gzip

import nibabel
import numpy as np
import pytest

TEST = ("-test", "test.yaml", "-model", "M.save")
RESULT = "predictions/d_Segm.nii.gz"


def aside(*files):
    return (
        "WARNING [result-changed] got files with names of results that this session did not write "
        "as they are; expected its own results; fix: look at them where they are kept: "
        f"{', '.join(f'HERE/runs/results/{file}' for file in files)}\n"
    )


@pytest.fixture
def results(place, model):
    return place / "runs/results"


def test_a_file_of_the_user_with_the_name_of_a_result_is_set_aside(command, results):
    (results / "predictions").mkdir(parents=True)
    (results / RESULT).write_text("mine")
    (results / "cases.csv").write_text("mine too")
    result = command(*TEST)
    assert (result.returncode, result.stderr) == (
        0,
        aside("set_aside/d_Segm.nii.gz") + aside("set_aside/cases.csv"),
    )
    assert (results / "set_aside/d_Segm.nii.gz").read_text() == "mine"
    assert (results / "set_aside/cases.csv").read_text() == "mine too"
    assert nibabel.load(results / RESULT).shape == (24, 22, 20)
    again = command(*TEST)
    assert (again.returncode, again.stderr) == (0, "")


def corrected(content):
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(content))
    voxels = np.asarray(image.dataobj).copy()
    voxels[3, 2, 1] = 2
    return gzip.compress(nibabel.Nifti1Image(voxels, image.affine, image.header).to_bytes())


@pytest.mark.parametrize("change", [corrected, lambda content: content[: len(content) // 2]])
@pytest.mark.parametrize("settings", ["same settings", "other settings"])
def test_a_result_that_was_changed_is_computed_again_and_kept(
    command, place, results, change, settings
):
    assert command(*TEST).returncode == 0
    before = (results / RESULT).read_bytes()
    place.damage(f"runs/results/{RESULT}", change)
    changed = (results / RESULT).read_bytes()
    if settings == "other settings":
        place.edit("test.yaml", "save:", "groups: {whole: [1, 2]}\nsave:")
    again = command(*TEST)
    assert (again.returncode, again.stderr) == (0, aside("set_aside/d_Segm.nii.gz"))
    assert (results / RESULT).read_bytes() == before
    assert (results / "set_aside/d_Segm.nii.gz").read_bytes() == changed


def test_a_table_that_was_corrected_is_kept(command, results):
    assert command(*TEST).returncode == 0
    before = (results / "cases.csv").read_text()
    (results / "cases.csv").write_text(before + "my remark\n")
    again = command(*TEST)
    assert (again.returncode, again.stderr) == (0, aside("set_aside/cases.csv"))
    assert (results / "cases.csv").read_text() == before
    assert (results / "set_aside/cases.csv").read_text() == before + "my remark\n"


def test_a_volume_of_the_user_is_not_lost_to_validation(command, place):
    place.edit("train.yaml", "    every: 2", "    every: 1\n    save: {segmentation: true}")
    predictions = place / "runs/training/predictions"
    predictions.mkdir(parents=True)
    (predictions / "c_Segm.nii.gz").write_text("mine")
    result = command("-train", "train.yaml")
    (warning,) = result.warnings
    assert result.returncode == 0
    assert warning.endswith("are kept: HERE/runs/training/set_aside/c_Segm.nii.gz")
    assert (place / "runs/training/set_aside/c_Segm.nii.gz").read_text() == "mine"


def test_a_transfer_plan_of_another_name_is_not_written_over(refused, place, model):
    place.write("B.transfer.json", "mine")
    arguments = ("-newModel", "model.yaml", "-pretrained", model, "-out", "B.save")
    assert refused(*arguments) == [
        "[file-exists] B.transfer.json: got a file that is there; expected a name that is free; "
        "fix: choose another -out, or remove the file"
    ]


def test_records_and_curves_of_the_user_are_not_lost_to_training(command, place):
    session = place / "runs/training"
    session.mkdir(parents=True)
    for name in ("progress.png", "metrics.jsonl", "outcome.json"):
        (session / name).write_text(f"my {name}")
    result = command("-train", "train.yaml")
    assert result.returncode == 0
    outcome, rest = result.warnings
    assert outcome.endswith("are kept: HERE/runs/training/set_aside/outcome.json")
    aside = [f"HERE/runs/training/set_aside/{name}" for name in ("metrics.jsonl", "progress.png")]
    assert rest.endswith(f"are kept: {', '.join(aside)}")
    for name in ("progress.png", "metrics.jsonl", "outcome.json"):
        assert (session / "set_aside" / name).read_text() == f"my {name}"
    place.edit("train.yaml", "\nepochs: 2", "\nepochs: 3")
    again = command("-train", "train.yaml")
    assert again.stderr == "WARNING epochs changed since the last epoch: 2 → 3\n"


def test_a_table_of_the_user_is_not_lost_to_a_comparison(command, place, trained_here):
    place.edit("train.yaml", "name: training", "name: other")
    place.edit("train.yaml", "epochs: 2", "epochs: 1")
    out = place / "runs/comparison"
    out.mkdir()
    (out / "comparison.csv").write_text("mine")
    result = command("-compare", "runs/training", "train.yaml", "-out", "runs/comparison")
    assert result.returncode == 0, result.stderr
    assert result.warnings[-1].endswith("kept: runs/comparison/set_aside/comparison.csv")
    assert (out / "set_aside/comparison.csv").read_text() == "mine"
    again = command("-compare", "runs/training", "runs/other", "-out", "runs/comparison")
    assert (again.returncode, again.warnings) == (0, result.warnings[:-1])
