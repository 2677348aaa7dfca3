"""Random generators that are counted, not drawn from: equal counters give equal numbers.

Every sample, network and dropout mask derives its own generator from the session's seed and its
place in the session. So results do not depend on how many processes work, nor on whether the
session was interrupted.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """Use of the random numbers; the values are part of every stored result and never change."""

    INITIALISATION = 1
    TRAINING_PLAN = 2
    TRAINING_SEGMENT = 3
    VALIDATION_PLAN = 4
    VALIDATION_SEGMENT = 5
    DROPOUT = 6
    PHANTOM = 7


def generator(seed: int, purpose: Purpose, *counters: int) -> np.random.Generator:
    """Generator of one place in a session, such as (epoch, sub-epoch, sample).

    >>> first, again = (generator(7, Purpose.TRAINING_SEGMENT, 3, 0) for _ in range(2))
    >>> first.random() == again.random()
    True
    """
    return np.random.default_rng(np.random.SeedSequence([seed, int(purpose), *counters]))


def torch_seed(seed: int, purpose: Purpose, *counters: int) -> int:
    """Seed of 63 bits for a generator of torch.

    >>> torch_seed(7, Purpose.DROPOUT, 1) == torch_seed(7, Purpose.DROPOUT, 2)
    False
    """
    return int(generator(seed, purpose, *counters).integers(2**63))
