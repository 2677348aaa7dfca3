"""Optimisers as DeepMedic defines them, and their state by weight name.

DeepMedic's momentum holds steps that already contain the learning rate, its RMSprop adds epsilon
under the root, and its Adam keeps epsilon outside the bias correction; torch's namesakes differ in
all three. State is kept by weight address, so that a saved model can be read by people and goes on
whatever the order of its layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from deepseg.config.training import Adam, AdamW, Optimiser, Rmsprop, Sgd, WithMomentum

State: TypeAlias = dict[str, Tensor]


class Optimizer:
    """Moves weights along their gradients.

    Attributes:
        learning_rate: Of the next step; the schedule sets it.
        momentum: Of the next step, where the method has one.
        steps: Updates by weight name; the corrections of Adam follow from them.
        state: Tensors by weight name, such as ``velocity`` and ``square``.
    """

    def __init__(self, weights: Iterable[tuple[str, nn.Parameter]], settings: Optimiser) -> None:
        self.settings = settings
        self.weights = dict(weights)
        self.learning_rate = settings.learning_rate
        self.momentum = settings.momentum if isinstance(settings, WithMomentum) else 0.0
        self.steps = dict.fromkeys(self.weights, 0)
        self.state: dict[str, State] = {
            name: {kind: torch.zeros_like(weight) for kind in _kinds(settings)}
            for name, weight in self.weights.items()
        }

    def clear_gradients(self) -> None:
        """Forget all gradients before the next backward pass."""
        for weight in self.weights.values():
            weight.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One update of every weight that has a gradient."""
        active = [name for name, weight in self.weights.items() if weight.grad is not None]
        if not active:
            return
        for name in active:
            self.steps[name] += 1
        steps_done = [self.steps[name] for name in active]
        weights: list[Tensor] = [self.weights[name] for name in active]
        gradients = [g for name in active if (g := self.weights[name].grad) is not None]
        states = {
            kind: [self.state[name][kind] for name in active] for kind in _kinds(self.settings)
        }
        match self.settings:
            case Rmsprop():
                self._rmsprop(weights, gradients, states, self.settings)
            case Sgd():
                steps = torch._foreach_mul(gradients, self._scale(self.settings))
                self._with_momentum(weights, steps, states["velocity"], self.settings)
            case Adam():
                self._adam(weights, gradients, states, steps_done, self.settings)
            case AdamW():
                self._adamw(weights, gradients, states, steps_done, self.settings)

    def _scale(self, settings: WithMomentum) -> float:
        normaliser = 1 - self.momentum if settings.normalised_momentum else 1.0
        return self.learning_rate * normaliser

    def _rmsprop(
        self,
        weights: list[Tensor],
        gradients: list[Tensor],
        states: Mapping[str, list[Tensor]],
        settings: Rmsprop,
    ) -> None:
        squares = states["square"]
        torch._foreach_mul_(squares, settings.rho)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - settings.rho)
        roots = torch._foreach_sqrt(torch._foreach_add(squares, settings.epsilon))
        steps = torch._foreach_div(torch._foreach_mul(gradients, self._scale(settings)), roots)
        self._with_momentum(weights, steps, states["velocity"], settings)

    def _with_momentum(
        self,
        weights: list[Tensor],
        steps: Iterable[Tensor],
        velocities: list[Tensor],
        settings: WithMomentum,
    ) -> None:
        """``v = m v - step``, then ``w += v``, or looking ahead ``w += m v - step``."""
        steps = list(steps)
        torch._foreach_mul_(velocities, self.momentum)
        torch._foreach_sub_(velocities, steps)
        if settings.nesterov:
            torch._foreach_add_(weights, velocities, alpha=self.momentum)
            torch._foreach_sub_(weights, steps)
        else:
            torch._foreach_add_(weights, velocities)

    def _adam(
        self,
        weights: list[Tensor],
        gradients: list[Tensor],
        states: Mapping[str, list[Tensor]],
        steps: Sequence[int],
        settings: Adam,
    ) -> None:
        means, squares = self._moments(gradients, states, settings)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_add_(roots, settings.epsilon)
        factors = [
            -self.learning_rate * math.sqrt(1 - settings.beta2**t) / (1 - settings.beta1**t)
            for t in steps
        ]
        torch._foreach_addcdiv_(weights, means, roots, factors)

    def _adamw(
        self,
        weights: list[Tensor],
        gradients: list[Tensor],
        states: Mapping[str, list[Tensor]],
        steps: Sequence[int],
        settings: AdamW,
    ) -> None:
        torch._foreach_mul_(weights, 1 - self.learning_rate * settings.weight_decay)
        means, squares = self._moments(gradients, states, settings)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_div_(roots, [math.sqrt(1 - settings.beta2**t) for t in steps])
        torch._foreach_add_(roots, settings.epsilon)
        factors = [-self.learning_rate / (1 - settings.beta1**t) for t in steps]
        torch._foreach_addcdiv_(weights, means, roots, factors)

    def _moments(
        self,
        gradients: list[Tensor],
        states: Mapping[str, list[Tensor]],
        settings: Adam | AdamW,
    ) -> tuple[list[Tensor], list[Tensor]]:
        means, squares = states["mean"], states["square"]
        torch._foreach_lerp_(means, gradients, 1 - settings.beta1)
        torch._foreach_mul_(squares, settings.beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - settings.beta2)
        return means, squares

    def saved(self) -> dict[str, Any]:
        """Everything from which the optimiser goes on; its tensors are the live ones."""
        return {"name": self.settings.name, "steps": dict(self.steps), "state": self.state}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `saved` gave; weights without saved state start anew."""
        for name in self.weights.keys() & saved["state"].keys():
            self.steps[name] = int(saved["steps"][name])
            for kind, tensor in self.state[name].items():
                tensor.copy_(saved["state"][name][kind])


def _kinds(settings: Optimiser) -> tuple[str, ...]:
    match settings:
        case Rmsprop():
            return ("square", "velocity")
        case Sgd():
            return ("velocity",)
        case Adam() | AdamW():
            return ("mean", "square")
