"""Comparing sessions: prepared folders, and what training is asked to do for train files."""

import json
import sys
from pathlib import Path

import pytest
import torch

import deepseg
from deepseg.commands.check import CheckReport
from deepseg.config.blocks.freezing import Freeze
from deepseg.config.load import load
from deepseg.config.model import ModelConfig
from deepseg.config.training import TrainConfig
from deepseg.errors import DeepsegError
from deepseg.sessions.folder import SessionFolder
from deepseg.storage.save_file import SaveFile, write_save

MODEL = """\
name: small
channels: [T1]
classes: [background, rim, core]
normal: {feature_maps: [3]}
segments: {train: 5}
"""

TRAIN = """\
name: NAME
output: runs
model: model.yaml
training:
  cases: {table: train.csv}
  segments_per_subepoch: 9
  batch_size: 4
validation:
  cases: {table: validation.csv}
  volumes: {every: 2}
epochs: 4
subepochs: 3
"""

FILES = [
    ".written",
    *("cases.csv", "classes.csv", "classes.tex", "comparison.csv", "comparison.json"),
    *("comparison.pdf", "comparison.png", "comparison.svg", "differences.csv", "differences.tex"),
    *("report.html", "sessions.csv", "sessions.tex"),
]
FROZEN = Freeze(layers=("normal",)).model_dump(mode="json")
PICTURES = {"comparison.pdf", "comparison.png", "comparison.svg"}
NOTHING_WRONG = CheckReport(problems=(), warnings=(), text="")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.yaml").write_text(MODEL)
    return tmp_path


def settings(name="a", **changed):
    """The settings of a train file, as a model file keeps them."""
    file = Path(f"{name}.yaml")
    file.write_text(TRAIN.replace("NAME", name))
    config = load(TrainConfig, file).config
    return {**config.model_dump(mode="json"), **changed}


def record(epoch, volumes=None, samples=None, cases=None):
    dice = {"foreground": 0.99, "rim": None, "core": None}
    new = {"epoch": epoch, "seconds": 2.5}
    if volumes is not None:
        new["validation_volumes"] = {"dice": {**dice, "rim": volumes, "core": volumes}}
    if cases is not None:
        new["validation_volumes"]["cases"] = cases
    if samples is not None:
        new["validation_samples"] = {"dice": {**dice, "core": samples}}
    return new


def session(here, folder, records, *, model=MODEL, **changed):
    """A folder as `deepseg.train` leaves it; gives its path from here."""
    (here / "other.yaml").write_text(model)
    network = load(ModelConfig, here / "other.yaml").config.model_dump(mode="json")
    training = {"settings": settings(**changed)}
    save = SaveFile(model=network, weights={"w": torch.zeros(1)}, training=training)
    write_save(here / "runs" / folder / "models" / "last.save", save)
    lines = "".join(json.dumps(item) + "\n" for item in records)
    (here / "runs" / folder / "metrics.jsonl").write_text(lines)
    return f"runs/{folder}"


def on_volumes(*scores):
    """Judged every second epoch."""
    return [
        item
        for number, score in enumerate(scores)
        for item in (record(2 * number, samples=0.9), record(2 * number + 1, score, 0.9))
    ]


def compared(folder):
    return json.loads((folder / "comparison.json").read_text())


@pytest.fixture
def two(here):
    return [
        session(here, "scratch", on_volumes(0.25, 0.375)),
        session(here, "transferred", on_volumes(0.5, 0.75), seed=3),
    ]


def test_two_sessions_by_the_score_of_their_best_models(two, here, capsys):
    out = deepseg.compare(two)
    assert out.resolve() == here / "runs" / "comparison"
    assert sorted(file.name for file in out.iterdir()) == FILES
    result = compared(out)
    assert result["metric"] == "Dice on whole volumes, mean of the foreground classes"
    assert result["reach"] == 0.375
    assert [group["name"] for group in result["groups"]] == ["scratch", "transferred"]
    assert [group["best"]["mean"] for group in result["groups"]] == [0.375, 0.75]
    (first,) = result["groups"][0]["sessions"]
    assert first["scores"] == {"2": 0.25, "4": 0.375}
    assert (first["epochs"], first["steps_per_epoch"], first["seconds"]) == (4, 9, 10.0)
    assert (first["folder"], first["epochs_to_reach"]) == ("runs/scratch", 4)
    message = capsys.readouterr()
    assert message.err == ""
    assert message.out == (
        "compared: scratch and transferred: no setting differs\n"
        "Dice on whole volumes, mean of the foreground classes\n"
        "session              seeds  start   best   last  reached  epochs  steps  s/epoch\n"
        "--------------------------------------------------------------------------------\n"
        "scratch, seed 0          1  -      0.375  0.375        4       4      9      2.5\n"
        "transferred, seed 3      1  -      0.750  0.750        2       4      9      2.5\n"
        "Dice of the best epoch by class\n"
        "session      class        Dice  cases  seeds\n"
        "--------------------------------------------\n"
        "scratch      foreground  0.990  -          1\n"
        "scratch      rim         0.375  -          1\n"
        "scratch      core        0.375  -          1\n"
        "transferred  foreground  0.990  -          1\n"
        "transferred  rim         0.750  -          1\n"
        "transferred  core        0.750  -          1\n"
        "reached: the first epoch with at least 0.375\n"
        "comparison in runs/comparison: report.html; comparison.png, .pdf, .svg, .json, .csv; "
        "tables as .csv and .tex\n"
    )
    page = (here / "runs/comparison/report.html").read_text("utf-8")
    for heading in ("Curves", "Sessions", "Classes", "What differs"):
        assert f"<h2>{heading}</h2>" in page
    assert "<td>transferred</td><td>rim</td><td>0.750</td>" in page
    assert "<svg" in page


def test_seeds_are_one_group_whatever_their_order(two, here, capsys):
    names = ("scratch-seed2", "transferred-scratch-seed1", "scratch-seed1")
    folders = [
        session(here, name, on_volumes(0.5, score), seed=seed)
        for name, score, seed in zip(names, (0.25, 0.5, 1.0), (2, 1, 1), strict=True)
    ]
    result = compared(deepseg.compare([*two, *folders], out="elsewhere"))
    assert [
        (group["name"], [(item["seed"], item["best"]) for item in group["sessions"]])
        for group in result["groups"]
    ] == [
        ("scratch", [(0, 0.375), (1, 1.0), (2, 0.5)]),
        ("transferred", [(3, 0.75)]),
        ("transferred-scratch", [(1, 0.5)]),
    ]
    assert capsys.readouterr().err == ""


def test_sessions_of_one_name_in_two_places_are_two_groups(here):
    folders = [session(here, f"{place}/lesions", on_volumes(0.5)) for place in "ab"]
    names = [group["name"] for group in compared(deepseg.compare(folders))["groups"]]
    assert names == [str(here / "runs" / place / "lesions") for place in "ab"]


def test_a_score_to_reach_can_be_given(two):
    result = compared(deepseg.compare(two, reach=0.5))
    epochs = [group["epochs_to_reach"]["mean"] for group in result["groups"]]
    assert (result["reach"], epochs) == (0.5, [None, 2])


def test_what_a_model_can_do_before_it_is_trained_is_epoch_0(two, here):
    before = {"epoch": -1, "validation_volumes": {"dice": {"foreground": 0.9, "rim": 0.4}}}
    tuned = session(here, "tuned", [before, *on_volumes(0.5, 0.75)])
    group = compared(deepseg.compare([two[0], tuned], reach=0.3))["groups"][1]
    (result,) = group["sessions"]
    assert result["scores"] == {"0": 0.4, "2": 0.5, "4": 0.75}
    assert (result["epochs_to_reach"], result["epochs"], result["seconds"]) == (0, 4, 10.0)


def test_samples_decide_where_one_session_has_no_volumes(two, here, capsys):
    third = session(here, "third", [record(e, samples=0.5) for e in range(4)], name="b")
    result = compared(deepseg.compare([*two, third]))
    assert result["metric"] == "Dice on samples, mean of the foreground classes"
    assert [group["best"]["mean"] for group in result["groups"]] == [0.9, 0.9, 0.5]
    assert capsys.readouterr().err == (
        "WARNING best.save of runs/scratch is chosen on whole volumes, which others lack\n"
        "WARNING best.save of runs/transferred is chosen on whole volumes, which others lack\n"
    )


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        pytest.param(
            {"seed": 1, "epochs": 2},
            "runs/a-seed1 differs from runs/a-seed0 in more than its seed: epochs",
            id="another number of epochs",
        ),
        pytest.param(
            {"seed": 1, "model": MODEL.replace("[3]", "[5]")},
            "runs/a-seed1 differs from runs/a-seed0 in more than its seed: "
            "network.normal.feature_maps",
            id="another network",
        ),
        pytest.param({}, "runs/a-seed0 and runs/a-seed1 have the same seed, 0", id="one seed"),
        pytest.param(
            {"seed": 1, "model": MODEL.replace("rim", "edge")},
            "runs/a-seed1 differs from runs/a-seed0 in more than its seed: network.classes\n"
            "WARNING runs/a-seed1 tells other classes apart than runs/b: edge, core; rim, core",
            id="other classes",
        ),
        pytest.param({"seed": 1, "workers": 4, "name": "b", "output": "x"}, None, id="no doubt"),
    ],
)
def test_a_group_that_is_none_is_named_with_its_differences(here, capsys, changes, warning):
    folders = [
        session(here, "b", on_volumes(0.5, 0.5)),
        session(here, "a-seed0", on_volumes(0.5, 0.5)),
        session(here, "a-seed1", on_volumes(0.5, 0.5), **changes),
    ]
    deepseg.compare(folders)
    assert capsys.readouterr().err == ("" if warning is None else f"WARNING {warning}\n")


def test_unfinished_sessions_and_other_cases_are_named(two, here, capsys):
    short = session(here, "short", on_volumes(0.5), name="b", validation={"cases": {"table": "x"}})
    deepseg.compare([*two, short])
    assert capsys.readouterr().err == (
        "WARNING runs/short has finished 2 of 4 epochs\n"
        "WARNING runs/short is judged on other cases than runs/scratch\n"
    )


def test_the_epoch_before_training_is_not_the_best(two, here, capsys):
    before = {"epoch": -1, "validation_volumes": {"dice": {"rim": 0.927}}}
    tuned = session(here, "tuned", [before, *on_volumes(0.25, 0.335)])
    group = compared(deepseg.compare([two[0], tuned]))["groups"][1]
    assert (group["best"]["mean"], group["sessions"][0]["start"]) == (0.335, 0.927)
    assert "tuned, seed 0        1  0.927  0.335  0.335" in capsys.readouterr().out


def test_a_session_with_the_epoch_before_training_only_has_no_score(two, here):
    before = {"epoch": -1, "validation_volumes": {"dice": {"rim": 0.9}}}
    bare = session(here, "bare", [before, record(0)])
    assert problems(*two, bare)[0].startswith("[scores-missing] runs/bare: got no score in any")


def by_case(rim, core):
    """A session's only epoch: the Dice of three cases by class."""
    cases = {
        case: {"foreground": 0.5, "rim": r, "core": c}
        for case, r, c in zip(("anna", "ben", "carl"), rim, core, strict=True)
    }
    return [record(0, volumes=sum(rim) / 3, cases=cases)]


def test_groups_are_held_against_the_first_by_case_and_seed(here, capsys):
    scratch = by_case((0.25, 0.5, 0.75), (0.5, 0.5, 0.5))
    better = by_case((0.5, 0.75, 1.0), (0.5, 0.5, 0.5))
    best = by_case((0.75, 0.75, 1.0), (0.5, 0.5, 1.0))
    shorter = {"epochs": 1}
    folders = [
        session(here, "scratch-seed0", scratch, **shorter),
        session(here, "scratch-seed1", scratch, seed=1, **shorter),
        session(here, "tuned-seed0", better, **shorter),
        session(here, "tuned-seed1", best, seed=1, **shorter),
        session(here, "tuned-seed2", scratch, seed=2, **shorter),
    ]
    out = deepseg.compare(folders)
    result = compared(out)
    assert result["cases"] == 3
    rows = {entry["class"]: entry for entry in result["differences"]}
    assert list(rows) == ["mean", "foreground", "rim", "core"]
    # anna gains 0.25 and 0.5 of its rim, ben and carl 0.25; carl gains 0.5 of its core, once
    assert rows["rim"]["mean"] == pytest.approx((0.375 + 0.25 + 0.25) / 3)
    assert rows["core"]["mean"] == pytest.approx(0.25 / 3)
    assert rows["mean"]["mean"] == pytest.approx((0.375 + 0.25 + 0.25 + 0.25) / 6)
    assert (rows["mean"]["pairs"], rows["mean"]["of"], rows["mean"]["seeds"]) == (3, "cases", 2)
    assert rows["rim"]["p_wilcoxon"] == 0.25  # 2 of 8 sign patterns
    assert rows["rim"]["interval"] == [0.25, 0.375]
    message = capsys.readouterr()
    assert message.err == ""
    assert "Dice on whole volumes, mean of the foreground classes, 3 cases\n" in message.out
    assert "tuned    rim         +0.292  +0.250 to +0.375  0.25      3      2" in message.out
    assert (out / "differences.csv").read_text().splitlines()[3] == (
        "tuned,rim,+0.292,+0.250 to +0.375,0.25,3,2"
    )
    lines = (out / "cases.csv").read_text().splitlines()
    assert len(lines) == 1 + 5 * 3 * 3
    assert lines[2] == "scratch,runs/scratch-seed0,0,1,anna,rim,0.25"
    assert r"\toprule" in (out / "differences.tex").read_text()


def test_sessions_that_differ_in_more_than_one_thing_are_named(here, capsys):
    folders = [
        session(here, "a", on_volumes(0.5, 0.5)),
        session(here, "b", on_volumes(0.5, 0.5), freeze=FROZEN),
        session(here, "c", on_volumes(0.5), epochs=2, subepochs=5, freeze=FROZEN),
    ]
    deepseg.compare(folders)
    message = capsys.readouterr()
    assert message.err == (
        "WARNING a and c differ in more than one thing: epochs, start, subepochs; a difference of "
        "their scores may come from any of them\n"
    )
    assert message.out.startswith(
        "compared: a and b: freeze.layers [] → ['normal']\n"
        "compared: a and c: epochs 4 → 2; freeze.layers [] → ['normal']; subepochs 3 → 5\n"
    )


def problems(*runs, **options):
    with pytest.raises(DeepsegError) as refusal:
        deepseg.compare(runs, **options)
    assert refusal.value.exit_code == 2
    return [str(problem) for problem in refusal.value.problems]


EXPECTED = (
    "expected the folder of a training session that has finished an epoch, or a train file; "
    "fix: give <output>/<name> of a session, or train it first"
)


def test_all_that_is_no_session_is_refused_at_once(here, two):
    (here / "runs" / "empty").mkdir()
    torn = session(here, "torn", on_volumes(0.5))
    (here / torn / "metrics.jsonl").write_text("{1}\n")
    headless = session(here, "headless", on_volumes(0.5))
    (here / headless / "models" / "last.save").unlink()
    assert problems("runs/none", "runs/empty", two[0], torn, headless, "0123456789.yaml") == [
        f"[session-unknown] runs/none: got no such folder; {EXPECTED}",
        "[session-unknown] runs/empty: got a folder without metrics.jsonl and models/last.save; "
        f"{EXPECTED}",
        f"[session-unknown] runs/torn: got metrics.jsonl with other lines; {EXPECTED}",
        f"[session-unknown] runs/headless: got a folder without models/last.save; {EXPECTED}",
        "[config-file-missing] 0123456789.yaml: got no such file; expected a config file; "
        "fix: correct the path",
    ]
    assert not (here / "runs" / "comparison").exists()


def test_the_model_before_the_last_tells_as_much(two, here):
    models = here / "runs/scratch/models"
    (models / "last.save").rename(models / "previous.save")
    deepseg.compare(two)


@pytest.mark.parametrize("again", [0, 1])
def test_one_group_is_nothing_to_compare(here, again):
    first = session(here, "a-seed0", on_volumes(0.5))
    second = [first, session(here, "a-seed1", on_volumes(0.5), seed=1)][again]
    named_again = "" if again else ", with runs/a-seed0 more than once"
    assert problems(first, second) == [
        f"[compare-one-group] got one group of sessions: a{named_again}; expected at least two "
        "that differ in more than their seed; fix: name another session or train file, or add "
        "-fromScratch to a train file"
    ]


def test_sessions_without_scores_are_named(here, two):
    bare = session(here, "bare", [record(0)])
    assert problems(*two, bare) == [
        "[scores-missing] runs/bare: got no score in any epoch; expected epochs of all sessions "
        "judged in one way, on whole volumes or on samples; fix: train with validation, or until "
        "the first epoch that is judged"
    ]


def test_sessions_without_a_common_score_are_named(here):
    item = session(here, "one", [record(0, volumes=0.5)])
    two = session(here, "two", [record(0, samples=0.5)])
    assert [line.split(";")[0] for line in problems(item, two)] == [
        "[scores-missing] runs/one: got scores on volumes only",
        "[scores-missing] runs/two: got scores on samples only",
    ]


def test_options_of_train_files_need_one(two):
    assert problems(*two, seeds=[0, 1], from_scratch=True) == [
        f"[compare-without-train-file] got {option} with folders of sessions only; expected a "
        f"train file, whose sessions can still be run; fix: name a train file, or remove {option}"
        for option in ("-seeds", "-fromScratch")
    ]


@pytest.fixture
def trained(here, monkeypatch):
    """Training leaves the folder that it would leave; gives what was asked of it."""
    asked = []

    def train(config_file, *, device, quiet, reset_optimizer, from_scratch, seed):
        name = config_file.stem + ("-scratch" if from_scratch else "")
        asked.append((str(config_file), from_scratch, seed, device, quiet, reset_optimizer))
        folder = name if seed is None else f"{name}-seed{seed}"
        score = 0.25 if from_scratch else 0.5
        session(here, folder, on_volumes(score, score), seed=0 if seed is None else seed)
        return here / "runs" / folder / "models" / "last.save"

    monkeypatch.setattr("deepseg.commands.compare.train", train)
    monkeypatch.setattr("deepseg.commands.compare.check", lambda *_, **__: NOTHING_WRONG)
    settings("a")
    settings("b")
    return asked


def test_a_train_file_is_run_with_every_seed_and_from_scratch(trained, here):
    out = deepseg.compare(
        ["a.yaml", "b.yaml"], seeds=[0, 2, 0], from_scratch=True, device="cpu", quiet=True
    )
    assert trained == [
        (file, from_scratch, seed, "cpu", True, not from_scratch)
        for file, from_scratch in (("a.yaml", False), ("a.yaml", True), ("b.yaml", False))
        for seed in (0, 2)
    ]
    assert out == here / "runs" / "comparison"
    groups = compared(out)["groups"]
    assert [(group["name"], len(group["sessions"])) for group in groups] == [
        ("a", 2),
        ("a-scratch", 2),
        ("b", 2),
    ]


def test_one_train_file_is_compared_with_itself_from_scratch(trained, capsys):
    deepseg.compare(["a.yaml"], from_scratch=True)
    assert [item[:3] for item in trained] == [("a.yaml", False, None), ("a.yaml", True, None)]
    message = capsys.readouterr().out
    assert message.startswith("session 1 of 2: a.yaml\nsession 2 of 2: a.yaml from scratch\n")


def test_a_session_that_has_begun_goes_on_and_its_optimiser_is_kept(trained, here):
    session(here, "a-seed1", on_volumes(0.5))
    deepseg.compare(["a.yaml", "b.yaml"], seeds=[1, 2])
    assert [item[-1] for item in trained] == [False, True, True, True]


def test_folders_and_train_files_mix(trained, two):
    groups = compared(deepseg.compare([two[0], "a.yaml"], seeds=[1]))["groups"]
    assert [group["name"] for group in groups] == ["scratch", "a"]


def test_nothing_is_trained_where_only_one_group_would_come_of_it(trained):
    assert problems("a.yaml", seeds=[0, 1])[0].startswith("[compare-one-group]")
    assert trained == []


def test_cases_of_all_train_files_are_examined_before_the_first_session(here, monkeypatch):
    monkeypatch.setattr("deepseg.commands.compare.train", lambda *_, **__: pytest.fail("trained"))
    settings("a")
    settings("b")
    result = problems("a.yaml", "b.yaml")
    assert [line.split("]")[0] for line in result] == ["[cases-file-missing"] * 4
    assert not (here / "runs").exists()


def test_a_begun_session_needs_no_model_in_its_train_file(trained, here, monkeypatch):
    models = {}

    def check(config_file, *, model, quiet):
        models[str(config_file)] = model
        return NOTHING_WRONG

    monkeypatch.setattr("deepseg.commands.compare.check", check)
    session(here, "a", on_volumes(0.5))
    deepseg.compare(["a.yaml", "b.yaml"])
    assert models == {"a.yaml": here / "runs/a/models/last.save", "b.yaml": None}


def test_without_matplotlib_the_numbers_are_still_written(two, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    out = deepseg.compare(two, quiet=True)
    assert sorted(file.name for file in out.iterdir()) == sorted(set(FILES) - PICTURES)
    assert capsys.readouterr().err.startswith("WARNING [plot-extra-missing]")


def test_reading_takes_no_lock(two, here):
    with SessionFolder(here / two[0], quiet=True):
        deepseg.compare(two)
