"""The gain by ``builtin:brain`` on real tumours, where one or two patients are labelled.

    python benchmarks/pretraining_gain.py [--data FOLDER] [--seeds 0 1 2] [--out FOLDER]

One network learns from one and from two patients: from scratch, filled by the model that ships with
deepseg, and filled with its pathways frozen, in equal core seconds, everything included; filled too
in a half and a quarter of them, to see when it is as good as scratch. Two other patients are
segmented. The folder of data is that of ``benchmarks/brats2015.py``. Every result is a line of
``runs.jsonl`` in the folder; what stands there is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

DATA = Path(os.environ.get("DEEPSEG_DATA", "../shared/data")) / "brats2015"
FILES = {
    "channel_FLAIR": "Flair_subtrMeanDivStd.nii.gz",
    "channel_T1c": "T1c_subtrMeanDivStd.nii.gz",
    "labels": "OTMultiClass.nii.gz",
    "roi": "brainmask.nii.gz",
}
Row: TypeAlias = dict[str, Any]
CLASSES = ("necrosis", "oedema", "non_enhancing", "enhancing")

MODEL = """\
name: tumour
channels: [FLAIR, T1c]
classes: [background, necrosis, oedema, non_enhancing, enhancing]
normal: {feature_maps: [12, 12, 16, 16, 24, 24], residuals: [4, 6]}
subsampled: {factors: [3, 5]}
fc: {feature_maps: [60], dropout: [0, 0.2]}
segments: {train: 29, inference: 61}
"""

TRAIN = """\
name: NAME
output: .
seed: SEED
training:
  cases: {table: PATIENTS.csv, allow_missing_classes: true}
  segments_per_subepoch: 60
  batch_size: 10
  augmentation:
    reflect: [0.5, 0, 0]
    intensity: {shift: {mean: 0, deviation: 0.05}, scale: {mean: 1, deviation: 0.01}}
preparation: {z_score: none}
epochs: EPOCHS
subepochs: 1
loss: {cross_entropy: 1, dice: 0.5, l1: 0, l2: 0}
optimiser: {name: adamw, learning_rate: 0.002}
schedule: {type: cosine}
steps: {warm_up: 1, average: 0.9, clip_norm: 5}
freeze: {layers: [FROZEN]}
workers: 0
report: false
"""

TEST = """\
name: NAME-test
output: .
cases: {table: test.csv}
groups: {whole: [1, 2, 3, 4]}
save: {segmentation: false, pictures: false}
"""


@dataclass(frozen=True)
class Start:
    """A way to begin.

    Attributes:
        name: For the table.
        channels: Words of ``-channels``; None without an older model.
        frozen: Layers.
        share: Of the epochs.
    """

    name: str
    channels: tuple[str, ...] | None = ()
    frozen: str = ""
    share: float = 1.0


STARTS = {
    "scratch": Start("from scratch", None),
    "filled": Start("builtin:brain"),
    "frozen": Start("builtin:brain, pathways frozen", frozen="normal.1-6, sub*.1-6", share=1.6),
    "half": Start("builtin:brain, half the time", share=0.5),
    "quarter": Start("builtin:brain, a quarter of the time", share=0.25),
}


def patients(data: Path) -> dict[str, list[Path]]:
    """Folders of cases, by the table in which they stand."""
    train, test = (sorted((data / part).iterdir()) for part in ("train", "validation"))
    return {"one": train[:1], "two": train, "test": test}


def write_tables(folder: Path, data: Path) -> None:
    """The tables of cases and the model file."""
    for name, cases in patients(data).items():
        rows = [
            ",".join([case.name, *(str((case / file).resolve()) for file in FILES.values())])
            for case in cases
        ]
        (folder / f"{name}.csv").write_text("\n".join([",".join(["case", *FILES]), *rows, ""]))
    (folder / "model.yaml").write_text(MODEL)


def core_seconds(*words: object) -> float:
    """Run a command of deepseg; processor time of it and of all processes that it started."""
    process = subprocess.Popen(
        [sys.executable, "-m", "deepseg", *map(str, words), "-quiet"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"-{words} ended with {os.waitstatus_to_exitcode(status)}")
    return round(usage.ru_utime + usage.ru_stime, 1)


def write_settings(folder: Path, name: str, values: Mapping[str, object]) -> None:
    """The train file and the test file of a run."""
    for kind, template in (("train", TRAIN), ("test", TEST)):
        settings = template
        for word, value in {"NAME": name, **values}.items():
            settings = settings.replace(word, str(value))
        (folder / f"{name}-{kind}.yaml").write_text(settings)


def new_model(folder: Path, name: str, start: Start, *, seed: int, pretrained: str) -> Path:
    """The untrained model of a run; one that is there already is taken."""
    model = folder / f"{name}.save"
    if not model.exists():
        words: list[object] = ["-newModel", folder / "model.yaml", "-out", model, "-seed", seed]
        words += [] if start.channels is None else ["-pretrained", pretrained]
        words += ["-channels", *start.channels] if start.channels else []
        core_seconds(*words)
    return model


def run(folder: Path, key: str, cases: str, seed: int, options: argparse.Namespace) -> Row:
    """Train from a start with a seed, segment the other patients, and score them."""
    start, name = STARTS[key], f"{key}-{cases}-seed{seed}"
    epochs = max(1, round(options.epochs * start.share))
    values = {"SEED": seed, "PATIENTS": cases, "EPOCHS": epochs, "FROZEN": start.frozen}
    write_settings(folder, name, values)
    model = new_model(folder, name, start, seed=seed, pretrained=options.model)
    cost = core_seconds("-train", folder / f"{name}-train.yaml", "-model", model)
    core_seconds("-test", folder / f"{name}-test.yaml", "-model", folder / name)
    summary = json.loads((folder / f"{name}-test" / "cases.json").read_text())["summary"]
    dice = {group: summary[group]["dice"]["mean"] or 0.0 for group in (*CLASSES, "whole")}
    mean = statistics.fmean(dice[name] for name in CLASSES)
    return {"start": key, "cases": cases, "seed": seed, "core_seconds": cost, **dice, "mean": mean}


def finished(results: Path) -> list[Row]:
    """The runs that an earlier call has finished."""
    lines = results.read_text().splitlines() if results.exists() else []
    return [json.loads(line) for line in lines]


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Lines of a table: mean and standard deviation over the seeds."""
    yield "| patients | start | core seconds | class mean | gain | whole tumour | seeds |"
    yield "|---|---|---|---|---|---|---|"
    for cases in dict.fromkeys(row["cases"] for row in rows):
        scratch = [r["mean"] for r in rows if (r["cases"], r["start"]) == (cases, "scratch")]
        for key, start in STARTS.items():
            group = [row for row in rows if (row["cases"], row["start"]) == (cases, key)]
            if group:
                cost, mean, whole = (
                    [row[column] for row in group] for column in ("core_seconds", "mean", "whole")
                )
                gain = statistics.fmean(mean) - statistics.fmean(scratch) if scratch else 0.0
                yield (
                    f"| {cases} | {start.name} | {statistics.fmean(cost):.0f} | {_spread(mean)} | "
                    f"{gain:+.3f} | {_spread(whole)} | {len(group)} |"
                )


def _spread(values: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{deviation}"


def main() -> None:
    """Do the runs that are not done yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=12, help="of 60 segments, from scratch")
    parser.add_argument("--model", default="builtin:brain")
    parser.add_argument("--starts", nargs="+", choices=list(STARTS), default=list(STARTS))
    parser.add_argument("--out", type=Path, default=Path("pretraining-gain"))
    options = parser.parse_args()
    folder = options.out
    folder.mkdir(parents=True, exist_ok=True)
    write_tables(folder, options.data)
    results = folder / "runs.jsonl"
    for seed, cases, key in product(options.seeds, ("one", "two"), options.starts):
        done = {(row["start"], row["cases"], row["seed"]) for row in finished(results)}
        if (key, cases, seed) not in done:
            row = run(folder, key, cases, seed, options)
            with results.open("a") as stream:
                stream.write(json.dumps(row) + "\n")
            print(f"{key}, {cases}, seed {seed}: class mean {row['mean']:.3f}", flush=True)
    print("\n".join(table(finished(results))))


if __name__ == "__main__":
    main()
