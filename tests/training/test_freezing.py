"""Freezing: what is frozen keeps every bit through training, and everything else learns."""

import hashlib

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from deepseg.config.blocks.freezing import Freeze
from deepseg.config.blocks.losses import Loss
from deepseg.config.blocks.optimisers import Adam, AdamW, Rmsprop, Sgd
from deepseg.data.segments.loader import Batch
from deepseg.errors import DeepsegError
from deepseg.geometry.boxes import Box
from deepseg.training.freezing import freeze, frozen_layers, trainable
from deepseg.training.optimization import Optimizer
from deepseg.training.tally import Tally
from deepseg.training.trainer import Trainer
from tests.networks import small_network


def network(**changes):
    settings = {
        "normal": {"feature_maps": [3, 4, 5], "dropout": [0.0, 0.0, 0.2]},
        "fc": {"feature_maps": [6]},
        "segments": {"train": [9, 10, 11]},
    }
    return small_network(seed=4, **{**settings, **changes})


def batches(net, count, size=(9, 10, 11)):
    rng = np.random.default_rng(5)
    lattices = net.geometry.lattices(Box((0, 0, 0), size))
    predicted = net.geometry.prediction(Box((0, 0, 0), size)).size
    for _ in range(count):
        yield Batch(
            tuple(
                torch.tensor(rng.normal(size=(2, 2, *points.count)), dtype=torch.float32)
                for points in lattices
            ),
            torch.tensor(rng.integers(0, 3, (2, *predicted))),
            ("case 1", "case 2"),
        )


def train(net, count):
    optimizer = Optimizer(trainable(net), Rmsprop(learning_rate=0.01))
    settings = Loss(l1=0.01, l2=0.1)
    Trainer(net, optimizer, settings).train(batches(net, count), Tally(3), epoch=0, epochs=3)
    return optimizer


def fingerprints(net):
    return {
        name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        for name, tensor in net.state_dict().items()
    }


@pytest.mark.parametrize("statistics", ["exponential", "window"])
@pytest.mark.parametrize(
    ("layers", "frozen"),
    [
        pytest.param((), (), id="nothing"),
        pytest.param(
            ("normal.2-3", "sub*.1"), ("normal.2", "normal.3", "sub1.1"), id="ranges and wildcards"
        ),
        pytest.param(("head",), ("fc.2",), id="the head"),
        pytest.param(("normal.*", "fc.1"), ("normal.1", "normal.2", "normal.3", "fc.1"), id="most"),
    ],
)
def test_five_steps_change_every_tensor_but_those_of_frozen_layers(layers, frozen, statistics):
    net = network(batch_norm={"statistics": statistics, "length": 4})
    assert freeze(net, Freeze(layers=layers)) == frozen
    before = fingerprints(net)
    train(net, 5)
    after = fingerprints(net)
    unchanged = {name for name in before if ".".join(name.split(".")[:2]) in frozen}
    assert {name for name in before if after[name] == before[name]} == unchanged
    assert bool(unchanged) == bool(frozen)


def test_the_optimiser_holds_no_frozen_weight_and_frozen_weights_get_no_gradient():
    net = network()
    freeze(net, Freeze(layers=("normal.1-3", "fc.2")))
    optimizer = train(net, 1)
    names = {name for name, _ in net.named_parameters()}
    assert {name for name in names if name not in optimizer.weights} == {
        name for name in names if name.startswith(("normal.", "fc.2."))
    }
    assert "fc.2.bias" in names  # the head's class bias is frozen with it
    with_gradient = {name for name, weight in net.named_parameters() if weight.grad is not None}
    assert with_gradient == set(optimizer.weights)


def test_a_frozen_layer_computes_the_same_in_training_as_in_evaluation():
    net = network(fc={"feature_maps": [6], "dropout": [0.3, 0.3]})
    freeze(net, Freeze(layers=("normal.3", "fc.1")))
    for layer in (net.normal.get_submodule("3"), net.fc.get_submodule("1")):
        x = torch.randn(2, layer.plan.inputs, 5, 4, 6)
        assert torch.equal(layer.train()(x), layer.eval()(x))
    learning = net.normal.get_submodule("2")
    x = torch.randn(2, learning.plan.inputs, 5, 4, 6)
    assert not torch.equal(learning.train()(x), learning.eval()(x))


def test_freezing_again_thaws_what_is_no_longer_named():
    net = network()
    freeze(net, Freeze(layers=("normal.1-3",)))
    assert freeze(net, Freeze(layers=("normal.1",))) == ("normal.1",)
    before = fingerprints(net)
    train(net, 2)
    after = fingerprints(net)
    remaining = {name for name in before if before[name] == after[name]}
    assert remaining == {"normal.1.input_bias", "normal.1.conv.weight"}


def test_a_name_of_no_layer_is_refused():
    with pytest.raises(DeepsegError) as refusal:
        freeze(network(), Freeze(layers=("normal.4",)))
    assert str(refusal.value) == (
        "[layer-unknown] got 'normal.4'; expected layers of normal.1-3, sub1.1-3, fc.1-2; fix: "
        "name layers as pathway.number or pathway.first-last; did you mean 'normal.3'?"
    )


def test_a_network_that_could_learn_nothing_is_refused():
    with pytest.raises(DeepsegError) as refusal:
        freeze(network(), Freeze(layers=("*",)))
    assert str(refusal.value) == (
        "[everything-frozen] got all 8 layers frozen; expected at least one layer that learns; "
        "fix: leave a layer out of freeze.layers, such as the head"
    )


def step(net, optimizer, settings=None):
    settings = Loss(l1=0, l2=0) if settings is None else settings
    Trainer(net, optimizer, settings).train(batches(net, 1), Tally(3), epoch=0, epochs=3)


@pytest.mark.parametrize(
    ("stop", "frozen"),
    [
        pytest.param("normal.3", ("normal.1", "normal.2"), id="one pathway"),
        pytest.param("sub*.2", ("sub1.1",), id="a wildcard"),
        pytest.param(("normal.2", "sub1.3"), ("normal.1", "sub1.1", "sub1.2"), id="two pathways"),
        pytest.param(
            "fc.1",
            ("normal.1", "normal.2", "normal.3", "sub1.1", "sub1.2", "sub1.3"),
            id="everything in front of the joined layers",
        ),
        pytest.param("normal.1", (), id="nothing is below a first layer"),
    ],
)
def test_the_layer_that_stops_the_gradient_learns_and_all_below_it_stay(stop, frozen):
    net = network(normal={"feature_maps": [3, 4, 5], "residuals": [3]})
    assert freeze(net, Freeze(stop_gradient=stop)) == frozen
    before = fingerprints(net)
    decaying = AdamW(name="adamw", learning_rate=0.01, weight_decay=0.1)
    step(net, Optimizer(trainable(net), decaying), Loss(l2=0.1))
    after = fingerprints(net)
    remaining = {".".join(name.split(".")[:2]) for name in before if before[name] == after[name]}
    assert remaining == set(frozen)


def kept_for_backward(net):
    """Numbers in the tensors that one step keeps for the backward pass, without weights."""
    sizes = {}
    item = next(batches(net, 1))
    net.train()
    unchanged = {tensor.data_ptr() for tensor in net.state_dict().values()}

    def keep(tensor):
        if tensor.data_ptr() not in unchanged:
            sizes[tensor.data_ptr(), tensor.shape] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = net(item.inputs)
    assert output.requires_grad
    return sum(sizes.values())


def test_layers_below_are_not_kept_for_the_backward_pass():
    remaining = {}
    for stop in ((), ("normal.2",), ("normal.3",), ("fc.1",), ("fc.2",)):
        net = network()
        freeze(net, Freeze(stop_gradient=stop))
        remaining[stop] = kept_for_backward(net)
    assert sorted(remaining.values(), reverse=True) == list(remaining.values())
    assert len(set(remaining.values())) == len(remaining)
    frozen = network()
    freeze(frozen, Freeze(layers=("normal.1-2", "sub1.1-3")))  # the same, said layer by layer
    stopped = network()
    freeze(stopped, Freeze(stop_gradient=("normal.3",), layers=("sub1.1-3",)))
    assert kept_for_backward(frozen) == kept_for_backward(stopped)


def test_the_joined_layer_says_that_nothing_below_it_gets_a_gradient():
    net = network()
    freeze(net, Freeze(stop_gradient="fc.2"))
    net.train()(next(batches(net, 1)).inputs).sum().backward()
    with_gradient = {name for name, weight in net.named_parameters() if weight.grad is not None}
    assert {name.split(".conv")[0][:4] for name in with_gradient} == {"fc.2"}


PROGRESSIVE = (
    Freeze(layers=("normal.1-3",), until_epoch=2),
    Freeze(layers=("normal.1", "fc.1"), until_epoch=4, batch_norm="statistics"),
    Freeze(layers=("sub1.1",)),
)


@pytest.mark.parametrize(
    ("epoch", "frozen"),
    [
        (0, ("normal.1", "normal.2", "normal.3", "sub1.1", "fc.1")),
        (1, ("normal.1", "normal.2", "normal.3", "sub1.1", "fc.1")),
        (2, ("normal.1", "sub1.1", "fc.1")),
        (3, ("normal.1", "sub1.1", "fc.1")),
        (4, ("sub1.1",)),
    ],
)
def test_blocks_hold_until_their_epoch(epoch, frozen):
    net = network()
    assert freeze(net, PROGRESSIVE, epoch=epoch) == frozen
    assert {n.rsplit(".", 2)[0] for n, _ in trainable(net)}.isdisjoint(frozen)


def test_the_first_block_that_still_holds_decides_about_batch_norm():
    plan = network().layout
    assert frozen_layers(plan, PROGRESSIVE, epoch=0)["normal.1"].batch_norm == "frozen"
    assert frozen_layers(plan, PROGRESSIVE, epoch=2)["normal.1"].batch_norm == "statistics"


@pytest.mark.parametrize(
    "settings",
    [Rmsprop(), Sgd(name="sgd"), Adam(name="adam"), AdamW(name="adamw")],
    ids=lambda one: one.name,
)
def test_unfreezing_leaves_the_others_as_they_are_and_begins_the_new_ones_at_zero(settings):
    net = network()
    freeze(net, PROGRESSIVE, epoch=0)
    optimizer = Optimizer(trainable(net), settings)
    for _ in range(3):
        step(net, optimizer)
    before = {name: dict(kinds) for name, kinds in optimizer.state.items()}
    numbers = {name: {k: t.clone() for k, t in kinds.items()} for name, kinds in before.items()}
    optimizer.learning_rate = 0.0005

    freeze(net, PROGRESSIVE, epoch=2)
    optimizer.set_parameters(trainable(net))
    new = optimizer.weights.keys() - before.keys()
    assert {name.rsplit(".", 2)[0] for name in new} == {"normal.2", "normal.3"}
    for name, kinds in before.items():
        assert all(optimizer.state[name][kind] is tensor for kind, tensor in kinds.items())
        assert all(torch.equal(kinds[kind], numbers[name][kind]) for kind in kinds)
        assert optimizer.steps[name] == 3
    assert all(not tensor.any() for name in new for tensor in optimizer.state[name].values())
    assert {optimizer.steps[name] for name in new} == {0}
    assert optimizer.learning_rates == {"default": 0.0005}
    step(net, optimizer)
    assert {optimizer.steps[name] for name in new} == {1}
    assert all(optimizer.steps[name] == 4 for name in before)


def test_dropout_of_frozen_layers_can_be_left_on():
    net = network(fc={"feature_maps": [6], "dropout": [0.3, 0.3]})
    freeze(net, Freeze(layers=("fc.1",), dropout=True))
    layer = net.fc.get_submodule("1").train()
    x = torch.randn(2, layer.plan.inputs, 5, 4, 6)
    assert not torch.equal(layer(x), layer(x))


def test_a_stop_whose_lower_layers_would_learn_is_refused():
    with pytest.raises(ValidationError) as refusal:
        Freeze(stop_gradient="normal.2", batch_norm="train")
    (error,) = refusal.value.errors()
    assert (error["ctx"]["code"], error["ctx"]["got"]) == (
        "freeze-contradiction",
        "stop_gradient with batch_norm: train",
    )


def test_names_of_no_layer_in_any_block_are_refused_together():
    with pytest.raises(DeepsegError) as refusal:
        freeze(network(), (Freeze(stop_gradient="nromal.2"), Freeze(layers=("sub2.1",))))
    assert [problem.got for problem in refusal.value.problems] == ["'nromal.2'", "'sub2.1'"]
    assert refusal.value.problems[0].fix.endswith("did you mean 'normal.2'?")
