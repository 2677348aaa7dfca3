"""A small network, a deeper one, and the deeper one with the layers that both have in common.

    python study.py [SEEDS]

As in "CNN Learning Transfer" of Keras' users, for segmentation in 3D: `-depth first-common` copies
layer by layer from the first one on; the learning rate falls on a plateau, is shown every epoch,
and the best model is kept whenever validation improves.
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
EPOCHS = 6
SMALL, DEEP = "[8, 12]", "[8, 12, 12, 12]"
MODEL = """\
name: {name}
output: {runs}
channels: [T1]
classes: [background, grey, white]
normal: {{feature_maps: {maps}}}
fc: {{feature_maps: [12], dropout: 0}}
segments: {{train: 17}}
"""
TRAIN = """\
name: {name}
output: {runs}
model: {model}
seed: {seed}
preparation: {{resample: 4}}
training:
  cases: {{table: {data}/train.csv}}
  sampling: {{type: per_class}}
  segments_per_subepoch: 50
  batch_size: 5
validation:
  cases: {{table: {data}/validation.csv}}
  samples: {{segments: 60}}
  volumes: null
epochs: {epochs}
subepochs: 2
loss: {{dice: 1}}
optimiser: {{name: adam, learning_rate: 0.003}}
schedule: {{type: plateau, divide_by: 5, patience: 2, min_learning_rate: 1.0e-5}}
workers: 0
"""


def trained(name: str, model: Path, seed: int) -> list[dict]:
    """The epochs of a session, trained or there already."""
    file = RUNS / f"{name}.yaml"
    file.write_text(
        TRAIN.format(
            name=name, runs=RUNS, model=model, seed=seed, data=HERE / "data", epochs=EPOCHS
        ),
        "utf-8",
    )
    deepseg.train(file, quiet=True)
    lines = (RUNS / name / "metrics.jsonl").read_text("utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["epoch"] >= 0]


def made(name: str, maps: str, seed: int, **options) -> Path:
    """A new model, or the one that is there."""
    file, out = RUNS / f"{name}_model.yaml", RUNS / f"{name}-{seed}.save"
    file.write_text(MODEL.format(name=name, runs=RUNS, maps=maps), "utf-8")
    if not out.exists():
        deepseg.new_model(file, out=out, seed=seed, quiet=seed > 0 or not options, **options)
    return out


def dice(record: dict) -> float:
    """Mean Dice of grey and white matter on the validation segments."""
    scores = record["validation_samples"]["dice"]
    return mean(scores[name] for name in ("grey", "white"))


def spread(values: list[float]) -> str:
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def main() -> None:
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
    if not (HERE / "data" / "validation.csv").exists():
        shutil.rmtree(HERE / "data", ignore_errors=True)
        write_cases(
            HERE / "data", {"train": 4, "validation": 2}, seed=5, task="tissue", channels=["T1"]
        )
    RUNS.mkdir(exist_ok=True)
    runs: dict[str, list[list[dict]]] = {"small": [], "deep": [], "deep with transfer": []}
    for seed in seeds:
        runs["small"].append(trained(f"small-{seed}", made("small", SMALL, seed), seed))
        runs["deep"].append(trained(f"deep-{seed}", made("deep", DEEP, seed), seed))
        filled = made(
            "filled", DEEP, seed,
            pretrained=RUNS / f"small-{seed}",
            rules=deepseg.TransferRules(depth="first-common"),
        )  # fmt: skip
        runs["deep with transfer"].append(trained(f"filled-{seed}", filled, seed))
    print("\n| network | Dice after 1 epoch | best | last | epochs to 90 % of its best |")
    print("|---|---|---|---|---|")
    for name, sessions in runs.items():
        scores = [[dice(record) for record in session] for session in sessions]
        reached = [next(n for n, d in enumerate(s, 1) if d >= 0.9 * max(s)) for s in scores]
        print(
            f"| {name} | {spread([s[0] for s in scores])} | {spread([max(s) for s in scores])} | "
            f"{spread([s[-1] for s in scores])} | {mean(reached):.1f} |"
        )
    print("\nLearning rate of every epoch, seed by seed:")
    for name, sessions in runs.items():
        for seed, session in zip(seeds, sessions, strict=True):
            rates = ", ".join(f"{record['learning_rate']:.2g}" for record in session)
            print(f"  {name}, seed {seed}: {rates}")


if __name__ == "__main__":
    main()
