"""Weights frozen by type, layer and preset: which learn, and what the table says of them."""

import hashlib

import pytest
import torch
import yaml

from deepseg.config.blocks.freezing import Freeze
from deepseg.config.blocks.optimisers import Sgd
from deepseg.config.model import ModelConfig
from deepseg.config.training import TrainConfig
from deepseg.errors import DeepsegError
from deepseg.geometry.boxes import Box
from deepseg.model.layout import layout
from deepseg.model.network import Network
from deepseg.training.freezing import freeze, frozen_layers, trainable
from deepseg.training.optimization import Optimizer
from deepseg.training.parameter_groups import parameter_groups
from deepseg.training.weight_rules import frozen_problems, weight_rules
from deepseg.transfer.imported import read_imported
from tests.imported_networks import (
    IMPORTED_MODEL,
    MODEL_OF_ITS_OWN_HEAD,
    write_encoder,
    write_segmenter,
)
from tests.networks import small_config


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    write_encoder(folder / "net.onnx")
    values = yaml.safe_load(IMPORTED_MODEL.replace("net.onnx", str(folder / "net.onnx")))
    return read_imported(ModelConfig.model_validate(values), folder / "model.yaml").config


NATIVE = small_config(
    normal={"feature_maps": [3, 6, 4]}, subsampled={"factors": [3]}, fc={"feature_maps": [5]},
    segments={"train": [9, 10, 11]},
)  # fmt: skip


def network(config):
    return Network(config, rng=torch.Generator().manual_seed(4)).train()


def sgd(**rules):
    rates = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    return Sgd.model_validate({"name": "sgd", **rates, **rules})


def train_config(freezing=None, **rules):
    return TrainConfig.model_validate(
        {
            "output": "runs", "training": {"cases": {"table": "cases.csv"}},
            "optimiser": {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9, **rules},
            "freeze": freezing or {},
        }
    )  # fmt: skip


def changed(config, rules, inputs, freezing=None, *, steps=2):
    """Parameters and statistics that are other ones after some steps."""
    net = network(config)
    freeze(net, Freeze.model_validate(freezing or {}), rules=rules)
    before = digests(net)
    optimizer = Optimizer(trainable(net), rules, parameter_groups(net, rules))
    for _ in range(steps):
        optimizer.clear_gradients()
        net(inputs).square().mean().backward()
        optimizer.step()
    after = digests(net)
    return {name for name in before if before[name] != after[name]}


def digests(net):
    return {
        name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        for name, tensor in net.state_dict().items()
    }


def images(config):
    rng = torch.Generator().manual_seed(0)
    if config.imported:
        return [torch.randn(2, 2, 20, 20, 20, generator=rng)]
    lattices = network(config).geometry.lattices(Box((0, 0, 0), (9, 10, 11)))
    channels = len(config.channels)
    return [torch.randn(2, channels, *points.count, generator=rng) for points in lattices]


@pytest.mark.parametrize("kind", ["native", "imported"])
def test_a_frozen_type_stays_to_the_bit_and_nothing_else_does(imported, kind):
    config = {"native": NATIVE, "imported": imported}[kind]
    rules = sgd(by_type={"BatchNorm": {"frozen": True}})
    moved = changed(config, rules, images(config))
    names = set(network(config).state_dict())
    assert names - moved == {name for name in names if "norm." in name}


@pytest.mark.parametrize("kind", ["native", "imported"])
def test_fixed_statistics_stay_while_scales_learn(imported, kind):
    config = {"native": NATIVE, "imported": imported}[kind]
    rules = sgd(by_type={"BatchNorm": {"statistics": "frozen"}})
    moved = changed(config, rules, images(config))
    names = set(network(config).state_dict())
    assert names - moved == {name for name in names if "running" in name}


def test_a_layer_wins_over_its_type(imported):
    rules = sgd(
        by_type={"Conv": {"frozen": True}, "BatchNorm": {"statistics": "frozen"}},
        by_layer={"imported1.down": {"frozen": False}, "fc.2": {"statistics": "batch"}},
    )
    moved = changed(imported, rules, images(imported))
    kernels = {name for name in moved if name.endswith(("conv.weight", "stem.weight"))}
    assert kernels == set()
    assert "imported1.down.weight" in moved
    assert "imported1.stem.bias" in moved  # a bias is of another type
    assert {name for name in moved if "running" in name} == {
        "fc.2.norm.running_mean", "fc.2.norm.running_var",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("tune", "learning"),
    [
        ("all", {"normal.1", "normal.2", "normal.3", "sub1.1", "sub1.2", "sub1.3"}),
        ("head", set()),
        ("last:1", {"normal.3", "sub1.3"}),
        ("last:2", {"normal.2", "normal.3", "sub1.2", "sub1.3"}),
        ("last:9", {"normal.1", "normal.2", "normal.3", "sub1.1", "sub1.2", "sub1.3"}),
    ],
)
def test_presets_name_the_layers_that_learn(tune, learning):
    plan = layout(NATIVE)
    frozen = frozen_layers(plan, Freeze(tune=tune), epoch=0)
    assert set(plan.order) - set(frozen) == learning | {"fc.1", "fc.2"}


def test_presets_count_convolutions_of_an_imported_network(imported):
    plan = layout(imported)
    frozen = frozen_layers(plan, Freeze(tune="last:1"), epoch=0)
    assert list(frozen) == [
        "imported1.stem", "imported1.norm", "imported1.act", "imported1.down",
        "imported1.down_norm",
    ]  # fmt: skip


def test_the_head_of_a_network_with_its_own_classifier_learns_alone(tmp_path):
    write_segmenter(tmp_path / "net.onnx")
    values = yaml.safe_load(MODEL_OF_ITS_OWN_HEAD.replace("net.onnx", str(tmp_path / "net.onnx")))
    config = read_imported(ModelConfig.model_validate(values), tmp_path / "model.yaml").config
    plan = layout(config)
    for tune, learning in (
        ("head", ["imported1.head"]),
        ("last:1", ["imported1.up", "imported1.head"]),
    ):
        frozen = frozen_layers(plan, Freeze(tune=tune), epoch=0)
        assert [a for a in plan.order if a not in frozen] == learning


def test_five_steps_of_the_head_leave_the_backbone_as_it_is(imported):
    """With momentum and decay: no tensor and no statistic of it changes by a bit."""
    rules, tune = sgd(weight_decay=0.1), {"tune": "head"}
    moved = changed(imported, rules, images(imported), tune, steps=5)
    assert {name.split(".")[0] for name in moved} == {"fc"}


def test_every_tensor_has_its_rule_and_what_said_so(imported):
    config = train_config(
        {"layers": ["imported1.stem", "imported1.norm"]},
        weight_decay=0.01,
        by_type={"Conv": {"learning_rate": 0.02}, "BatchNorm": {"statistics": "frozen"}},
        by_layer={"head": {"momentum": 0.5}, "fc.1": {"frozen": True, "statistics": "batch"}},
    )
    net = network(imported)
    rules = {
        rule.name: rule.words for rule in weight_rules(net.state_dict(), layout(imported), config)
    }
    assert set(rules) == set(net.state_dict())
    assert rules["imported1.stem.weight"] == ("fixed", "", "", "freeze")
    assert rules["imported1.norm.running_mean"] == ("fixed", "", "", "freeze")
    assert rules["imported1.down.weight"] == ("0.02", "0.9", "0.01", "Conv")
    assert rules["imported1.down.bias"] == ("0.1", "0.9", "0.01", "default")
    assert rules["imported1.down_norm.weight"] == ("0.1", "0.9", "0.01", "BatchNorm")
    assert rules["imported1.down_norm.running_var"] == ("fixed", "", "", "BatchNorm")
    assert rules["fc.1.conv.weight"] == ("fixed", "", "", "Conv + fc.1")
    assert rules["fc.1.norm.running_var"] == ("moves", "", "", "batches")
    assert rules["fc.2.conv.weight"] == ("0.02", "0.5", "0.01", "Conv + head")


def test_the_rules_are_those_of_the_step(imported):
    """What the table calls fixed stays, and all else moves."""
    freezing = {"layers": ["imported1.stem", "imported1.norm"]}
    rules = {
        "weight_decay": 0.01,
        "by_type": {"BatchNorm": {"statistics": "frozen"}, "PReLU": {"frozen": True}},
        "by_layer": {"fc.1": {"frozen": True, "statistics": "batch"}},
    }
    moved = changed(imported, sgd(**rules), images(imported), freezing)
    table = weight_rules(
        network(imported).state_dict(), layout(imported), train_config(freezing, **rules)
    )
    assert moved == {rule.name for rule in table if rule.learning_rate is not None}


def test_blocks_are_told_apart():
    config = train_config([{"layers": ["normal.1"]}, {"layers": ["sub1.1"], "until_epoch": 2}])
    rules = weight_rules(["normal.1.conv.weight", "sub1.1.conv.weight"], layout(NATIVE), config)
    assert [rule.origin for rule in rules] == [
        "freeze[0]", "freeze[1] until epoch 2",
    ]  # fmt: skip


def test_rules_that_leave_nothing_are_refused():
    types = ("Conv", "BatchNorm", "PReLU", "Bias")
    config = train_config(by_type={kind: {"frozen": True} for kind in types})
    names, plan = list(network(NATIVE).state_dict()), layout(NATIVE)
    (problem,) = frozen_problems(names, plan, config)
    assert problem.code == "everything-frozen"
    moving = {"frozen": True, "statistics": "batch"}  # statistics that move are nothing learnt
    config = train_config(
        by_type={kind: {"frozen": True} for kind in types} | {"BatchNorm": moving}
    )
    assert len(list(frozen_problems(names, plan, config))) == 1
    config = train_config({"tune": "head"}, by_layer={"fc.*": {"frozen": True}})
    assert len(list(frozen_problems(names, plan, config))) == 1
    config = train_config(by_layer={"fc.*": {"frozen": True}})
    assert list(frozen_problems(names, plan, config)) == []


def test_only_batch_normalisation_has_statistics():
    with pytest.raises((ValueError, DeepsegError), match="statistics of Conv"):
        sgd(by_type={"Conv": {"statistics": "frozen"}})
