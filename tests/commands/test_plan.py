"""Plans of every layout: the same files as stored ones, which sessions can load and run.

Run this file as a program, in the checkout, to store the files anew.
"""

import json
import re
from pathlib import Path

import pytest

import deepseg
from deepseg.config.load import load
from deepseg.config.testing import TestConfig
from deepseg.config.training import TrainConfig
from deepseg.data.cases.case import list_cases
from deepseg.report.progress import duration
from deepseg.sessions.planning.speed import Speed, training_seconds
from tests.sessions.planning.studies import STUDIES, machine, scan, store

STORED = Path(__file__).parents[1] / "sessions/planning/plans"
FILES = ("cases.csv", "model.yaml", "train.yaml", "test.yaml")


def planned(place: Path, name: str) -> Path:
    cases = STUDIES[name](place / "scans")
    return deepseg.plan(cases, minutes=5, speed=machine(place), out=place / "study", quiet=True)


@pytest.fixture(scope="module", params=STUDIES)
def study(request, tmp_path_factory):
    return planned(tmp_path_factory.mktemp(request.param), request.param)


def test_the_files_are_those_that_are_stored(study, request):
    name = request.node.callspec.params["study"]
    for file in FILES:
        assert (study / file).read_text() == (STORED / name / file).read_text(), file


def test_every_case_is_in_one_part_and_sessions_find_it(study):
    parts = json.loads((study / "plan.json").read_text())["split"]
    train = load(TrainConfig, study / "train.yaml").config
    test = load(TestConfig, study / "test.yaml").config
    assert train.validation is not None
    network = deepseg.check(study / "model.yaml", quiet=True).network
    result = {
        part: [case.name for case in list_cases(settings, network.channels)]
        for part, settings in {
            "training": train.training.cases,
            "validation": train.validation.cases,
            "test": test.cases,
        }.items()
    }
    assert sorted(n for names in result.values() for n in names) == sorted(parts)
    for part, names in result.items():
        assert names
        assert {parts[case] for case in names} == {part}


def test_all_sessions_of_a_patient_are_in_one_part(tmp_path):
    parts = json.loads((planned(tmp_path, "bids") / "plan.json").read_text())["split"]
    assert parts["sub-01_ses-a"] == parts["sub-01_ses-b"]
    assert sorted(set(parts.values())) == ["test", "training", "validation"]


@pytest.fixture
def scans(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    STUDIES["folders"](tmp_path / "scans")
    machine(tmp_path)
    return tmp_path


@pytest.fixture
def plan(begin, capfd):
    """Plan ``scans`` in five minutes; gives the exit code and what was said."""

    def planned(*words, speed=("-speed", "machine.json"), minutes="5", cases="scans"):
        code = begin("-plan", cases, *speed, "-minutes", minutes, *words)
        return code, capfd.readouterr()

    return planned


@pytest.fixture
def problem(plan):
    """The one line with which a plan is refused."""

    def refused(**options):
        code, message = plan(**options)
        (line,) = message.err.splitlines()
        assert code == 2
        return line.removeprefix("ERROR ")

    return refused


def test_a_plan_tells_its_facts_choices_and_time(scans, plan):
    code, message = plan("-out", "study")
    assert (code, message.err) == (0, "")
    lines = message.out.splitlines()
    assert "images                           flair, t1ce" in lines
    assert any(
        re.fullmatch(r"training takes about 4\.[5-8]\d* minutes in all", line) for line in lines
    )
    assert (
        "with folds: 3 in train.yaml, each training case is scored by a model that has not learnt "
        "from it, in 3 times the minutes"
    ) in lines
    assert lines[-1] == "next: -train study/train.yaml, then -test study/test.yaml"


def test_the_time_of_steps_can_be_measured_and_used_again(scans, monkeypatch):
    monkeypatch.setattr("deepseg.sessions.planning.speed.MEASURED_S", 0.2)
    first = deepseg.plan("scans", minutes=5, memory=8 * 10**9, out="a", quiet=True)
    again = deepseg.plan("scans", minutes=5, speed=first / "plan.json", out="b", quiet=True)
    assert json.loads((first / "plan.json").read_text())["machine"]["speed"]["step_s"] > 0
    for file in FILES:
        assert (first / file).read_text() == (again / file).read_text()


def test_twice_the_time_gives_about_twice_the_steps(scans):
    steps = []
    for minutes in (5, 10):
        out = deepseg.plan(
            "scans", minutes=minutes, speed="machine.json", out=f"s{minutes}", quiet=True
        )
        config = load(TrainConfig, out / "train.yaml").config
        steps.append(config.epochs * config.subepochs * config.training.segments_per_subepoch)
    assert 2 * steps[0] < steps[1] < 2.3 * steps[0]  # the start takes as long for both


def test_a_planned_study_is_trained_and_tested_without_an_edit(scans, begin, plan):
    fast = json.loads(Path("machine.json").read_text())
    fast["machine"]["memory_bytes"] = 100_000_000  # one segment a step
    fast["machine"]["speed"] |= {"step_s": 1.3, "start_s": 1, "case_s": 0.1}
    Path("machine.json").write_text(json.dumps(fast))
    assert plan(minutes="1.5")[0] == 0
    assert begin("-train", "study/train.yaml") == 0
    assert begin("-test", "study/test.yaml") == 0
    assert len((scans / "study/results/cases.csv").read_text().splitlines()) == 1 + 4


def test_a_check_tells_the_time_to_expect(scans, begin, plan, capfd, monkeypatch):
    monkeypatch.setattr("deepseg.commands.check.is_quick", lambda *_: False)
    monkeypatch.setattr(
        "deepseg.commands.check.measured_speed", lambda *_: Speed(1.0, 2.0, 0.5, 8.0, 0.5)
    )
    plan()
    capfd.readouterr()
    assert begin("-check", "study/train.yaml") == 0
    lines = capfd.readouterr().out.splitlines()
    config = load(TrainConfig, scans / "study/train.yaml").config
    seconds = training_seconds(config, Speed(1.0, 2.0, 0.5, 8.0, 0.5), cases=3, held_out=1)
    assert lines[-2] == (
        f"training takes about {duration(seconds)} in all on this machine: a step takes 1 s, "
        "a case 2 s"
    )


def test_a_study_that_is_there_is_never_written_over(scans, problem):
    (scans / "study").mkdir()
    assert problem() == (
        "[plan-study-exists] study: got a folder or file that is there already; expected a new "
        "folder for the study; fix: choose another one with -out, or remove this one"
    )
    assert list((scans / "study").iterdir()) == []


def test_without_labels_there_is_nothing_to_learn(scans, problem):
    for file in scans.rglob("*_seg.nii.gz"):
        file.unlink()
    assert problem() == (
        "[plan-labels] scans: got 5 cases in folders, none with labels; expected a segmentation "
        "for each case to learn from; fix: put it beside the images, with 'seg' or 'label' in its "
        "name, or list the cases in a table with a column labels"
    )


def test_two_cases_are_too_few(scans, problem):
    for number in (1, 2, 3):
        (scans / f"scans/Study_00{number}/Study_00{number}_seg.nii.gz").unlink()
    assert problem() == (
        "[plan-cases] scans: got 2 cases with labels; expected at least 3: to train, to "
        "validate and to test on; fix: add labelled cases, or write the settings files by hand"
    )


def test_cases_with_other_images_are_named(scans, problem):
    (scans / "scans/Study_002/Study_002_t1ce.nii.gz").rename(scans / "scans/Study_002/t2.nii.gz")
    assert problem() == (
        "[plan-files] scans/Study_002: got the images flair, t2; expected flair, t1ce, as in other "
        "cases; fix: complete or take out the case, or list the cases in a table with '-' where "
        "one lacks a channel"
    )


def test_two_files_of_labels_are_one_too_many(scans, problem):
    store(scans / "scans/Study_002/lesions.nii.gz", scan(1))
    assert problem().startswith(
        "[plan-files] scans/Study_002: got the labels Study_002_seg.nii.gz, lesions.nii.gz; "
        "expected one file of labels for a case"
    )


def test_a_file_that_cannot_be_read_is_named(scans, problem):
    file = scans / "scans/Study_003/Study_003_flair.nii.gz"
    file.write_bytes(file.read_bytes()[:2000])
    assert problem().split("]")[0] in ("[image-truncated", "[image-damaged")
    assert not (scans / "study").exists()


def test_labels_between_whole_numbers_are_refused(scans, problem):
    store(scans / "scans/Study_001/Study_001_seg.nii.gz", scan(1) / 7)
    assert problem().startswith("[labels-")


def test_labels_that_are_all_0_are_no_classes(scans, problem):
    for file in scans.rglob("*_seg.nii.gz"):
        store(file, scan(1).astype("uint8") * 0)
    assert problem() == (
        "[plan-labels] scans: got labels that are 0 everywhere in all 5 cases; expected a label "
        "above 0 for each class; fix: give the segmentations, not empty masks"
    )


def test_too_few_minutes_are_told_with_those_that_are_needed(scans, problem):
    assert problem(minutes="0.2") == (
        "[plan-minutes] scans: got 0.2 minutes, in which this machine takes 0 steps; expected at "
        "least 60 steps, for which 0.43 minutes are needed; fix: give -minutes 1"
    )
    assert not (scans / "study").exists()


def test_too_little_memory_is_told(scans, problem):
    line = problem(speed=("-memory", "2MB"))
    assert line.startswith("[plan-memory] scans: got 0.002 GB of memory; ")


@pytest.mark.parametrize(
    ("option", "word"),
    [("-memory", "much"), ("-memory", "0GB"), ("-minutes", "0"), ("-minutes", "soon")],
)
def test_words_that_are_no_sizes_or_minutes_are_refused(scans, begin, capfd, option, word):
    assert begin("-plan", "scans", option, word) == 2
    assert capfd.readouterr().err.startswith(f"ERROR [command-line] got {option} {word}; expected")


def test_a_folder_without_images_is_refused(scans, problem):
    (scans / "empty").mkdir()
    assert problem(cases="empty") == (
        "[plan-cases] empty: got no images; expected a table, a folder for each case, a "
        "dataset.json, or a BIDS tree; fix: correct the path, or list the cases in a table"
    )


def test_a_file_without_times_is_no_plan(scans, problem):
    Path("other.json").write_text("{}")
    line = problem(speed=("-speed", "other.json"))
    assert line.startswith("[plan-speed] other.json: got no file with the times of steps")


if __name__ == "__main__":
    import tempfile

    for study_name in STUDIES:
        with tempfile.TemporaryDirectory() as folder:
            written = planned(Path(folder), study_name)
            (STORED / study_name).mkdir(parents=True, exist_ok=True)
            for written_file in FILES:
                text = (written / written_file).read_text()
                (STORED / study_name / written_file).write_text(text)
