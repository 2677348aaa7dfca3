"""Runs of the program of an exported folder, and what continues them."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from deepseg.exports.on_device.cases import Cases
from deepseg.exports.on_device.command_line import parser
from deepseg.exports.on_device.device_train import main
from deepseg.exports.on_device.networks import open_network
from deepseg.exports.on_device.sampler import Sampler
from deepseg.exports.on_device.states import latest_state, read_state
from deepseg.exports.on_device.steps import Rates, training_step
from tests.exports.on_device.runs import RATE, arrays


def test_a_run_learns_prints_and_writes_what_it_says(train, device, capsys):
    assert train("--steps", 12, "--eval-every", 4, "--save-every", 5) == 0
    message = capsys.readouterr().out.splitlines()
    steps = [re.fullmatch(r"(\d+): Loss is (\S+) \[min=(\S+)\]", line) for line in message]
    numbers = [(int(m[1]), float(m[2]), float(m[3])) for m in steps if m]
    assert [step for step, _, _ in numbers] == list(range(1, 13))
    lowest = np.minimum.accumulate([loss for _, loss, _ in numbers])
    assert [least for _, _, least in numbers] == lowest.tolist()
    assert lowest[-1] < numbers[0][1]
    assert len([line for line in message if line.startswith("Dice on the second part")]) == 3
    assert message[-1].startswith("Dice on the third part = ")
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


def lonely_environment(folder: Path) -> dict[str, str]:
    """Of a process that has no packages but numpy and onnxruntime, with Python's option -S."""
    packages = folder / "packages"
    packages.mkdir()
    for name in ("numpy", "numpy.libs", "onnxruntime"):
        source = Path(onnxruntime.__file__).parents[1] / name
        if source.exists():
            (packages / name).symlink_to(source)
    return {"PYTHONPATH": str(packages), "PYTHONDONTWRITEBYTECODE": "1"}


def test_a_run_killed_at_step_37_goes_on_from_20_as_if_nothing_had_happened(
    exported, device, cases, train, tmp_path
):
    """The killed one has no package but numpy and onnxruntime; the other is never interrupted."""
    environment, python = lonely_environment(tmp_path), [sys.executable, "-S"]
    for package in (b"torch", b"deepseg"):
        check = [*python, "-c", f"import {package.decode()}"]
        refused = subprocess.run(check, check=False, capture_output=True, env=environment, cwd="/")
        assert b"No module named '" + package in refused.stderr
    words = [str(device), "--data", str(cases), "--steps", "45", "--eval-every", "0", *RATE]
    command = [*python, str(device / "device_train.py"), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd="/") as process:
        for line in process.stdout:
            if line.startswith(b"37: "):
                process.kill()
                break
    assert process.returncode == -signal.SIGKILL
    assert [f.name for f in device.glob("state_*")] == ["state_000020.npz"]
    assert train("--steps", 45, "--eval-every", 0) == 0

    second = shutil.copytree(exported / "device", tmp_path / "unbroken")
    assert train("--steps", 45, "--eval-every", 0, folder=second) == 0
    for name in ("state_000020.npz", "state_000040.npz", "state_000045.npz", "progress.csv"):
        assert (device / name).read_bytes() == (second / name).read_bytes(), name


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
    message = capsys.readouterr().out.splitlines()
    assert "state_000004.npz is set aside as aside_state_000004.npz" in message
    assert latest_state(device).name == "state_000003.npz"


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
    message = capsys.readouterr()
    assert "3: Loss is" in message.out
    assert message.err.startswith("ERROR [device-case] got T1.npy, which cannot be read")
    assert (cases.parent / "device" / "state_000003.npz").exists()


def test_a_virtual_batch_moves_along_the_mean_gradient(device, cases):
    network = open_network(device, threads=1)
    folder = Cases(cases, network.manifest, "roi")
    sampler = Sampler([folder.read("case0")], network.manifest, seed=0)
    state = read_state(device / "state.npz", network.manifest)
    all_ones = {"class_weights": np.ones(3, np.float32)}
    batches = [sampler.batch(n) | all_ones for n in range(2)]
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
    options = {o for a in parser(Path())._actions for o in a.option_strings if o.startswith("--")}
    assert listed == options - {"--help"}
    values = {"--data": "x", "--state": "x", "--roi": "x"}
    for option in listed:
        takes = next(a for a in parser(Path())._actions if option in a.option_strings).nargs != 0
        words = [option, values.get(option, "1")] if takes else [option]
        parser(Path()).parse_args(["folder", "--data", "cases", *words])


def test_verbose_steps_print_each_changed_tensor(train, device, capsys):
    assert train("--steps", 1, "-v") == 0
    line = r"  fc\.2\.conv\.weight: min \S+ mean \S+ max \S+"
    assert (
        len([item for item in capsys.readouterr().out.splitlines() if re.fullmatch(line, item)])
        == 1
    )


def test_every_step_has_segments_of_its_own(train, device, capsys):
    assert train("--steps", 3, "--eval-every", 0, "--learning-rate", "0") == 0
    with (device / "progress.csv").open() as file:
        losses = [row["loss"] for row in csv.DictReader(file)]
    assert len(set(losses)) == 3
