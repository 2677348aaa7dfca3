"""A step of training in onnxruntime against the same step in torch, before the file is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deepseg.errors import DeepsegError, Problem
from deepseg.exports.gradients.loss import LOG_FLOOR
from deepseg.exports.train_step.construction import DropoutMask
from deepseg.exports.train_step.manifest import StepSettings
from deepseg.exports.train_step.step import NEW, StepGraph, initial_state, input_name, lattices
from deepseg.model.graph.network import GraphNetwork
from deepseg.model.kernels import switched_off
from deepseg.model.layers import Layer
from deepseg.model.network import Network

TOLERANCE = 1e-4  # of a loss, a weight or a statistic, relative to 1 + the largest of the tensor
RATES = {"learning_rate": 0.01, "momentum": 0.9, "decay": 1e-3}


def verify(network: Network, settings: StepSettings, step: StepGraph, content: bytes) -> None:
    """Compare a step on random segments, without any dropout.

    Args:
        network: As it was exported; it is the same afterwards.
        settings: Batch and segment.
        step: The graph.
        content: Of its file.

    Raises:
        DeepsegError: ``onnx-extra-missing``, or ``train-step-differs``.
    """
    feeds = random_feeds(network, settings, step.masks)
    session = _session(content)
    state = initial_state(network)
    arrays = {
        e.name: (feeds | state)[e.name] for e in session.get_inputs() if e.name in feeds | state
    }
    outputs = [entry.name for entry in session.get_outputs()]
    results = dict(zip(outputs, session.run(outputs, arrays), strict=True))
    for name, expected in torch_step(network, feeds).items():
        got = results[name if name == "loss" else NEW + name]
        limit = TOLERANCE * (1 + float(np.abs(expected).max()))
        if not np.abs(got - expected).max() <= limit:
            raise DeepsegError(
                Problem(
                    code="train-step-differs",
                    got=f"{name} that differs by {np.abs(got - expected).max():.2g} from torch's",
                    expected=f"at most {limit:.2g} after one step",
                    fix="install other versions of onnx and onnxruntime, and report this",
                )
            )


def random_feeds(
    network: Network, settings: StepSettings, masks: Mapping[str, DropoutMask]
) -> dict[str, NDArray[Any]]:
    """Random segments and labels, rates, and masks under which dropout changes no mean."""
    rng = np.random.default_rng(0)
    classes, batch = len(network.config.classes), settings.batch
    channels = len(network.config.channels)
    size = network.layout.prediction_size(settings.segment)
    images = {
        input_name(pathway.name): rng.normal(size=(batch, channels, *points.count))
        for pathway, points in zip(
            network.layout.pathways, lattices(network, settings.segment), strict=True
        )
    }
    dropped = {name: np.full(mask.variable.shape, mask.share) for name, mask in masks.items()}
    floats = images | RATES | dropped | {"class_weights": np.ones(classes)}
    labels = rng.integers(classes, size=(batch, *size))
    return {name: np.asarray(value, np.float32) for name, value in floats.items()} | {"y": labels}


def torch_step(network: Network, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The loss, and the weights and statistics that a step of torch would leave."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    imported = [network.imported(p.name) for p in network.layout.pathways if p.network is not None]
    modules: list[Layer | GraphNetwork] = [*network.layers(), *imported]
    droppers = [module for module in modules if module.dropout_enabled]
    for module in droppers:
        module.dropout_enabled = False
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(
        weights,
        lr=RATES["learning_rate"],
        momentum=RATES["momentum"],
        weight_decay=RATES["decay"],
    )
    with switched_off():
        images = [torch.from_numpy(feeds[input_name(p.name)]) for p in network.layout.pathways]
        probabilities = network(images).softmax(1)
    labels = torch.from_numpy(feeds["y"]).unsqueeze(1)
    loss = -(probabilities.gather(1, labels) + LOG_FLOOR).log().mean()
    torch.autograd.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
    after = {name: value.numpy().copy() for name, value in network.state_dict().items()}
    network.load_state_dict(before)
    for module in droppers:
        module.dropout_enabled = True
    old = {name: value.numpy() for name, value in before.items()}
    changed = {n: value for n, value in after.items() if not np.array_equal(value, old[n])}
    return {"loss": loss.detach().numpy(), **changed}


def _session(content: bytes) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise DeepsegError(
            Problem(
                code="onnx-extra-missing",
                got="no package onnxruntime",
                expected="it, to compare the exported step with torch's",
                fix="pip install 'deepseg-pathways[onnx]'",
            )
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
