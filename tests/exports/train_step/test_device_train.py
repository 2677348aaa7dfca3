"""The program of an exported folder: its runs, what continues them, and what goes wrong."""

from __future__ import annotations

import csv
import errno
import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import onnxruntime
import pytest
from scipy import ndimage

from deepseg.config.cases import ZScore
from deepseg.data.images.orientation import Reorientation
from deepseg.data.images.volumes import Geometry
from deepseg.data.intensity import z_score
from deepseg.data.preparation import PreparedCase
from deepseg.data.segments.segment import cut
from deepseg.exports.train_step import device_train
from deepseg.exports.train_step.device_train import (
    Case,
    Cases,
    Rates,
    Sampler,
    main,
    normalised,
    open_network,
    oriented,
    parser,
    read_nifti,
    read_state,
    segment_inputs,
    segment_labels,
    split,
    training_step,
    with_holes,
    write_state,
)
from deepseg.exports.train_step.manifest import plan
from deepseg.geometry.boxes import Box
from tests.networks import small_network

RATE = ("--learning-rate", "0.02")


@pytest.fixture
def train(device, cases):
    """Run the program in this process; gives the exit code."""

    def run(*words, folder=device, data=cases):
        return main([str(folder), "--data", str(data), *RATE, *map(str, words)])

    return run


def arrays(file: Path) -> dict[str, np.ndarray]:
    with np.load(file) as archive:
        return {name: archive[name] for name in archive.files}


def error_of(capsys) -> str:
    """The only line on stderr."""
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_run_learns_prints_and_writes_what_it_says(train, device, capsys):
    assert train("--steps", 12, "--eval-every", 4, "--save-every", 5) == 0
    said = capsys.readouterr().out.splitlines()
    steps = [re.fullmatch(r"(\d+): Loss is (\S+) \[min=(\S+)\]", line) for line in said]
    numbers = [(int(m[1]), float(m[2]), float(m[3])) for m in steps if m]
    assert [step for step, _, _ in numbers] == list(range(1, 13))
    lowest = np.minimum.accumulate([loss for _, loss, _ in numbers])
    assert [least for _, _, least in numbers] == lowest.tolist()
    assert lowest[-1] < numbers[0][1]
    assert len([line for line in said if line.startswith("Dice on the second part")]) == 3
    assert said[-1].startswith("Dice on the third part = ")
    with (device / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, 13))
    assert [bool(row["dice"]) for row in rows] == [step % 4 == 0 for step in range(1, 13)]
    names = sorted(file.name for file in device.glob("state_*"))
    assert names == ["state_000005.npz", "state_000010.npz", "state_000012.npz"]
    parts = json.loads((device / "split.json").read_text())
    assert {part: len(parts[part]) for part in ("first", "second", "third")} == {
        "first": 4, "second": 1, "third": 1,
    }  # fmt: skip
    assert not (device / "lock").exists()


def isolated(folder: Path) -> list[str]:
    """A Python in whose only package folder are numpy and onnxruntime."""
    packages = folder / "packages"
    packages.mkdir()
    for name in ("numpy", "numpy.libs", "onnxruntime"):
        source = Path(onnxruntime.__file__).parents[1] / name
        if source.exists():
            (packages / name).symlink_to(source)
    run = (
        "import runpy, sys; sys.path.append(sys.argv.pop(1)); "
        "sys.argv[0] = sys.argv[1] + '/device_train.py'; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    return [sys.executable, "-I", "-S", "-c", run, str(packages)]


def test_a_run_killed_at_step_37_goes_on_from_20_as_if_nothing_had_happened(
    exported, device, cases, train, tmp_path
):
    """The killed one has no package but numpy and onnxruntime; the other is never interrupted."""
    python = isolated(tmp_path)
    check = [*python[:4], "import torch", python[5]]
    check[4] = "import sys; sys.path.append(sys.argv[1]); import torch"
    refused = subprocess.run(check, check=False, capture_output=True)
    assert b"No module named 'torch'" in refused.stderr
    words = ["--data", str(cases), "--steps", "45", "--eval-every", "0", *RATE]
    with subprocess.Popen([*python, str(device), *words], stdout=subprocess.PIPE) as process:
        for line in process.stdout:
            if line.startswith(b"37: "):
                process.kill()
                break
    assert process.returncode == -signal.SIGKILL
    assert [f.name for f in device.glob("state_*")] == ["state_000020.npz"]
    assert train("--steps", 45, "--eval-every", 0) == 0

    other = tmp_path / "unbroken"
    other.mkdir()
    for file in (exported / "device").iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    assert train("--steps", 45, "--eval-every", 0, folder=other) == 0
    for name in ("state_000020.npz", "state_000040.npz", "state_000045.npz", "progress.csv"):
        assert (device / name).read_bytes() == (other / name).read_bytes(), name


def test_scores_between_steps_leave_the_state_untouched(train, device, capsys):
    assert train("--steps", 6, "--eval-every", 1) == 0
    often = arrays(device / "state_000006.npz")
    assert train("--steps", 6, "--eval-every", 0, "--state", device / "state.npz") == 0
    never = arrays(device / "state_000006.npz")
    assert often.pop("best_dice") > 0 > never.pop("best_dice")
    assert [n for n in often if often[n].tobytes() != never[n].tobytes()] == []


def test_an_earlier_state_sets_later_ones_aside(train, device, capsys):
    assert train("--steps", 4, "--eval-every", 0, "--save-every", 2) == 0
    capsys.readouterr()
    assert train("--steps", 3, "--eval-every", 0, "--state", device / "state_000002.npz") == 0
    said = capsys.readouterr().out.splitlines()
    assert "state_000004.npz is set aside as aside_state_000004.npz" in said
    assert device_train.latest_state(device).name == "state_000003.npz"


@pytest.mark.parametrize(("dice", "last"), [(0.0, 2), (1.1, 4)])
def test_a_run_ends_above_the_threshold_and_never_at_it(train, device, capsys, dice, last):
    assert train("--steps", 4, "--eval-every", 2, "--stop-at", dice) == 0
    assert (device / f"state_{last:06d}.npz").exists()
    assert ("stopped: Dice" in capsys.readouterr().out) == (last == 2)


def test_a_reloaded_state_scores_as_it_did(train, device, cases, capsys):
    assert train("--steps", 3, "--eval-every", 0) == 0
    after = capsys.readouterr().out.splitlines()[-1]
    assert train("--steps", 3) == 0
    assert capsys.readouterr().out.splitlines()[-1] == after
    assert train("--score") == 0
    assert capsys.readouterr().out.startswith("Dice on all 6 cases = ")


def test_the_third_part_is_not_read_before_the_end(train, cases, capsys):
    assert train("--steps", 1) == 0
    parts = json.loads((cases.parent / "device" / "split.json").read_text())
    (third,) = parts["third"]
    (cases / third / "T1.npy").write_bytes(b"")
    assert train("--steps", 3) == 2
    said = capsys.readouterr()
    assert "3: Loss is" in said.out
    assert said.err.startswith("ERROR [device-case] got T1.npy, which cannot be read")
    assert (cases.parent / "device" / "state_000003.npz").exists()


def test_a_virtual_batch_moves_along_the_mean_gradient(device, cases):
    network = open_network(device, threads=1)
    folder = Cases(cases, network.manifest, "roi")
    sampler = Sampler([folder.read("case0")], network.manifest, seed=0)
    state = read_state(device / "state.npz", network.manifest)
    ones = {"class_weights": np.ones(3, np.float32)}
    batches = [sampler.batch(n) | ones for n in range(2)]
    rates = Rates(learning_rate=0.1, momentum=0.9, decay=0.01)
    state = training_step(network, state, batches[:1], rates)[1]  # velocities are not 0 then
    name = "fc.2.conv.weight"
    still = {k: v if not k.startswith("velocity.") else 0 * v for k, v in state.items()}
    slopes = [
        training_step(network, still, [b], Rates(0.0, 0.0, 0.0))[1][f"velocity.{name}"]
        for b in batches
    ]
    losses = [training_step(network, still, [b], rates)[0] for b in batches]
    loss, new = training_step(network, state, batches, rates)
    velocity = 0.9 * state[f"velocity.{name}"] + sum(slopes) / 2 + 0.01 * state[name]
    np.testing.assert_allclose(new[f"velocity.{name}"], velocity, atol=1e-6)
    np.testing.assert_allclose(new[name], state[name] - 0.1 * velocity, atol=1e-6)
    assert loss == pytest.approx(sum(losses) / 2)


def test_every_option_of_the_help_is_accepted(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    listed = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
    options = {o for a in parser()._actions for o in a.option_strings if o.startswith("--")}
    assert listed == options - {"--help"}
    values = {"--data": "x", "--state": "x", "--roi": "x"}
    for option in listed:
        takes = next(a for a in parser()._actions if option in a.option_strings).nargs != 0
        words = [option, values.get(option, "1")] if takes else [option]
        parser().parse_args(["folder", "--data", "cases", *words])


def test_verbose_steps_print_each_changed_tensor(train, device, capsys):
    assert train("--steps", 1, "-v") == 0
    line = r"  fc\.2\.conv\.weight: min \S+ mean \S+ max \S+"
    assert (
        len([one for one in capsys.readouterr().out.splitlines() if re.fullmatch(line, one)]) == 1
    )


# What goes wrong


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
    original = device_train.Run.advance

    def advance(run, loss, state):
        original(run, loss, state)
        if run.step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(device_train.Run, "advance", advance)
    assert train("--steps", 9, "--eval-every", 0) == 130
    assert error_of(capsys) == "interrupted; the last whole step is saved"
    assert int(arrays(device / "state_000003.npz")["step"]) == 3


def test_a_loss_that_is_not_finite_ends_the_run_before_the_weights_are_broken(
    train, device, capsys
):
    assert train("--steps", 30, "--eval-every", 0, "--learning-rate", "1e30") == 4
    line = error_of(capsys)
    assert line.startswith("ERROR [loss-not-finite] got a loss of")
    state = arrays(device_train.latest_state(device))
    assert all(np.isfinite(state[n]).all() for n in state if n not in device_train.COUNTERS)


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


# The same numbers as deepseg


@pytest.mark.parametrize(
    "settings",
    [
        {"subsampled": {"factors": [3, [2, 4, 1]]}},
        {"subsampled": {"factors": [3, [2, 4, 1]]}, "context_alignment": "deepmedic"},
    ],
)
def test_segments_are_cut_as_deepseg_cuts_them(settings):
    network = small_network(**settings)
    rng = np.random.default_rng(0)
    shape, size = (13, 17, 15), (9, 11, 10)
    channels = rng.normal(size=(2, *shape)).astype(np.float32)
    labels = rng.integers(-1, 3, size=shape).astype(np.int16)
    prepared = PreparedCase("a", channels, labels, None, None, Geometry(shape, np.eye(4)))
    case, rules = Case("a", channels, labels, None), plan(network, batch=1, segment=size)
    for _ in range(30):
        start = rng.integers(-12, 16, size=3)
        expected = cut(prepared, Box(tuple(start.tolist()), size), network.geometry)
        blocks = segment_inputs(case, start, rules)
        assert list(blocks) == ["x_normal", "x_sub1", "x_sub2"]
        for block, other in zip(blocks.values(), expected.inputs, strict=True):
            np.testing.assert_array_equal(block, other)
        np.testing.assert_array_equal(segment_labels(case, start, rules), expected.labels)


@pytest.mark.parametrize(
    "settings",
    [
        ZScore(),
        ZScore(cutoff_percentiles=(5, 90), above_mean=True),
        ZScore(cutoff_deviations=(1.0, 2.0)),
    ],
)
def test_z_scores_are_those_of_deepseg(settings):
    rng = np.random.default_rng(1)
    image = rng.gamma(2.0, 100.0, size=(9, 8, 7)).astype(np.float32)
    roi = rng.random(image.shape) < 0.6
    record = settings.model_dump(mode="json")
    for mask in (roi, None):
        expected = z_score(image, mask, settings)
        np.testing.assert_allclose(normalised(image, mask, record, "T1"), expected, atol=1e-6)
    assert normalised(image, roi, {**record, "channels": ["FLAIR"]}, "T1") is image
    assert normalised(image, roi, "none", "T1") is image


@pytest.mark.parametrize("code", [1, 0], ids=["sform", "qform"])
@pytest.mark.parametrize("dtype", ["<i2", ">f4", "u1"])
def test_nifti_files_are_read_and_turned_as_by_nibabel(tmp_path, code, dtype):
    rng = np.random.default_rng(2)
    voxels = rng.integers(0, 200, size=(3, 5, 4)).astype(dtype)
    turn = np.array([[0, -2.0, 0.1, 7], [0.1, 0, 3.0, -5], [1.5, 0, 0, 2], [0, 0, 0, 1]])
    header = nibabel.Nifti1Header(endianness=dtype[0] if dtype[0] in "<>" else "<")
    header.set_data_dtype(dtype)
    image = nibabel.Nifti1Image(voxels, turn, header)
    image.set_sform(turn, code=code)
    image.set_qform(turn, code=1 - code)
    image.header.set_slope_inter(2, 10)
    nibabel.save(image, tmp_path / "a.nii.gz")
    loaded = nibabel.load(tmp_path / "a.nii.gz")
    (tmp_path / "a.nii").write_bytes(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()))
    for name in ("a.nii", "a.nii.gz"):
        array, affine = read_nifti(tmp_path / name)
        np.testing.assert_allclose(array, loaded.get_fdata())
        np.testing.assert_allclose(affine, loaded.affine[:3], atol=1e-5)
    codes = "".join(nibabel.aff2axcodes(loaded.affine))
    for letters in ("RAS", "LPI", "SRA"):
        expected = Reorientation.between(codes, letters).array(array)
        np.testing.assert_array_equal(oriented(array, affine, letters), expected)
    assert oriented(array, affine, None) is array


def test_holes_of_a_mask_are_those_that_scipy_fills():
    rng = np.random.default_rng(3)
    mask = ndimage.binary_dilation(rng.random((20, 18, 16)) < 0.06)
    filled = ndimage.binary_fill_holes(mask)
    assert filled.sum() > mask.sum()
    np.testing.assert_array_equal(with_holes(mask), filled)


def test_parts_of_a_split_are_disjoint_and_depend_on_the_seed():
    names = [f"case{number}" for number in range(23)]
    parts = split(names, 5)
    assert sorted(name for part in parts.values() for name in part) == sorted(names)
    assert [len(parts[part]) for part in ("first", "second", "third")] == [15, 4, 4]
    assert split(names, 5) == parts != split(names, 6)


def test_every_step_has_segments_of_its_own(train, device, capsys):
    assert train("--steps", 3, "--eval-every", 0, "--learning-rate", "0") == 0
    with (device / "progress.csv").open() as file:
        losses = [row["loss"] for row in csv.DictReader(file)]
    assert len(set(losses)) == 3


def case_problem(folder, manifest, **words):
    with pytest.raises(device_train.DeviceError) as refusal:
        device_train.read_case(folder, manifest, **words)
    return str(refusal.value)


def test_a_region_of_interest_that_is_not_there_is_told(device, cases):
    manifest = json.loads((device / "manifest.json").read_text())
    folder = cases / "case0"
    assert device_train.read_case(folder, manifest).roi is not None
    assert f"no file brain in {folder}" in case_problem(folder, manifest, roi_name="brain")
    (folder / "roi.npy").unlink()
    assert (
        device_train.read_case(folder, manifest).roi is None
    )  # of a model that has not seen one either
    learnt = {**manifest, "has_roi": True}
    problem = case_problem(folder, learnt)
    assert f"no file roi in {folder}" in problem
    assert "a region of interest, as all training cases had" in problem
    assert device_train.read_case(folder, learnt, roi_name="none").roi is None
