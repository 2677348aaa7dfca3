"""The Python on the pages runs as it stands, in a folder with the files of which it speaks."""

import re
import shutil

import nibabel
import numpy as np
import pytest
import torch

import deepseg
from deepseg.config.load import load
from deepseg.config.testing import TestConfig
from deepseg.config.training import TrainConfig
from tests.commands.conftest import CHECKOUT, MODEL, TRAIN
from tests.sessions.planning.studies import STUDIES, machine

PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "documentation").glob("*.md"))]
ELSEWHERE = {
    "pipelines.md": "tests/commands/test_export.py",
    "python.md": "tests/commands/test_python.py",
}
LESIONS = MODEL.replace("[background, rim, core]", "[background, lesion]").replace(
    "feature_maps: [3, 4]", "feature_maps: [2, 2, 2, 2]"
)
TRAINING = TRAIN.replace("epochs: 2", "epochs: 1").replace("every: 2", "every: 1")
TRAINING = TRAINING.replace("train.csv", "train.csv\n    label_map: {2: 1}").replace(
    "validation.csv", "validation.csv\n    label_map: {2: 1}"
)


def programs():
    for page in PAGES:
        for number, block in enumerate(
            re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
        ):
            if page.name not in ELSEWHERE:
                yield pytest.param(block, id=f"{page.name} {number}")


@pytest.fixture(scope="module")
def files(template, tmp_path_factory):
    """Models A and B, sessions, a study's scans, and one patient's files."""
    folder = tmp_path_factory.mktemp("pages") / "place"
    shutil.copytree(template, folder)
    (folder / "model.yaml").write_text(LESIONS.replace("train: 9", "train: 15"))
    (folder / "train.yaml").write_text(TRAINING)
    test = (folder / "test.yaml").read_text()
    (folder / "test.yaml").write_text(test.replace("test.csv", "test.csv\n  label_map: {2: 1}"))
    wider = (folder / "model.yaml").read_text().replace("[T1, FLAIR]", "[T1, FLAIR, DWI]")
    (folder / "B.yaml").write_text(wider)
    scratch = TRAINING.replace("name: training", "name: scratch")
    (folder / "scratch.yaml").write_text(scratch)
    trained = deepseg.train(folder / "scratch.yaml", quiet=True)
    (folder / "runs/NAME/models").mkdir(parents=True)
    for name in ("A.save", "B.save", "runs/NAME/models/best.save"):
        shutil.copy(trained, folder / name)
    transferred = scratch.replace("name: scratch", "name: transferred")
    (folder / "transferred.yaml").write_text(transferred.replace("model.yaml", "A.save"))
    names = {"T1": "t1", "FLAIR": "flair", "labels": "lesions", "roi": "brain"}
    (folder / "anna").mkdir()
    for name, file_name in names.items():
        shutil.copy(folder / f"data/d/{name}.nii.gz", folder / f"anna/{file_name}.nii.gz")
    STUDIES["folders"](folder / "scans")
    return folder


@pytest.mark.parametrize("program", list(programs()))
def test_python_on_a_page_runs(program, files, tmp_path, monkeypatch):
    place = tmp_path / "place"
    shutil.copytree(files, place)
    monkeypatch.chdir(place)
    paths = ("anna/t1.nii.gz", "anna/flair.nii.gz")
    array = np.stack([np.asarray(nibabel.load(path).dataobj) for path in paths])
    image = nibabel.load("anna/brain.nii.gz")
    settings = {"array": array, "affine": image.affine, "brain": np.asarray(image.dataobj)}
    if 'out="B.save"' in program:
        (place / "B.save").unlink()
    with torch.random.fork_rng():  # a user's program may draw from torch's generator
        exec(compile(program, "page", "exec"), settings)


@pytest.mark.parametrize("page", ["README.md", "documentation/getting_started.md"])
def test_results_of_a_planned_study_lie_where_the_page_says(page, tmp_path):
    scans = STUDIES["folders"](tmp_path / "scans")
    study = deepseg.plan(
        scans, minutes=15, speed=machine(tmp_path), out=tmp_path / "study", quiet=True
    )
    train, test = load(TrainConfig, study / "train.yaml"), load(TestConfig, study / "test.yaml")
    sessions = {train.config.name, test.config.name}
    text = (CHECKOUT / page).read_text("utf-8")
    named = set(re.findall(r"study/(\w+)/(?:report.html|predictions)|study/(\w+) T1=", text))
    assert {name for pair in named for name in pair if name} <= sessions
    assert named
