"""Steps of training on a device, and everything that they leave behind, to be compared."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from deepseg.config.blocks.freezing import Freeze
from deepseg.config.blocks.losses import Loss
from deepseg.config.blocks.optimisers import Optimiser, Steps
from deepseg.data.segments.loader import Batch
from deepseg.geometry.boxes import Box
from deepseg.model.network import Network
from deepseg.training.freezing import freeze, trainable
from deepseg.training.optimization import Optimizer
from deepseg.training.parameter_groups import parameter_groups
from deepseg.training.tally import Tally
from deepseg.training.trainer import Trainer
from deepseg.training.weight_averaging import WeightAverage
from tests.gpu import pretended
from tests.networks import network_inputs

CPU = torch.device("cpu")
SEGMENT = (13, 11, 15)


def batches_of(network: Network, sizes: Sequence[int] = (2, 1)) -> list[Batch]:
    """Random segments with some unknown voxels, in the type of the network's weights."""
    rng = torch.Generator().manual_seed(5)
    dtype = next(network.parameters()).dtype
    shape = network.geometry.prediction(Box((0, 0, 0), SEGMENT)).size
    return [
        Batch(
            tuple(x.to(dtype) for x in network_inputs(network, SEGMENT, batch=size, seed=size)),
            torch.randint(-1, len(network.config.classes), (size, *shape), generator=rng),
            tuple(f"case {number}" for number in range(size)),
        )
        for size in sizes
    ]


def trainer_of(
    network: Network,
    device: torch.device,
    *,
    loss: Mapping[str, Any] | None = None,
    steps: Mapping[str, Any] | None = None,
    optimiser: Mapping[str, Any] | None = None,
    frozen: Freeze | None = None,
    anchored: bool = False,
    averaged: bool = True,
    **options: Any,
) -> Trainer:
    """A trainer of a copy of ``network`` on ``device``, with a moving average."""
    network = copy.deepcopy(network).to(device)
    if frozen is not None:
        freeze(network, frozen)
    settings = TypeAdapter(Optimiser).validate_python(
        {"name": "rmsprop", "learning_rate": 1e-3, **(optimiser or {})}
    )
    anchors = {
        name: 0.9 * weight.detach().cpu()
        for name, weight in network.named_parameters()
        if anchored and "conv" in name
    }
    return Trainer(
        network,
        Optimizer(trainable(network), settings, parameter_groups(network, settings)),
        Loss.model_validate({**(loss or {}), **({"l2_sp": 0.1} if anchored else {})}),
        steps=Steps.model_validate(steps or {}),
        anchors=anchors,
        average=WeightAverage(network, 0.9) if averaged else None,
        **{"dtype": next(network.parameters()).dtype, **options},
    )


def learnt(trainer: Trainer, batches: Sequence[Batch], *, validates: bool = True) -> dict[str, Any]:
    """Weights, statistics, sums, losses and scores after a step for every batch."""
    tally, values = Tally(len(trainer.network.config.classes)), []
    trainer.train(batches, tally, epoch=0, epochs=4, on_step=values.append)
    return {
        "weights": dict(trainer.network.state_dict()),
        "average": dict(trainer.evaluated.state_dict()),
        "optimizer": trainer.optimizer.state,
        "values": values,
        "training": tally.scores(),
        "validation": trainer.validate(batches) if validates else None,
    }


def on_host(tensor: Tensor) -> Tensor:
    """A tensor of any device as one of the processor."""
    return tensor.detach().cpu()


def assert_alike(
    result: Any, expected: Any, where: str = "", *, rtol: float = 1e-5, atol: float = 1e-7
) -> None:
    """Compare nested results, tensors and floating-point values with tolerance."""
    if isinstance(expected, Mapping):
        assert result.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_alike(result[key], value, f"{where}/{key}", rtol=rtol, atol=atol)
    elif isinstance(expected, Tensor):
        torch.testing.assert_close(
            on_host(result), on_host(expected), rtol=rtol, atol=atol,
            msg=lambda text: f"{where}: {text}",
        )  # fmt: skip
    elif isinstance(expected, list | tuple):
        for number, pair in enumerate(zip(result, expected, strict=True)):
            assert_alike(*pair, f"{where}/{number}", rtol=rtol, atol=atol)
    elif is_dataclass(expected):
        for entry in fields(expected):
            assert_alike(
                getattr(result, entry.name), getattr(expected, entry.name),
                f"{where}/{entry.name}", rtol=rtol, atol=atol,
            )  # fmt: skip
    elif isinstance(expected, float):
        assert abs(result - expected) <= rtol * abs(expected) + atol, (where, result, expected)
    else:
        assert result == expected, where


def assert_same_steps(
    network: Network,
    batches: Sequence[Batch] | None = None,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-7,
    **settings: Any,
) -> None:
    """Take the same steps on the pretended device and on the processor."""
    batches = batches_of(network) if batches is None else batches
    there = learnt(trainer_of(network, pretended.set_up(), **settings), batches)
    here = learnt(trainer_of(network, CPU, **settings), batches)
    assert all(isinstance(weight, pretended.OnDevice) for weight in there["weights"].values())
    assert_alike(there, here, rtol=rtol, atol=atol)
