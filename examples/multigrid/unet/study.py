"""Trains a U-Net that grows: at 16 mm, 8 mm and 4 mm; against one of the finest from scratch.

    python study.py [SEEDS]

Each stage takes over all levels of the one before. The U-Net from scratch gets the minutes of all
three stages together, in whole epochs. Times and scores are those of the sessions' metrics.jsonl.
"""

import json
import shutil
import sys
from pathlib import Path
from statistics import mean, stdev

import deepseg
from deepseg.data.phantom import write_cases

HERE = Path(__file__).parent
RUNS = HERE / "runs"
STAGES = {"coarse": (16, 2, 8), "middle": (8, 3, 16), "fine": (4, 4, 24)}  # mm, levels, segment
MAPS = (24, 16, 12, 8)  # from the bottom
EPOCHS = 3
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
  segments_per_subepoch: 16
  batch_size: 2
validation:
  cases: {{table: {data}/validation.csv}}
  samples: null
  volumes: {{every: 1}}
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
        name=name, runs=RUNS, model=model, seed=seed, mm=mm, data=HERE / "data", epochs=epochs
    )
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


def minutes(records: list[dict]) -> float:
    """Minutes of training; validation is the same for all and left out."""
    return sum(record["seconds"] for record in records if record["epoch"] >= 0) / 60


def grown(seed: int) -> dict[str, list[dict]]:
    """Sessions of all stages, and the one from scratch in their time."""
    sessions: dict[str, list[dict]] = {}
    before = None
    for name, (mm, levels, segment) in STAGES.items():
        file = model_file(name, levels, segment)
        model = RUNS / f"{name}-{seed}.save"
        if not model.exists():
            rules = deepseg.TransferRules(layers=("all",))
            older = None if before is None else RUNS / before
            options = {} if older is None else {"pretrained": older, "rules": rules}
            deepseg.new_model(file, out=model, seed=seed, quiet=seed > 0, **options)
        before = f"{name}-seed{seed}"
        sessions[name] = trained(before, model, mm, seed, EPOCHS, levels)
    mm, levels, segment = STAGES["fine"]
    total = sum(map(minutes, sessions.values()))
    epochs = max(EPOCHS, round(total / (minutes(sessions["fine"]) / EPOCHS)))
    file = model_file("scratch", levels, segment)
    model = RUNS / f"scratch-{seed}.save"
    if not model.exists():
        deepseg.new_model(file, out=model, seed=seed, quiet=True)
    sessions["scratch"] = trained(f"scratch-seed{seed}", model, mm, seed, epochs, levels)
    return sessions


def spread(values: list[float]) -> str:
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def main() -> None:
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
    if not (HERE / "data" / "validation.csv").exists():
        shutil.rmtree(HERE / "data", ignore_errors=True)
        write_cases(
            HERE / "data", {"train": 4, "validation": 2}, seed=3, task="tissue", channels=["T1"]
        )
    RUNS.mkdir(exist_ok=True)
    results = [grown(seed) for seed in seeds]
    print("\n| stage | epochs | minutes | Dice before training | after 1 epoch | last |")
    print("|---|---|---|---|---|---|")
    for name in (*STAGES, "scratch"):
        records = [result[name] for result in results]
        first = [[r for r in session if r["epoch"] < 0] for session in records]
        epochs = [[r for r in session if r["epoch"] >= 0] for session in records]
        start = spread([dice(r[0]) for r in first]) if all(first) else ""
        print(
            f"| {name} | {len(epochs[0])} | {mean(map(minutes, records)):.2f} | {start} | "
            f"{spread([dice(e[0]) for e in epochs])} | {spread([dice(e[-1]) for e in epochs])} |"
        )
    print("\nDice over the minutes at 4 mm, seed by seed:")
    for seed, result in zip(seeds, results, strict=True):
        spent = minutes(result["coarse"]) + minutes(result["middle"])
        for name, begin in (("fine", spent), ("scratch", 0.0)):
            offset = begin
            points = []
            for record in result[name]:
                offset += record["seconds"] / 60 if record["epoch"] >= 0 else 0
                points.append(f"{offset:.2f} min {dice(record):.3f}")
            print(f"  seed {seed}, {name}: {', '.join(points)}")


if __name__ == "__main__":
    main()
