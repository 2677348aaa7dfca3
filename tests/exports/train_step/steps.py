"""Steps of a network in onnxruntime and in torch, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
import onnxruntime
import torch

from deepseg.config.blocks.freezing import Freeze
from deepseg.exports.train_step.onnx_file import onnx_content
from deepseg.exports.train_step.step import (
    NEW,
    StepGraph,
    inference,
    initial_state,
    input_name,
    training_step,
)
from deepseg.geometry.boxes import Int3
from deepseg.model.network import Network
from deepseg.model.switch import switched_off
from deepseg.training.freezing import freeze
from deepseg.training.loss import cross_entropy
from tests.networks import network_inputs

CLASS_WEIGHTS = torch.tensor([1.0, 2.0, 0.5])
RATES = {"learning_rate": 0.05, "momentum": 0.9, "decay": 1e-3}


def opened(content: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def computed(session: onnxruntime.InferenceSession, feeds: Mapping[str, np.ndarray]):
    """All outputs by name, of the inputs among ``feeds``."""
    names = [entry.name for entry in session.get_outputs()]
    entries = [*session.get_inputs(), *session.get_overridable_initializers()]
    inputs = {entry.name: feeds[entry.name] for entry in entries if entry.name in feeds}
    return dict(zip(names, session.run(names, inputs), strict=True))


@dataclass
class Twins:
    """A network that torch trains, and its exported step.

    Attributes:
        network: Frozen as it was exported.
        graph: Of the step.
        size: Of a segment.
        batch: Segments of a step.
        state: Of the exported step.
    """

    network: Network
    graph: StepGraph
    size: Int3
    batch: int
    state: dict[str, np.ndarray]

    @classmethod
    def of(
        cls, network: Network, *, frozen: Sequence[str] = (), size: Int3 = (13, 12, 14), batch=3
    ) -> Twins:
        network.train()
        freeze(network, Freeze(layers=tuple(frozen)))
        graph = training_step(network, batch=batch, segment=size)
        return cls(network, graph, size, batch, initial_state(network))

    def losses(self, steps: int, rates: Mapping[str, float]) -> Iterator[tuple[float, float]]:
        """Losses of torch and of onnxruntime, step by step, both on the same random segments."""
        content = onnx_content(self.graph, defaults={"class_weights": [1, 1, 1]}, metadata={})
        session = opened(content)
        weights = [weight for weight in self.network.parameters() if weight.requires_grad]
        optimizer = torch.optim.SGD(
            weights,
            lr=rates["learning_rate"],
            momentum=rates["momentum"],
            weight_decay=rates["decay"],
        )
        scalars = {name: np.array(value, np.float32) for name, value in rates.items()}
        for step in range(steps):
            images, labels, masks = self.sample(step)
            loss = self._loss(images, labels, masks)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            arrays = {**self.feeds(images), **{n: m.numpy() for n, m in masks.items()}, **scalars}
            arrays |= {"y": labels.numpy(), "class_weights": CLASS_WEIGHTS.numpy()}
            results = computed(session, {**self.state, **arrays})
            changed = {n.removeprefix(NEW): v for n, v in results.items() if n != "loss"}
            self.state |= changed
            yield float(loss.detach()), float(results["loss"])

    def sample(self, seed: int):
        """Random images, labels (some unknown) and masks of dropout."""
        rng = torch.Generator().manual_seed(seed)
        images = network_inputs(self.network, self.size, batch=self.batch, seed=seed)
        shape = (self.batch, *self.network.layout.prediction_size(self.size))
        labels = torch.randint(-1, 3, shape, generator=rng)
        masks = {
            name: (torch.rand(mask.variable.shape, generator=rng) < mask.share).float()
            for name, mask in self.graph.masks.items()
        }
        return images, labels, masks

    def feeds(self, images) -> dict[str, np.ndarray]:
        names = [input_name(pathway.name) for pathway in self.network.layout.pathways]
        return {name: image.numpy() for name, image in zip(names, images, strict=True)}

    def _loss(self, images, labels, masks):
        waiting = iter(masks.values())

        def dropout(x, p=0.5, training=True, inplace=False):
            return x * next(waiting) / (1 - p) if training else x

        with switched_off(), patch("torch.nn.functional.dropout", dropout):
            logits = self.network(images)
        return cross_entropy(logits.softmax(1), labels, labels >= 0, CLASS_WEIGHTS)

    def largest_difference(self) -> float:
        """Between the weights and statistics of both."""
        values = self.network.state_dict()
        return max(float(np.abs(self.state[n] - v.numpy()).max()) for n, v in values.items())

    def probabilities(self) -> tuple[np.ndarray, np.ndarray]:
        """Of torch and of onnxruntime, for the same segments, with the weights as they are."""
        images, _, _ = self.sample(99)
        graph = inference(self.network, batch=self.batch, segment=self.size)
        session = opened(onnx_content(graph, defaults={}, metadata={}))
        results = computed(session, {**self.state, **self.feeds(images)})
        with torch.no_grad():
            expected = self.network.eval()(images).softmax(1)
        return expected.numpy(), results["probabilities"]
