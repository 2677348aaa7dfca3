"""Start of a training session on 100, 1,000 and 10,000 cases: core seconds and memory per case.

    python benchmarks/many_cases.py [--cases 100 1000 10000] [--folder FOLDER] [--write]

The cases are small (12 x 12 x 12 voxels, two channels, labels, ROI), each with voxels of its own,
so that what a case costs beside its voxels shows: voxels take their time as before. Every number of
cases is measured in a process of its own. Times are those of the cores (user and system, all
threads), which other work on the machine hardly changes.

``--write`` stores the table in benchmarks/results/many_cases.md; the words around it stay, so that
date, machine and what follows from the figures are to be looked at.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import nibabel
import numpy as np

from deepseg.config.load import load
from deepseg.config.model import ModelConfig
from deepseg.config.training import TrainConfig
from deepseg.data.cases.case import list_cases
from deepseg.data.segments.segment_dataset import SegmentDataset
from deepseg.model.checkpoint import new_checkpoint
from deepseg.report.console import Console
from deepseg.sessions.case_preparation import CasePreparation, planned_cases
from deepseg.sessions.checked_cases import training_and_held_out
from deepseg.sessions.folds.split import stratified_folds
from deepseg.sessions.training.segment_datasets import training_dataset
from deepseg.sessions.training.session_cases import session_cases

RESULTS = Path(__file__).parent / "results" / "many_cases.md"
SIDE = 12
DRAWN = 20  # sub-epochs
MODEL = """\
channels: [T1, FLAIR]
classes: [background, lesion]
normal: {feature_maps: [4, 4]}
segments: {train: 9}
"""
TRAIN = """\
output: .
model: model.yaml
training: {cases: {table: cases.csv}}
"""
STAGES = {
    "list": "the table is read",
    "check": "every file is read and checked for the first time",
    "check again": "the same with summaries that are remembered",
    "prepare": "cases are prepared and their candidates worked out",
    "prepare again": "the same with cases that are there; the dataset is made",
    "look": "`-prepare` finds that nothing is left to do",
    "stamps": "cases are compared with those of the last epoch",
    "folds": "cases are split into five folds",
    "draws": f"segments of {DRAWN} sub-epochs are drawn",
}

Result = TypeVar("Result")


def main() -> None:
    """Measure, print and perhaps store a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measured(options.folder, options.measure)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as root:
        records = {}
        for count in options.cases:
            folder = Path(root) / str(count)
            write_cases(folder, count)
            words = [sys.executable, __file__, "--measure", str(count), "--folder", str(folder)]
            lines = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
            records[count] = json.loads(lines.splitlines()[-1])
    page = table(records)
    print(page)
    if options.write:
        RESULTS.write_text(_page(page))


def write_cases(folder: Path, count: int) -> None:
    """Write a table of so many small cases, and the settings files of a session."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    shape = (SIDE, SIDE, SIDE)
    header = nibabel.Nifti1Image(np.zeros(shape, np.int16), np.eye(4)).to_bytes()[:352]
    mask = nibabel.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)).to_bytes()[:352]
    labels = np.zeros(shape, np.uint8)
    labels[4:8, 4:8, 4:8] = 1
    rows = ["case,channel_T1,channel_FLAIR,labels,roi"]
    for number in range(count):
        case = folder / f"p{number:05d}"
        case.mkdir()
        turned = np.roll(labels, (number % 5, number // 5 % 5, number // 25 % 5), (0, 1, 2))
        arrays = {
            "T1": (header, rng.integers(0, 999, shape, np.int16)),
            "FLAIR": (header, rng.integers(0, 999, shape, np.int16)),
            "labels": (mask, turned),
            "roi": (mask, np.ones(shape, np.uint8)),
        }
        for name, (head, array) in arrays.items():
            content = gzip.compress(head + array.tobytes("F"), 1)
            (case / f"{name}.nii.gz").write_bytes(content)
        rows.append(",".join((case.name, *(f"{case.name}/{name}.nii.gz" for name in arrays))))
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    (folder / "model.yaml").write_text(MODEL)
    (folder / "train.yaml").write_text(TRAIN)


def measured(folder: Path, count: int) -> dict[str, Any]:
    """Core seconds of every stage, and the memory that all of it takes."""
    config = load(TrainConfig, folder / "train.yaml").config
    model = new_checkpoint(load(ModelConfig, folder / "model.yaml").config, seed=0)
    console, cache = Console(silent=True), folder / "cache"
    seconds: dict[str, float] = {}

    def timed(stage: str, function: Callable[[], Result]) -> Result:
        begun = time.process_time()
        result = function()
        seconds[stage] = time.process_time() - begun
        return result

    def check() -> Any:
        return training_and_held_out(config, model, console, cache=cache)

    def prepare() -> SegmentDataset:
        return training_dataset(checked.training, start, config, cache=cache, console=console)

    before = _memory_mb()
    channels = model.config.channels
    timed("list", lambda: list_cases(config.training.cases, channels))
    timed("check", check)
    checked = timed("check again", check)
    start = replace(model, preparation=checked.preparation, cohort=checked.cohort)
    config = config.model_copy(update={"preparation": checked.preparation})
    timed("prepare", prepare)
    dataset = timed("prepare again", prepare)
    work = CasePreparation(model.config, checked.preparation, cache)
    done = timed("look", lambda: [work.is_done(case) for case in planned_cases(config, model)])
    assert all(done)
    timed("stamps", lambda: session_cases(checked.training, None, channels))
    training = checked.training
    timed("folds", lambda: stratified_folds(training.cases, training.summaries, folds=5, seed=0))
    timed("draws", lambda: [dataset[(subepoch, 0)] for subepoch in range(DRAWN)])
    return {"cases": count, "seconds": seconds, "memory_mb": _memory_mb() - before}


def _memory_mb() -> float:
    """The most memory that this process has used so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def table(records: dict[int, dict[str, Any]]) -> str:
    """Milliseconds per case of every stage, and memory, as a table of Markdown."""
    counts = list(records)
    head = ["stage", *(f"{count:,} cases" for count in counts)]
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * len(counts)]
    for stage, words in STAGES.items():
        cells = [f"{records[n]['seconds'][stage] / n * 1e3:.3g}" for n in counts]
        lines.append(f"| {words} | {' | '.join(cells)} |")
    sums = [f"{sum(records[n]['seconds'].values()) / n * 1e3:.3g}" for n in counts]
    lines.append(f"| all, ms per case | {' | '.join(sums)} |")
    memory = [f"{records[n]['memory_mb']:.0f} MB" for n in counts]
    lines.append(f"| memory, beside 1 process with torch | {' | '.join(memory)} |")
    return "\n".join(lines)


def _page(rows: str) -> str:
    """The stored page with another table."""
    before, _, rest = RESULTS.read_text().partition("| stage")
    after = rest.partition("\n\n")[2]
    return f"{before}{rows}\n\n{after}"


if __name__ == "__main__":
    main()
