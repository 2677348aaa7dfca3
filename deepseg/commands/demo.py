"""``-demo``: brains are generated, a small network learns to find their lesions, and is judged."""

from __future__ import annotations

import time
from pathlib import Path

from deepseg.commands.new_model import new_model
from deepseg.commands.segment import segment
from deepseg.commands.train import train
from deepseg.data.images.volumes import read_image, read_labels
from deepseg.data.phantom import mni_brain, write_cases
from deepseg.errors import DeepsegError
from deepseg.report.console import Console
from deepseg.report.picture import CasePicture, write_gallery
from deepseg.storage.atomic import writable, write_text

TRAINING_CASES, VALIDATION_CASES, TEST_CASES = 8, 1, 3

MODEL = """\
# A small network with two pathways: one at full resolution, one that sees three times as far.
name: demo
channels: [T1, FLAIR]
classes: [background, lesion]
output: .
normal:
  feature_maps: [8, 12, 16, 20]
subsampled:
  factors: [3]
fc:
  feature_maps: [32]
  dropout: [0, 0.3]
segments:
  train: 25
  inference: 57
"""

TRAIN = """\
name: training
output: .
training:
  cases: {table: data/train.csv}
  sampling: {type: foreground_background}
  segments_per_subepoch: 240
  batch_size: 12
  augmentation:
    intensity: {shift: {mean: 0, deviation: 0.05}, scale: {mean: 1, deviation: 0.02}}
    reflect: [0.5, 0, 0]
validation:
  cases: {table: data/validation.csv}
  samples: {segments: 100}
  volumes: null
epochs: 6
subepochs: 3
optimiser: {name: rmsprop, learning_rate: 0.002}
schedule: {type: poly, wait: 1}
"""

TEST = """\
name: results
output: .
cases: {table: data/test.csv}
batch_size: 4
"""


def demo(
    folder: Path, *, program: str = "deepseg", device: str = "auto", quiet: bool = False
) -> Path:
    """Do what a user does on own data: write three files, give three commands.

    Args:
        folder: Gets data, config files, model and results; what is there already is used again.
        program: The name of the program in the commands that are printed.
        device: ``cpu``, ``cuda``, ``cudaN`` or ``auto``.
        quiet: Print warnings and errors only.

    Returns:
        The picture of the results.

    Raises:
        DeepsegError: ``demo-extra-missing``, if nilearn is not installed.
    """
    started = time.monotonic()
    console = Console(quiet=quiet)
    prompt = f"\n> {program}"
    _data_and_settings(folder, console)
    model = folder / "models" / "demo.save"
    if not model.exists():
        console.say(f"{prompt} -newModel {folder / 'model.yaml'}")
        new_model(folder / "model.yaml", quiet=quiet)
    console.say(f"{prompt} -train {folder / 'train.yaml'} -model {model}")
    _trained(folder, model, device=device, quiet=quiet)
    best = folder / "training" / "models" / "best.save"
    console.say(f"{prompt} -test {folder / 'test.yaml'} -model {best}")
    results = segment(folder / "test.yaml", model=best, device=device, quiet=quiet)
    picture = folder / "demo.png"
    _gallery(results, folder, picture, console)
    console.say()
    console.say(f"done in {time.monotonic() - started:.0f} s; look at")
    console.say(f"  {picture}   the held-out cases: image, truth, segmentation")
    console.say(f"  {results / 'cases.csv'}   their scores")
    console.say(f"  {folder / 'training' / 'progress.png'}   how training went")
    console.say(f"  {folder}/*.yaml   the three files; change them and run the commands above")
    return picture


def _data_and_settings(folder: Path, console: Console) -> None:
    is_new = not (folder / "data" / "test.csv").exists()
    brain = mni_brain() if is_new else None  # first, as its extra may be missing
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"model.yaml": MODEL, "train.yaml": TRAIN, "test.yaml": TEST}.items():
        if not (folder / name).exists():
            write_text(folder / name, text)
    if brain is None:
        return
    whole = TRAINING_CASES + VALIDATION_CASES + TEST_CASES
    console.say(f"generating {whole} brains with lesion-like spots in {folder / 'data'}")
    counts = {"train": TRAINING_CASES, "validation": VALIDATION_CASES, "test": TEST_CASES}
    write_cases(folder / "data", counts, seed=1, brain=brain)


def _trained(folder: Path, model: Path, *, device: str, quiet: bool) -> None:
    begun = (folder / "training" / "models" / "last.save").exists()
    train(folder / "train.yaml", model=None if begun else model, device=device, quiet=quiet)


def _gallery(results: Path, folder: Path, picture: Path, console: Console) -> None:
    pictures = []
    for segmentation in sorted((results / "predictions").glob("*_Segm.nii.gz")):
        name = segmentation.name.removesuffix("_Segm.nii.gz")
        case = folder / "data" / name
        image = read_image(case / "FLAIR.nii.gz")
        pictures.append(
            CasePicture(
                name=name,
                image=image.array,
                spacing_mm=image.geometry.spacing_mm,
                segmentation=read_labels(segmentation).array,
                truth=read_labels(case / "labels.nii.gz").array,
            )
        )
    try:
        write_gallery(picture, pictures, classes=("background", "lesion"), title="held-out cases")
    except DeepsegError as error:
        console.warn(str(error))
