"""Small studies of every layout: each function always writes the same files."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from deepseg.commands import demo
from deepseg.report.console import Console

MACHINE = {
    "machine": {
        "cores": 2,
        "memory_bytes": 8_000_000_000,
        "is_gpu": False,
        "speed": {"step_s": 0.2, "case_s": 2.0, "prepare_s": 0.5, "start_s": 8, "epoch_s": 0.5},
    }
}
SHAPE = (24, 22, 20)


def store(path, array, spacing=(1.0, 1.0, 1.0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([*spacing, 1.0])), path)
    return path


def scan(number, channel=0, shape=SHAPE):
    """Intensities of a ball in air that is 0."""
    rng = np.random.default_rng([number, channel])
    x, y, z = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    inside = x**2 + y**2 + z**2 < 0.8
    return np.where(inside, rng.normal(100, 10, shape), 0).astype(np.float32)


def labels(number, *values, shape=SHAPE):
    """A box of each value, where the box of case 3 is larger."""
    array = np.zeros(shape, np.uint8)
    for place, value in enumerate(values):
        begin = 4 + 5 * place
        array[begin : begin + 3 + number // 3, 5 + number % 4 : 12, 6:13] = value
    return array


def machine(folder: Path) -> Path:
    """A plan.json with the times of steps."""
    file = folder / "machine.json"
    file.write_text(json.dumps(MACHINE))
    return file


def folders(root):
    """Five cases with two channels and a brain mask; the label 4 comes after 1 and 2."""
    for number in range(1, 6):
        case = root / f"Study_{number:03d}"
        store(case / f"Study_{number:03d}_flair.nii.gz", scan(number))
        store(case / f"Study_{number:03d}_t1ce.nii.gz", scan(number, 1))
        store(case / f"Study_{number:03d}_seg.nii.gz", labels(number, 1, 2, 4))
        store(case / "brainmask.nii.gz", (scan(number) > 0).astype(np.uint8))
    return root


def anisotropic(root):
    """Twelve cases of thick slices."""
    shape, spacing = (40, 38, 9), (0.9, 0.9, 5.0)
    for number in range(1, 13):
        store(root / f"p{number:02d}/T2.nii.gz", scan(number, shape=shape) + 40, spacing)
        truth = np.zeros(shape, np.uint8)
        truth[10 + number : 18 + number, 12:24, 3:6] = 1
        store(root / f"p{number:02d}/label.nii.gz", truth, spacing)
    return root


def ct(root):
    """Four cases of Hounsfield units with different voxels, in a table."""
    rows = ["case,channel_CT,labels"]
    for number in range(1, 5):
        spacing = (0.8, 0.8, 1.0 + 0.5 * number)
        image = np.where(scan(number) > 0, scan(number) - 60, -1024).astype(np.int16)
        truth = labels(number, 1)
        image[truth > 0] += 80
        store(root / f"ct{number}.nii.gz", image, spacing)
        store(root / f"liver{number}.nii.gz", truth, spacing)
        rows.append(f"p{number},ct{number}.nii.gz,liver{number}.nii.gz")
    table = root / "list.csv"
    table.write_text("\n".join(rows) + "\n")
    return table


def bids(root):
    """Five subjects, one with two sessions; segmentations of left and right with their names."""
    (root / "derivatives/seg").mkdir(parents=True)
    (root / "dataset_description.json").write_text('{"Name": "t", "BIDSVersion": "1.9.0"}')
    (root / "derivatives/seg/dseg.tsv").write_text(
        "index\tname\n0\tbackground\n1\tleft_hippocampus\n2\tright_hippocampus\n"
    )
    subjects = ["sub-01_ses-a", "sub-01_ses-b", "sub-02", "sub-03", "sub-04"]
    for number, name in enumerate(subjects, start=1):
        folder = Path(*name.split("_"), "anat")
        store(root / folder / f"{name}_T1w.nii.gz", scan(number))
        truth = labels(number, 1, 0, 2)
        store(root / "derivatives/seg" / folder / f"{name}_dseg.nii.gz", truth)
    return root


def decathlon(root):
    """Four cases with both channels in one 4D image, and classes with names."""
    listed = []
    for number in range(1, 5):
        both = np.stack([scan(number), scan(number, 1) + 5], axis=-1)
        store(root / f"imagesTr/b_{number}.nii.gz", both)
        store(root / f"labelsTr/b_{number}.nii.gz", labels(number, 1, 2))
        listed.append(
            {"image": f"imagesTr/b_{number}.nii.gz", "label": f"labelsTr/b_{number}.nii.gz"}
        )
    content = {
        "modality": {"0": "FLAIR", "1": "T1w"},
        "labels": {"0": "background", "1": "edema", "2": "tumor"},
        "training": listed,
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def nnunet(root):
    """Four cases in the folders of nnU-Net: a file for each channel, labels with names."""
    for number in range(1, 5):
        for channel in range(2):
            store(root / f"imagesTr/hip_{number:03d}_{channel:04d}.nii.gz", scan(number, channel))
        store(root / f"labelsTr/hip_{number:03d}.nii.gz", labels(number, 1, 2))
    content = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "anterior": 1, "posterior": 2},
        "numTraining": 4,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def brats(root):
    """Five brains without a skull, four channels that are 0 outside, and labels 1, 2 and 4."""
    shape = (40, 40, 28)
    for number in range(1, 6):
        name = f"BraTS20_Training_{number:03d}"
        brain = scan(number, shape=shape) > 0
        truth = np.zeros(shape, np.uint8)
        for value, radius in ((2, 7), (4, 4), (1, 2)):  # oedema around a rim around a core
            x, y, z = np.indices(shape) - np.reshape([20 + number, 18, 14], (3, 1, 1, 1))
            truth[(x**2 + y**2 + z**2 <= radius**2) & brain] = value
        for channel, suffix in enumerate(("flair", "t1", "t1ce", "t2")):
            image = scan(number, channel, shape) * (1 + 0.2 * truth)
            store(root / name / f"{name}_{suffix}.nii.gz", image.astype(np.int16))
        store(root / name / f"{name}_seg.nii.gz", truth)
    return root


def demo_cases(root):
    """The first three brains of the demo."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "CASES", 3)
        demo._data(root, Console(quiet=True))
    return root / "data"


STUDIES = {
    "folders": folders,
    "anisotropic": anisotropic,
    "ct": ct,
    "bids": bids,
    "decathlon": decathlon,
    "nnunet": nnunet,
    "brats": brats,
    "demo": demo_cases,
}
