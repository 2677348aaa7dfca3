"""Training and validation on batches: one step by hand, a problem that is learnt, and failures."""

import copy
import json
import math

import numpy as np
import pytest
import torch

from deepseg.config.blocks.freezing import Freeze
from deepseg.config.blocks.losses import ClassWeights, Loss
from deepseg.config.blocks.optimisers import Adam, Sgd, Steps
from deepseg.data.segments.loader import Batch
from deepseg.errors import NumericalFailure
from deepseg.inference.metrics import Confusion
from deepseg.training.freezing import freeze, trainable
from deepseg.training.loss import loss
from deepseg.training.optimization import Optimizer
from deepseg.training.tally import SegmentScores, Tally
from deepseg.training.trainer import Trainer
from tests.networks import small_network

CLASSES = ("background", "core", "rim")


def network(**changes):
    settings = {
        "channels": ["FLAIR"],
        "classes": CLASSES,
        "normal": {"feature_maps": [4, 5]},
        "subsampled": None,
        "fc": {},
        "segments": {"train": [7, 8, 9]},
    }
    return small_network(seed=2, **{**settings, **changes})


def batch(seed, segments=2, cases=("one", "two")):
    """Class 0, 1 or 2 as the voxel in the middle of what the network sees is dark to bright."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(segments, 1, 7, 8, 9))
    labels = np.digitize(image[:, 0, 2:-2, 2:-2, 2:-2], [-0.5, 0.5])
    return Batch((torch.tensor(image, dtype=torch.float32),), torch.tensor(labels), cases)


def trainer(net, settings=Loss(), optimizer=None, **how):  # noqa: B008
    optimizer = Optimizer(trainable(net), Sgd(name="sgd")) if optimizer is None else optimizer
    return Trainer(net, optimizer, settings, **how)


def learn(net, batches, *how, epoch=0, epochs=4, **named):
    tally, values = Tally(3), []
    trainer(net, *how, **named).train(
        batches, tally, epoch=epoch, epochs=epochs, on_step=values.append
    )
    return tally.scores(), values


def parameters(net):
    return {name: weight.detach().clone() for name, weight in net.named_parameters()}


@pytest.mark.parametrize("part", ["cross_entropy", "dice", "iou"])
def test_the_loss_falls_and_the_voxels_are_learnt(part):
    net = network(fc={"feature_maps": [8], "dropout": [0, 0]})
    optimizer = Optimizer(trainable(net), Sgd(name="sgd", learning_rate=0.1, momentum=0.9))
    settings = Loss.model_validate({"cross_entropy": 0, part: 1})
    scores, values = learn(net, (batch(seed) for seed in range(120)), settings, optimizer)
    assert np.mean(values[-10:]) < 0.4 * np.mean(values[:5])
    held_out = trainer(net, settings).validate([batch(1000), batch(1001)])
    assert held_out.confusion.accuracy > 0.8
    assert scores.loss == pytest.approx(np.mean(values))


def test_one_step_moves_every_weight_by_the_rate_times_its_gradient():
    net, settings = network(), Loss(dice=0.5, l1=0.01, l2=0.02)
    twin = copy.deepcopy(net).train()
    step = batch(1)
    kernels = [weight for _, weight in twin.convolution_weights()]
    loss(twin(step.inputs), step.labels, kernels, settings, torch.ones(3)).total.backward()
    rule = Sgd(name="sgd", learning_rate=0.1, momentum=0.5, nesterov=False)
    learn(net, [step], settings, Optimizer(trainable(net), rule))
    for name, weight in twin.named_parameters():
        torch.testing.assert_close(
            net.get_parameter(name), weight - 0.1 * weight.grad, rtol=1e-6, atol=1e-7
        )


def test_gradients_of_one_batch_do_not_reach_the_next():
    # Without momentum, two steps on the same batch must each use its own gradient only.
    net, twin = network(batch_norm="none"), network(batch_norm="none")
    rule = Sgd(name="sgd", learning_rate=0.1, momentum=0)
    together = Optimizer(trainable(net), rule)
    learn(net, [batch(1), batch(2)], optimizer=together)
    for seed in (1, 2):
        learn(twin, [batch(seed)], optimizer=Optimizer(trainable(twin), rule))
    for name, weight in net.named_parameters():
        assert torch.equal(weight, twin.get_parameter(name))


def test_training_tells_the_loss_of_every_step_and_its_means():
    net = network()
    scores, values = learn(net, [batch(seed) for seed in range(3)], Loss(dice=0.5))
    assert len(values) == 3
    assert scores.loss == pytest.approx(sum(values) / 3)
    assert list(scores.parts) == ["cross_entropy", "dice", "l1", "l2"]
    weighted = (
        scores.parts["cross_entropy"]
        + 0.5 * scores.parts["dice"]
        + 1e-6 * scores.parts["l1"]
        + 1e-4 * scores.parts["l2"]
    )
    assert weighted == pytest.approx(scores.loss, rel=1e-5)


def test_known_voxels_are_counted_and_unknown_ones_are_not():
    net = network()
    step = batch(3)
    step.labels[0, 0] = -1
    scores, _ = learn(net, [step, batch(4)])
    size = 2 * 3 * 4 * 5
    assert scores.confusion.classes[0].total == 2 * size - 4 * 5
    true = sum(counts.true for counts in scores.confusion.classes)
    predicted = sum(counts.predicted for counts in scores.confusion.classes)
    assert true == predicted == 2 * size - 4 * 5


def test_class_weights_fade_with_the_epoch():
    settings = Loss(class_weights=ClassWeights(type="given", weights=(2, 2, 2), fade=(1, 3)))
    plain = learn(network(), [batch(5)])[0].parts["cross_entropy"]
    result = [
        learn(network(), [batch(5)], settings, epoch=epoch)[0].parts["cross_entropy"]
        for epoch in (0, 1, 2, 3)
    ]
    assert result == pytest.approx([2 * plain, 2 * plain, 1.5 * plain, plain], rel=1e-5)


def test_class_weights_fade_over_all_epochs_by_default():
    settings = Loss(class_weights=ClassWeights(type="given", weights=(3, 3, 3)))
    plain = learn(network(), [batch(5)])[0].parts["cross_entropy"]
    result = learn(network(), [batch(5)], settings, epoch=2, epochs=8)[0].parts["cross_entropy"]
    assert result == pytest.approx(2.5 * plain, rel=1e-5)


def test_validation_weighs_all_classes_the_same():
    weighted = Loss(class_weights=ClassWeights(type="given", weights=(5, 1, 9)))
    result = [trainer(network(), s).validate([batch(5)]).loss for s in (Loss(), weighted)]
    assert result[0] == result[1]


def test_validation_is_in_evaluation_mode_and_changes_nothing():
    net = network(normal={"feature_maps": [4, 5], "dropout": 0.5})
    learn(net, [batch(1), batch(2)])
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    calls = []
    scoress = [
        trainer(net).validate([batch(6), batch(7)], on_batch=lambda: calls.append(1))
        for _ in range(2)
    ]
    assert scoress[0] == scoress[1]
    assert len(calls) == 4
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    expected = loss(net.eval()(batch(6).inputs), batch(6).labels, [], Loss(), torch.ones(3)).parts[
        "cross_entropy"
    ]
    alone = trainer(net).validate([batch(6)])
    assert alone.parts["cross_entropy"] == pytest.approx(expected.item())


def test_training_goes_on_in_training_mode_after_validation():
    net = network()
    trainer(net).validate([batch(6)])
    learn(net, [batch(1)])
    assert net.training
    assert net.state_dict()["normal.2.norm.running_mean"].abs().sum() > 0


def test_frozen_kernels_are_not_penalised():
    net = network()
    freeze(net, Freeze(layers=("normal.2",)))
    kernels = dict(net.convolution_weights())
    expected = sum(kernels[name].square().sum().item() for name in ("normal.1", "fc.1"))
    assert trainer(net).validate([batch(1)]).parts["l2"] == pytest.approx(expected, rel=1e-5)
    assert learn(net, [batch(1)])[0].parts["l2"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("bad", "text"), [(math.nan, "nan"), (math.inf, "nan")])
def test_a_loss_that_is_not_finite_names_the_cases_and_changes_no_weight(bad, text):
    net = network()
    optimizer = Optimizer(trainable(net), Sgd(name="sgd", learning_rate=0.025))
    poisoned = batch(2, segments=3, cases=("Zoe", "Ada", "Zoe"))
    poisoned.inputs[0][1, 0, 3, 3, 3] = bad
    learn(net, [batch(1)], optimizer=optimizer)
    before, state = parameters(net), copy.deepcopy(optimizer.state_dict())
    with pytest.raises(NumericalFailure) as failure:
        learn(net, [poisoned], optimizer=optimizer)
    assert str(failure.value) == (
        f"[loss-not-finite] got a loss of {text} on segments of Ada, Zoe; expected a finite "
        "number; fix: lower the learning rate (now 0.025) or look at these cases; the last "
        "good model is kept"
    )
    assert failure.value.exit_code == 4
    assert all(torch.equal(weight, before[name]) for name, weight in net.named_parameters())
    assert optimizer.steps == state["steps"]
    for name, kinds in optimizer.state.items():
        assert torch.equal(kinds["velocity"], state["state"][name]["velocity"])


def test_an_infinite_loss_is_refused_too():
    net = network()
    with torch.no_grad():
        dict(net.convolution_weights())["fc.1"].mul_(1e30)
    with pytest.raises(NumericalFailure, match=r"^\[loss-not-finite\] got a loss of inf on"):
        learn(net, [batch(1)])


def test_weights_that_the_last_step_broke_are_found_before_they_are_saved():
    net = network(batch_norm="none")
    rule = Sgd(name="sgd", learning_rate=1e300, nesterov=False)
    with pytest.raises(NumericalFailure) as failure:
        learn(net, [batch(1)], optimizer=Optimizer(trainable(net), rule))
    assert str(failure.value) == (
        "[weights-not-finite] got infinite or undefined numbers in normal.1.input_bias, "
        "normal.1.conv.weight, normal.2.input_bias and 15 more after segments of one, two; "
        "expected finite numbers; fix: lower the learning rate (now 1e+300) or look at these "
        "cases; the last good model is kept"
    )


def test_statistics_that_are_not_finite_are_named():
    net = network()
    with torch.no_grad():
        net.get_buffer("normal.2.norm.running_var")[1] = math.inf
        net.get_parameter("fc.1.bias")[0] = math.nan
    with pytest.raises(NumericalFailure) as failure:
        learn(net, [])
    assert str(failure.value) == (
        "[weights-not-finite] got infinite or undefined numbers in normal.2.norm.running_var, "
        "fc.1.bias; expected finite numbers; fix: lower the learning rate (now 0.001) or look at "
        "these cases; the last good model is kept"
    )


def test_weights_that_a_step_broke_are_not_laid_to_the_next_batch():
    net = network(batch_norm="none")
    rule = Sgd(name="sgd", learning_rate=1e300, nesterov=False)
    batches = [batch(1, cases=("Zoe", "Zoe")), batch(2, cases=("Ada", "Ada"))]
    with pytest.raises(NumericalFailure, match=r" and 15 more after segments of Zoe; "):
        learn(net, batches, optimizer=Optimizer(trainable(net), rule))


def test_sums_of_the_optimiser_are_looked_at_too():
    net = network()
    optimizer = Optimizer(trainable(net), Adam(name="adam"))
    optimizer.state["fc.1.bias"]["square"][1] = math.inf  # this bias would not move any more
    with pytest.raises(NumericalFailure, match=r"numbers in square of fc.1.bias after segments"):
        learn(net, [batch(1)], optimizer=optimizer)


def test_a_tally_goes_on_from_what_was_saved():
    whole, first = Tally(3), Tally(3)
    logits = torch.tensor(np.random.default_rng(0).normal(size=(2, 3, 3, 4, 5)))
    for tally in (whole, first):
        parts = {"dice": torch.tensor(0.7), "l1": torch.tensor(3.0)}
        tally.add(torch.tensor(0.1), parts, logits, batch(1))
    second = Tally.from_state(json.loads(json.dumps(first.state_dict())))
    for tally in (whole, second):
        parts = {"dice": torch.tensor(0.4), "l1": torch.tensor(5.0)}
        tally.add(torch.tensor(0.2), parts, -logits, batch(2))
    assert second.scores() == whole.scores() != first.scores()


def test_the_record_of_scores_names_the_classes():
    truth = np.array([0, 0, 0, 1, 1, 2, -1])
    prediction = np.array([0, 0, 1, 1, 2, 2, 2])
    confusion = Confusion.of(prediction, truth, number_of_classes=3)
    record = SegmentScores(0.5, {"dice": 0.25}, confusion).record(CLASSES)
    assert record == {
        "loss": 0.5,
        "parts": {"dice": 0.25},
        "accuracy": pytest.approx(4 / 6),
        # foreground: 3 of 3 true voxels found, 4 predicted; core: 1 of 2, 2; rim: 1 of 1, 2
        "dice": pytest.approx({"foreground": 6 / 7, "core": 2 / 4, "rim": 2 / 3}),
        "sensitivity": pytest.approx({"foreground": 1, "core": 1 / 2, "rim": 1}),
        "precision": pytest.approx({"foreground": 3 / 4, "core": 1 / 2, "rim": 1 / 2}),
        "specificity": pytest.approx({"foreground": 2 / 3, "core": 3 / 4, "rim": 4 / 5}),
    }


def test_a_pass_over_no_batches_has_scores():
    scores = Tally(3).scores()
    assert (scores.loss, scores.parts) == (0, {})
    assert scores.confusion.accuracy is None


def test_accumulated_batches_are_as_one_larger_batch():
    # Without batch normalisation, the mean gradient of two halves is that of the whole.
    rule = Sgd(name="sgd", learning_rate=0.1, momentum=0)
    halves, whole = network(batch_norm="none"), network(batch_norm="none")
    parts = [batch(seed) for seed in (1, 2)]
    both = Batch(
        (torch.cat([part.inputs[0] for part in parts]),),
        torch.cat([part.labels for part in parts]),
        ("a", "b", "c", "d"),
    )
    step = Optimizer(trainable(halves), rule)
    learn(halves, parts, Loss(l2=0.1), step, steps=Steps(accumulate=2))
    learn(whole, [both], Loss(l2=0.1), Optimizer(trainable(whole), rule))
    assert set(step.steps.values()) == {1}
    for name, weight in halves.named_parameters():
        torch.testing.assert_close(weight, whole.get_parameter(name), rtol=1e-5, atol=1e-6)


def test_what_is_left_over_at_the_end_is_a_step_of_its_own():
    rule = Sgd(name="sgd", learning_rate=0.1, momentum=0)
    net, twin = network(batch_norm="none"), network(batch_norm="none")
    accumulating = Optimizer(trainable(net), rule)
    learn(net, [batch(s) for s in (1, 2, 3)], Loss(), accumulating, steps=Steps(accumulate=2))
    assert set(accumulating.steps.values()) == {2}
    second = Optimizer(trainable(twin), rule)
    learn(twin, [batch(1), batch(2)], Loss(), second, steps=Steps(accumulate=2))
    learn(twin, [batch(3)], Loss(), second)
    for name, weight in net.named_parameters():
        assert torch.equal(weight, twin.get_parameter(name))


@pytest.mark.parametrize("norm", [0.01, 1000.0])
def test_long_gradients_are_shortened_and_short_ones_stay(norm):
    net, twin = network(), network()
    before = parameters(net)
    rule = Sgd(name="sgd", learning_rate=1.0, momentum=0, nesterov=False)
    learn(net, [batch(1)], Loss(), Optimizer(trainable(net), rule), steps=Steps(clip_norm=norm))
    learn(twin, [batch(1)], Loss(), Optimizer(trainable(twin), rule))
    kernels, free = (
        torch.cat([(n.get_parameter(k) - w).detach().flatten() for k, w in before.items()])
        for n in (net, twin)
    )
    assert 0.01 < free.norm() < 1000
    expected = free if norm > free.norm() else free * norm / free.norm()
    torch.testing.assert_close(kernels, expected, rtol=1e-3, atol=1e-6)
