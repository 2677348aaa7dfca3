"""``folds`` in a train file: a session of sessions, from files to scores, and what goes wrong."""

import csv
import json
import shutil

import nibabel
import numpy as np
import pytest

import deepseg
from deepseg.commands import cross_validation
from deepseg.config.load import load
from deepseg.config.training import TrainConfig
from deepseg.errors import NumericalFailure, Problem
from deepseg.report.console import Console
from deepseg.report.progress import duration
from deepseg.sessions.planning.speed import Speed, folds_seconds
from deepseg.sessions.processes import fold_workers
from tests.commands.conftest import FILES, TRAIN, Place

NAMES = ("a", "b", "c", "d")
HEAD = f"case,{','.join(f'channel_{name}' for name in FILES[:2])},labels,roi\n"


def table(names):
    return HEAD + "".join(
        ",".join((name, *(f"{name}/{file}.nii.gz" for file in FILES))) + "\n" for name in names
    )


def train_file(place, **keys):
    text = TRAIN[: TRAIN.index("validation:")] + "epochs: 1\nsubepochs: 1\nworkers: 0\n"
    text = text.replace("name: training", "name: cv").replace("train.csv", "folds.csv")
    place.write("data/folds.csv", table(NAMES))
    settings = {"folds": 2, **keys}
    text += "".join(f"{key}: {value}\n" for key, value in settings.items() if value is not None)
    place.write("cv.yaml", text)


@pytest.fixture(scope="session")
def cross_validated(template, tmp_path_factory, begin):
    """A place in which two folds of four cases have come to their end."""
    folder = tmp_path_factory.mktemp("folds") / "place"
    shutil.copytree(template, folder)
    place = Place(folder)
    train_file(place)
    assert begin("-train", str(folder / "cv.yaml"), "-quiet") == 0
    return place


@pytest.fixture
def done(cross_validated, place):
    """The place of the test, with this cross-validation."""
    for name in ("data/folds.csv", "cv.yaml"):
        shutil.copy(cross_validated / name, place / name)
    shutil.copytree(cross_validated / "runs", place / "runs")
    return place


def split_of(place):
    return json.loads((place / "runs/cv/folds.json").read_text())["cases"]


def rows(file):
    return list(csv.reader(file.read_text().splitlines()))


def test_every_case_is_segmented_by_the_model_that_has_not_learnt_from_it(
    cross_validated, place, begin
):
    folds = split_of(cross_validated)
    assert sorted(folds) == list(NAMES)
    assert sorted(folds.values()) == [1, 1, 2, 2]
    pooled = json.loads((cross_validated / "runs/cv/cases.json").read_text())["cases"]
    assert {name: record["fold"] for name, record in pooled.items()} == folds
    name = next(name for name, fold in folds.items() if fold == 2)
    place.write("data/test.csv", table([name]))
    model = cross_validated / "runs/cv/fold-2/models/last.save"
    assert begin("-test", "test.yaml", "-model", str(model)) == 0
    alone = json.loads((place / "runs/results/cases.json").read_text())["cases"][name]
    assert pooled[name]["scores"] == alone["scores"]
    first, second = (
        np.asarray(nibabel.load(folder / record["files"][0]).dataobj)
        for folder, record in (
            (cross_validated / "runs/cv", pooled[name]),
            (place / "runs/results", alone),
        )
    )
    assert np.array_equal(first, second)
    learnt = deepseg.load(model).cohort
    assert learnt is not None
    assert len(learnt.images) == 2


def test_the_scores_are_those_of_all_cases_together(cross_validated):
    folder = cross_validated / "runs/cv"
    pooled = rows(folder / "cases.csv")
    parts = [rows(folder / f"fold-{n}/held_out/cases.csv") for n in (1, 2)]
    assert pooled[0] == parts[0][0]
    assert sorted(pooled[1:]) == sorted(parts[0][1:] + parts[1][1:])
    page = (folder / "report.html").read_text()
    assert "4 of 4 cases, each segmented by the model of its fold" in page
    assert 'href="fold-1/report.html"' in page
    assert all(f'id="case-{name}"' in page for name in NAMES)


def test_cases_are_prepared_once_for_all_folds(cross_validated):
    folder = cross_validated / "runs/cv"
    assert len(list(folder.glob("cache/*/case.json"))) == 4
    assert list(folder.glob("fold-*/cache")) == []


def test_the_same_command_finds_nothing_to_do(cross_validated, begin):
    def results():
        files = cross_validated.files()
        return {n: d for n, d in files.items() if n.endswith((".save", ".nii.gz", ".csv"))}

    before = results()
    assert begin("-train", str(cross_validated / "cv.yaml"), "-quiet") == 0
    assert results() == before
    log = (cross_validated / "runs/cv/fold-1/log.txt").read_text()
    assert "nothing is left to do; raise epochs to train on" in log


def test_new_cases_get_the_mean_of_all_folds(cross_validated, place, begin):
    folder = cross_validated / "runs/cv"
    place.edit("test.yaml", "pictures: false", "pictures: false\n  probabilities: [core]")
    assert begin("-test", "test.yaml", "-model", str(folder)) == 0
    file = place / "runs/results/predictions/d_ProbMapClass2.nii.gz"
    mean = np.asarray(nibabel.load(file).dataobj)
    single = []
    for number in (1, 2):
        place.write("test.yaml", (place / "test.yaml").read_text().replace("results", f"n{number}"))
        model = folder / f"fold-{number}"
        assert begin("-test", "test.yaml", "-model", str(model)) == 0
        place.write("test.yaml", (place / "test.yaml").read_text().replace(f"n{number}", "results"))
        file = place / f"runs/n{number}/predictions/d_ProbMapClass2.nii.gz"
        single.append(np.asarray(nibabel.load(file).dataobj))
    assert np.abs(mean - (single[0] + single[1]) / 2).max() < 1e-6
    assert np.abs(mean - single[0]).max() > 1e-4


def interrupted_at(monkeypatch, number, error):
    """Let the training of one fold end with ``error``."""
    train = cross_validation.train_session

    def training(session):
        if session.config.name == f"fold-{number}":
            raise error
        return train(session)

    monkeypatch.setattr(cross_validation, "train_session", training)


def test_parts_do_folds_of_their_own_and_an_interrupted_session_goes_on_to_the_same_models(
    cross_validated, place, begin, monkeypatch, same_weights
):
    train_file(place, report="false")
    assert begin("-train", "cv.yaml", "-part", "2/2", "-quiet") == 0
    assert [path.parent.name for path in place.path.glob("runs/cv/fold-*/models")] == ["fold-2"]
    assert {row[0] for row in rows(place / "runs/cv/cases.csv")[1:]} == {
        name for name, fold in split_of(place).items() if fold == 2
    }
    with monkeypatch.context() as patch:
        interrupted_at(patch, 1, KeyboardInterrupt())
        assert begin("-train", "cv.yaml", "-quiet") == 130
    assert begin("-train", "cv.yaml", "-quiet") == 0
    for fold in (1, 2):
        model = f"runs/cv/fold-{fold}/models/last.save"
        same_weights(place / model, cross_validated / model)
    assert rows(place / "runs/cv/cases.csv") == rows(cross_validated / "runs/cv/cases.csv")


def test_a_fold_that_fails_is_told_and_the_others_go_on(done, command, monkeypatch):
    problem = Problem("not-finite", "a loss that is nan", "finite values", "lower the rate")
    interrupted_at(monkeypatch, 1, NumericalFailure(problem))
    (done / "runs/cv/fold-1/outcome.json").unlink()
    result = command("-train", "cv.yaml")
    assert result.returncode == 3
    place = "HERE/runs/cv/fold-1"
    text = f"[not-finite] {place}: got a loss that is nan; expected finite values; fix: lower the "
    assert f"WARNING fold 1 failed: {text}rate; going on with the other folds" in result.warnings
    assert result.errors == [f"ERROR {text}rate"]
    assert "WARNING these are 2 of 4 cases: fold 1 of 2 not finished" in result.warnings
    assert {row[0] for row in rows(done / "runs/cv/cases.csv")[1:]} == {
        name for name, fold in split_of(done).items() if fold == 2
    }


def test_processes_of_one_machine_share_the_folds(done, begin, monkeypatch):
    commands = []

    def started(command, watched, console):
        commands.append((command, watched.title, watched.total, watched.done()))
        return [0, 0]

    monkeypatch.setattr(fold_workers, "run_parts", started)
    train = []
    monkeypatch.setattr("deepseg.cli.commands.train_model", lambda *_, **keys: train.append(keys))
    assert begin("-train", "cv.yaml", "-devices", "5", "-dev", "cpu") == 0
    (command, title, total, count) = commands[0]
    assert command.words == ("-train", "cv.yaml")
    assert (command.count, command.device) == (2, "cpu")
    assert (title, total, count) == ("epochs of 2 folds", 1, 0)
    assert train[0]["shard"] is None  # afterwards, this process collects the results


def test_other_cases_or_folds_are_refused(done, command):
    done.write("data/folds.csv", table(("a", "b", "c")))
    (done / "data/d").rename(done / "data/e")
    done.write("data/folds.csv", table(("a", "b", "c", "e")))
    done.edit("cv.yaml", "folds: 2", "folds: 3")
    result = command("-train", "cv.yaml")
    assert result.returncode == 2
    end = (
        "fix: take the change back to go on; or give the session another name, or remove the folder"
    )
    assert result.errors == [
        f"ERROR [folds-changed] HERE/runs/cv: got folds: 3; expected 2, as it began with; {end}",
        "ERROR [folds-changed] HERE/runs/cv: got other training cases; added: e; left out: d; "
        f"expected the 4 cases that were split into folds; {end}",
    ]


def test_a_session_stays_with_or_without_folds(done, trained_here, command):
    done.edit("cv.yaml", "folds: 2\n", "")
    (line,) = command("-train", "cv.yaml").errors
    assert line.startswith(
        "ERROR [folds-changed] HERE/runs/cv: got no folds for a session that began with some; "
    )
    done.write("train.yaml", (done / "train.yaml").read_text() + "folds: 2\n")
    (line,) = command("-train", "train.yaml").errors
    assert line.startswith(
        "ERROR [folds-changed] HERE/runs/training: got folds for a session that began without; "
    )


def test_a_part_of_a_session_without_folds_is_refused(refused):
    (line,) = refused("-train", "train.yaml", "-part", "1/2")
    assert line == (
        "[command-line] train.yaml: got -part 1/2 with -train of a file without folds; expected a "
        "train file with the key folds, whose sessions can be shared; fix: leave out -part; "
        "several processes train one model together with -devices N"
    )


def test_ranks_of_torchrun_are_refused(place, refused, monkeypatch):
    train_file(place)
    monkeypatch.setenv("WORLD_SIZE", "4")
    (line,) = refused("-train", "cv.yaml")
    assert line == (
        "[folds-ranks] cv.yaml: got 4 ranks of torchrun for a train file with folds; expected "
        "processes that do folds of their own; fix: share the folds with -devices N on one "
        "machine, or with -part I/N in jobs"
    )


def test_more_folds_than_patients_are_refused_by_a_check_too(place, refused):
    train_file(place, folds=3)
    text = (place / "data/folds.csv").read_text().splitlines()
    lines = [f"{line},{who}" for line, who in zip(text, ("patient", *"xxyy"), strict=True)]
    place.write("data/folds.csv", "\n".join(lines) + "\n")
    for command in ("-check", "-train"):
        (line,) = refused(command, "cv.yaml", session="cv")
        assert line == (
            "[folds-too-many] cv.yaml: got 3 folds for 4 cases of 2 patients; expected a patient "
            "for every fold; fix: lower folds to 2"
        )
    assert not (place / "runs").exists()


def test_unfinished_folds_segment_nothing(done, refused):
    (done / "runs/cv/fold-2/outcome.json").unlink()
    (line,) = refused("-test", "test.yaml", "-model", "runs/cv", session="results")
    assert line == (
        "[folds-unfinished] runs/cv: got fold 2 of 2 not finished; expected all folds; fix: give "
        "the command again that trains them; or name the models that are to be used, such as "
        "runs/cv/fold-1"
    )


def test_a_fold_with_fewer_epochs_than_others_is_unfinished(done, refused, command):
    file = done / "runs/cv/fold-1/outcome.json"
    record = json.loads(file.read_text())
    record["settings"]["epochs"] = 5  # as if all were to go on, and the first had
    file.write_text(json.dumps(record))
    (line,) = refused("-test", "test.yaml", "-model", "runs/cv", session="results")
    assert line.startswith("[folds-unfinished] runs/cv: got fold 2 of 2 not finished; ")
    first, *_ = command("-compare", "runs/cv", "runs/cv").errors
    assert first.startswith("ERROR [folds-unfinished] ")


def test_one_model_is_needed_to_begin_with_to_show_and_to_export(done, command):
    for words in (
        ("-train", "train.yaml", "-model", "runs/cv", "-resetOptimizer"),
        ("-show", "runs/cv"),
        ("-export", "runs/cv", "safetensors"),
        ("-newModel", "model.yaml", "-pretrained", "runs/cv"),
    ):
        result = command(*words)
        assert result.returncode == 2
        assert [line.split()[1] for line in result.errors] == ["[folds-model]"]


def test_a_start_that_has_learnt_from_the_cases_is_warned_of(place, model, command):
    train_file(place, report="false", epochs=None)
    result = command("-train", "cv.yaml", "-model", model, "-resetOptimizer", "-part", "2/9")
    text = (
        "WARNING cases that the model to begin with was trained on: a, b; their out-of-fold scores "
        "say nothing about new cases: begin with a model that has not learnt from them, or with "
        "-fromScratch"
    )
    assert text in result.warnings
    learnt = deepseg.load("runs/cv/fold-2").cohort.images
    started = deepseg.load(model).cohort.images
    assert set(started) < set(learnt)  # what it learnt before is not forgotten
    fresh = command("-train", "cv.yaml", "-model", model, "-fromScratch", "-part", "9/9")
    assert text not in fresh.warnings


def test_a_check_tells_the_time_of_all_folds(place, begin, capfd, monkeypatch):
    train_file(place)
    speed = Speed(100.0, 20.0, 3.0, 8.0, 0.5)
    monkeypatch.setattr("deepseg.commands.check.is_quick", lambda *_: False)
    monkeypatch.setattr("deepseg.commands.check.measured_speed", lambda *_: speed)
    assert begin("-check", "cv.yaml") == 0
    config = load(TrainConfig, place / "cv.yaml").config
    seconds = folds_seconds(config, speed, cases=4, held_out=0)
    assert f"2 folds take about {duration(seconds)} in all" in capfd.readouterr().out


def test_cross_validations_are_compared_by_all_held_out_cases(cross_validated, place, begin):
    first = cross_validated / "runs/cv"
    shutil.copytree(first, place / "runs/other")
    assert begin("-compare", str(first), "runs/other", "-out", "both") == 0
    record = json.loads((place / "both/comparison.json").read_text())
    scores = json.loads((first / "cases.json").read_text())["summary"]
    dice = [values["dice"]["mean"] for name, values in scores.items() if name != "foreground"]
    session = record["groups"][0]["sessions"][0]
    assert session["best"] == pytest.approx(sum(dice) / 2)
    table = csv.DictReader((place / "both/cases.csv").read_text().splitlines())
    assert {row["case"] for row in table} == set(NAMES)


def test_progress_of_folds_is_counted_from_their_logs(done, monkeypatch):
    calls = []
    monkeypatch.setattr(
        fold_workers, "run_parts", lambda _, watched, __: calls.append(watched.done()) or [2, 2]
    )
    config = load(TrainConfig, done / "cv.yaml").config
    log = done / "runs/cv/fold-1/metrics.jsonl"
    config = config.model_copy(update={"output": done / "runs"})
    console = Console(silent=True)
    fold_workers.share_folds(config, ["-train"], count=2, device="cpu", console=console)
    log.write_text(log.read_text() * 3)
    fold_workers.share_folds(config, ["-train"], count=2, device="cpu", console=console)
    assert calls == [0, 0]
    assert (done / "runs/cv").exists()  # though all were refused: it was there before
