"""Freezing: what is frozen keeps every bit through training, and everything else learns."""

import hashlib

import numpy as np
import pytest
import torch

from deepseg.config.model import ModelConfig
from deepseg.config.training import Freeze, Loss, Rmsprop
from deepseg.data.stream import Batch
from deepseg.errors import DeepsegError
from deepseg.geometry.boxes import Box
from deepseg.model.network import Network
from deepseg.training.freezing import freeze, trainable
from deepseg.training.optimization import Optimizer
from deepseg.training.trainer import Tally, train_on


def network(**changes):
    config = ModelConfig.model_validate(
        {
            "channels": ["FLAIR", "T1c"],
            "classes": ["background", "a", "b"],
            "normal": {"feature_maps": [3, 4, 5], "dropout": [0.0, 0.0, 0.2]},
            "subsampled": {"factors": [3]},
            "fc": {"feature_maps": [6]},
            "segments": {"train": [9, 10, 11]},
            **changes,
        }
    )
    return Network(config, rng=torch.Generator().manual_seed(4))


def batches(net, count, size=(9, 10, 11)):
    rng = np.random.default_rng(5)
    lattices = net.vision.lattices(Box((0, 0, 0), size))
    predicted = net.vision.prediction(Box((0, 0, 0), size)).size
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
    train_on(
        batches(net, count), net, optimizer, settings, epoch=0, epochs=3, tally=Tally(3),
        on_step=lambda _: None,
    )  # fmt: skip
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
    own = {name for name in before if ".".join(name.split(".")[:2]) in frozen}
    assert {name for name in before if after[name] == before[name]} == own
    assert bool(own) == bool(frozen)


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
    kept = {name for name in before if before[name] == after[name]}
    assert kept == {"normal.1.input_bias", "normal.1.conv.weight"}


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
