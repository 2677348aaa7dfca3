"""The network of DeepMedic written in the plainest torch, as a measure for the speed of deepseg.

    python benchmarks/plain_port.py OUT_FOLDER ROI CHANNEL [CHANNEL …] [, ROI CHANNEL …]

Simple modules, repetition, one concatenation, float32; whole cases by tiles as DeepMedic takes
them. The weights are random, and nothing of deepseg is used.
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import nibabel
import numpy as np
import torch
from torch import Tensor, nn


class Layer(nn.Module):
    """norm → PReLU → (mirrored border) → convolution; the first of a pathway only convolves."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, first: bool, pad: bool) -> None:
        super().__init__()
        self.norm = nn.Identity() if first else nn.BatchNorm3d(inputs)
        self.activation = nn.Identity() if first else nn.PReLU(inputs)
        self.border = nn.ReplicationPad3d(kernel // 2) if pad else nn.Identity()
        self.conv = nn.Conv3d(inputs, outputs, kernel, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, X, Y, Z)`` to ``(N, F, X', Y', Z')``."""
        return self.conv(self.border(self.activation(self.norm(x))))


class Pathway(nn.Module):
    """Eight layers; the fourth, sixth and eighth add the middle of the input two layers before."""

    def __init__(self, channels: int, maps: list[int]) -> None:
        super().__init__()
        sizes = [channels, *maps]
        self.layers = nn.ModuleList(
            Layer(a, b, 3, first=i == 0, pad=False)
            for i, (a, b) in enumerate(zip(sizes, maps, strict=False))
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, X, Y, Z)`` to ``(N, F, X-16, Y-16, Z-16)``."""
        before = x
        for number, layer in enumerate(self.layers, start=1):
            y = layer(x)
            if number in (4, 6, 8):
                earlier = before[:, :, 2:-2, 2:-2, 2:-2]
                y[:, : earlier.shape[1]] += earlier
            before, x = x, y
        return x


class PlainPort(nn.Module):
    """Three pathways and three FC layers."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        maps = [30, 30, 40, 40, 40, 40, 50, 50]
        self.pathways = nn.ModuleList(Pathway(channels, maps) for _ in range(3))
        self.fc = nn.ModuleList(
            [
                Layer(150, 250, 3, first=False, pad=True),
                Layer(250, 250, 1, first=False, pad=False),
                Layer(250, classes, 1, first=False, pad=False),
            ]
        )
        self.bias = nn.Parameter(torch.zeros(classes, 1, 1, 1))

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """Logits from the inputs of the three pathways."""
        normal, third, fifth = (p(x) for p, x in zip(self.pathways, inputs, strict=True))
        size = normal.shape[2:]
        joined = torch.cat([normal, repeated(third, 3, size), repeated(fifth, 5, size)], 1)
        y = self.fc[0](joined)
        z = self.fc[1](y)
        z[:, :150] += joined
        return self.fc[2](z) + self.bias


def repeated(x: Tensor, factor: int, size: torch.Size) -> Tensor:
    """Every voxel ``factor`` times along each axis."""
    for axis in (2, 3, 4):
        x = x.repeat_interleave(factor, axis)
    return x[:, :, : size[0], : size[1], : size[2]]


def tiles(shape: tuple[int, ...], tile: int = 45) -> list[tuple[int, ...]]:
    """First voxels of the tiles of an image padded by 8 voxels."""
    inner = tile - 16
    per_axis = [[*range(0, max(n - inner, 0), inner), max(n - inner, 0)] for n in shape]
    return [(x - 8, y - 8, z - 8) for z, y, x in product(*reversed(per_axis))]


def segmented(network: PlainPort, channels: np.ndarray, roi: np.ndarray) -> np.ndarray:
    """``(X, Y, Z)`` labels; a tile is left out only when all its input lies outside the ROI."""
    margin = 40
    image = np.pad(channels, [(0, 0)] + [(margin, margin)] * 3, "reflect")
    mask = np.pad(roi, margin, "reflect")
    labels = np.zeros(roi.shape, np.uint8)
    chosen = [
        tile
        for tile in tiles(roi.shape)
        if mask[tuple(slice(a + margin, a + margin + 45) for a in tile)].any()
    ]
    for begin in range(0, len(chosen), 10):
        batch = chosen[begin : begin + 10]
        inputs = [
            torch.from_numpy(np.stack([_read(image, tile, margin, *how) for tile in batch]))
            for how in ((0, 1, 45), (15, 3, 26), (30, 5, 22))
        ]
        with torch.inference_mode():
            shares = network(inputs).softmax(1).numpy()
        for (x, y, z), one in zip(batch, shares, strict=True):
            labels[x + 8 : x + 37, y + 8 : y + 37, z + 8 : z + 37] = one.argmax(0)
    return labels * roi


def _read(
    image: np.ndarray, tile: tuple[int, ...], margin: int, before: int, step: int, count: int
) -> np.ndarray:
    x, y, z = (slice(a + margin - before, a + margin - before + step * count, step) for a in tile)
    return image[:, x, y, z]


def main() -> None:
    """Segment the cases of the command line, which commas part; write their labels."""
    out, *rest = sys.argv[1:]
    cases = [one.split() for one in " ".join(rest).split(",")]
    network = PlainPort(channels=len(cases[0]) - 1, classes=5).eval()
    for number, files in enumerate(cases):
        roi, *images = (nibabel.load(file) for file in files)
        channels = np.stack([image.get_fdata(dtype=np.float32) for image in images])
        labels = segmented(network, channels, np.asarray(roi.dataobj) > 0)
        nibabel.save(nibabel.Nifti1Image(labels, roi.affine), Path(out) / f"{number}.nii.gz")


if __name__ == "__main__":
    main()
