"""Federated averaging: three devices learn, and only their weights travel; arXiv:1602.05629."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE, ROUNDS, STEPS = Path(__file__).parent, 4, 20
POOLED, DEVICES = HERE / "data/pooled", {n: HERE / f"runs/device{n}" for n in (1, 2, 3)}


def device_train(device: Path, data: Path, *words: object) -> str:
    """The last line that the program of a device prints."""
    words = (device / "device_train.py", device, "--data", data, "--roi", "brain", *words)
    return subprocess.check_output([sys.executable, *map(str, words)], text=True).splitlines()[-1]


for device in DEVICES.values():
    shutil.copytree(HERE / "runs/export", device)
for step in range(STEPS, ROUNDS * STEPS + 1, STEPS):
    for number, device in DEVICES.items():
        settings = ("--steps", step, "--eval-every", 0, "--learning-rate", 0.02)
        print(
            f"device {number}, step {step}:",
            device_train(device, HERE / f"data/site{number}", *settings),
        )
        shutil.copy(device / f"state_{step:06d}.npz", device / "own.npz")
    states = [dict(np.load(device / "own.npz")) for device in DEVICES.values()]
    mean = {name: np.mean([state[name] for state in states], axis=0) for name in states[0]}
    for device in DEVICES.values():  # of numbers of steps, the mean is their own type again
        typed = {name: value.astype(states[0][name].dtype) for name, value in mean.items()}
        np.savez(device / f"state_{step:06d}.npz", **typed)
for number, device in DEVICES.items():  # the third part of every device, which none has seen
    for name in json.loads((device / "split.json").read_text())["third"]:
        shutil.copytree(
            HERE / f"data/site{number}/{name}", POOLED / f"site{number}_{name}", dirs_exist_ok=True
        )
for number, device in DEVICES.items():
    print(
        f"device {number} alone:",
        device_train(device, POOLED, "--score", "--state", device / "own.npz"),
    )
print("the average:", device_train(DEVICES[1], POOLED, "--score"))
