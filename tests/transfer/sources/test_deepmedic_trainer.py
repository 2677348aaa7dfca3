"""The state of DeepMedic's trainer: by hand arithmetic, and in its order of weights."""

import numpy as np
import pytest
import torch
from torch import nn

from deepseg.config.blocks.optimisers import Adam, Rmsprop, Sgd
from deepseg.config.model import ModelConfig
from deepseg.errors import DeepsegError
from deepseg.model.layout import layout
from deepseg.training.optimization import Optimizer
from deepseg.transfer.sources.deepmedic import shapes
from deepseg.transfer.sources.deepmedic_trainer import trainer_state

GRADIENTS = (0.5, -0.2, 0.1)
PLAN = layout(
    ModelConfig(
        channels=["A", "B"],
        classes=["background", "lesion"],
        normal={"feature_maps": [3, 4]},
        subsampled={"factors": [3]},
        segments={"train": 9},
    )
)
ORDER = (
    *("normal.1.input_bias", "normal.1.conv.weight"),
    *("normal.2.norm.weight", "normal.2.norm.bias", "normal.2.activation.weight"),
    "normal.2.conv.weight",
    *("sub1.1.input_bias", "sub1.1.conv.weight"),
    *("sub1.2.norm.weight", "sub1.2.norm.bias", "sub1.2.activation.weight"),
    "sub1.2.conv.weight",
    *("fc.1.norm.weight", "fc.1.norm.bias", "fc.1.activation.weight", "fc.1.conv.weight"),
    "fc.1.bias",
)  # blocks in order: norm or bias, slopes, kernel; the bias of the classes last


def arrays(order, *slots, **scalars):
    """A checkpoint in which each slot of a tensor is filled with the number of the tensor."""
    sizes = shapes(PLAN)
    return {
        **{
            f"trainer/{slot}_{number}".removesuffix("_0"): np.full(sizes[name], number, "f4")
            for slot in slots
            for number, name in enumerate(order)
        },
        **{f"trainer/{name}": np.array(value) for name, value in scalars.items()},
    }


def test_slots_are_numbered_in_the_order_of_the_weights_that_learn():
    state = trainer_state(arrays(ORDER, "velocities_for_mom", num_epochs_trained=3), PLAN, ())
    assert (state.optimiser, state.epochs, state.steps) == ("sgd", 3, 0)
    assert list(state.slots) == list(ORDER)
    for number, name in enumerate(ORDER):
        assert state.slots[name]["velocity"].shape == shapes(PLAN)[name]
        assert state.slots[name]["velocity"].unique().tolist() == [number]


def test_frozen_layers_have_no_slots_and_shift_the_numbers_of_the_others():
    learning = [name for name in ORDER if not name.startswith("normal.")]
    state = trainer_state(arrays(learning, "velocities_for_mom"), PLAN, ("normal.1", "normal.2"))
    numbers = {name: slots["velocity"].unique().item() for name, slots in state.slots.items()}
    assert numbers == {name: number for number, name in enumerate(learning)}


def test_a_layer_that_is_frozen_only_now_leaves_the_numbers_as_they_are():
    state = trainer_state(arrays(ORDER, "velocities_for_mom"), PLAN, ("normal.1",))
    assert state.slots["normal.2.norm.weight"]["velocity"].unique().item() == 2
    assert "normal.1.conv.weight" not in state.slots


def test_slots_of_other_layers_are_refused():
    learning = [name for name in ORDER if not name.startswith("normal.1")]
    with pytest.raises(DeepsegError) as error:
        trainer_state(arrays(learning, "velocities_for_mom"), PLAN, ())
    assert str(error.value) == (
        "[checkpoint-does-not-fit] got slots of an optimiser for 15 tensors; expected those of the "
        "17 tensors of the network; fix: freeze the layers that were frozen when it was written, "
        "or add -resetOptimizer to take its weights only"
    )
    with pytest.raises(DeepsegError) as error:
        trainer_state(arrays(learning, "velocities_for_mom"), PLAN, ("sub1.1",))
    assert str(error.value).startswith(
        "[checkpoint-does-not-fit] got trainer/velocities_for_mom of shape [3]; expected shape [2] "
        "of normal.1.input_bias; fix: "
    )


def test_a_checkpoint_without_slots_has_no_state():
    assert trainer_state({"trainer/num_epochs_trained": np.array(3)}, PLAN, ()) is None


@pytest.mark.parametrize(
    ("settings", "slots", "before", "after"),
    [
        # v = -0.0005, then 0.6 v + 0.0002; the weight moves by 0.6 v - step
        pytest.param(
            Sgd(name="sgd", learning_rate=0.001, momentum=0.6),
            {"velocities_for_mom": -0.0001},
            0.99934,
            0.9991440,
            id="SGD",
        ),
        # a = 0.9 a + 0.1 g^2 is 0.025, then 0.0265; steps are 0.001 g / sqrt(a + 0.0001)
        pytest.param(
            Rmsprop(learning_rate=0.001, momentum=0.6),
            {"accu_grad_squared": 0.0265, "velocities_for_mom": -0.0006673045303},
            0.9957763407,
            0.9945231688,
            id="RMSprop",
        ),
        # m = 0.9 m + 0.1 g is 0.05, then 0.025; v = 0.999 v + 0.001 g^2 is 0.00025, then 0.00028975
        pytest.param(
            Adam(name="adam", learning_rate=0.001),
            {"means_of_grads": 0.025, "vars_of_grads": 0.00028975},
            0.9986543950,
            0.998275003422,
            id="Adam",
        ),
    ],
)
def test_the_next_step_is_deepmedics(settings, slots, before, after):
    """Of three gradients of the contract, the third one acts on the slots that the others left."""
    checkpoint = arrays(ORDER, *slots, i_adam=2)
    for name, value in slots.items():
        checkpoint[f"trainer/{name}_16"] = np.full(2, value, "f4")
    state = trainer_state(checkpoint, PLAN, ())
    assert state.optimiser == settings.name
    weight = nn.Parameter(torch.full((2,), before, dtype=torch.float64))
    optimizer = Optimizer([("fc.1.bias", weight)], settings)
    steps = dict.fromkeys(state.slots, state.steps)
    optimizer.load_state_dict({"steps": steps, "state": state.slots})
    weight.grad = torch.full((2,), 0.1, dtype=torch.float64)
    optimizer.step()
    assert weight.tolist() == pytest.approx([after, after], abs=1e-9)


def test_rates_and_a_schedule_that_has_lowered_them_are_told():
    slots = arrays(ORDER, "velocities_for_mom", init_lr=0.25, init_mom=0.5, curr_lr_tfv=0.25)
    state = trainer_state(slots, PLAN, ())
    assert (state.learning_rate, state.momentum, state.is_lowered) == (0.25, 0.5, False)
    lowered = trainer_state(slots | {"trainer/curr_lr_tfv": np.array(0.125)}, PLAN, ())
    assert lowered.is_lowered
