"""Exported steps against torch.optim.SGD: losses, weights and statistics after twenty of them.

Where a value comes within rounding of a bend (0 of a PReLU, two equal values of a maximum), the
two may go different ways; seeds are such that none does.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from deepseg.errors import DeepsegError
from deepseg.exports.train_step.step import training_step
from deepseg.model.checkpoint import Origin, new_checkpoint
from deepseg.model.network import Network
from deepseg.sessions.model_files import described
from tests.exports.train_step.steps import RATES, Twins
from tests.networks import SMALL, small_network
from tests.onnx_models import export, model, write

STEPS = 20
SIZES = {"train": [12, 16, 12]}
NO_DROPOUT = {"feature_maps": [5], "dropout": 0}
UNET_MODEL = """\
channels: [T1, FLAIR]
classes: [background, a, b]
imported:
  - {file: net.onnx, channels: {T1: 0}, margin: 4}
fc: {feature_maps: [5], dropout: 0}
segments: {train: 16, inference: 24}
"""


class UNet(nn.Module):
    """Two levels down and up, with a layer of every kind."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv3d(1, 4, 3, padding=1, bias=False)
        self.stem_norm = nn.InstanceNorm3d(4, affine=True)
        self.pool = pool
        self.second = nn.Conv3d(4, 6, 3, padding=1)
        self.second_norm = nn.BatchNorm3d(6)
        self.second_act = nn.PReLU(6)
        self.third = nn.Conv3d(6, 6, 3, stride=2, padding=1)
        self.third_norm = nn.GroupNorm(3, 6)
        self.grow = nn.Upsample(scale_factor=2, mode="trilinear", align_corners=False)
        self.up = nn.ConvTranspose3d(12, 4, 2, stride=2)
        self.last = nn.Conv3d(8, 5, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = nn.functional.leaky_relu(self.stem_norm(self.stem(x)), 0.01)
        b = self.second_act(self.second_norm(self.second(self.pool(a))))
        c = self.grow(nn.functional.elu(self.third_norm(self.third(b))))
        y = self.last(torch.cat([a, self.up(torch.cat([b, c], 1))], 1))
        return y + torch.sigmoid(y) * 0.5


def imported(folder: Path, text: str = UNET_MODEL) -> Network:
    """The network of a model file beside ``net.onnx``."""
    file = folder / "model.yaml"
    file.write_text(text)
    settings = described(file, lambda _: None).imported()
    checkpoint = new_checkpoint(
        settings.config, seed=0, origin=Origin(file), imported=settings.weights
    )
    return checkpoint.network()


def unet(folder: Path, pool: nn.Module) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        export(UNet(pool), torch.zeros(1, 1, 16, 16, 16), folder / "net.onnx", "torchscript")
    return imported(folder)


def check(twins: Twins, *, steps: int = STEPS, rates=RATES) -> None:
    """Losses, weights, statistics and then probabilities agree."""
    pairs = np.array(list(twins.losses(steps, rates)))
    assert pairs[-1, 0] < pairs[0, 0]
    np.testing.assert_allclose(pairs[:, 1], pairs[:, 0], atol=1e-5, rtol=0)
    assert twins.largest_difference() < 1e-5
    expected, computed = twins.probabilities()
    np.testing.assert_allclose(computed, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "frozen"),
    [
        pytest.param({}, ("normal.*", "sub1.*", "fc.1"), id="the head alone"),
        pytest.param({"fc": NO_DROPOUT}, ("normal.*", "sub1.*"), id="the FC pathway"),
        pytest.param({"fc": NO_DROPOUT}, (), id="two pathways with batch norm"),
        pytest.param(
            {"normal": {"feature_maps": [3, 4, 5, 3], "residuals": [3, 4]}}, (), id="residuals"
        ),
        pytest.param(
            {"normal": {"feature_maps": [3, 4], "dropout": [0, 0.3]}},
            ("fc.*", "normal.2"),
            id="layers below frozen ones",
        ),
        pytest.param({"fc": {"feature_maps": [5], "dropout": [0.2, 0.5]}}, (), id="dropout"),
        pytest.param({"activation": "relu", "batch_norm": "none"}, (), id="ReLU and biases"),
        pytest.param({"activation": "elu"}, (), id="ELU"),
        pytest.param({"activation": "selu"}, (), id="SELU"),
        pytest.param({"activation": "linear"}, (), id="no activation"),
        pytest.param(
            {"batch_norm": {"statistics": "window", "length": 5}}, (), id="windows of statistics"
        ),
        pytest.param(
            {
                "normal": {
                    "feature_maps": [3, 6, 6],
                    "low_rank": [2, 3],
                    "padding": ["none", "mirror", "zero"],
                },
                "fc": {"feature_maps": [5], "residuals": [2]},
                "context_alignment": "deepmedic",
                "activation": "elu",
            },
            (),
            id="low rank and padding",
        ),
        pytest.param(
            {
                "normal": {"feature_maps": [3, 4], "padding": ["zero", "mirror"]},
                "subsampled": {"factors": [[3, 2, 1]]},
                "activation": "elu",
            },
            (),
            id="a padded first layer",
        ),
    ],
)
def test_twenty_steps_are_those_of_torch(settings, frozen):
    check(Twins.of(small_network(2, **settings), frozen=frozen))


@pytest.mark.parametrize(
    "pool",
    [
        pytest.param(nn.MaxPool3d(3, 2, 1), id="a maximum of overlapping windows"),
        pytest.param(nn.AvgPool3d(2), id="a mean"),
        pytest.param(nn.Conv3d(4, 4, 3, stride=2, padding=1), id="a convolution with stride"),
    ],
)
def test_an_imported_unet_learns_as_in_torch(tmp_path, pool):
    network = unet(tmp_path, pool)
    check(Twins.of(network, size=(16, 16, 16), batch=2), rates={**RATES, "learning_rate": 0.01})


LEVELS = (
    {"feature_maps": 10, "kernel": (3, 3, 1)},
    {"feature_maps": 8, "stride": (2, 2, 1)},
    {"feature_maps": 4, "stride": 2, "decoder": 1},
)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"preset": "plain"}, id="nnU-Net's plain blocks"),
        pytest.param({"preset": "residual", "activation": "prelu"}, id="residual blocks"),
        pytest.param({"norm": "batch", "activation": "gelu"}, id="batch norm and GELU"),
        pytest.param({"norm": "group", "groups": 2, "activation": "gelu"}, id="groups"),
        pytest.param({"norm": "none", "activation": "gelu"}, id="no norm"),
    ],
)
def test_a_unet_of_our_own_learns_as_in_torch(tmp_path, settings):
    alone = {"normal": None, "subsampled": None, "fc": "none"}
    unet = {"levels": LEVELS, **settings}
    network = imported(tmp_path, json.dumps({**SMALL, **alone, "unet": unet, "segments": SIZES}))
    check(Twins.of(network, size=(8, 12, 4), batch=2), rates={**RATES, "learning_rate": 0.01})


def test_a_unet_beside_other_pathways_learns_as_in_torch(tmp_path):
    unet = {"levels": LEVELS, "margin": 2, "activation": "gelu"}
    beside = {"fc": NO_DROPOUT, "activation": "elu", "unet": unet, "segments": SIZES}
    network = imported(tmp_path, json.dumps({**SMALL, **beside}))
    check(Twins.of(network, size=(12, 16, 12), batch=2), rates={**RATES, "learning_rate": 0.01})


def test_frozen_layers_of_an_imported_network_keep_weights_and_statistics(tmp_path):
    network = unet(tmp_path, nn.AvgPool3d(2))
    before = {n: v.clone() for n, v in network.state_dict().items() if n.startswith("imported1")}
    twins = Twins.of(network, frozen=["imported1"], size=(16, 16, 16), batch=2)
    check(twins, steps=3)
    assert [n for n, v in before.items() if not np.array_equal(twins.state[n], v.numpy())] == []


def test_the_graph_has_the_default_domain_and_static_shapes():
    graph = training_step(small_network(), batch=2, segment=(13, 12, 14))
    assert all(node.operator.isidentifier() for node in graph.tape.nodes)
    assert {entry.name for entry in graph.tape.inputs} >= {"x_normal", "x_sub1", "y", "momentum"}
    assert all(isinstance(n, int) for entry in graph.tape.inputs for n in entry.shape)


def test_operators_without_a_gradient_are_refused_by_their_node(tmp_path):
    nodes = [
        ("Conv", ["image", "w"], ["c"], {"name": "first", "pads": [1] * 6}),
        ("HardSwish", ["c"], ["h"], {"name": "swish"}),
        ("HardSwish", ["h"], ["y"], {"name": "swish_2"}),
    ]
    from onnx import helper

    new = [helper.make_node(kind, i, o, **more) for kind, i, o, more in nodes]
    weight = np.ones((2, 1, 3, 3, 3), np.float32)
    shapes = {"image": ["n", 1, "x", "y", "z"]}
    write(tmp_path / "net.onnx", model(new, shapes, weights={"w": weight}))
    network = imported(tmp_path, UNET_MODEL.replace(", margin: 4", ""))
    with pytest.raises(DeepsegError) as caught:
        training_step(network.train(), batch=1, segment=(8, 8, 8))
    assert str(caught.value) == (
        "[train-step-operator] got HardSwish at imported1.swish and 1 more; expected operators "
        "whose gradient is written for the device; fix: cut the imported network in front of it, "
        "or train this model with deepseg"
    )
