"""Rates by type and layer: who gets which, and that each group moves as if it were alone."""

import numpy as np
import pytest
import torch
from torch import nn

from deepseg.config.blocks.optimisers import Adam, AdamW, Rmsprop, Sgd
from deepseg.errors import DeepsegError
from deepseg.model.layout import layout
from deepseg.model.network import Network
from deepseg.training.optimization import Optimizer
from deepseg.training.parameter_groups import absent_types, parameter_groups, weight_type
from tests.networks import small_config

METHODS = {"sgd": Sgd, "rmsprop": Rmsprop, "adam": Adam, "adamw": AdamW}


def config(**changes):
    settings = {
        "normal": {"feature_maps": [3, 6], "low_rank": [2]},
        "subsampled": {"factors": [3, 5]},
        "fc": {},
        "segments": {"train": [9, 10, 11]},
    }
    return small_config(**{**settings, **changes})


def network(**changes):
    return Network(config(**changes), rng=torch.Generator().manual_seed(4))


def settings(name, **rules):
    return METHODS[name].model_validate({"name": name, "learning_rate": 0.01, **rules})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("normal.1.conv.weight", "Conv"),
        ("normal.2.conv.xy.weight", "Conv"),
        ("normal.2.norm.weight", "BatchNorm"),
        ("normal.2.norm.bias", "BatchNorm"),
        ("normal.2.activation.weight", "PReLU"),
        ("normal.1.input_bias", "Bias"),
        ("fc.1.bias", "Bias"),
    ],
)
def test_every_weight_has_a_type(name, expected):
    assert weight_type(name, layout(config())) == expected
    assert name in dict(network().named_parameters())


def test_the_layer_wins_over_the_type_and_the_type_over_the_default_key_by_key():
    rules = settings(
        "sgd",
        momentum=0.5,
        weight_decay=0.3,
        by_type={"BatchNorm": {"weight_decay": 0}, "Conv": {"momentum": 0.7}},
        by_layer={
            "sub*.2": {"learning_rate": 0.002, "weight_decay": 0.2},
            "sub2.*": {"learning_rate": 0.04},
            "head": {"learning_rate": 0.1},
        },
    )
    result = parameter_groups(network(), rules)
    expected = {
        "normal.1.input_bias": ("default", 1.0, 0.3, None),
        "normal.2.conv.xz.weight": ("Conv", 1.0, 0.3, 0.7),
        "normal.2.norm.bias": ("BatchNorm", 1.0, 0.0, None),
        "sub1.2.norm.weight": ("BatchNorm + sub*.2", 0.2, 0.2, None),
        "sub1.2.conv.xy.weight": ("Conv + sub*.2", 0.2, 0.2, 0.7),
        "sub2.2.activation.weight": ("sub*.2 + sub2.*", 4.0, 0.2, None),
        "sub2.1.conv.weight": ("Conv + sub2.*", 4.0, 0.3, 0.7),
        "fc.1.bias": ("head", 10.0, 0.3, None),
    }
    for name, (label, factor, decay, momentum) in expected.items():
        group = result[name]
        assert (group.label, group.weight_decay, group.momentum) == (label, decay, momentum), name
        assert group.factor == pytest.approx(factor), name
    assert result.keys() == dict(network().named_parameters()).keys()


def test_a_rule_for_no_layer_is_refused_with_the_nearest_name():
    with pytest.raises(DeepsegError) as refusal:
        parameter_groups(network(), settings("sgd", by_layer={"nromal.1": {"learning_rate": 1}}))
    assert str(refusal.value) == (
        "[layer-unknown] got 'nromal.1'; expected layers of normal.1-2, sub1.1-2, sub2.1-2, "
        "fc.1; fix: name layers as pathway.number or pathway.first-last; did you mean "
        "'normal.1'?"
    )


@pytest.mark.parametrize(
    ("changes", "absent"),
    [
        ({}, []),
        ({"activation": "relu"}, ["PReLU"]),
        ({"activation": "relu", "batch_norm": "none"}, ["BatchNorm", "PReLU"]),
    ],
)
def test_a_rule_for_a_type_that_no_weight_has_is_refused(changes, absent):
    by_type = {kind: {"weight_decay": 0} for kind in ("BatchNorm", "PReLU", "Conv", "Bias")}
    problems = list(absent_types(layout(config(**changes)), settings("adamw", by_type=by_type)))
    assert [problem.got.split()[0] for problem in problems] == absent
    present = {
        weight_type(name, layout(config(**changes)))
        for name, _ in network(**changes).named_parameters()
    }
    assert present == {"Conv", "BatchNorm", "PReLU", "Bias"} - set(absent)


def test_the_complaint_names_the_types_there_are():
    rules = settings("adam", by_type={"PReLU": {"learning_rate": 1}})
    (problem,) = absent_types(layout(config(activation="elu")), rules)
    assert str(problem) == (
        "[weight-type-absent] got PReLU in optimiser.by_type; expected types of this model: Conv, "
        "BatchNorm, Bias; fix: remove it"
    )


def parameters(net):
    return {name: nn.Parameter(w.detach().clone()) for name, w in net.named_parameters()}


def take(optimizer, steps):
    for step in steps:
        for name, weight in optimizer.weights.items():
            rng = np.random.default_rng([step, *name.encode()])
            weight.grad = torch.tensor(rng.normal(size=weight.shape), dtype=torch.float32)
        optimizer.step()


@pytest.mark.parametrize("name", METHODS)
def test_each_group_moves_as_it_would_with_its_own_numbers_for_all(name):
    momentum = {"momentum": 0.2} if name in ("sgd", "rmsprop") else {}
    head = {"learning_rate": 0.1, "weight_decay": 0.25, **momentum}
    rules = settings(name, by_type={"BatchNorm": {"weight_decay": 0.125}}, by_layer={"head": head})
    alone = {
        "default": settings(name),
        "BatchNorm": settings(name, weight_decay=0.125),
        "head": settings(name, **head),
    }
    net = network()
    mixed = parameters(net)
    of = parameter_groups(net, rules)
    optimizer = Optimizer(mixed.items(), rules, of)
    optimizer.learning_rate /= 2  # as a schedule does
    take(optimizer, range(4))
    for label, single in alone.items():
        weights = parameters(net)
        oracle = Optimizer(weights.items(), single)
        oracle.learning_rate /= 2
        take(oracle, range(4))
        members = [n for n, group in of.items() if group.label == label]
        assert members
        for member in members:
            torch.testing.assert_close(mixed[member], weights[member], rtol=1e-5, atol=1e-7)


def test_the_schedule_scales_every_group_by_the_same_factor():
    net = network()
    rules = settings("sgd", by_layer={"head": {"learning_rate": 0.5}})
    optimizer = Optimizer(net.named_parameters(), rules, parameter_groups(net, rules))
    assert optimizer.learning_rates == pytest.approx({"default": 0.01, "head": 0.5})
    optimizer.learning_rate = 0.0025
    assert optimizer.learning_rates == pytest.approx({"default": 0.0025, "head": 0.125})


def test_weight_decay_takes_off_its_share_whatever_the_gradient():
    weight = nn.Parameter(torch.tensor([2.0, -4.0]))
    optimizer = Optimizer([("fc.1.bias", weight)], settings("sgd", weight_decay=0.5))
    weight.grad = torch.zeros(2)
    optimizer.step()
    assert weight.tolist() == pytest.approx([2 * 0.995, -4 * 0.995])  # 1 - 0.01 * 0.5


def test_state_goes_on_whatever_the_groups_are():
    net = network()
    rules = settings("adam", by_layer={"head": {"learning_rate": 0.1}})
    first = Optimizer(parameters(net).items(), rules, parameter_groups(net, rules))
    take(first, range(2))
    plain = settings("adam")
    second = Optimizer(parameters(net).items(), plain, parameter_groups(net, plain))
    second.load_state_dict(first.state_dict())
    assert second.steps == first.steps
    assert second.learning_rates == {"default": 0.01}
    for name, kinds in first.state.items():
        assert all(torch.equal(second.state[name][kind], tensor) for kind, tensor in kinds.items())


def test_state_lands_on_the_device_of_the_weights():
    first = Optimizer(parameters(network()).items(), settings("adam"))
    take(first, range(2))
    abstract = {name: nn.Parameter(w.to("meta")) for name, w in network().named_parameters()}
    second = Optimizer(abstract.items(), settings("adam"))
    second.load_state_dict(first.state_dict())
    assert {t.device.type for kinds in second.state.values() for t in kinds.values()} == {"meta"}
    assert second.steps == first.steps


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_session_moves_between_cpu_and_gpu():
    start = parameters(network())
    first = Optimizer(start.items(), settings("adam"))
    take(first, range(2))
    moved = {name: nn.Parameter(w.detach().cuda()) for name, w in start.items()}
    second = Optimizer(moved.items(), settings("adam"))
    second.load_state_dict(first.state_dict())
    for optimizer, device in ((first, "cpu"), (second, "cuda")):
        for name, weight in optimizer.weights.items():
            weight.grad = torch.ones(weight.shape, device=device)
            assert optimizer.state[name]["mean"].device.type == device
        optimizer.step()
    back = {name: nn.Parameter(w.detach().cpu()) for name, w in moved.items()}
    third = Optimizer(back.items(), settings("adam"))
    third.load_state_dict(second.state_dict())
    for name, weight in start.items():
        torch.testing.assert_close(back[name], weight, rtol=1e-4, atol=1e-5)
        assert third.state[name]["mean"].device.type == "cpu"
