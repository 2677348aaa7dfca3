"""Make the model that ships with deepseg, from images that are drawn.

    python benchmarks/pretraining.py [--out FOLDER]

Cases come from the maps of the MNI152 brain that nilearn carries, by `deepseg.data.synthesis`; a
network learns from them by ``-train``; its weights are written to ``deepseg/builtin/brain.save``.
Seeds are fixed. The same command goes on where an earlier one was ended. 20 minutes of one core: 4
for the cases, 3 until they are checked and prepared, 13 for 1,800 steps.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

import deepseg
from deepseg.builtin import FOLDER
from deepseg.data.phantom import mni_maps
from deepseg.data.synthesis import CLASSES, Head, head_around, synthetic_case
from deepseg.model.checkpoint import read_checkpoint

SEED = 2026
CASES = 150
WHOLE = 12  # one of so many cases shows the whole head
HEAD_SIZES = (150, 180, 150), (181, 216, 181)  # voxels, from and below
PIECE_SIZES = 80, 113
EPOCHS, CONSTANT = 120, 90  # in all, and those before the learning rate falls

MODEL = """\
name: brain
channels: [image]
classes: [CLASSES]
normal: {feature_maps: [12, 12, 16, 16, 24, 24], residuals: [4, 6]}
subsampled: {factors: [3, 5]}
fc: {feature_maps: [60], dropout: [0, 0.2]}
segments: {train: 29, validation: 29, inference: 61}
"""

TRAIN = """\
name: brain
output: .
training:
  cases: {table: train.csv, allow_missing_classes: true}
  cases_per_subepoch: 24
  segments_per_subepoch: 120
  batch_size: 8
  sampling: {type: per_class, proportions: [1.2, 1, 1, 1, 1.4]}
  augmentation:
    reflect: [0.5, 0.5, 0.5]
    intensity: {shift: {mean: 0, deviation: 0.15}, scale: {mean: 1, deviation: 0.15}}
preparation: {roi: nonzero, resample: 1}
epochs: EPOCHS
subepochs: 1
loss: {cross_entropy: 1, dice: 0.5, l1: 0, l2: 0}
optimiser: {name: adamw, learning_rate: 0.002, weight_decay: 0.01}
schedule: {type: cosine, wait: CONSTANT, final_learning_rate: 0.00002}
steps: {warm_up: 2, average: 0.99, clip_norm: 5}
"""


def mni_head() -> Head:
    """The MNI152 brain at 1 mm, and a head around it."""
    maps = mni_maps()
    brain = np.asarray(ndimage.binary_fill_holes(maps.t1 > 0), dtype=np.bool_)
    return head_around(maps.grey * brain, maps.white * brain, brain)


def write_cases(folder: Path) -> None:
    """Write the cases that are not there yet, and their table."""
    names = [f"case{number:03d}" for number in range(CASES)]
    missing = [n for n, name in enumerate(names) if not (folder / f"{name}_image.nii").exists()]
    head = mni_head() if missing else None
    for number in missing:
        rng = np.random.default_rng(np.random.SeedSequence([SEED, number]))
        is_whole = number % WHOLE == 0
        size = rng.integers(*HEAD_SIZES) if is_whole else rng.integers(*PIECE_SIZES, 3)
        case = synthetic_case(head, [int(n) for n in size], rng=rng)
        for kind, array in (("labels", case.labels), ("image", case.image)):
            part = folder / "part.nii"  # a file that has its name is whole
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), part)
            part.replace(folder / f"{names[number]}_{kind}.nii")
    rows = [f"{name},{name}_image.nii,{name}_labels.nii" for name in names]
    (folder / "train.csv").write_text("\n".join(["case,channel_image,labels", *rows, ""]))


def trained(folder: Path) -> Path:
    """The trained model; what an earlier call has done is not done again."""
    model, settings = folder / "model.yaml", folder / "train.yaml"
    model.write_text(MODEL.replace("CLASSES", ", ".join(CLASSES)))
    numbers = TRAIN.replace("EPOCHS", str(EPOCHS)).replace("CONSTANT", str(CONSTANT))
    settings.write_text(numbers)
    new = folder / "new.save"
    if not new.exists():
        deepseg.new_model(model, out=new)
    return deepseg.train(settings, model=new, device="cpu")


def main() -> None:
    """Write the cases, train, and put the model into the package."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("pretraining"))
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    started = time.process_time()
    write_cases(folder)
    model = read_checkpoint(trained(folder))
    config = model.config.model_copy(update={"output": Path("runs")})  # not that of this machine
    replace(model, config=config, training=None).write(FOLDER / "brain.save")
    print(f"{FOLDER / 'brain.save'}; {time.process_time() - started:.0f} core seconds here")


if __name__ == "__main__":
    main()
