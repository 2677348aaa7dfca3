"""Dice in equal core seconds: a small network of deepseg, and a U-Net of MONAI by its tutorials.

    OMP_NUM_THREADS=1 python benchmarks/equal_minutes.py --seconds 120 --seeds 0 1

Six brains with lesions to learn from, three to judge, all voxels of them. Each side gets the same
core seconds for everything from reading the files to the last step; segmenting comes on top, and is
measured by itself. deepseg: the settings that `-plan` writes for such a budget. MONAI: UNet with
residual units, DiceCELoss, crops around foreground and background, flips and intensity changes,
cached cases, Adam; the learning rate of both falls to 0 at the end. Needs ``pip install monai``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch

import deepseg
from deepseg.data.phantom import write_cases

CHANNELS = ("T1", "FLAIR")
MODEL = """\
channels: [T1, FLAIR]
classes: [background, lesion]
normal: {feature_maps: [8, 12, 16, 20]}
subsampled: {factors: [3]}
fc: {feature_maps: [32], dropout: [0, 0.3]}
segments: {train: 25, inference: 45}
"""
TRAIN = """\
name: {name}
output: {folder}/runs
model: {folder}/model.yaml
seed: {seed}
training:
  cases: {{table: {folder}/data/train.csv}}
  sampling: {{type: foreground_background}}
  segments_per_subepoch: 240
  batch_size: 12
  augmentation:
    reflect: [0.5, 0, 0]
    intensity: {{shift: {{mean: 0, deviation: 0.1}}, scale: {{mean: 1, deviation: 0.05}}}}
epochs: {epochs}
subepochs: 1
loss: {{dice: 1}}
optimiser: {{name: rmsprop, learning_rate: 0.002}}
schedule: {{type: poly, wait: 0}}
report: false
workers: 0
"""


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """What a function returns, and the core seconds that it took."""
    start = time.process_time()
    result = function(*arguments)
    return result, time.process_time() - start


def train_deepseg(folder: Path, seed: int, seconds: float) -> Path:
    """A model of deepseg trained for so many core seconds, found by a first epoch."""
    (folder / "model.yaml").write_text(MODEL, "utf-8")

    def session(name: str, epochs: int) -> Path:
        file = folder / f"{name}.yaml"
        settings = {"name": name, "folder": folder, "seed": seed, "epochs": epochs}
        file.write_text(TRAIN.format(**settings), "utf-8")
        return deepseg.train(file, quiet=True)

    _, one = timed(session, "one", 1)
    _, two = timed(session, "two", 2)
    epoch = max(two - one, one / 10)
    return session("all", max(1, int((seconds - one) / epoch) + 1))


def segment_deepseg(folder: Path, case: str) -> np.ndarray:
    """Labels of a case."""
    predictor = deepseg.Predictor(folder / "runs/all/models/last.save", device="cpu")
    images = {name: folder / f"data/{case}/{name}.nii.gz" for name in CHANNELS}
    return predictor.segment(images, roi=folder / f"data/{case}/brain.nii.gz").labels


def train_monai(folder: Path, seed: int, seconds: float) -> torch.nn.Module:
    """A U-Net trained for so many core seconds."""
    from monai import transforms as mt
    from monai.data import CacheDataset, DataLoader
    from monai.losses import DiceCELoss
    from monai.networks.nets import UNet
    from monai.utils import set_determinism

    start = time.process_time()
    set_determinism(seed)
    keys = [*CHANNELS, "labels"]
    preparation = [
        mt.LoadImaged(keys), mt.EnsureChannelFirstd(keys), mt.ConcatItemsd(CHANNELS, "image"),
        mt.SelectItemsd(["image", "labels"]),
        mt.NormalizeIntensityd("image", nonzero=True, channel_wise=True),
    ]  # fmt: skip
    random = [
        mt.RandCropByPosNegLabeld(["image", "labels"], "labels", (64, 64, 64), num_samples=2),
        mt.RandFlipd(["image", "labels"], prob=0.5, spatial_axis=0),
        mt.RandScaleIntensityd("image", factors=0.1, prob=0.5),
        mt.RandShiftIntensityd("image", offsets=0.1, prob=0.5),
    ]
    rows = (folder / "data/train.csv").read_text("utf-8").splitlines()[1:]
    cases = [row.split(",")[0] for row in rows]
    files = [{key: folder / f"data/{case}/{key}.nii.gz" for key in keys} for case in cases]
    cached = CacheDataset(files, mt.Compose([*preparation, *random]), num_workers=1, progress=False)
    network = UNet(
        spatial_dims=3, in_channels=2, out_channels=2, channels=(16, 32, 64, 128),
        strides=(2, 2, 2), num_res_units=2, norm="batch",
    )  # fmt: skip
    loss, optimiser = (
        DiceCELoss(to_onehot_y=True, softmax=True),
        torch.optim.Adam(network.parameters(), 1e-3, weight_decay=1e-5),
    )
    while True:
        for batch in DataLoader(cached, batch_size=1, shuffle=True):
            done = (time.process_time() - start) / seconds
            if done >= 1:
                return network.eval()
            optimiser.param_groups[0]["lr"] = 1e-3 * (1 - done) ** 0.9
            optimiser.zero_grad()
            loss(network(batch["image"]), batch["labels"]).backward()
            optimiser.step()


def segment_monai(network: torch.nn.Module, folder: Path, case: str) -> np.ndarray:
    """Labels of a case by overlapping windows, background outside the brain."""
    from monai import transforms as mt
    from monai.inferers import sliding_window_inference

    prepared = mt.Compose(
        [
            mt.LoadImaged(CHANNELS), mt.EnsureChannelFirstd(CHANNELS),
            mt.ConcatItemsd(CHANNELS, "image"),
            mt.NormalizeIntensityd("image", nonzero=True, channel_wise=True),
        ]
    )({name: folder / f"data/{case}/{name}.nii.gz" for name in CHANNELS})  # fmt: skip
    with torch.no_grad():
        scores = sliding_window_inference(prepared["image"][None], (64, 64, 64), 4, network, 0.25)
    return np.asarray(scores.argmax(1)[0]) * voxels(folder, case, "brain")


def voxels(folder: Path, case: str, name: str) -> np.ndarray:
    """The values of a file of a case."""
    return np.asarray(nibabel.load(folder / f"data/{case}/{name}.nii.gz").dataobj)


def dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Dice of the voxels above 0."""
    both = np.logical_and(prediction > 0, truth > 0).sum()
    return float(2 * both / ((prediction > 0).sum() + (truth > 0).sum()))


def main() -> None:
    """Print a line for every side and seed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--sides", nargs="+", default=["deepseg", "MONAI"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_cases(folder / "data", {"train": 6, "held_out": 3}, seed=70)
            held_out = ["case07", "case08", "case09"]
            for side in options.sides:
                if side == "deepseg":
                    _, trained = timed(train_deepseg, folder, seed, options.seconds)
                    calls = [(segment_deepseg, (folder, case)) for case in held_out]
                else:
                    network, trained = timed(train_monai, folder, seed, options.seconds)
                    calls = [(segment_monai, (network, folder, case)) for case in held_out]
                results = [timed(call, *arguments) for call, arguments in calls]
                scores = [
                    dice(labels, voxels(folder, case, "labels"))
                    for case, (labels, _) in zip(held_out, results, strict=True)
                ]
                each = ", ".join(f"{score:.3f}" for score in scores)
                spent = np.mean([seconds for _, seconds in results])
                print(
                    f"| {side} | {seed} | {trained:.0f} | {each} | **{np.mean(scores):.3f}** | "
                    f"{spent:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
