"""Learning rate and momentum of an epoch, as functions of what happened before it.

Epochs count from 0. Only the plateau schedule looks at the history of validation; all others are
functions of the epoch alone, so a continued session cannot drift from an uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from deepseg.config.blocks.optimisers import MomentumOptimiser, Optimiser
from deepseg.config.blocks.schedules import (
    Constant,
    Cosine,
    Exponential,
    InverseTime,
    Plateau,
    Poly,
    Predefined,
    Schedule,
    StepDecay,
)

EXPONENTIAL_END = 1 / 256  # of the initial rate, where no final one is given


def learning_rate(
    schedule: Schedule, initial: float, *, epoch: int, epochs: int, history: Sequence[float | None]
) -> float:
    """The learning rate of ``epoch``.

    Args:
        schedule: The rule.
        initial: Learning rate at the start.
        epoch: From 0.
        epochs: In all.
        history: Validation score of each epoch before this one, higher is better; None where
            there was none.
    """
    match schedule:
        case Constant():
            return initial
        case Predefined():
            passed = sum(epoch > boundary for boundary in schedule.epochs)
            return initial / schedule.divide_by**passed
        case StepDecay():
            return float(initial * schedule.factor ** (epoch // schedule.every))
        case InverseTime():
            return initial / (1 + schedule.decay * epoch)
        case Poly():
            done = _done(epoch, _wait(schedule.wait, epochs), epochs)
            return float(initial * (1 - done) ** schedule.power)
        case Exponential():
            final = schedule.final_learning_rate
            end = initial * EXPONENTIAL_END if final is None else final
            done = _done(epoch, _wait(schedule.wait, epochs), epochs)
            return float(initial * (end / initial) ** done)
        case Plateau():
            return _plateau(schedule, initial, history)
        case Cosine():
            done = _done(epoch, schedule.wait, epochs)
            end = schedule.final_learning_rate
            return end + (initial - end) * (1 + math.cos(math.pi * done)) / 2


def warm_up(subepoch: int, *, subepochs: float) -> float:
    """The share of the learning rate in a sub-epoch of the session, counted from 0.

    Args:
        subepoch: Since the beginning.
        subepochs: In which the share rises by the same amount each, to 1 behind the last.
    """
    return min((subepoch + 1) / (subepochs + 1), 1.0)


def momentum(schedule: Schedule, optimiser: Optimiser, *, epoch: int, epochs: int) -> float:
    """The momentum of ``epoch``; 0 for optimisers without one."""
    if not isinstance(optimiser, MomentumOptimiser):
        return 0.0
    if isinstance(schedule, Exponential) and schedule.final_momentum is not None:
        done = _done(epoch, _wait(schedule.wait, epochs), epochs)
        return optimiser.momentum + (schedule.final_momentum - optimiser.momentum) * done
    return optimiser.momentum


def _wait(wait: float | None, epochs: int) -> float:
    return epochs / 3 if wait is None else wait


def _done(epoch: int, wait: float, epochs: int) -> float:
    """0 until ``wait``, then linear to 1 after the last epoch."""
    return min(max(epoch - wait, 0.0), epochs - wait) / (epochs - wait)


def _plateau(schedule: Plateau, initial: float, history: Sequence[float | None]) -> float:
    """Divides after ``patience`` scores in a row without improvement, as Keras counts them.

    Epochs without a score do not count; a rate that starts below the smallest one stays.
    """
    rate, best, waited = initial, -math.inf, 0
    for score in history:
        if score is None:
            continue
        if score > best + schedule.min_improvement:
            best, waited = score, 0
            continue
        waited += 1
        if waited >= schedule.patience:
            waited = 0
            if rate > schedule.min_learning_rate:
                rate = max(rate / schedule.divide_by, schedule.min_learning_rate)
    return rate
