"""Optimisers: against DeepMedic's numbers, their formulas in numpy, and torch's AdamW."""

import numpy as np
import pytest
import torch
from torch import nn

from deepseg.config.blocks.optimisers import Adam, AdamW, Rmsprop, Sgd
from deepseg.storage.save_file import SaveFile, read_save, write_save
from deepseg.training.optimization import Optimizer

ALL = [
    Sgd(name="sgd"),
    Sgd(name="sgd", nesterov=False, normalised_momentum=True),
    Rmsprop(),
    Rmsprop(nesterov=False, normalised_momentum=True),
    Adam(name="adam"),
    AdamW(name="adamw"),
]


def weights(seed=0, dtype=torch.float64):
    rng = np.random.default_rng(seed)
    shapes = {"normal.1.conv.weight": (3, 2, 4), "fc.2.bias": (5,)}
    return {
        name: nn.Parameter(torch.tensor(rng.normal(size=shape), dtype=dtype))
        for name, shape in shapes.items()
    }


def gradient(name, shape, step):
    return np.random.default_rng([step, len(name)]).normal(0, 2, shape)


def take_steps(optimizer, steps):
    for step in steps:
        for name, weight in optimizer.weights.items():
            weight.grad = torch.tensor(gradient(name, weight.shape, step), dtype=weight.dtype)
        optimizer.step()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param({"nesterov": False}, 0.9992400, id="classic"),
        pytest.param({"nesterov": True}, 0.9991440, id="nesterov"),
        pytest.param(
            {"nesterov": False, "normalised_momentum": True}, 0.9996960, id="classic, normalised"
        ),
        pytest.param(
            {"nesterov": True, "normalised_momentum": True}, 0.9996576, id="nesterov, normalised"
        ),
    ],
)
def test_sgd_takes_the_steps_of_deepmedic(settings, expected):
    assert after_three_steps(Sgd(name="sgd", **settings)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param({"nesterov": False}, 0.9951432518, id="classic"),
        pytest.param({"nesterov": True}, 0.9945231688, id="nesterov"),
        pytest.param(
            {"nesterov": False, "normalised_momentum": True}, 0.9980573007, id="classic, normalised"
        ),
        pytest.param(
            {"nesterov": True, "normalised_momentum": True}, 0.9978092675, id="nesterov, normalised"
        ),
    ],
)
def test_rmsprop_takes_the_steps_of_deepmedic(settings, expected):
    assert after_three_steps(Rmsprop(**settings)) == pytest.approx(expected, abs=1e-9)


def test_adam_takes_the_steps_of_deepmedic():
    assert after_three_steps(Adam(name="adam")) == pytest.approx(0.998275003422, abs=1e-9)


def after_three_steps(settings):
    weight = nn.Parameter(torch.ones((), dtype=torch.float64))
    optimizer = Optimizer([("w", weight)], settings)
    for value in (0.5, -0.2, 0.1):
        weight.grad = torch.tensor(value, dtype=torch.float64)
        optimizer.step()
    return weight.item()


def test_adamw_is_torchs():
    parameters, reference = weights(), weights()
    optimizer = Optimizer(
        parameters.items(), AdamW(name="adamw", beta1=0.8, beta2=0.95, epsilon=1e-3)
    )
    oracle = torch.optim.AdamW(
        reference.values(), lr=1e-3, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.01
    )
    for step in range(12):
        optimizer.learning_rate = oracle.param_groups[0]["lr"] = 1e-3 * (step + 1)
        for name, weight in reference.items():
            weight.grad = torch.tensor(gradient(name, weight.shape, step))
        take_steps(optimizer, [step])
        oracle.step()
    for name, weight in parameters.items():
        torch.testing.assert_close(weight, reference[name], rtol=1e-13, atol=1e-14)


def test_adam_keeps_epsilon_outside_the_correction():
    parameters = weights()
    settings = Adam(name="adam", beta1=0.8, beta2=0.95, epsilon=0.1)
    expected = {name: weight.detach().numpy().copy() for name, weight in parameters.items()}
    optimizer = Optimizer(parameters.items(), settings)
    take_steps(optimizer, range(6))
    for name, weight in expected.items():
        mean = square = np.zeros_like(weight)
        for t in range(1, 7):
            g = gradient(name, weight.shape, t - 1)
            mean, square = 0.8 * mean + 0.2 * g, 0.95 * square + 0.05 * g**2
            scale = 1e-3 * np.sqrt(1 - 0.95**t) / (1 - 0.8**t)
            expected[name] -= scale * mean / (np.sqrt(square) + 0.1)
        np.testing.assert_allclose(parameters[name].detach().numpy(), expected[name], rtol=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("normalised", [False, True])
def test_rmsprop_is_its_formula_while_rate_and_momentum_change(nesterov, normalised):
    parameters = weights()
    expected = {name: weight.detach().numpy().copy() for name, weight in parameters.items()}
    settings = Rmsprop(nesterov=nesterov, normalised_momentum=normalised, rho=0.7, epsilon=0.01)
    optimizer = Optimizer(parameters.items(), settings)
    scalars = [(1e-3, 0.6), (2e-3, 0.8), (5e-4, 0.9), (5e-4, 0.95)]
    for step, (rate, momentum) in enumerate(scalars):
        optimizer.learning_rate, optimizer.momentum = rate, momentum
        take_steps(optimizer, [step])
    for name, weight in expected.items():
        square = velocity = np.zeros_like(weight)
        for t, (rate, momentum) in enumerate(scalars):
            g = gradient(name, weight.shape, t)
            square = 0.7 * square + 0.3 * g**2
            factor = 1 - momentum if normalised else 1
            step = factor * rate * g / np.sqrt(square + 0.01)  # epsilon under the root
            velocity = momentum * velocity - step
            expected[name] += momentum * velocity - step if nesterov else velocity
        np.testing.assert_allclose(parameters[name].detach().numpy(), expected[name], rtol=1e-12)


def test_rate_and_momentum_start_as_the_settings_say():
    optimizer = Optimizer([], Sgd(name="sgd", learning_rate=0.5, momentum=0.25))
    assert (optimizer.learning_rate, optimizer.momentum) == (0.5, 0.25)
    assert Optimizer([], Adam(name="adam")).momentum == 0


@pytest.mark.parametrize("settings", ALL, ids=repr)
def test_a_session_that_was_interrupted_goes_on_to_the_same_bits(settings, tmp_path):
    straight = weights(dtype=torch.float32)
    take_steps(Optimizer(straight.items(), settings), range(7))

    first = weights(dtype=torch.float32)
    before = Optimizer(first.items(), settings)
    take_steps(before, range(3))
    file = write_save(
        tmp_path / "half.save",
        SaveFile(model={}, weights=first, training={"optimizer": before.state_dict()}),
    )
    save = read_save(file)
    # The order of the weights is another one, as after a change of the model.
    second = {name: nn.Parameter(save.weights[name]) for name in reversed(first)}
    after = Optimizer(second.items(), settings)
    after.load_state_dict(save.training["optimizer"])
    take_steps(after, range(3, 7))
    for name, weight in straight.items():
        assert torch.equal(second[name], weight)


def test_saved_state_names_the_method_and_every_weight():
    optimizer = Optimizer(weights().items(), Rmsprop())
    take_steps(optimizer, range(2))
    saved = optimizer.state_dict()
    assert saved["name"] == "rmsprop"
    assert saved["steps"] == {"normal.1.conv.weight": 2, "fc.2.bias": 2}
    assert {name: list(kinds) for name, kinds in saved["state"].items()} == {
        "normal.1.conv.weight": ["square", "velocity"],
        "fc.2.bias": ["square", "velocity"],
    }


@pytest.mark.parametrize("settings", ALL, ids=repr)
def test_a_weight_without_saved_state_starts_anew(settings):
    old = weights()
    optimizer = Optimizer([("fc.2.bias", old["fc.2.bias"])], settings)
    take_steps(optimizer, range(4))

    unfrozen, alone = weights(), weights()
    resumed = Optimizer(unfrozen.items(), settings)
    resumed.load_state_dict(optimizer.state_dict())
    fresh = Optimizer(alone.items(), settings)
    take_steps(resumed, range(4, 7))
    take_steps(fresh, range(4, 7))
    name = "normal.1.conv.weight"
    torch.testing.assert_close(unfrozen[name], alone[name], rtol=0, atol=0)
    assert not torch.equal(unfrozen["fc.2.bias"], alone["fc.2.bias"])


def test_restoring_copies_so_that_the_saved_state_stays():
    optimizer = Optimizer(weights().items(), Rmsprop())
    take_steps(optimizer, range(2))
    saved = optimizer.state_dict()
    remaining = saved["state"]["fc.2.bias"]["square"].clone()
    second = Optimizer(weights().items(), Rmsprop())
    second.load_state_dict(saved)
    take_steps(second, range(2, 4))
    assert torch.equal(saved["state"]["fc.2.bias"]["square"], remaining)
    assert saved["steps"]["fc.2.bias"] == 2


def test_state_of_weights_that_are_gone_is_ignored():
    optimizer = Optimizer(weights().items(), Rmsprop())
    take_steps(optimizer, range(2))
    rest = Optimizer([("fc.2.bias", weights()["fc.2.bias"])], Rmsprop())
    rest.load_state_dict(optimizer.state_dict())
    assert list(rest.state) == list(rest.steps) == ["fc.2.bias"]


@pytest.mark.parametrize("settings", ALL, ids=repr)
def test_a_weight_without_a_gradient_stays_as_it_is(settings):
    parameters = weights()
    optimizer = Optimizer(parameters.items(), settings)
    take_steps(optimizer, range(2))
    before = parameters["fc.2.bias"].detach().clone()
    optimizer.clear_gradients()
    assert all(weight.grad is None for weight in parameters.values())
    optimizer.step()
    parameters["normal.1.conv.weight"].grad = torch.ones(3, 2, 4, dtype=torch.float64)
    optimizer.step()
    assert torch.equal(parameters["fc.2.bias"], before)  # not even momentum or decay move it
    assert optimizer.steps == {"normal.1.conv.weight": 3, "fc.2.bias": 2}
