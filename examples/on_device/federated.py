"""Federated averaging: three devices learn, and only their weights travel; arXiv:1602.05629."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE, ROUNDS, STEPS, SITES = Path(__file__).parent, 4, 20, (1, 2, 3)
SEED = sys.argv[1] if sys.argv[1:] else 0  # of the segments and of the split of the cases


def device_train(device: str, data: str, *words: object) -> str:
    """The last line that the program of a device prints."""
    folder = HERE / "runs" / device
    words = (folder / "device_train.py", folder, "--data", HERE / data, "--roi", "brain", *words)
    return subprocess.check_output([sys.executable, *map(str, words)], text=True).splitlines()[-1]


words = ("--eval-every", 0, "--save-every", 0, "--learning-rate", 0.02, "--seed", SEED)
for n in SITES:
    for name in (f"device{n}", f"alone{n}"):
        shutil.copytree(HERE / "runs/export", HERE / "runs" / name)
    device_train(f"alone{n}", f"data/site{n}", "--steps", ROUNDS * STEPS, *words)
for step in range(STEPS, ROUNDS * STEPS + 1, STEPS):
    for n in SITES:
        print(f"{n}:", device_train(f"device{n}", f"data/site{n}", "--steps", step, *words))
    files = [HERE / f"runs/device{n}/state_{step:06d}.npz" for n in SITES]
    states = [dict(np.load(file)) for file in files]
    mean = {k: np.mean([s[k] for s in states], 0, v.dtype) for k, v in states[0].items()}
    for file in files:
        np.savez(file, **mean)
for n in SITES:  # the third part of every device, which none has learnt from
    for name in json.loads((HERE / f"runs/device{n}/split.json").read_text())["third"]:
        shutil.copytree(HERE / f"data/site{n}" / name, HERE / f"runs/pooled/site{n}_{name}")
for device in ("export", *(f"alone{n}" for n in SITES), "device1"):
    print(f"{device}:", device_train(device, "runs/pooled", "--score"))
