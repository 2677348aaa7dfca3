"""Optimisers as DeepMedic defines them, and their state by weight name.

DeepMedic's momentum holds steps that already contain the learning rate, its RMSprop adds epsilon
under the root, and its Adam keeps epsilon outside the bias correction; torch's namesakes differ in
all three. State is kept by weight address, so that a saved model can be read by people and goes on
whatever the order of its layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from deepseg.config.blocks.optimisers import Adam, AdamW, MomentumOptimiser, Optimiser, Rmsprop, Sgd
from deepseg.training.parameter_groups import ParameterGroup, default_group

State: TypeAlias = dict[str, Tensor]  # by kind, such as velocity

# Kinds of state of a weight, by the name of the optimiser.
STATE_KINDS: dict[str, tuple[str, ...]] = {
    "rmsprop": ("square", "velocity"),
    "sgd": ("velocity",),
    "adam": ("mean", "square"),
    "adamw": ("mean", "square"),
}


class Optimizer:
    """Moves weights along their gradients.

    Two steps of 0.5 times a gradient of 2; the second goes half of the first one further:

    >>> from deepseg.config.blocks.optimisers import Sgd
    >>> weight = nn.Parameter(torch.tensor([10.0]))
    >>> settings = Sgd(name="sgd", learning_rate=0.5, momentum=0.5, nesterov=False)
    >>> optimizer = Optimizer([("fc.1.bias", weight)], settings)
    >>> weight.grad = torch.tensor([2.0])
    >>> optimizer.step()
    >>> optimizer.step()
    >>> weight.item(), optimizer.state["fc.1.bias"]["velocity"].item()
    (7.5, -1.5)

    Args:
        weights: Names and weights.
        settings: The method, its rates and its constants.
        groups: The group of every weight by name; without it, all are alike.

    Attributes:
        learning_rate: Of the next step, for weights without a rule of their own; the schedule sets
            it, and the rates of all groups follow.
        momentum: Of the next step, where the method has one and the group none of its own.
        weights: By name.
        steps: Updates by weight name; the corrections of Adam follow from them.
        state: Tensors by weight name, such as ``velocity`` and ``square``.
    """

    def __init__(
        self,
        weights: Iterable[tuple[str, nn.Parameter]],
        settings: Optimiser,
        groups: Mapping[str, ParameterGroup] | None = None,
    ) -> None:
        self.settings = settings
        self.learning_rate = settings.learning_rate
        self.momentum = settings.momentum if isinstance(settings, MomentumOptimiser) else 0.0
        self._groups = groups
        self.steps: dict[str, int] = {}
        self.state: dict[str, State] = {}
        self.set_parameters(weights)

    def set_parameters(self, weights: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Move these weights from now on; new ones begin with a state of zeros."""
        self.weights = dict(weights)
        self.steps = {name: self.steps.get(name, 0) for name in self.weights}
        self.state = {
            name: self.state[name]
            if name in self.state
            else {kind: torch.zeros_like(weight) for kind in _kinds(self.settings)}
            for name, weight in self.weights.items()
        }
        self._names: dict[ParameterGroup, list[str]] = {}
        for name in self.weights:
            group = default_group(self.settings) if self._groups is None else self._groups[name]
            self._names.setdefault(group, []).append(name)

    @property
    def learning_rates(self) -> dict[str, float]:
        """Learning rates of the next step, by the label of each group that learns."""
        return {group.label: self._rate(group) for group in self._names}

    def clear_gradients(self) -> None:
        """Forget all gradients before the next backward pass."""
        for weight in self.weights.values():
            weight.grad = None

    def divide_gradients(self, batches: int) -> None:
        """Make means of the sums of gradients of ``batches`` backward passes."""
        gradients = [w.grad for w in self.weights.values() if w.grad is not None]
        if batches > 1 and gradients:
            torch._foreach_div_(gradients, batches)

    def clip_gradients(self, norm: float) -> None:
        """Shorten the gradient of all weights together to ``norm``, if it is longer."""
        nn.utils.clip_grad_norm_(self.weights.values(), norm)

    @torch.no_grad()
    def step(self) -> None:
        """One update of every weight that has a gradient."""
        for group, names in self._names.items():
            active = [name for name in names if self.weights[name].grad is not None]
            if active:
                self._move(active, group)

    def _move(self, names: Sequence[str], group: ParameterGroup) -> None:
        for name in names:
            self.steps[name] += 1
        step = _Step(
            weights=[self.weights[name] for name in names],
            gradients=[g for name in names if (g := self.weights[name].grad) is not None],
            states={kind: [self.state[n][kind] for n in names] for kind in _kinds(self.settings)},
            times=[self.steps[name] for name in names],
            rate=self._rate(group),
            momentum=self.momentum if group.momentum is None else group.momentum,
        )
        if group.weight_decay:
            torch._foreach_mul_(step.weights, 1 - step.rate * group.weight_decay)
        match self.settings:
            case Rmsprop():
                _rmsprop(step, self.settings)
            case Sgd():
                _with_momentum(step, _scaled(step, self.settings), self.settings)
            case Adam():
                _adam(step, self.settings)
            case AdamW():
                _adamw(step, self.settings)

    def _rate(self, group: ParameterGroup) -> float:
        return self.learning_rate * group.factor

    def state_dict(self) -> dict[str, Any]:
        """Everything from which the optimiser goes on; its tensors are the live ones."""
        return {
            "name": self.settings.name,
            "steps": dict(self.steps),
            "state": self.state,
            "learning_rates": self.learning_rates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` gave; weights that it does not know start anew."""
        for name in self.weights.keys() & state["state"].keys():
            self.steps[name] = int(state["steps"][name])
            for kind, tensor in self.state[name].items():
                tensor.copy_(state["state"][name][kind])


@dataclass(frozen=True)
class _Step:
    """One step of the weights of one group; lists hold an entry per weight.

    Attributes:
        weights: Changed in place.
        states: By kind, changed in place.
        times: The number of this step, by weight, from 1.
    """

    weights: list[Tensor]
    gradients: list[Tensor]
    states: Mapping[str, list[Tensor]]
    times: Sequence[int]
    rate: float
    momentum: float


def _scaled(step: _Step, settings: MomentumOptimiser) -> list[Tensor]:
    """Gradients times the learning rate."""
    return list(torch._foreach_mul(step.gradients, _scale(step, settings)))


def _scale(step: _Step, settings: MomentumOptimiser) -> float:
    return step.rate * (1 - step.momentum if settings.normalised_momentum else 1.0)


def _rmsprop(step: _Step, settings: Rmsprop) -> None:
    squares = step.states["square"]
    torch._foreach_mul_(squares, settings.rho)
    torch._foreach_addcmul_(squares, step.gradients, step.gradients, 1 - settings.rho)
    roots = torch._foreach_add(squares, settings.epsilon)
    torch._foreach_sqrt_(roots)
    moves = _scaled(step, settings)
    torch._foreach_div_(moves, roots)
    _with_momentum(step, moves, settings)


def _with_momentum(step: _Step, moves: list[Tensor], settings: MomentumOptimiser) -> None:
    """``v = m v - move``, then ``w += v``, or looking ahead ``w += m v - move``."""
    velocities = step.states["velocity"]
    torch._foreach_mul_(velocities, step.momentum)
    torch._foreach_sub_(velocities, moves)
    if settings.nesterov:
        torch._foreach_add_(step.weights, velocities, alpha=step.momentum)
        torch._foreach_sub_(step.weights, moves)
    else:
        torch._foreach_add_(step.weights, velocities)


def _adam(step: _Step, settings: Adam) -> None:
    means, squares = _moments(step, settings)
    roots = torch._foreach_sqrt(squares)
    torch._foreach_add_(roots, settings.epsilon)
    factors = [
        -step.rate * math.sqrt(1 - settings.beta2**t) / (1 - settings.beta1**t) for t in step.times
    ]
    torch._foreach_addcdiv_(step.weights, means, roots, factors)


def _adamw(step: _Step, settings: AdamW) -> None:
    means, squares = _moments(step, settings)
    roots = torch._foreach_sqrt(squares)
    torch._foreach_div_(roots, [math.sqrt(1 - settings.beta2**t) for t in step.times])
    torch._foreach_add_(roots, settings.epsilon)
    factors = [-step.rate / (1 - settings.beta1**t) for t in step.times]
    torch._foreach_addcdiv_(step.weights, means, roots, factors)


def _moments(step: _Step, settings: Adam | AdamW) -> tuple[list[Tensor], list[Tensor]]:
    means, squares = step.states["mean"], step.states["square"]
    torch._foreach_lerp_(means, step.gradients, 1 - settings.beta1)
    torch._foreach_mul_(squares, settings.beta2)
    torch._foreach_addcmul_(squares, step.gradients, step.gradients, 1 - settings.beta2)
    return means, squares


def _kinds(settings: Optimiser) -> tuple[str, ...]:
    return STATE_KINDS[settings.name]
