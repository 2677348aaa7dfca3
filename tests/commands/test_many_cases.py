"""Cases that are done and not done again; cases in parts, side by side, and on several devices."""

import json
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import deepseg.sessions.folder
import deepseg.sessions.segmentation.case_stages
from deepseg.geometry.boxes import volume
from deepseg.inference.boxwise.network import BoxwiseNetwork
from deepseg.inference.out_of_memory import EXHAUSTED
from deepseg.inference.predictor import Predictor
from deepseg.sessions.folder import SessionFolder
from deepseg.sessions.processes.shard import Shard
from deepseg.sessions.segmentation.completed_cases import CompletedCases

TEST = ("-test", "test.yaml", "-model", "M.save")
NAMES = ("d", "c", "a")
IN_USE = (
    "ERROR [folder-in-use] HERE/runs/results: got a session that is already running (process {} "
    "on {}); expected one session per folder; fix: wait for it, end it, or give this session "
    "another name\n"
)


@pytest.fixture
def three(place, model):
    """The test file lists d, c and an image unlike that of training case a; gives its session."""
    place.store("a/T1.nii.gz", place.array("a/T1.nii.gz")[::-1])
    rows = {}
    for part in ("train", "validation", "test"):
        for row in (place / f"data/{part}.csv").read_text().splitlines()[1:]:
            rows[row[0]] = row
    head = "case,channel_T1,channel_FLAIR,labels,roi"
    place.write("data/test.csv", "\n".join([head, *(rows[name] for name in NAMES)]) + "\n")
    return place / "runs/results"


def results(folder):
    """Every result file with the time of its last change."""
    return {path.name: path.stat().st_mtime_ns for path in (folder / "predictions").iterdir()}


def changed(before, after):
    """Names of the cases whose results are new."""
    return {name[0] for name in after if before.get(name) != after[name]}


def numbers(folder):
    """Everything in cases.json but how long it took."""
    result = json.loads((folder / "cases.json").read_text())
    for record in result["cases"].values():
        del record["seconds"]
    return result


def contents(folder):
    files = (folder / "predictions").iterdir()
    return {path.name: path.read_bytes() for path in files if path.suffix == ".gz"}


def test_a_second_run_does_no_case_again(command, three):
    first = command(*TEST)
    assert (first.returncode, "done already" in first.stdout) == (0, False)
    before, tables = results(three), (three / "cases.csv").read_bytes()
    second = command(*TEST)
    assert (second.returncode, second.stderr) == (0, "")
    assert "3 of 3 cases are done already\n" in second.stdout
    assert "mean scores of 3 cases" in second.stdout
    assert results(three) == before
    assert (three / "cases.csv").read_bytes() == tables


def another_model(place):
    return ("-model", "other.save")


def another_setting(place):
    place.edit("test.yaml", "save:", "postprocess: {rim: {keep: largest}}\nsave:")
    return ("-model", "M.save")


def another_image(place):
    place.store("c/T1.nii.gz", place.array("c/T1.nii.gz") + 1)
    return ("-model", "M.save")


def other_labels(place):
    place.store("a/labels.nii.gz", place.array("a/labels.nii.gz")[::-1])
    return ("-model", "M.save")


def a_result_less(place):
    (place / "runs/results/predictions/d_Segm.nii.gz").unlink()
    return ("-model", "M.save")


def a_damaged_record(place):
    place.damage("runs/results/cases/d.json", lambda content: content[:-9])
    return ("-model", "M.save")


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (another_model, "acd"),
        (another_setting, "acd"),
        (another_image, "c"),
        (other_labels, "a"),
        (a_result_less, "d"),
        (a_damaged_record, "d"),
    ],
)
def test_a_case_whose_result_would_be_another_is_done_again(command, place, three, change, again):
    assert command("-newModel", "model.yaml", "-out", "other.save", "-seed", "5").returncode == 0
    assert command(*TEST).returncode == 0
    before = results(three)
    options = change(place)
    result = command("-test", "test.yaml", *options)
    assert result.returncode == 0, result.stderr
    assert changed(before, results(three)) == set(again)
    done = len(NAMES) - len(again)
    assert (f"{done} of 3 cases are done already\n" in result.stdout) == (done > 0)


def test_old_results_do_not_stay_beside_new_ones(command, place, three):
    place.edit("test.yaml", "save:", "save:\n  probabilities: true")
    assert command(*TEST).returncode == 0
    assert len(results(three)) == 3 * 4
    (three / "predictions/notes.txt").write_text("of the user")
    place.edit("test.yaml", "  probabilities: true", "  segmentation_suffix: seg")
    place.edit("data/test.csv", "c/T1.nii.gz", "c/none.nii.gz")
    result = command(*TEST, "-keepGoing")
    assert result.returncode == 3
    assert "8 result files of an older computation are deleted\n" in result.stdout
    left_out = {f"c_{name}.nii.gz" for name in ("Segm", *(f"ProbMapClass{n}" for n in range(3)))}
    new = {"d_seg.nii.gz", "a_seg.nii.gz", "notes.txt"}
    assert set(results(three)) == new | left_out


def test_pictures_that_could_not_be_drawn_are_drawn_once_they_can(
    command, place, three, monkeypatch
):
    place.edit("test.yaml", "pictures: false", "pictures: true")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
        first = command(*TEST)
        assert (first.returncode, len(first.warnings)) == (0, 1)
        assert "3 of 3 cases are done already\n" in command(*TEST).stdout
    assert {name[-3:] for name in results(three)} == {".gz"}
    assert "are done already" not in command(*TEST).stdout
    assert {name for name in results(three) if name.endswith("png")} == {"a.png", "c.png", "d.png"}
    assert "3 of 3 cases are done already\n" in command(*TEST).stdout


def test_a_model_of_another_name_with_the_same_weights_is_the_same(command, place, three):
    assert command(*TEST).returncode == 0
    shutil.copy(place / "M.save", place / "N.save")
    result = command("-test", "test.yaml", "-model", "N.save", "-keepGoing")
    assert "3 of 3 cases are done already\n" in result.stdout


def test_settings_that_results_do_not_follow_from_do_nothing_again(command, place, three):
    assert command(*TEST).returncode == 0
    text = (place / "test.yaml").read_text()
    place.write("test.yaml", text + "batch_size: 3\ntile: 13\ninference: {memory: 3 GB}\n")
    assert "3 of 3 cases are done already\n" in command(*TEST).stdout
    place.edit("test.yaml", "{memory: 3 GB}", "{tiling: deepmedic}")
    assert "are done already" not in command(*TEST).stdout
    place.edit("test.yaml", "tile: 13", "tile: 15")
    assert "are done already" not in command(*TEST).stdout


def test_a_new_case_is_done_and_the_others_are_not(command, place, three):
    rows = (place / "data/test.csv").read_text().splitlines(keepends=True)
    place.write("data/test.csv", "".join(rows[:3]))
    assert command(*TEST).returncode == 0
    before = results(three)
    place.write("data/test.csv", "".join(rows))
    assert "2 of 3 cases are done already\n" in command(*TEST).stdout
    assert changed(before, results(three)) == {"a"}
    assert list(numbers(three)["cases"]) == list(NAMES)


def test_with_keep_going_a_case_that_failed_is_done_next_time(command, place, three):
    (three / "predictions/c_Segm.nii.gz/in the way").mkdir(parents=True)
    failed = command(*TEST, "-keepGoing")
    assert (failed.returncode, failed.stderr) == (
        3,
        "WARNING no result for c; going on with the other cases\n"
        "ERROR [output-not-writable] HERE/runs/results/predictions/c_Segm.nii.gz: got a folder "
        "of this name; expected a place where this file can be written; fix: choose another "
        "output name\n",
    )
    assert list(numbers(three)["cases"]) == ["d", "a"]
    shutil.rmtree(three / "predictions/c_Segm.nii.gz")
    before = results(three)
    assert "2 of 3 cases are done already\n" in command(*TEST).stdout
    assert changed(before, results(three)) == {"c"}
    assert list(numbers(three)["cases"]) == list(NAMES)


def test_with_keep_going_a_path_through_a_file_costs_only_its_case(command, place, three):
    place.edit("data/test.csv", "c/T1.nii.gz", "c/T1.nii.gz/T1.nii.gz")
    result = command(*TEST, "-keepGoing")
    assert result.returncode == 3, result.stderr
    assert list(numbers(three)["cases"]) == ["d", "a"]


SEGMENT = Predictor.segment


def no_memory_for_c(predictor, case, **requests):
    if case.name == "c":
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 TB")
    return SEGMENT(predictor, case, **requests)


@pytest.mark.parametrize(("options", "code", "done"), [(["-keepGoing"], 3, "da"), ([], 137, "d")])
def test_running_out_of_memory_is_a_fault_of_a_case(
    command, three, monkeypatch, options, code, done
):
    monkeypatch.setattr(Predictor, "segment", no_memory_for_c)
    result = command(*TEST, *options)
    assert result.returncode == code
    place = "c" if options else "test.yaml"
    assert result.errors == [
        f"ERROR [out-of-memory] {place}: got DefaultCPUAllocator: can't allocate memory: you tried "
        "to allocate 9 TB; expected memory for one case beside the one before and the next; fix: "
        "lower inference.memory in the test file, or -devices, or end other programs"
    ]
    assert {path.stem for path in (three / "cases").iterdir()} >= set(done)


def test_a_limit_that_is_not_kept_is_said(command, place, three):
    place.write("test.yaml", (place / "test.yaml").read_text() + "inference: {memory: 5 MB}\n")
    result = command(*TEST)
    assert result.returncode == 0
    boxes, peak = result.warnings
    assert boxes == (
        "WARNING 5 MB of memory is not enough: the smallest boxes are taken, and more memory is "
        "used"
    )
    number = r"\d\.\d\d"
    assert re.fullmatch(
        f"WARNING {number} GB of memory were used, more than the 0.005 GB that inference.memory "
        "allows this process",
        peak,
    )


def test_smaller_boxes_are_said_once_in_a_session(command, place, three, monkeypatch):
    pathway = BoxwiseNetwork.pathway

    def small(self, number, whole, output, read):
        if volume(output.size) > 500:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return pathway(self, number, whole, output, read)

    place.write("test.yaml", (place / "test.yaml").read_text() + "inference: {mirror: [x]}\n")
    monkeypatch.setattr(BoxwiseNetwork, "pathway", small)
    result = command(*TEST)
    assert (result.returncode, result.warnings) == (0, [f"WARNING {EXHAUSTED}"])


def test_without_keep_going_a_failed_case_ends_the_session_and_the_others_stay_done(command, three):
    (three / "predictions/c_Segm.nii.gz/in the way").mkdir(parents=True)
    assert command(*TEST).returncode == 5
    assert (three / "cases/d.json").is_file()
    assert not (three / "cases/c.json").exists()


def test_a_case_that_is_being_written_is_whole_before_the_session_ends(command, three, monkeypatch):
    (three / "predictions/c_Segm.nii.gz/in the way").mkdir(parents=True)
    ends = []
    leave, write = SessionFolder.__exit__, deepseg.sessions.segmentation.case_stages.write_results

    def slowly(segmentation, case, *others):
        if case.name == "a":
            time.sleep(0.5)
        return write(segmentation, case, *others)

    def leaving(*arguments):
        records = sorted((three / "cases").iterdir())
        ends.append([record.name for record in records if record.suffix == ".json"])
        return leave(*arguments)

    monkeypatch.setattr("deepseg.sessions.segmentation.case_stages.write_results", slowly)
    monkeypatch.setattr(SessionFolder, "__exit__", leaving)
    assert command(*TEST).returncode == 5
    assert ends == [["a.json", "d.json"]]


def test_an_image_that_changes_while_its_case_is_computed_is_done_again(
    command, place, three, monkeypatch
):
    with monkeypatch.context() as patch:

        def changing(predictor, case, **requests):
            if case.name == "c":
                place.store("c/T1.nii.gz", place.array("c/T1.nii.gz") + 1)
            return SEGMENT(predictor, case, **requests)

        patch.setattr(Predictor, "segment", changing)
        assert command(*TEST).returncode == 0
    before = results(three)
    assert command(*TEST).returncode == 0
    assert changed(before, results(three)) == {"c"}


def test_a_kill_between_two_cases_keeps_the_first(start, wait, command, place, three):
    stopper = (
        "-c",
        "import os, signal, sys\n"
        "import deepseg.sessions.segmentation.case_stages as module\n"
        "write = module.write_results\n"
        "def deadly(segmentation, case, *others):\n"
        "    if case.name == 'c':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return write(segmentation, case, *others)\n"
        "module.write_results = deadly\n"
        "from deepseg.cli.main import main\n"
        "sys.exit(main())\n",
    )
    killed = wait(start(*TEST, program=stopper))
    assert (killed.returncode, killed.stderr) == (-signal.SIGKILL, "")
    before = results(three)
    result = command(*TEST)
    assert (result.returncode, result.stderr) == (0, "")
    assert "1 of 3 cases are done already\n" in result.stdout
    assert changed(before, results(three)) == {"c", "a"}


def test_parts_together_give_what_one_run_gives(command, place, three):
    assert command(*TEST).returncode == 0
    whole, table, images = numbers(three), (three / "cases.csv").read_bytes(), contents(three)
    shutil.rmtree(three)
    first = command(*TEST, "-part", "1/2")
    assert list(numbers(three)["cases"]) == ["d", "a"]
    second = command(*TEST, "-part", "2/2")
    assert (first.returncode, second.returncode, second.stderr) == (0, 0, "")
    assert numbers(three) == whole
    assert (three / "cases.csv").read_bytes() == table
    assert contents(three) == images
    for part in ("1of2", "2of2"):
        assert json.loads((three / f"outcome-{part}.json").read_text())["exit_code"] == 0
        assert "results in " in (three / f"log-{part}.txt").read_text("utf-8")
    assert not (three / "outcome.json").exists()
    assert "3 of 3 cases are done already\n" in command(*TEST).stdout


def test_parts_at_the_same_time_do_not_disturb_each_other(start, wait, command, place, three):
    parts = [start(*TEST, "-part", f"{number}/3") for number in (1, 2, 3)]
    ends = [wait(process) for process in parts]
    assert [(end.returncode, end.stderr) for end in ends] == [(0, "")] * 3
    images, table = contents(three), (three / "cases.csv").read_bytes()
    shutil.rmtree(three)
    assert command(*TEST).returncode == 0
    assert (three / "cases.csv").read_bytes() == table
    assert contents(three) == images


def test_a_case_that_fails_leaves_the_tables_of_the_others(command, place, three):
    (three / "predictions/c_Segm.nii.gz/in the way").mkdir(parents=True)
    result = command(*TEST)
    assert (result.returncode, len(result.errors)) == (5, 1)
    assert "d" in numbers(three)["cases"]
    assert (three / "cases.csv").read_text().splitlines()[1].startswith("d,")
    (three / "cases.csv").unlink()
    assert command(*TEST, "-part", "2/3").returncode == 5
    assert (three / "cases.csv").is_file()


def test_a_part_of_bad_cases_alone_has_failed_cases_and_nothing_else(command, place, three):
    place.damage("data/c/T1.nii.gz", lambda content: content[:-8])
    result = command(*TEST, "-part", "2/3", "-keepGoing")
    assert (result.returncode, len(result.errors)) == (3, 1)
    assert result.warnings == ["WARNING no result for c; going on with the other cases"]
    assert numbers(three)["cases"] == {}


def test_a_part_without_a_case_does_nothing(command, three):
    result = command(*TEST, "-part", "4/4")
    assert (result.returncode, result.stderr) == (0, "")


def test_a_channel_that_only_other_parts_have_is_no_fault(command, place, three):
    place.edit("data/test.csv", "c/FLAIR.nii.gz", "-")
    settings = (place / "test.yaml").read_text()
    place.write("test.yaml", f"{settings}inference: {{accept: [channels]}}\n")
    assert command(*TEST, "-part", "2/3").returncode == 0


def in_use():
    return IN_USE.format(os.getpid(), os.uname().nodename)


def test_a_whole_run_waits_for_no_part_and_a_part_for_no_whole_run(command, place, three):
    with SessionFolder(three, shard=Shard(1, 2), quiet=True):
        refused = command(*TEST)
        second = command(*TEST, "-part", "2/2")
        same = command(*TEST, "-part", "1/2")
    assert (refused.returncode, refused.stderr) == (6, in_use())
    assert (second.returncode, second.stderr) == (0, "")
    assert (same.returncode, same.stderr) == (6, in_use())
    with SessionFolder(three, quiet=True):
        refused = command(*TEST, "-part", "1/2")
    assert (refused.returncode, refused.stderr) == (6, in_use())
    assert command(*TEST).returncode == 0


def test_two_devices_give_what_one_gives(run, command, place, three):
    roi = place.array("a/roi.nii.gz")
    place.store("a/roi.nii.gz", roi * 0)
    warning = "WARNING HERE/data/a/roi.nii.gz: the region of interest is empty; its result is all "
    assert command(*TEST).returncode == 0
    images, table = contents(three), (three / "cases.csv").read_bytes()
    shutil.rmtree(three)
    surroundings = {"PYTHONPATH": ""}  # run.py is not installed, and called from elsewhere
    result = run(*TEST, "-dev", "cpu", "-devices", "2", env=surroundings)
    assert result.returncode == 0
    assert result.stderr.count(warning) == 1
    assert "cases of 2 processes: 3/3 in " in result.stdout
    assert "3 of 3 cases are done already\n" in result.stdout
    assert (three / "log-1of2.txt").is_file()
    assert (three / "log-2of2.txt").is_file()
    assert (three / "cases.csv").read_bytes() == table
    assert contents(three) == images


def processes_of(parent):
    return [int(n) for n in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def is_alive(process):
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def soon(is_so):
    until = time.monotonic() + 40
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_the_processes_of_a_command_that_is_killed_end_too(start, command, place, three):
    three.mkdir(parents=True)
    with CompletedCases(three).alone():  # each of them waits for this before it writes the tables
        killed = start(*TEST, "-dev", "cpu", "-devices", "2")
        soon(lambda: all((three / f"cases/{name}.json").exists() for name in NAMES))
        workers = processes_of(killed.pid)
        killed.kill()
        soon(lambda: not any(map(is_alive, workers)))
    assert len(workers) == 2
    result = command(*TEST)
    assert (result.returncode, result.stderr) == (0, "")
    assert "3 of 3 cases are done already\n" in result.stdout


def test_several_devices_go_on_with_the_other_cases_too(run, place, three):
    place.damage("data/c/T1.nii.gz", lambda content: content[:-8])
    result = run(*TEST, "-dev", "cpu", "-devices", "2", "-keepGoing")
    assert result.returncode == 3
    assert result.warnings == [
        "WARNING part 2of2 ended with exit code 3",
        "WARNING no result for c; going on with the other cases",
    ]
    assert list(numbers(three)["cases"]) == ["d", "a"]


def test_what_is_wrong_with_the_command_is_said_once_for_several_devices(run, place, three):
    place.edit("test.yaml", "pictures: false", "picture: false")
    result = run(*TEST, "-dev", "cpu", "-devices", "2")
    assert (result.returncode, len(result.errors), result.warnings) == (2, 1, [])
    assert result.errors[0].startswith("ERROR [config-unknown-key] test.yaml:6 save.picture: ")


def test_many_warnings_of_one_kind_are_one_line_on_the_screen_and_all_in_the_log(place, command):
    rows = (place / "data/train.csv").read_text().splitlines()[:1]
    for number in range(6):
        shutil.copytree(place / "data/a", place / f"data/n{number}")
        level = np.full(place.array("a/T1.nii.gz").shape, 5 + number, np.int16)
        place.store(f"n{number}/T1.nii.gz", level)
        files = ",".join(f"n{number}/{name}.nii.gz" for name in ("T1", "FLAIR", "labels", "roi"))
        rows.append(f"n{number},{files}")
    place.write("data/train.csv", "\n".join(rows) + "\n")
    result = command("-train", "train.yaml")
    constant = [line for line in result.warnings if "every voxel" in line]
    first = [
        f"WARNING HERE/data/n{number}/T1.nii.gz: every voxel of the region of interest is "
        f"{5 + number}"
        for number in range(3)
    ]
    more = f"WARNING 3 more warnings like this one: {first[0].removeprefix('WARNING ')}"
    assert constant == [*first, more]
    log = (place / "runs/training/log.txt").read_text()
    assert all(f"n{number}/T1.nii.gz: every voxel" in log for number in range(6))
