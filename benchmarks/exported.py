"""An exported network in onnxruntime against `-test`: one case, both programs from start to end.

    python benchmarks/exported.py [--size 96] [--rounds 3]

The default three-pathway model with random weights and a generated image; the program of
``documentation/pipelines.md`` and ``run.py -test``, in turns, on as many cores as the machine has.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np

import deepseg
from deepseg.config.cases import Preparation
from deepseg.model.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "documentation" / "pipelines.md"
MODEL = ROOT / "configs" / "model" / "deepmedic.yaml"
TEST = "name: {}\noutput: runs\ncases: {{table: cases.csv}}\nsave: {{pictures: false}}\n"


def prepare(folder: Path, size: int) -> list[str]:
    """Write a case, a model, its export and the page's program; names of the case's files."""
    rng = np.random.default_rng(0)
    model = read_checkpoint(deepseg.new_model(MODEL, out=folder / "new.save", quiet=True))
    replace(model, preparation=Preparation()).write(folder / "M.save")
    files = [f"{name}.nii.gz" for name in model.config.channels]
    for file in files:
        image = rng.normal(0, 1, (size, size + 10, size - 10)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), folder / file)
    columns = [f"channel_{name}" for name in model.config.channels]
    table = [",".join(["case", *columns]), ",".join(["one", *files])]
    (folder / "cases.csv").write_text("\n".join(table) + "\n")
    deepseg.export(folder / "M.save", "onnx", out=folder / "net" / "M.onnx", quiet=True)
    program = re.search(r"^```python standalone\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    assert program is not None
    (folder / "segment.py").write_text(program[1])
    return files


def seconds(command: list[str], folder: Path) -> float:
    """Seconds that a process takes, which must succeed."""
    started = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return time.monotonic() - started


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=96, help="voxels along Y, about")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = prepare(folder, options.size)
        times: dict[str, list[float]] = {"-test": [], "onnxruntime": []}
        for number in range(options.rounds):
            (folder / f"t{number}.yaml").write_text(TEST.format(f"t{number}"))
            test = [str(ROOT / "run.py"), "-test", f"t{number}.yaml", "-model", "M.save"]
            times["-test"].append(seconds([sys.executable, *test, "-dev", "cpu"], folder))
            program = ["segment.py", "net", f"o{number}.nii.gz", "-", *files]
            times["onnxruntime"].append(seconds([sys.executable, *program], folder))
        (result,) = folder.glob("runs/t0/**/*Segm*.nii.gz")
        one, other = (
            np.asarray(nibabel.load(file).dataobj) for file in (result, folder / "o0.nii.gz")
        )
    print("| | seconds, the least of all rounds |\n|---|---|")
    for program_name, values in times.items():
        print(f"| {program_name} | {min(values):.1f} |")
    print(f"\n{(one == other).mean():.4%} of {one.size:,} voxels equal")


if __name__ == "__main__":
    main()
