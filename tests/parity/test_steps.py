"""Three training steps from DeepMedic's weights on DeepMedic's batches give DeepMedic's weights.

Where the values are and what the tolerances are is said in the README beside them.
"""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deepseg.config.blocks.optimisers import Adam
from deepseg.config.deepmedic.translate import translate
from deepseg.config.files.cfg_file import read_cfg
from deepseg.config.load import load
from deepseg.config.model import ModelConfig
from deepseg.config.training import TrainConfig
from deepseg.config.validation.validate import validate
from deepseg.model.network import Network
from deepseg.training.freezing import freeze, trainable
from deepseg.training.loss import class_weights, loss
from deepseg.training.optimization import Optimizer
from deepseg.transfer.sources.deepmedic import MEANS, VARIANCES, variables, weights
from deepseg.transfer.sources.deepmedic_trainer import trainer_state

_spec = importlib.util.spec_from_file_location("golden", Path(__file__).with_name("golden.py"))
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)

COST = 1e-5  # relative
WEIGHTS = 1e-5  # absolute
RING = 1e-4  # of single rows of the ring of batch statistics, which hold TensorFlow's rounding
PROBABILITIES = 1e-4


def train_config(cfg: Path) -> TrainConfig:
    """The settings of ``cfg``, which names no cases and no output."""
    document = translate(read_cfg(cfg), "train").document
    values = {key: value for key, value in document.values.items() if key != "validation"}
    values["output"] = "."
    values["training"] = {**values["training"], "cases": {"table": "none.csv"}}
    freezing = {**values.get("freeze", {}), "batch_norm": "statistics"}  # as DeepMedic does
    return validate(TrainConfig, replace(document, values={**values, "freeze": freezing}))


class Run:
    """Our network on DeepMedic's batches."""

    def __init__(self, cfg: Path) -> None:
        self.values = np.load(cfg.with_suffix(".npz"))
        self.config = train_config(cfg)
        model = load(ModelConfig, cfg.with_name("model.cfg")).config
        self.network = Network(model, rng=torch.Generator())
        self.network.load_state_dict(self.wanted("init"))
        freeze(self.network, self.config.freeze)
        self.optimizer = Optimizer(trainable(self.network), self.config.optimiser)
        # DeepMedic's cost counts the kernels of frozen layers too.
        self.kernels = [weight for _, weight in self.network.convolution_weights()]

    def wanted(self, moment: str) -> dict[str, torch.Tensor]:
        arrays = {
            name.split("|")[1]: self.values[name]
            for name in self.values.files
            if name.startswith(f"{moment}|") and not name.endswith("cost")
        }
        return weights(arrays, self.network.layout)

    def inputs(self, moment: str) -> list[torch.Tensor]:
        names = [f"{moment}|x"] + [
            f"{moment}|x_sub_{number}" for number in range(len(self.network.layout.pathways) - 1)
        ]
        return [torch.from_numpy(self.values[name]) for name in names]

    def step(self, number: int) -> float:
        """The cost before the step."""
        self.network.train()
        logits = self.network(self.inputs(f"batch{number}"))
        labels = torch.from_numpy(self.values[f"batch{number}|y_gt"]).long()
        weighting = class_weights(
            labels, logits.shape[1], self.config.loss.class_weights, epoch=0,
            epochs=self.config.epochs,
        )  # fmt: skip
        result = loss(logits, labels, self.kernels, self.config.loss, weighting)
        self.optimizer.clear_gradients()
        result.total.backward()
        self.optimizer.step()
        return float(result.total.detach())

    def differences(self, moment: str) -> dict[str, np.ndarray]:
        """How far each weight and statistic is off, as a share of the tolerance."""
        result, expected = self.network.state_dict(), self.wanted(moment)
        return {
            name: (
                (result[name] - tensor).abs() / (RING if ".window_" in name else WEIGHTS)
            ).numpy()
            for name, tensor in expected.items()
            if not name.endswith(".steps")
        }


@pytest.mark.parametrize("cfg", golden.named(golden.step_cases()))
def test_three_steps_are_deepmedics(cfg):
    run = Run(cfg)
    for number in range(3):
        cost = float(run.values[f"step{number}|cost"])
        assert run.step(number) == pytest.approx(cost, rel=COST)
        if number != 1:
            off = run.differences(f"step{number}")
            if isinstance(run.config.optimiser, Adam):
                _judge_adam(off, run.config.optimiser.learning_rate)
            else:
                assert {name: o.max() for name, o in off.items() if not o.max() <= 1} == {}
    run.network.eval()
    with torch.inference_mode():
        probabilities = run.network(run.inputs("infer")).softmax(1).numpy()
    off = np.abs(probabilities - run.values["infer|prob"])
    if isinstance(run.config.optimiser, Adam):
        assert np.quantile(off, 0.99) < PROBABILITIES
    else:
        assert off.max() < PROBABILITIES


MOMENTUM_CASES = [cfg for cfg in golden.step_cases() if "rms_nesterov" in cfg.stem]


@pytest.mark.parametrize("cfg", golden.named(MOMENTUM_CASES))
def test_training_goes_on_from_deepmedics_slots(cfg):
    """As DeepMedic's own checkpoint after its first step, of which the slots follow by algebra.

    It moves a weight by (1 + momentum) times a step; the step is the velocity with another sign,
    and tells the gradient, whose square is in the slot.
    """
    run = Run(cfg)
    settings, before, after = run.config.optimiser, run.wanted("init"), run.wanted("step0")
    run.network.load_state_dict(after)
    for buffer, value in run.network.named_buffers():
        if buffer.endswith(".steps"):
            value.fill_(1)  # one row of the window is filled
    learning = [
        variable
        for variable in variables(run.network.layout)
        if variable.role not in (MEANS, VARIANCES)
    ]
    arrays = {}
    for number, variable in enumerate(learning):
        moved = (before[variable.weight] - after[variable.weight]).double().numpy()
        step = moved / (1 + settings.momentum)
        scale = 1 - settings.momentum * settings.normalised_momentum
        share = np.square(step / (settings.learning_rate * scale))  # of g^2 / (a + epsilon)
        fresh = 1 - settings.rho
        square = fresh * share * settings.epsilon / (1 - fresh * share)
        suffix = f"_{number}" if number else ""
        arrays[f"trainer/accu_grad_squared{suffix}"] = square.astype("f4")
        arrays[f"trainer/velocities_for_mom{suffix}"] = -step.astype("f4")
    state = trainer_state(arrays, run.network.layout, ())
    steps = dict.fromkeys(state.slots, 0)
    run.optimizer.load_state_dict({"steps": steps, "state": state.slots})
    run.step(1)
    run.step(2)
    off = run.differences("step2")
    weights_off = {name: o.max() for name, o in off.items() if ".window_" not in name}
    assert {name: o for name, o in weights_off.items() if not o <= 1} == {}


def _judge_adam(off: dict[str, np.ndarray], learning_rate: float) -> None:
    """Nearly all weights within the tolerance, the others off by a small part of a step.

    Adam divides a gradient by its own size, so that rounding errors of gradients that are exactly 0
    (a bias in front of batch normalisation) become steps. Computed in float64, our weights are as
    far from DeepMedic's: what differs is its float32.
    """
    every = np.concatenate([item.ravel() for item in off.values()])
    assert np.mean(every > 1) < 0.03
    assert every.max() * WEIGHTS < learning_rate / 5
