"""Trains a U-Net that grows: at 16 mm, 8 mm and 4 mm; against U-Nets from scratch.

    python study.py [SEEDS]

Each stage takes over all levels of the one before and starts with `-depth identity`, so that it
computes what that one did, as far as possible. U-Nets from scratch get the processor time of all
stages up to theirs, in whole epochs: `core_seconds` of the sessions' metrics.jsonl, which are
the same on a busy machine and do not count validation.
"""

import json
import shutil
import sys
from pathlib import Path
from statistics import mean, stdev

import nibabel
import numpy as np

import deepseg
from deepseg.data.phantom import write_cases

HERE = Path(__file__).parent
RUNS = HERE / "runs"
STAGES = {"coarse": (16, 2, 8), "middle": (8, 3, 16), "fine": (4, 4, 24)}  # mm, levels, segment
MAPS = (24, 16, 16, 16)  # from the bottom; 16 carry the image through a new level
EPOCHS = {"coarse": 6, "middle": 6, "fine": 6}  # of 40 steps
EVERY = 3  # epochs from one validation to the next
MODEL = """\
name: {name}
output: {runs}
channels: [T1]
classes: [background, grey, white]
unet:
  levels:
{levels}
fc: none
segments: {{train: {segment}}}
windows: {{overlap: 0.25}}
"""
TRAIN = """\
name: {name}
output: {runs}
model: {model}
seed: {seed}
preparation: {{resample: {mm}}}
training:
  cases: {{table: {data}/train.csv}}
  sampling: {{type: per_class}}
  segments_per_subepoch: 80
  batch_size: 2
validation:
  cases: {{table: {data}/validation.csv}}
  samples: null
  volumes: {{every: {every}}}
epochs: {epochs}
subepochs: 1
loss: {{dice: 1, deep_supervision: true}}
optimiser: {{name: adam, learning_rate: 0.003}}
schedule: {{type: poly, wait: 1}}
workers: 0
"""


def model_file(name: str, levels: int, segment: int) -> Path:
    lines = "\n".join(f"    - {{feature_maps: {maps}}}" for maps in MAPS[:levels])
    file = RUNS / f"{name}_model.yaml"
    text = MODEL.format(name=name, runs=RUNS, levels=lines, segment=segment)
    file.write_text(text, "utf-8")
    return file


def trained(name: str, model: Path, mm: int, seed: int, epochs: int, levels: int) -> list[dict]:
    """The epochs of a session, trained or there already."""
    text = TRAIN.format(
        name=name, runs=RUNS, model=model, seed=seed, mm=mm, data=HERE / "data", epochs=epochs,
        every=EVERY,
    )  # fmt: skip
    if levels == 2:
        text = text.replace(", deep_supervision: true", "")
    file = RUNS / f"{name}.yaml"
    file.write_text(text, "utf-8")
    deepseg.train(file, quiet=True)
    lines = (RUNS / name / "metrics.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def dice(record: dict) -> float:
    """Mean Dice of grey and white matter on held-out brains."""
    scores = record["validation_volumes"]["dice"]
    return mean(scores[name] for name in ("grey", "white"))


def core_seconds(records: list[dict]) -> float:
    """Processor time of the steps."""
    return sum(record["core_seconds"] for record in records if record["epoch"] >= 0)


def curve(records: list[dict], begin: float = 0) -> list[tuple[float, float]]:
    """Core seconds and Dice of every validation."""
    points, spent = [], begin
    for record in records:
        spent += record["core_seconds"] if record["epoch"] >= 0 else 0
        if record.get("validation_volumes"):
            points.append((spent, dice(record)))
    return points


def grown(seed: int) -> dict[str, list[dict]]:
    """Sessions of all stages, and from the second one on, one from scratch in their time."""
    sessions: dict[str, list[dict]] = {}
    before, spent = None, 0.0
    for name, (mm, levels, segment) in STAGES.items():
        file = model_file(name, levels, segment)
        model = RUNS / f"{name}-{seed}.save"
        if not model.exists():
            rules = deepseg.TransferRules(layers=("all",), depth="identity")
            older = None if before is None else RUNS / before
            options = {} if older is None else {"pretrained": older, "rules": rules}
            deepseg.new_model(file, out=model, seed=seed, quiet=seed > 0, **options)
        is_first, before = before is None, f"{name}-seed{seed}"
        sessions[name] = trained(before, model, mm, seed, EPOCHS[name], levels)
        spent += core_seconds(sessions[name])
        if is_first:
            continue
        file = model_file(f"{name}-scratch", levels, segment)
        model = RUNS / f"{name}-scratch-{seed}.save"
        if not model.exists():
            deepseg.new_model(file, out=model, seed=seed, quiet=True)
        epochs = EVERY * round(spent * EPOCHS[name] / core_seconds(sessions[name]) / EVERY)
        sessions[f"{name}-scratch"] = trained(
            f"{name}-scratch-seed{seed}", model, mm, seed, epochs, levels
        )
    return sessions


def halve(file: Path) -> None:
    """Keep every other voxel: of 4 mm instead of 2 mm, so that validation is quick."""
    image = nibabel.load(file)
    voxels = np.asarray(image.dataobj)[::2, ::2, ::2]
    affine = image.affine @ np.diag([2, 2, 2, 1])
    nibabel.save(nibabel.Nifti1Image(voxels, affine), file)


def spread(values: list[float], digits: int = 3) -> str:
    text = f"{mean(values):.{digits}f}"
    return text + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def main() -> None:
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
    if not (HERE / "data" / "validation.csv").exists():
        shutil.rmtree(HERE / "data", ignore_errors=True)
        write_cases(
            HERE / "data", {"train": 4, "validation": 2}, seed=3, task="tissue", channels=["T1"]
        )
        for file in (HERE / "data").glob("*/*.nii.gz"):
            halve(file)
    RUNS.mkdir(exist_ok=True)
    results = [grown(seed) for seed in seeds]
    print("\n| stage | epochs | core seconds | Dice before training | first | last |")
    print("|---|---|---|---|---|---|")
    for name in results[0]:
        records = [result[name] for result in results]
        before = [dice(r[0]) for r in records if r[0]["epoch"] < 0]
        curves = [curve([r for r in session if r["epoch"] >= 0]) for session in records]
        epochs = "/".join(sorted({str(session[-1]["epoch"] + 1) for session in records}))
        print(
            f"| {name} | {epochs} | {spread(list(map(core_seconds, records)), 1)} | "
            f"{spread(before) if before else ''} | {spread([c[0][1] for c in curves])} | "
            f"{spread([c[-1][1] for c in curves])} |"
        )
    print("\nDice over core seconds, seed by seed; stages one after the other:")
    for seed, result in zip(seeds, results, strict=True):
        begin = 0.0
        for name, session in result.items():
            if name in STAGES:
                print(f"  seed {seed}, {name}: {line(curve(session, begin))}")
                begin += core_seconds(session)
            else:
                print(f"  seed {seed}, {name}: {line(curve(session))}")


def line(points: list[tuple[float, float]]) -> str:
    return ", ".join(f"{spent:.1f} s {score:.3f}" for spent, score in points)


if __name__ == "__main__":
    main()
