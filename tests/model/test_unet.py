"""The U-Net: nnU-Net's topologies are its oracle, and what is seen is told as it is."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from deepseg.config.blocks.unet import UnetPathway
from deepseg.geometry.size_rule import SizeRule
from deepseg.model.graph.geometry import graph_geometry
from deepseg.model.graph.network import GraphNetwork
from deepseg.model.imported import AuxiliaryScores, attach_point
from deepseg.model.unet import decoder_loss, unet_geometry, unet_graph

RESULTS = dict(np.load(Path(__file__).parent / "files" / "nnunet_outputs.npz"))
PLANS = {
    "plain": (
        {"feature_maps": 8},
        {"feature_maps": 6, "stride": 2},
        {"feature_maps": 4, "stride": (2, 2, 1), "kernel": (3, 3, 1)},
    ),
    "residual": (
        {"feature_maps": 8, "encoder": 2},
        {"feature_maps": 6, "encoder": 3},
        {"feature_maps": 4, "stride": (2, 2, 1), "kernel": (3, 3, 1), "encoder": 1},
    ),
}
SMALL = (
    {"feature_maps": 4, "kernel": (3, 5, 3)},
    {"feature_maps": 2, "stride": (2, 1, 2), "kernel": (3, 3, 1)},
    {"feature_maps": 2, "stride": (3, 2, 2), "kernel": 3},
)
STEEP = (
    {"feature_maps": 2, "kernel": (3, 5, 3)},
    {"feature_maps": 2, "stride": (2, 1, 3)},
)


def fill(name, shape):
    """Values that follow from nnU-Net's name of a weight, as the program beside the files has."""
    phase = sum(map(ord, name))
    values = torch.sin(torch.arange(np.prod(shape), dtype=torch.float64) * 1.7 + phase) * 0.3
    return (values + ("norm.weight" in name)).float().reshape(shape)


def own_name(name, top=2):
    """The name of a weight of nnU-Net, whose encoder counts stages from the top."""
    rules = (
        (r"encoder\.stem\.convs\.0\.(.*)", lambda m: f"level{top}.stem.{m[1]}"),
        (
            r"encoder\.stages\.(\d)\.(?:0\.convs|blocks)\.(\d)\.(.*)",
            lambda m: f"level{top - int(m[1])}.encoder.{int(m[2]) + 1}.{m[3]}",
        ),
        (r"decoder\.transpconvs\.(\d)\.(.*)", lambda m: f"level{int(m[1]) + 1}.up.{m[2]}"),
        (r"decoder\.seg_layers\.(\d)\.(.*)", lambda m: f"level{int(m[1]) + 1}.head.{m[2]}"),
        (
            r"decoder\.stages\.(\d)\.convs\.(\d)\.(.*)",
            lambda m: f"level{int(m[1]) + 1}.decoder.{int(m[2]) + 1}.{m[3]}",
        ),
    )
    for pattern, build in rules:
        match = re.fullmatch(pattern, name)
        if match:
            built = build(match)
            built = re.sub(r"(conv|norm)(\d)\.(\w+)\.", r"\1\2.\3.", built)
            built = re.sub(r"conv(\d)\.conv\.", r"conv\1.", built)
            built = re.sub(r"conv(\d)\.norm\.", r"norm\1.", built)
            return built.replace("skip.1.conv", "skip").replace("skip.1.norm", "skip_norm")
    raise ValueError(name)


@pytest.mark.parametrize("preset", ["plain", "residual"])
def test_the_presets_are_nnu_nets_topologies(preset):
    """As many parameters, and with the same weights the same scores on every level."""
    block = UnetPathway(levels=PLANS[preset], preset=preset)
    network = GraphNetwork(unet_graph(block, 2, 3, has_head=True), drops_softmax=False).eval()
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == RESULTS[f"{preset}.parameters"]
    state = network.state_dict()
    names = {own_name(name): name for name in RESULTS[f"{preset}.names"].tolist()}
    assert names.keys() == state.keys()
    network.load_state_dict(
        {sample: fill(names[sample], value.shape) for sample, value in state.items()}
    )
    with torch.no_grad():
        outputs = network(torch.from_numpy(RESULTS["image"]))
    assert len(outputs) == 2
    for number, output in enumerate(outputs):
        expected = RESULTS[f"{preset}.output{number}"]
        assert output.shape == expected.shape
        assert np.abs(output.numpy() - expected).max() <= 1e-5


@pytest.mark.parametrize(
    ("settings", "has_head"),
    [
        ({}, True),
        ({"padding": "valid", "norm": "none"}, False),
        ({"preset": "residual", "norm": "batch", "activation": "prelu"}, False),
        ({"preset": "residual", "padding": "valid", "norm": "none", "levels": STEEP}, True),
    ],
)
def test_every_axis_for_itself_gives_the_geometry_of_the_whole(settings, has_head):
    block = UnetPathway(**{"levels": SMALL} | settings)
    graph = unet_graph(block, 2, 3, has_head=has_head)
    expected = graph_geometry(GraphNetwork(graph, drops_softmax=False).program)
    assert unet_geometry(block, 2, 3, has_head=has_head) == expected


def test_without_padding_the_loss_is_that_of_the_layers():
    """3 -> 1 after two kernels below, twice 1 up: 5 voxels at the finer level, then 4 more."""
    block = UnetPathway(
        levels=({"feature_maps": 2}, {"feature_maps": 2}), padding="valid", norm="none"
    )
    geometry = unet_geometry(block, 1, 2, has_head=True)
    encoder = 4
    assert decoder_loss(block, 1) == (9, 9, 9)
    assert geometry.outputs[0].loss == (encoder + 9,) * 3
    network = GraphNetwork(unet_graph(block, 1, 2, has_head=True), drops_softmax=False)
    size = geometry.sizes.smallest
    (scores,) = network(torch.zeros(1, 1, *size))
    assert tuple(scores.shape[2:]) == tuple(n - encoder - 9 for n in size)


def test_an_unpadded_residual_u_net_is_the_middle_of_a_padded_one():
    """Far from the border zeros play no part: block by block both compute the same."""
    levels = ({"feature_maps": 3, "kernel": (3, 5, 1)}, {"feature_maps": 2, "stride": 1})
    results = []
    image = torch.randn(1, 1, 40, 48, 36, generator=torch.Generator().manual_seed(0))
    for padding in ("same", "valid"):
        block = UnetPathway(levels=levels, preset="residual", padding=padding, norm="none")
        graph = unet_graph(block, 1, 2, has_head=True)
        network = GraphNetwork(graph, drops_softmax=False)
        state = {name: fill(name, value.shape) for name, value in network.state_dict().items()}
        network.load_state_dict(state)
        with torch.no_grad():
            results.append(network(image)[0])
    whole, part = results
    x, y, z = attach_point(unet_geometry(block, 1, 2, has_head=True).outputs[0]).begin
    n, m, k = part.shape[2:]
    assert (n, m, k) == (40 - 20, 48 - 28, 36 - 12)  # 5 kernels of a level and 5 of the other
    middle = whole[..., x : x + n, y : y + m, z : z + k]
    assert (part - middle).abs().max() <= 1e-5 * whole.abs().max()


def test_three_levels_without_padding_compute_every_fourth_size():
    """35 voxels give 4, as many as the lowest level needs; twice as many do not fit."""
    levels = ({"feature_maps": 1}, {"feature_maps": 1}, {"feature_maps": 1})
    block = UnetPathway(levels=levels, padding="valid", norm="none")
    geometry = unet_geometry(block, 1, 1, has_head=True)
    assert geometry.sizes == SizeRule((35, 35, 35), (4, 4, 4))
    assert geometry.outputs[0].output_size((35, 39, 43)) == (4, 8, 12)


def test_levels_take_the_labels_at_their_own_voxels():
    """A level with stride 2 along X lies at voxels 0, 2, 4."""
    block = UnetPathway(levels=PLANS["plain"])
    (_, level) = unet_geometry(block, 2, 3, has_head=True).outputs
    scores = torch.zeros(1, 3, 4, 3, 6)
    labels = torch.arange(8 * 6 * 6).view(1, 8, 6, 6)
    chosen = AuxiliaryScores(scores, attach_point(level), start=(0, 0, 0)).labels(labels)
    assert torch.equal(chosen, labels[:, ::2, ::2])


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"levels": ({"feature_maps": 4, "stride": 2}, {"feature_maps": 4})}, "first level"),
        ({"levels": ({"feature_maps": 4, "kernel": 2}, {"feature_maps": 4})}, "a kernel of 2 x 2"),
        ({"levels": SMALL, "norm": "group"}, "4 feature maps in level 0 and 8 groups"),
        (
            {
                "levels": ({"feature_maps": 4, "kernel": 1}, {"feature_maps": 4}),
                "preset": "residual",
                "padding": "valid",
            },
            "a kernel of 1 x 1 x 1 in level 0 and a stride of 2 x 2 x 2 to it",
        ),
    ],
)
def test_settings_that_no_network_has_are_refused(keys, words):
    with pytest.raises(ValueError, match=words):
        UnetPathway(**keys)


def test_what_is_stored_is_read_again():
    block = UnetPathway(levels=SMALL)
    assert UnetPathway.model_validate(block.model_dump()) == block
