"""Whole-tumour Dice of the tinyCnn settings on real cases, mean of several seeds.

    python benchmarks/brats2015.py [--data FOLDER] [--seeds 3] [--out FOLDER]

The folder holds ``train/`` and ``validation/``, each with a folder per case in which
``Flair_subtrMeanDivStd.nii.gz``, ``T1c_subtrMeanDivStd.nii.gz``, ``OTMultiClass.nii.gz`` and
``brainmask.nii.gz`` lie (the example cases that come with DeepMedic). Two epochs of two sub-epochs
of 1000 segments; DeepMedic itself reaches 0.905 on the two validation cases.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import deepseg

DATA = Path(os.environ.get("DEEPSEG_DATA", "../shared/data")) / "brats2015"

MODEL = """\
name: tiny
channels: [FLAIR, T1c]
classes: [background, necrosis, oedema, non_enhancing, enhancing]
normal: {feature_maps: [4, 5, 6]}
subsampled: {factors: [3]}
fc: {dropout: 0.5}
segments: {train: 25, validation: 7, inference: 45}
batch_norm: {statistics: window, length: 60}
"""

TRAIN = """\
name: train
output: .
seed: SEED
training:
  cases: {table: train.csv, allow_missing_classes: true}
  sampling: {type: foreground_background}
  segments_per_subepoch: SEGMENTS
  batch_size: 10
  augmentation:
    affine: {probability: 0.7, max_rotation: [45, 45, 45], max_scaling: 0.1}
preparation: {z_score: none}
epochs: 2
subepochs: 2
optimiser: {name: rmsprop, learning_rate: 0.001, momentum: 0.6, normalised_momentum: true}
schedule: {type: poly}
workers: 1
"""

TEST = """\
name: test
output: .
cases: {table: validation.csv}
groups: {whole: [1, 2, 3, 4]}
save: {pictures: false}
"""

FILES = {
    "channel_FLAIR": "Flair_subtrMeanDivStd.nii.gz",
    "channel_T1c": "T1c_subtrMeanDivStd.nii.gz",
    "labels": "OTMultiClass.nii.gz",
    "roi": "brainmask.nii.gz",
}


def write_files(folder: Path, data: Path, *, seed: int, segments: int) -> None:
    """Write the tables of cases and the three config files."""
    for role in ("train", "validation"):
        rows = [
            ",".join([case.name, *(str(case.resolve() / name) for name in FILES.values())])
            for case in sorted((data / role).iterdir())
        ]
        (folder / f"{role}.csv").write_text("\n".join([",".join(["case", *FILES]), *rows, ""]))
    (folder / "model.yaml").write_text(MODEL)
    train = TRAIN.replace("SEED", str(seed)).replace("SEGMENTS", str(segments))
    (folder / "train.yaml").write_text(train)
    (folder / "test.yaml").write_text(TEST)


def whole_tumour_dice(folder: Path, data: Path, *, seed: int, segments: int = 1000) -> list[float]:
    """Train, segment the validation cases, return the Dice of each."""
    folder.mkdir(parents=True, exist_ok=True)
    write_files(folder, data, seed=seed, segments=segments)
    model = deepseg.new_model(folder / "model.yaml", out=folder / "model.save", seed=seed)
    trained = deepseg.train(folder / "train.yaml", model=model)
    results = deepseg.segment(folder / "test.yaml", model=trained)
    cases = json.loads((results / "cases.json").read_text())["cases"]
    return [case["scores"]["whole"]["dice"] for case in cases.values()]


def main() -> None:
    """Run all seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    folder = options.out or Path(tempfile.mkdtemp(prefix="deepseg-brats-"))
    rows = []
    for seed in range(options.seeds):
        started = time.monotonic()
        dice = whole_tumour_dice(folder / str(seed), options.data, seed=seed)
        rows.append((seed, dice, time.monotonic() - started))
    print("\nseed  whole-tumour Dice per case  mean   seconds")
    for seed, dice, seconds in rows:
        cases = "  ".join(f"{value:.4f}" for value in dice)
        print(f"{seed:4}  {cases}              {statistics.fmean(dice):.4f}  {seconds:.0f}")
    means = [statistics.fmean(dice) for _, dice, _ in rows]
    print(f"mean of {len(means)} seeds: {statistics.fmean(means):.4f} (DeepMedic: 0.905)")


if __name__ == "__main__":
    main()
