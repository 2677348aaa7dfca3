"""Losses that a program has registered, which its train files can name.

They are functions of this process. A process that another one starts, such as those of
``-devices``, knows only what it registers itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from deepseg.config.registration import raise_if_unusable
from deepseg.errors import DeepsegError, Problem, did_you_mean

LossFunction = Callable[[Tensor, Tensor], Tensor]

RESERVED = ("cross_entropy", "focal", "dice", "iou", "deep_supervision", "l1", "l2", "l2_sp")

_registered: dict[str, LossFunction] = {}


def register_loss(name: str, function: LossFunction) -> None:
    """Let train files of this process name a loss: ``loss: {custom: {NAME: weight}}``.

    >>> register_loss("brier", lambda logits, labels: (1 - logits.softmax(1)).square().mean())
    >>> registered_value("brier", torch.zeros(1, 2, 1, 1, 1), torch.zeros(1, 1, 1, 1)).item()
    0.25

    Args:
        name: A word; a loss of this name that was registered before is replaced.
        function: Of logits ``(N, K, X, Y, Z)`` and labels ``(N, X, Y, Z)`` int64, -1 where unknown;
            gives a single value that depends on the logits. Of several ranks, each gives it for
            its part of the batch, and the mean counts parts by their labelled voxels.

    Raises:
        DeepsegError: ``loss-name`` for a name that is no word or that deepseg uses itself, or
            something that is no function.
    """
    raise_if_unusable(
        name,
        function,
        code="loss-name",
        expected="a name of letters, digits and underscores other than "
        f"{', '.join(RESERVED)}, and a function for it",
        fix="choose such a name, and give a function of logits and labels",
        reserved=RESERVED,
    )
    _registered[name] = function


def unknown_losses(names: Iterable[str]) -> Iterator[Problem]:
    """A problem for every name under which this process has registered no loss."""
    registered = ", ".join(sorted(_registered)) or "none"
    for name in names:
        if name not in _registered:
            yield Problem(
                code="loss-unknown",
                got=f"{name!r} in loss.custom",
                expected=f"a loss that this process has registered: {registered}",
                fix="call deepseg.register_loss in the same Python process before deepseg.train; "
                "for several ranks, start your program by torchrun"
                + did_you_mean(name, _registered),
            )


def registered_value(name: str, logits: Tensor, labels: Tensor) -> Tensor:
    """The value of a registered loss, without axes.

    Args:
        name: Of the loss.
        logits: ``(N, K, X, Y, Z)``.
        labels: ``(N, X, Y, Z)``.

    Raises:
        DeepsegError: ``loss-value`` for anything but a single value of the logits.
    """
    value = _registered[name](logits, labels)
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"a tensor of {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
    elif torch.is_grad_enabled() and not value.requires_grad and logits.requires_grad:
        got = "a value without a gradient"
    else:
        return value.float().reshape(())
    raise DeepsegError(
        Problem(
            code="loss-value",
            got=f"{got[:200]} of the registered loss {name!r}",
            expected="a single value, computed from the logits by operations of torch",
            fix="take the mean, and leave out detach, item and numpy",
        )
    )
