"""Federated averaging: three devices learn, and only their weights travel; arXiv:1602.05629."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE, ROUNDS, STEPS = Path(__file__).parent, 4, 20
DEVICES = {n: HERE / f"runs/device{n}" for n in (1, 2, 3)}


def device_train(device: Path, data: str, *words: object) -> str:
    """The last line that the program of a device prints."""
    words = (device / "device_train.py", device, "--data", HERE / data, "--roi", "brain", *words)
    return subprocess.check_output([sys.executable, *map(str, words)], text=True).splitlines()[-1]


for device in DEVICES.values():
    shutil.copytree(HERE / "runs/export", device)
for step in range(STEPS, ROUNDS * STEPS + 1, STEPS):
    for n, device in DEVICES.items():
        words = ("--steps", step, "--eval-every", 0, "--learning-rate", 0.02)
        print(f"device {n}, step {step}:", device_train(device, f"data/site{n}", *words))
        shutil.copy(device / f"state_{step:06d}.npz", device / "own.npz")
    states = [np.load(device / "own.npz") for device in DEVICES.values()]
    mean = {
        name: np.mean([s[name] for s in states], 0, states[0][name].dtype) for name in states[0]
    }
    for device in DEVICES.values():
        np.savez(device / f"state_{step:06d}.npz", **mean)
for n, device in DEVICES.items():  # the third part of every device, which none has seen
    for name in json.loads((device / "split.json").read_text())["third"]:
        shutil.copytree(HERE / f"data/site{n}" / name, HERE / f"runs/pooled/site{n}_{name}")
for n, device in DEVICES.items():
    score = device_train(device, "runs/pooled", "--score", "--state", device / "own.npz")
    print(f"device {n} alone:", score)
print("the average:", device_train(DEVICES[1], "runs/pooled", "--score"))
