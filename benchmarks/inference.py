"""Whole cases: how many times faster than a plain torch port `run.py -test` is, start to end.

    python benchmarks/inference.py [--cases FOLDER] [--count 2] [--out FILE]

The default three-pathway model with random weights. Every line is one process from its start to its
end, reading and writing included; the port tiles as DeepMedic does (tiles of 45, batches of 10, a
tile is left out only where its whole input lies outside the region of interest). FOLDER holds, at
any depth, folders with ``Flair_subtrMeanDivStd.nii.gz``, ``T1c_subtrMeanDivStd.nii.gz`` and
``brainmask.nii.gz``.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import torch

import deepseg
from deepseg.config.load import load
from deepseg.config.model import ModelConfig
from deepseg.model.cost import multiply_adds
from deepseg.model.layout import layout

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("DEEPSEG_DATA", ROOT / "../shared/data"))
MODEL = ROOT / "configs/model/deepmedic.yaml"
CHANNELS = {"FLAIR": "Flair_subtrMeanDivStd.nii.gz", "T1c": "T1c_subtrMeanDivStd.nii.gz"}
ROI = "brainmask.nii.gz"
TEST = """\
name: PRECISION
output: .
cases: {table: cases.csv}
preparation: {z_score: none}
save: {pictures: false}
"""


def seconds(command: list[str], folder: Path) -> tuple[float, float]:
    """How long a process takes that must succeed, by the clock and on the processor."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - started, busy


def product_rate(dtype: torch.dtype, size: int = 3072) -> float:
    """GFLOP/s of a square matrix product, the best of five."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    return 2e-9 * size**3 / min(_time(lambda: a @ b) for _ in range(5))


def _time(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def write_files(folder: Path, cases: list[Path]) -> None:
    """The table of the cases and the test files."""
    head = ["case", *(f"channel_{name}" for name in CHANNELS), "roi"]
    rows = [
        [case.name, *(str(case / file) for file in CHANNELS.values()), str(case / ROI)]
        for case in cases
    ]
    (folder / "cases.csv").write_text("\n".join(",".join(row) for row in [head, *rows]) + "\n")
    for precision in ("float32", "bfloat16"):
        (folder / f"{precision}.yaml").write_text(TEST.replace("PRECISION", precision))


def dice(folder: Path, cases: list[Path]) -> Iterator[str]:
    """Agreement of both precisions per class of more than 100 voxels."""
    both = [
        np.concatenate(
            [
                np.asarray(
                    nibabel.load(folder / name / "predictions" / f"{c.name}_Segm.nii.gz").dataobj
                ).ravel()
                for c in cases
            ]
        )
        for name in ("float32", "bfloat16")
    ]
    for label, name in enumerate(load(ModelConfig, MODEL).config.classes):
        one, other = (array == label for array in both)
        if label > 0 and one.sum() > 100:
            yield f"{name} {2 * (one & other).sum() / (one.sum() + other.sum()):.4f}"


def table(folder: Path, cases: list[Path]) -> str:
    """Run everything and say what was measured."""
    model = deepseg.new_model(MODEL, out=folder / "model.save")
    write_files(folder, cases)
    port = [sys.executable, str(ROOT / "benchmarks/plain_port.py"), str(folder)]
    files = [
        " ".join([str(case / ROI), *(str(case / f) for f in CHANNELS.values())]) for case in cases
    ]
    times = {"plain port": seconds([*port, *" , ".join(files).split()], folder)}
    for precision in ("float32", "bfloat16"):
        command = [sys.executable, str(ROOT / "run.py"), "-test", f"{precision}.yaml"]
        command += ["-model", str(model), "-dev", "cpu", "-precision", precision]
        times[precision] = seconds(command, folder)
    voxels = sum(int((np.asarray(nibabel.load(c / ROI).dataobj) > 0).sum()) for c in cases)
    work = 2e-9 * voxels * sum(multiply_adds(layout(load(ModelConfig, MODEL).config)).values())
    lines = [
        f"{platform.node() or 'machine'}: {os.cpu_count()} cores, torch {torch.__version__}; "
        f"{len(cases)} cases, {voxels:,} voxels inside the ROI",
        "",
        "| | seconds | times the port | core seconds | times the port | GFLOP/s of useful work |",
        "|---|---|---|---|---|---|",
    ]
    port_clock, port_busy = times["plain port"]
    for name, (clock, busy) in times.items():
        lines.append(
            f"| {name} | {clock:.1f} | {port_clock / clock:.2f} | {busy:.1f} | "
            f"{port_busy / busy:.2f} | {work / clock:.0f} |"
        )
    rates = [product_rate(dtype) for dtype in (torch.float32, torch.bfloat16)]
    lines += [
        "",
        "Core seconds hold where other programs share the machine. Useful work: the multiply-adds "
        "of the plain network for the voxels inside the ROI alone. "
        f"Matrix products reach {rates[0]:.0f} GFLOP/s in float32, {rates[1]:.0f} in bfloat16.",
        f"Dice of bfloat16 with float32 per class: {', '.join(dice(folder, cases))}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print the table, keep it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=Path, default=DATA)
    parser.add_argument("--count", type=int, default=2)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    cases = sorted(file.parent.resolve() for file in given.cases.glob(f"**/{ROI}"))[: given.count]
    with tempfile.TemporaryDirectory(prefix="deepseg-inference-") as folder:
        found = table(Path(folder), cases)
    print(found)
    if given.out is not None:
        given.out.write_text(f"# Segmenting whole cases\n\n{found}")


if __name__ == "__main__":
    main()
