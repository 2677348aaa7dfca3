"""A small network of torch in an ONNX file, and models that import it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from tests.onnx_models import export

IMPORTED_MODEL = """\
name: small
output: runs
channels: [T1, FLAIR]
classes: [background, rim, core]
imported:
  - {file: net.onnx, output: last_act, channels: {T1: 0}, margin: 4}
fc: {feature_maps: [5], dropout: 0}
segments: {train: 20, inference: 24}
"""


class Encoder(nn.Module):
    """A stage with stride 2, batch normalisation, PReLU, and a classifier with softmax."""

    def __init__(self, channels: int = 1, *, padding: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv3d(channels, 4, 3, padding=padding)
        self.norm = nn.BatchNorm3d(4)
        self.act = nn.PReLU(4)
        self.down = nn.Conv3d(4, 6, 3, stride=2, padding=padding)
        self.down_norm = nn.BatchNorm3d(6)
        self.last = nn.Conv3d(6, 6, 3, padding=padding)
        self.last_act = nn.ReLU()
        self.classifier = nn.Conv3d(6, 2, 1)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.norm(self.stem(x)))
        x = torch.relu(self.down_norm(self.down(x)))
        return self.last_act(self.last(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x)).softmax(1)


def encoder(seed: int = 0, **settings) -> Encoder:
    """An encoder whose statistics are those of no data; torch's generator stays as it is."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Encoder(**settings)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 2)
    return network.eval()


def write_encoder(path: Path, seed: int = 0, **settings) -> Encoder:
    """Write an encoder as an ONNX file."""
    network = encoder(seed, **settings)
    channels = network.stem.in_channels
    with torch.random.fork_rng():
        export(network, torch.zeros(1, channels, 16, 16, 16), path, "torchscript")
    return network


MODEL_OF_ITS_OWN_HEAD = """\
name: own
output: runs
channels: [T1, FLAIR]
classes: [background, rim, core]
imported:
  - {file: net.onnx}
fc: none
segments: {train: 16, inference: [16, 12, 20]}
"""


class Segmenter(nn.Module):
    """Two levels and a classifier with softmax; it sees further than a few voxels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm3d(4)
        self.down = nn.Conv3d(4, 6, 3, stride=2, padding=1)
        self.middle = nn.Conv3d(6, 6, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose3d(6, 4, 4, 4)
        self.head = nn.Conv3d(8, 3, 1)

    def encoder(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.relu(self.norm(self.stem(x))))

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm(self.stem(x)))
        low = torch.relu(self.middle(torch.relu(self.down(y))))
        return self.head(torch.cat([self.up(low), y], 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scores(x).softmax(1)


def write_segmenter(path: Path, seed: int = 0) -> Segmenter:
    """Write a network with a classifier of its own as an ONNX file."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Segmenter().eval()
        network.norm.running_mean.uniform_(-0.2, 0.2)
        network.norm.running_var.uniform_(0.5, 2)
        export(network, torch.zeros(1, 2, 16, 16, 16), path, "torchscript")
    return network
