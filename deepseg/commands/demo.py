"""``-demo``: brains are generated, a small network learns to find their lesions, and is judged."""

from __future__ import annotations

import time
from pathlib import Path

from deepseg.commands.plan import plan
from deepseg.commands.segment import segment
from deepseg.commands.train import train
from deepseg.data.images.volumes import read_image, read_labels
from deepseg.data.phantom import mni_brain, write_cases
from deepseg.errors import DeepsegError
from deepseg.report.console import Console
from deepseg.report.picture import CasePicture, write_gallery
from deepseg.storage.atomic import writable, write_json

CASES = 12
CHANNELS = ("T1", "FLAIR")
MINUTES = 2.0
CLASSES = ("background", "lesion")
# The machine that the demo is made for: its plan is the same everywhere, and so is what it learns.
MACHINE = {
    "cores": 2,
    "memory_bytes": 8 * 10**9,
    "is_gpu": False,
    "speed": {"step_s": 0.2, "case_s": 1.5, "prepare_s": 0.3, "start_s": 8.0, "epoch_s": 0.5},
}


def demo(
    folder: Path, *, program: str = "deepseg", device: str = "auto", quiet: bool = False
) -> Path:
    """Do what a user does on own data: plan a study, build the model, train it, test it.

    Args:
        folder: Gets data, study and results; what is there already is used again.
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
    _data(folder, console)
    study = folder / "study"
    if not study.exists():
        speed = folder / "machine.json"
        write_json(speed, {"machine": MACHINE})
        words = f"-minutes {MINUTES:g} -speed {speed} -out {study}"
        console.say(f"{prompt} -plan {folder / 'data'} {words}")
        plan(folder / "data", minutes=MINUTES, speed=speed, out=study, device=device, quiet=quiet)
    console.say(f"{prompt} -train {study / 'train.yaml'}")
    train(study / "train.yaml", device=device, quiet=quiet)
    console.say(f"{prompt} -test {study / 'test.yaml'}")
    results = segment(study / "test.yaml", device=device, quiet=quiet)
    picture = folder / "demo.png"
    _gallery(results, folder, picture, console)
    console.say()
    console.say(f"done in {time.monotonic() - started:.0f} s; look at")
    console.say(f"  {picture}   the held-out cases: image, truth, segmentation")
    console.say(f"  {results / 'report.html'}   their scores and slices, in a browser")
    console.say(f"  {study / 'training' / 'progress.png'}   how training went")
    console.say(f"  {study}/*.yaml   the three files; change them and run the commands above")
    return picture


def _data(folder: Path, console: Console) -> None:
    """Generate the cases, with a dataset.json that names their channels and classes."""
    data = folder / "data"
    if (data / "dataset.json").exists():
        return
    brain = mni_brain()  # first, as its extra may be missing
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    console.say(f"generating {CASES} brains with lesion-like spots in {data}")
    write_cases(data, {"cases": CASES}, seed=1, brain=brain)
    names = [f"case{number:02d}" for number in range(1, CASES + 1)]
    dataset = {
        name: {
            "images": [f"{name}/{channel}.nii.gz" for channel in CHANNELS],
            "label": f"{name}/labels.nii.gz",
        }
        for name in names
    }
    channels = {str(number): channel for number, channel in enumerate(CHANNELS)}
    labels = {name: label for label, name in enumerate(CLASSES)}
    record = {"channel_names": channels, "labels": labels, "dataset": dataset}
    write_json(data / "dataset.json", record)


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
        write_gallery(picture, pictures, classes=CLASSES, title="held-out cases")
    except DeepsegError as error:
        console.warn(str(error))
