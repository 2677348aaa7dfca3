"""The gain by transfer where labels are few: Dice on unseen volumes, from scratch and transferred.

    python benchmarks/transfer_gain.py [--seeds 3] [--out FOLDER]

Balls, tubes and cubes of one intensity lie in noise, so that only their shape tells them apart. The
source task has one channel (T1) with balls and tubes in 24 labelled volumes. The target task has
cubes too, the same channel with another gain and more noise as the second of two, a new channel of
inverted contrast as the first, and ONE labelled volume. All of it is done as a user does it: NIfTI
files, tables of cases, a model file and a train file for each task, `-newModel -pretrained`,
`-train`, `-test`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

import deepseg

EDGE = 56  # voxels
OBJECTS = 14  # tried per volume; those that would overlap are left out
SOURCE_CASES, SOURCE_TESTS, TARGET_TESTS = 24, 4, 8
CLASSES = ("background", "ball", "tube", "cube")

MODEL = """\
name: NAME
channels: [CHANNELS]
classes: [CLASSES]
normal: {feature_maps: [12, 12, 16, 16]}
subsampled: {factors: [3]}
fc: {feature_maps: [32], dropout: 0}
segments: {train: 17, inference: 40}
"""

TRAIN = """\
name: NAME
output: .
seed: SEED
training:
  cases: {table: TABLE.csv, allow_missing_classes: true}
  segments_per_subepoch: 400
  batch_size: 16
  augmentation: {AUGMENTATION}
epochs: EPOCHS
subepochs: 1
optimiser: {name: adam, learning_rate: 0.003}
schedule: {type: poly, wait: 0}
freeze: {layers: [FROZEN]}
workers: 0
"""

# The target has another gain: the source learns not to rely on its own.
SOURCE_AUGMENTATION = (
    "intensity: {shift: {mean: 0, deviation: 0.1}, scale: {mean: 1, deviation: 0.2}}"
)

TEST = """\
name: NAME
output: .
cases: {table: TABLE.csv}
save: {segmentation: false, pictures: false}
"""


@dataclass(frozen=True)
class Start:
    """One way to begin the target task.

    Attributes:
        new_channel: Where the kernels of the channel that the source does not know come from; None
            for a model from scratch.
        frozen: Layers that keep their weights.
    """

    name: str
    new_channel: str | None = None
    frozen: tuple[str, ...] = ()


STARTS = (
    Start("scratch"),
    Start("transferred, new channel is the mean of the old", "mean"),
    Start("transferred, new channel random", "random"),
    Start("transferred, new channel zero", "zero"),
    Start("transferred, new channel zero, pathways frozen", "zero", ("normal.*", "sub1.*")),
)


def shapes(rng: np.random.Generator, classes: int) -> NDArray[np.uint8]:
    """Labels ``(X, Y, Z)`` of a volume with objects that do not overlap."""
    labels = np.zeros((EDGE,) * 3, np.uint8)
    grid = np.indices(labels.shape)
    for _ in range(OBJECTS):
        label = rng.integers(1, classes)
        radius = rng.uniform(3.5, 6)
        middle = rng.uniform(7, EDGE - 7, 3)
        inside = _inside(grid - middle[:, None, None, None], int(label), radius, rng)
        if not labels[inside].any():
            labels[inside] = label
    return labels


def _inside(
    offset: NDArray[np.float64], label: int, radius: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    match CLASSES[label]:
        case "ball":
            inside = (offset**2).sum(0) < radius**2
        case "tube":
            along = int(rng.integers(3))
            across = (np.delete(offset, along, axis=0) ** 2).sum(0)
            inside = (across < (0.45 * radius) ** 2) & (abs(offset[along]) < 2.2 * radius)
        case _:
            inside = (abs(offset) < 0.8 * radius).all(0)
    return np.asarray(inside)


def source_case(seed: int) -> dict[str, NDArray[np.generic]]:
    """A volume of the source task: its channel and its labels."""
    rng = np.random.default_rng(seed)
    labels = shapes(rng, classes=3)
    return {"channel_T1": _noisy(labels, rng, noise=0.35), "labels": labels}


def target_case(seed: int) -> dict[str, NDArray[np.generic]]:
    """A volume of the target task: the shared channel weaker and noisier, the new one inverted."""
    rng = np.random.default_rng((1, seed))
    labels = shapes(rng, classes=4)
    shared = 0.8 * _noisy(labels, rng, noise=0.35) + 0.3 * rng.standard_normal(labels.shape)
    new = 1 - _noisy(labels, rng, noise=0.6)
    return {
        "channel_T2": new.astype(np.float32),
        "channel_T1": shared.astype(np.float32),
        "labels": labels,
    }


def _noisy(
    labels: NDArray[np.uint8], rng: np.random.Generator, *, noise: float
) -> NDArray[np.float32]:
    return ((labels > 0) + noise * rng.standard_normal(labels.shape)).astype(np.float32)


def write_cases(table: Path, cases: dict[str, dict[str, NDArray[np.generic]]]) -> None:
    """Write every array as NIfTI, and the table that lists them."""
    columns = list(next(iter(cases.values())))
    rows = [",".join(["case", *columns])]
    for name, arrays in cases.items():
        files = [f"{name}_{column}.nii.gz" for column in columns]
        for file, array in zip(files, arrays.values(), strict=True):
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), table.parent / file)
        rows.append(",".join([name, *files]))
    table.write_text("\n".join([*rows, ""]))


def write_data(folder: Path, seeds: int) -> None:
    """All cases of both tasks; every seed has a labelled volume of its own."""
    training = {f"source{seed}": source_case(seed) for seed in range(SOURCE_CASES)}
    write_cases(folder / "source.csv", training)
    unseen = range(900, 900 + SOURCE_TESTS)
    write_cases(folder / "source_test.csv", {f"source{seed}": source_case(seed) for seed in unseen})
    for seed in range(seeds):
        write_cases(folder / f"target{seed}.csv", {f"target{seed}": target_case(seed)})
    unseen = range(900, 900 + TARGET_TESTS)
    write_cases(folder / "target_test.csv", {f"target{seed}": target_case(seed) for seed in unseen})


def write_settings(folder: Path, seeds: int, *, source_epochs: int, target_epochs: int) -> None:
    """The files that a user writes; an epoch has 25 steps."""
    for task, channels, classes in (("source", "T1", 3), ("target", "T2, T1", 4)):
        names = {"NAME": task, "CHANNELS": channels, "CLASSES": ", ".join(CLASSES[:classes])}
        _write(folder / f"{task}_model.yaml", MODEL, names)
    source = {
        "NAME": "source", "SEED": "0", "TABLE": "source", "EPOCHS": str(source_epochs),
        "AUGMENTATION": SOURCE_AUGMENTATION, "FROZEN": "",
    }  # fmt: skip
    _write(folder / "source.yaml", TRAIN, source)
    for seed in range(seeds):
        for number, start in enumerate(STARTS):
            name = f"start{number}-seed{seed}"
            names = {
                "NAME": name, "SEED": str(seed), "TABLE": f"target{seed}",
                "EPOCHS": str(target_epochs), "AUGMENTATION": "", "FROZEN": ", ".join(start.frozen),
            }  # fmt: skip
            _write(folder / f"{name}.yaml", TRAIN, names)


def _write(file: Path, text: str, names: dict[str, str]) -> None:
    for name, value in names.items():
        text = text.replace(name, value)
    file.write_text(text)


def dice(folder: Path, name: str, model: Path, table: str) -> float:
    """Mean Dice of the foreground classes, each a mean over whole unseen volumes."""
    file = folder / f"{name}_test.yaml"
    _write(file, TEST, {"NAME": f"{name}-test", "TABLE": table})
    results = deepseg.segment(file, model=model, device="cpu", quiet=True)
    summary = json.loads((results / "cases.json").read_text())["summary"]
    return statistics.fmean(
        summary[name]["dice"]["mean"] for name in CLASSES[1:] if name in summary
    )


def target_dice(folder: Path, number: int, start: Start, seed: int, source: Path) -> float:
    """Begin with ``start``, train on the one labelled volume, segment the unseen ones."""
    name = f"start{number}-seed{seed}"
    model = deepseg.new_model(
        folder / "target_model.yaml",
        pretrained=None if start.new_channel is None else source,
        rules=deepseg.TransferRules(
            channels={} if start.new_channel is None else {"T2": start.new_channel}
        ),
        out=folder / f"{name}.save",
        seed=seed,
    )
    trained = deepseg.train(folder / f"{name}.yaml", model=model, device="cpu", quiet=True)
    return dice(folder, name, trained, "target_test")


def main() -> None:
    """Train the source, then from every start with every seed; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--source-epochs", type=int, default=24)
    parser.add_argument("--target-epochs", type=int, default=4)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    folder = options.out or Path(tempfile.mkdtemp(prefix="deepseg-transfer-"))
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    write_data(folder, options.seeds)
    write_settings(
        folder,
        options.seeds,
        source_epochs=options.source_epochs,
        target_epochs=options.target_epochs,
    )
    model = deepseg.new_model(folder / "source_model.yaml", out=folder / "source.save")
    source = deepseg.train(folder / "source.yaml", model=model, device="cpu", quiet=True)
    source_dice = dice(folder, "source", source, "source_test")
    print(f"source task: Dice {source_dice:.3f} ({time.monotonic() - started:.0f} s)", flush=True)
    rows = []
    for number, start in enumerate(STARTS):
        seeds = range(options.seeds)
        per_seed = [target_dice(folder, number, start, seed, source) for seed in seeds]
        rows.append((start.name, per_seed))
        print(f"{start.name} done ({time.monotonic() - started:.0f} s)", flush=True)
    print("\n| start | Dice per seed | mean | gain |\n|---|---|---|---|")
    scratch = statistics.fmean(rows[0][1])
    for name, per_seed in rows:
        mean = statistics.fmean(per_seed)
        scores = " ".join(f"{score:.3f}" for score in per_seed)
        print(f"| {name} | {scores} | {mean:.3f} | {mean - scratch:+.3f} |")


if __name__ == "__main__":
    main()
