"""Runs that go wrong: one line, and nothing that was there is lost."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import subprocess
import sys

import nibabel
import numpy as np
import pytest

from deepseg.exports.on_device.cases import read_case
from deepseg.exports.on_device.device_train import main
from deepseg.exports.on_device.errors import DeviceError
from deepseg.exports.on_device.runs import Run
from deepseg.exports.on_device.splits import split
from deepseg.exports.on_device.states import COUNTERS, latest_state, write_state
from tests.exports.on_device.runs import arrays, error_of


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda s: s.pop("fc.1.conv.weight"),
            "nothing for fc.1.conv.weight of shape (5, 8, 1, 1, 1)",
            id="a tensor is missing",
        ),
        pytest.param(
            lambda s: s.update({"fc.2.bias": np.zeros(2)}),
            "(2,) for fc.2.bias of shape (3,)",
            id="classes that do not fit",
        ),
        pytest.param(
            lambda s: s["fc.2.bias"].fill(np.nan),
            "infinite or undefined values in fc.2.bias",
            id="no numbers",
        ),
    ],
)
def test_a_state_of_another_network_is_refused(train, device, capsys, change, message):
    state = arrays(device / "state.npz")
    change(state)
    write_state(device / "state_000004.npz", state)
    assert train("--steps", 9) == 2
    assert error_of(capsys) == (
        f"ERROR [device-state] got {message} in {device / 'state_000004.npz'}; expected a state "
        "of this network; fix: begin with another --state"
    )


@pytest.mark.parametrize("step", [np.zeros(2), np.array("ten"), np.array(-1), np.array(np.nan)])
def test_a_counter_that_is_no_number_is_refused(train, device, capsys, step):
    write_state(device / "state_000004.npz", {**arrays(device / "state.npz"), "step": step})
    assert train("--steps", 9) == 2
    assert "got a counter step that is no number in" in error_of(capsys)


@pytest.mark.parametrize("content", ["{", "[]", '{"first": [], "second": [], "third": []}'])
def test_a_split_that_cannot_be_read_is_refused(train, device, capsys, content):
    (device / "split.json").write_text(content)
    assert train("--steps", 1) == 2
    assert "[device-split] got a file that cannot be read;" in error_of(capsys)


def test_a_manifest_without_what_a_run_reads_is_refused(train, device, capsys):
    manifest = json.loads((device / "manifest.json").read_text())
    del manifest["masks"], manifest["classes"]
    (device / "manifest.json").write_text(json.dumps(manifest))
    assert train("--steps", 1) == 2
    assert "[device-folder] got a manifest without classes, masks;" in error_of(capsys)


def test_files_of_a_case_on_different_grids_are_refused(train, device, cases, capsys):
    for case in cases.iterdir():
        for shift, name in enumerate(("T1", "FLAIR", "labels", "roi")):
            voxels = np.load(case / f"{name}.npy").astype(np.int16)
            affine = np.diag([1.0, 1, 1, 1])
            affine[0, 3] = 0.5 * (shift == 2)
            (case / f"{name}.npy").unlink()
            nibabel.save(nibabel.Nifti1Image(voxels, affine), case / f"{name}.nii")
    assert train("--steps", 1) == 2
    assert "[device-case] got labels on another grid than T1 in" in error_of(capsys)


def test_a_lock_that_a_killed_run_left_empty_holds_for_a_moment_only(train, device, capsys):
    lock = device / "lock"
    lock.touch()
    assert train("--steps", 1) == 6
    os.utime(lock, (lock.stat().st_atime, lock.stat().st_mtime - 60))
    assert train("--steps", 1) == 0


def test_a_disk_that_takes_no_lock_is_told_and_nothing_is_left(train, device, capsys, monkeypatch):
    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            raise OSError(errno.ENOSPC, "No space left on device")

        def write(self, text):
            pass

    monkeypatch.setattr("os.fdopen", lambda *_: Full())
    assert train("--steps", 1) == 5
    monkeypatch.undo()
    assert "[output-not-writable] got No space left on device for" in error_of(capsys)
    assert not (device / "lock").exists()


def test_a_runtime_that_cannot_run_a_graph_is_one_line(train, capsys, monkeypatch):
    def fail(*_):
        raise RuntimeError("Failed to allocate memory for requested buffer\nof size 9")

    monkeypatch.setattr("onnxruntime.InferenceSession.run", fail)
    assert train("--steps", 1) == 2
    assert error_of(capsys) == (
        "ERROR [device-runtime] got Failed to allocate memory for requested buffer; expected a run "
        "of the graph; fix: free memory, or export with a smaller -batch or -segment"
    )


def test_a_damaged_state_is_refused(train, device, capsys):
    content = bytearray((device / "state.npz").read_bytes())
    content[len(content) // 2] ^= 255
    (device / "state_000004.npz").write_bytes(bytes(content))
    assert train("--steps", 9) == 2
    assert "a file that cannot be read as a state" in error_of(capsys)


def test_another_graph_than_was_exported_is_refused(train, device, capsys):
    with (device / "infer.onnx").open("ab") as file:
        file.write(b"\0")
    assert train("--steps", 1) == 2
    assert error_of(capsys) == (
        "ERROR [device-folder] got another content of infer.onnx than was exported; expected a "
        "whole folder (deepseg train-step 1); fix: export or copy it again"
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(
            lambda c: np.save(c / "labels.npy", np.full((16, 15, 14), 3)),
            "got labels 3 in {}; expected 0 to 2, -1 where unknown",
            id="a class too many",
        ),
        pytest.param(
            lambda c: (c / "FLAIR.npy").unlink(),
            "got no FLAIR in {}; expected FLAIR with one of .npy, .nii, .nii.gz",
            id="no channel",
        ),
        pytest.param(
            lambda c: np.save(c / "T1.npy", np.zeros((16, 15, 13))),
            "got volumes of shapes (16, 15, 13), (16, 15, 14) in {}; expected one",
            id="two shapes",
        ),
        pytest.param(
            lambda c: np.save(c / "T1.npy", np.full((16, 15, 14), np.inf)),
            "got T1.npy of shape (16, 15, 14) in {}; expected three axes, finite values",
            id="infinite voxels",
        ),
    ],
)
def test_a_case_that_does_not_fit_is_refused(train, cases, capsys, spoil, message):
    for case in cases.iterdir():
        spoil(case)
    first = split(sorted(case.name for case in cases.iterdir()), 0)["first"][0]
    assert train("--steps", 1) == 2
    assert error_of(capsys) == (
        f"ERROR [device-case] {message.format(cases / first)}; fix: correct or remove the case"
    )


def test_a_full_disk_costs_no_earlier_state(train, device, capsys, monkeypatch):
    assert train("--steps", 2, "--eval-every", 0) == 0
    before = (device / "state_000002.npz").read_bytes()
    capsys.readouterr()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("numpy.savez", full)
    assert train("--steps", 4, "--eval-every", 0) == 5
    assert error_of(capsys) == (
        "ERROR [output-not-writable] got No space left on device for "
        f"{device / 'state_000004.npz'}; expected a place where this file can be written; fix: "
        "make room or change the permissions, then give the same command again"
    )
    monkeypatch.undo()
    assert (device / "state_000002.npz").read_bytes() == before
    assert [f.name for f in device.iterdir() if "partial" in f.name] == []
    assert train("--steps", 4, "--eval-every", 0) == 0


def test_two_runs_in_one_folder_are_refused_until_one_has_ended(train, device, capsys):
    (device / "lock").write_text(f"{os.getpid()} {socket.gethostname()}")
    assert train("--steps", 1) == 6
    assert error_of(capsys).startswith(f"ERROR [folder-in-use] got another run in {device};")
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    ended.wait()
    (device / "lock").write_text(f"{ended.pid} {socket.gethostname()}")
    assert train("--steps", 1) == 0


def test_ctrl_c_saves_the_last_whole_step(train, device, capsys, monkeypatch):
    original = Run.advance

    def advance(run, loss, state):
        original(run, loss, state)
        if run.step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "advance", advance)
    assert train("--steps", 9, "--eval-every", 0) == 130
    assert error_of(capsys) == "interrupted; the last whole step is saved"
    assert int(arrays(device / "state_000003.npz")["step"]) == 3


def test_a_loss_that_is_not_finite_ends_the_run_before_the_weights_are_broken(
    train, device, capsys
):
    assert train("--steps", 30, "--eval-every", 0, "--learning-rate", "1e30") == 4
    line = error_of(capsys)
    assert line.startswith("ERROR [loss-not-finite] got a loss of")
    state = arrays(latest_state(device))
    assert all(np.isfinite(state[n]).all() for n in state if n not in COUNTERS)


@pytest.mark.parametrize(
    ("words", "got"),
    [
        (["--steps", "-1"], "argument --steps: '-1', which is not a whole number from 0 up"),
        (["--class-weights", "1", "2"], "2 --class-weights"),
        (
            ["--learning-rate", "fast"],
            "argument --learning-rate: 'fast', which is no number from 0 on",
        ),
        (["--epochs", "4"], "unrecognized arguments: --epochs 4"),
    ],
)
def test_a_wrong_option_is_one_line(device, cases, capsys, words, got):
    assert main([str(device), "--data", str(cases), "--steps", "1", *words]) == 2
    assert error_of(capsys).startswith(f"ERROR [device-command] got {got}; expected ")


def test_a_split_belongs_to_its_cases_and_its_seed(train, cases, capsys):
    assert train("--steps", 1) == 0
    capsys.readouterr()
    assert train("--steps", 2, "--seed", 4) == 2
    assert "got --seed 4 and a split with seed 0;" in error_of(capsys)
    (cases / "case0" / "labels.npy").unlink()
    assert train("--steps", 2) == 2
    assert "got other cases than those that were split;" in error_of(capsys)


def test_class_weights_reach_the_loss(train, device, capsys):
    losses = []
    for words in ([], ["--class-weights", "0", "0", "0"]):
        state = device / "state.npz"
        assert train("--steps", 1, "--eval-every", 0, "--state", state, *words) == 0
        losses.append(float(re.search(r"1: Loss is (\S+)", capsys.readouterr().out)[1]))
    assert losses[0] > 0 == losses[1]


def case_problem(folder, manifest, **words):
    with pytest.raises(DeviceError) as refusal:
        read_case(folder, manifest, **words)
    return str(refusal.value)


def test_a_region_of_interest_that_is_not_there_is_told(device, cases):
    manifest = json.loads((device / "manifest.json").read_text())
    folder = cases / "case0"
    assert read_case(folder, manifest).roi is not None
    assert f"no file brain in {folder}" in case_problem(folder, manifest, roi_name="brain")
    (folder / "roi.npy").unlink()
    assert read_case(folder, manifest).roi is None  # of a model that has not seen one either
    learnt = {**manifest, "has_roi": True}
    problem = case_problem(folder, learnt)
    assert f"no file roi in {folder}" in problem
    assert "a region of interest, as all training cases had" in problem
    assert read_case(folder, learnt, roi_name="none").roi is None
