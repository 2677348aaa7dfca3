"""Memory of a training session with two sampling workers, and of sampling from 5 and 500 cases.

    python benchmarks/sampling_memory.py [--data FOLDER] [--workers 2] [--cases 5 500]
        [--precision bfloat16]

The first part runs `run.py -train` on the default network, with affine augmentation, on all cases
in ``train/`` and ``validation/`` of FOLDER (as for `brats2015.py`), and says which share of the
epoch was spent in steps. The second part cuts segments
without a network, sub-epoch after sub-epoch: from the prepared cases of the first part under 5 and
under 500 names, links to the same files, which every process maps one by one as if they were
different. All processes are looked at four times a second, in /proc, so this needs Linux.

PSS counts a page that several processes share by shares, so that it may be added up; pages of the
linked files are shared more than those of different files would be, so RSS counts there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from sampling import DATA, MODEL, ROOT, SETTINGS, source

from deepseg.config.load import load
from deepseg.config.model import ModelConfig
from deepseg.data.segments.loader import SegmentLoader

TRAIN = """\
name: train
output: .
model: MODEL
training:
  cases: {table: cases.csv, allow_missing_classes: true}
  segments_per_subepoch: SEGMENTS
  augmentation: {affine: {probability: 1}, reflect: [0.5, 0.5, 0.5]}
preparation: {z_score: none}
epochs: 1
subepochs: 1
precision: PRECISION
workers: WORKERS
"""
FILES = {
    "channel_FLAIR": "Flair_subtrMeanDivStd.nii.gz",
    "channel_T1c": "T1c_subtrMeanDivStd.nii.gz",
    "labels": "OTMultiClass.nii.gz",
    "roi": "brainmask.nii.gz",
}


@dataclass(frozen=True)
class Memory:
    """Memory that processes use at one moment, in MB.

    Attributes:
        pss: Of all processes together.
        files: The part of it that holds pages of files, which the system can take back.
        rss: Of each process, the first one first.
        rss_files: The part of each that holds pages of files.
    """

    pss: float
    files: float
    rss: tuple[float, ...]
    rss_files: tuple[float, ...]


def family(process: int) -> Iterator[int]:
    """A process and all that it has started."""
    yield process
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from family(int(child))


def memory(process: int) -> Memory:
    """Memory of a process and all that it has started, now."""
    rollups = [_rollup(member) for member in family(process)]
    return Memory(
        pss=sum(rollup["Pss"] for rollup in rollups),
        files=sum(rollup["Pss_File"] for rollup in rollups),
        rss=tuple(rollup["Rss"] for rollup in rollups),
        rss_files=tuple(rollup["Rss"] - rollup["Anonymous"] for rollup in rollups),
    )


def _rollup(process: int) -> dict[str, float]:
    rows = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    return {key: int(text.split()[0]) / 1024 for key, text in (row.split(":") for row in rows)}


def watched(process: int, is_running: Callable[[], bool]) -> list[Memory]:
    """Four moments a second, until the process ends."""
    moments = []
    while is_running():
        with contextlib.suppress(OSError, KeyError):  # one of them has just ended
            moments.append(memory(process))
        time.sleep(0.25)
    return moments


def train(folder: Path, data: Path, options: argparse.Namespace) -> tuple[list[Memory], str]:
    """The memory of a training session, from its start to its end, and where its time went."""
    cases = [case for part in ("train", "validation") for case in sorted((data / part).iterdir())]
    rows = [
        ",".join([case.name, *(str(case.resolve() / name) for name in FILES.values())])
        for case in cases
    ]
    (folder / "cases.csv").write_text("\n".join([",".join(["case", *FILES]), *rows, ""]))
    text = TRAIN.replace("MODEL", str(MODEL.resolve())).replace("SEGMENTS", str(options.segments))
    text = text.replace("WORKERS", str(options.workers)).replace("PRECISION", options.precision)
    (folder / "train.yaml").write_text(text)
    with subprocess.Popen(
        [sys.executable, str(ROOT.resolve() / "run.py"), "-train", "train.yaml", "-dev", "cpu"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT.resolve())},
        stdout=subprocess.DEVNULL,
    ) as session:
        moments = watched(session.pid, lambda: session.poll() is None)
    if session.returncode:
        raise SystemExit(f"training ended with {session.returncode}")
    epoch = json.loads((folder / "train/metrics.jsonl").read_text().splitlines()[-1])
    waited, seconds = epoch["waited"], epoch["seconds"]
    share = f"{1 - waited / seconds:.1%} of {seconds:.0f} s in steps"
    return moments, f"training in {options.precision}, {share}"


def linked(folders: list[Path], count: int, into: Path) -> list[Path]:
    """``count`` prepared cases that are links to ``folders``, over and over."""
    made = []
    for number in range(count):
        new = into / f"{count}-{number:04}"
        new.mkdir()
        for file in folders[number % len(folders)].iterdir():
            os.link(file, new / file.name)
        made.append(new)
    return made


def cut_all(folders: list[Path], workers: int, subepochs: int, segments: int) -> None:
    """Cut segments as a training session would have it, whose workers are forks of it on Linux."""
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)
    config = load(ModelConfig, MODEL).config
    with SegmentLoader(
        source(folders, config, SETTINGS["reflect"], segments),
        batch_size=10,
        workers=workers,
        first=0,
    ) as stream:
        for _ in range(subepochs):
            for _batch in stream.subepoch():
                pass


def sampled(folders: list[Path], workers: int, subepochs: int, segments: int) -> list[Memory]:
    """The memory of cutting segments, in a process of its own with workers of its own."""
    process = multiprocessing.get_context("spawn").Process(
        target=cut_all, args=(folders, workers, subepochs, segments)
    )
    process.start()
    assert process.pid is not None
    moments = watched(process.pid, process.is_alive)
    if process.exitcode:
        raise SystemExit(f"sampling ended with {process.exitcode}")
    return moments


def row(title: str, moments: list[Memory]) -> str:
    """A row of the table: the moment of the largest sum, and of the largest RSS of each."""
    most = max(moments, key=lambda moment: moment.pss)
    count = max(len(moment.rss) for moment in moments)
    full = [moment for moment in moments if len(moment.rss) == count]
    rss = (f"{max(moment.rss[i] for moment in full):,.0f}" for i in range(count))
    files = (f"{max(moment.rss_files[i] for moment in full):,.0f}" for i in range(count))
    sums = f"{most.pss:,.0f} | {most.files:,.0f}"
    return f"| {title} | {sums} | {', '.join(rss)} | {', '.join(files)} |"


def main() -> None:
    """Print a table in markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cases", type=int, nargs="*", default=(5, 500))
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--segments", type=int, default=200, help="of the training session")
    parser.add_argument("--subepochs", type=int, default=10, help="of 1000 segments, of sampling")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="deepseg-memory-") as name:
        folder = Path(name)
        moments, title = train(folder, options.data, options)
        rows = [row(title, moments)]
        prepared = sorted(file.parent for file in folder.glob("train/cache/*/case.json"))
        for count in options.cases:
            folders = linked(prepared, count, folder)
            moments = sampled(folders, options.workers, options.subepochs, 1000)
            rows.append(row(f"sampling, {count} cases", moments))
    print(f"torch {torch.__version__}, {options.workers} workers, MB\n")
    print("| | PSS of all, together | of it files | RSS of each | of it files |")
    print("|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
