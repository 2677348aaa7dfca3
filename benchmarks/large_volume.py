"""A volume of 512 x 512 x 600 with two channels and five classes: the most memory `-test` takes.

    python benchmarks/large_volume.py [--memory "2 GB"] [--precision bfloat16] [--shape 512 512 600]

The default three-pathway model with random weights; the volume is made up, its region of interest a
few balls far from each other, so that the time is that of reading, stitching and writing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

import deepseg

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "configs/model/deepmedic.yaml"
CENTRES = ((0.2, 0.3, 0.2), (0.5, 0.5, 0.5), (0.8, 0.6, 0.9))
RADIUS = 24
TEST = """\
name: test
output: .
cases: {table: cases.csv}
inference: {memory: MEMORY, precision: PRECISION}
"""


def write_files(folder: Path, shape: tuple[int, int, int], memory: str, precision: str) -> None:
    """Two channels of 16 bits, a region of interest, and the test file."""
    rng = np.random.default_rng(0)
    roi = np.zeros(shape, np.uint8, order="F")
    for centre in CENTRES:
        middle = [int(n * part) for n, part in zip(shape, centre, strict=True)]
        block = tuple(slice(m - RADIUS, m + RADIUS) for m in middle)
        x, y, z = np.ogrid[-RADIUS:RADIUS, -RADIUS:RADIUS, -RADIUS:RADIUS]
        roi[block] = x * x + y * y + z * z < RADIUS * RADIUS
    _save(folder / "roi.nii.gz", roi)
    for name in ("FLAIR", "T1c"):
        image = np.empty(shape, np.int16, order="F")
        for z in range(shape[2]):
            image[..., z] = np.repeat(rng.integers(0, 900, (shape[0], 1)), shape[1], 1)
        _save(folder / f"{name}.nii.gz", image)
    head = "case,channel_FLAIR,channel_T1c,roi\n"
    (folder / "cases.csv").write_text(f"{head}large,FLAIR.nii.gz,T1c.nii.gz,roi.nii.gz\n")
    text = TEST.replace("MEMORY", memory).replace("PRECISION", precision)
    (folder / "test.yaml").write_text(text)


def _save(path: Path, array: NDArray[np.integer]) -> None:
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)


def main() -> None:
    """Make the volume, segment it, and show what the session says of its memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", default="2 GB")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 600))
    parser.add_argument("--folder", type=Path, default=None, help="for the volume, some GB")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="deepseg-large-", dir=given.folder) as name:
        folder = Path(name)
        write_files(folder, tuple(given.shape), given.memory, given.precision)
        model = deepseg.new_model(MODEL, out=folder / "model.save", quiet=True)
        command = [sys.executable, str(ROOT / "run.py"), "-test", "test.yaml"]
        started = time.monotonic()
        said = subprocess.run(
            [*command, "-model", str(model), "-dev", "cpu"],
            cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True,
            capture_output=True, text=True,
        ).stdout  # fmt: skip
        print(next(line for line in said.splitlines() if "most memory used" in line))
        print(f"{time.monotonic() - started:.0f} seconds")


if __name__ == "__main__":
    main()
