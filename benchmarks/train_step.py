"""A step of training as an exported graph in onnxruntime, against torch's own: time and memory.

    python benchmarks/train_step.py [--batch 4] [--segment 25] [--turns 7]

Both make the same step of SGD on one core: all layers of a network with two pathways and batch
normalisation learn. Steps are made in turns, and CPU time is compared, which other programs on the
machine disturb little. Peak memory is that of a process of its own that makes two steps, less what
it had before.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from deepseg.config.model import ModelConfig
from deepseg.exports.on_device.networks import session_options
from deepseg.exports.train_step.manifest import StepSettings
from deepseg.exports.train_step.onnx_file import onnx_content
from deepseg.exports.train_step.step import initial_state, input_name, training_step
from deepseg.exports.train_step.verification import RATES, random_feeds
from deepseg.model.network import Network
from deepseg.model.switch import switched_off
from deepseg.training.loss import cross_entropy

NAMES = ("torch", "torch, quick routines", "onnxruntime")


def network(maps: tuple[int, ...]) -> Network:
    config = ModelConfig.model_validate(
        {
            "channels": ["T1", "FLAIR"],
            "classes": ["background", "a", "b"],
            "normal": {"feature_maps": list(maps), "residuals": [4, 6, 8][: len(maps) // 2 - 1]},
            "subsampled": {"factors": [3]},
            "fc": {"feature_maps": [3 * maps[-1], 3 * maps[-1]], "dropout": 0},
            "segments": {"train": 25},
        }
    )
    return Network(config, rng=torch.Generator().manual_seed(0)).train()


def torch_step(
    model: Network, feeds: dict[str, np.ndarray], routines: Callable[[], AbstractContextManager]
) -> Callable[[], float]:
    optimizer = torch.optim.SGD(
        model.parameters(), lr=RATES["learning_rate"], momentum=0.9, weight_decay=1e-3
    )
    images = [torch.from_numpy(feeds[input_name(p.name)]) for p in model.layout.pathways]
    labels = torch.from_numpy(feeds["y"])
    weights = torch.ones(3)

    def step() -> float:
        with routines():
            loss = cross_entropy(model(images).softmax(1), labels, labels >= 0, weights)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
        optimizer.step()
        return float(loss.detach())

    return step


def exported_step(
    model: Network, feeds: dict[str, np.ndarray], settings: StepSettings
) -> Callable[[], float]:
    graph = training_step(model, batch=settings.batch, segment=settings.segment)
    content = onnx_content(graph, defaults={"class_weights": np.ones(3)}, metadata={})
    options = session_options(onnxruntime, threads=1)
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    state = initial_state(model)
    names = [entry.name for entry in session.get_outputs()]
    inputs = [entry.name for entry in session.get_inputs()]

    def step() -> float:
        arrays = {**feeds, **state}
        results = session.run(names, {name: arrays[name] for name in inputs})
        outputs = dict(zip(names, results, strict=True))
        state.update({n.removeprefix("new."): v for n, v in outputs.items() if n != "loss"})
        return float(outputs["loss"])

    return step


def steps(options: argparse.Namespace) -> dict[str, Callable[[], Callable[[], float]]]:
    """What makes the steps of each kind, by name."""
    torch.set_num_threads(1)
    settings = StepSettings("all", (), options.batch, (options.segment,) * 3)
    model = network(tuple(options.maps))
    feeds = random_feeds(model, settings, {})
    return {
        NAMES[0]: lambda: torch_step(network(tuple(options.maps)), feeds, switched_off),
        NAMES[1]: lambda: torch_step(network(tuple(options.maps)), feeds, nullcontext),
        NAMES[2]: lambda: exported_step(model, feeds, settings),
    }


def peak(name: str, options: argparse.Namespace, pipe) -> None:
    """Send the MiB that two steps need beyond what the process had before."""
    make = steps(options)[name]
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    step = make()
    step()
    step()
    pipe.send(resident("VmHWM") - before)


def resident(kind: str) -> float:
    """MiB that are in memory, or were at the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(kind)).split()[1]) / 1024


def peak_of(name: str, options: argparse.Namespace) -> float:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=peak, args=(name, options, there))
    process.start()
    value: float = here.recv()
    process.join()
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--segment", type=int, default=25)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--maps", type=int, nargs="+", default=[30, 30, 40, 40, 40, 40, 50, 50])
    options = parser.parse_args()
    made = {name: make() for name, make in steps(options).items()}
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for turn in range(options.turns + 1):
        for name, step in made.items():
            begin = time.process_time()
            step()
            if turn:  # the first one allocates and compiles
                seconds[name].append(time.process_time() - begin)
    ratios = {
        name: statistics.median(a / b for a, b in zip(values, seconds[NAMES[0]], strict=True))
        for name, values in seconds.items()
    }
    print(f"maps {options.maps}, batch {options.batch}, segment {options.segment}")
    print("| step | CPU s, median | of torch's | peak memory, MiB |\n|---|---|---|---|")
    for name, values in seconds.items():
        memory = peak_of(name, options)
        print(f"| {name} | {statistics.median(values):.2f} | {ratios[name]:.2f} | {memory:.0f} |")


if __name__ == "__main__":
    main()
