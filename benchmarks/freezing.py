"""The savings by freezing: time of a training step, and memory kept for the backward pass.

    PYTHONPATH=. python benchmarks/freezing.py [--model FILE] [--segment N] [--batch N] [--device D]

All settings are measured in turn, step by step, and the fastest step of each counts, in seconds of
the processor (on a GPU: of the clock): other work of the machine only adds to it. Kept memory
is counted exactly: every tensor that torch saves in the forward pass for the backward pass, once,
without the weights. On a GPU, the peak of a step is shown too. Inputs are random values; neither
time nor memory depends on them.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from deepseg.cli.process import keep_freed_memory
from deepseg.config.blocks.freezing import Freeze
from deepseg.config.blocks.losses import Loss
from deepseg.config.blocks.optimisers import Rmsprop
from deepseg.config.load import load
from deepseg.config.model import ModelConfig
from deepseg.data.segments.loader import Batch
from deepseg.geometry.boxes import Box
from deepseg.model.network import Network
from deepseg.training.freezing import freeze, trainable
from deepseg.training.optimization import Optimizer
from deepseg.training.tally import Tally
from deepseg.training.trainer import Trainer

SETTINGS = {
    "nothing": Freeze(),
    "layers: [normal.1-4, sub*.1-4]": Freeze(layers=("normal.1-4", "sub*.1-4")),
    "stop_gradient: [normal.5, sub*.5]": Freeze(stop_gradient=("normal.5", "sub*.5")),
    "layers: [normal.5-8, sub*.5-8]": Freeze(layers=("normal.5-8", "sub*.5-8")),
    "stop_gradient: fc.1": Freeze(stop_gradient="fc.1"),
    "stop_gradient: head": Freeze(stop_gradient="head"),
}


def random_batch(network: Network, segment: int, size: int, device: torch.device) -> Batch:
    """``size`` segments of ``segment`` voxels along each axis."""
    rng = torch.Generator().manual_seed(0)
    box = Box((0, 0, 0), (segment, segment, segment))
    channels, classes = len(network.config.channels), len(network.config.classes)
    inputs = tuple(
        torch.randn(size, channels, *points.count, generator=rng)
        for points in network.geometry.lattices(box)
    )
    predicted = network.geometry.prediction(box).size
    labels = torch.randint(classes, (size, *predicted), generator=rng)
    return Batch(inputs, labels, ("random",) * size).to(device)


def kept_megabytes(network: Network, batch: Batch) -> float:
    """Size of the tensors that the forward pass keeps for the backward pass, without weights."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in network.state_dict().values()}
    sizes: dict[int, int] = {}
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # so that no address is used twice
        return tensor

    network.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(batch.inputs)
    return sum(sizes.values()) / 1e6


def seconds_of_step(network: Network, optimizer: Optimizer, batch: Batch) -> float:
    """Forward, loss, backward, update."""
    on_gpu = batch.labels.is_cuda
    if on_gpu:
        torch.cuda.synchronize()
    clock = time.perf_counter if on_gpu else time.process_time
    started = clock()
    tally = Tally(len(network.config.classes))
    Trainer(network, optimizer, Loss()).train([batch], tally, epoch=0, epochs=1)
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - started


def main() -> None:
    """Print a table in markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("configs/model/deepmedic.yaml"))
    parser.add_argument("--segment", type=int, default=37)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    keep_freed_memory()  # as the command line does
    config = load(ModelConfig, options.model).config
    runs = {}
    for title, settings in SETTINGS.items():
        network = Network(config, rng=torch.Generator().manual_seed(0)).to(device)
        freeze(network, settings)
        runs[title] = (network, Optimizer(trainable(network), Rmsprop()))
    batch = random_batch(runs["nothing"][0], options.segment, options.batch, device)
    megabytes = {title: kept_megabytes(network, batch) for title, (network, _) in runs.items()}
    times: dict[str, list[float]] = {title: [] for title in runs}
    peaks: dict[str, float] = {}
    for number in range(options.rounds + 1):
        for title, (network, optimizer) in runs.items():
            optimizer.clear_gradients()
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
            seconds = seconds_of_step(network, optimizer, batch)
            if device.type == "cuda":
                peaks[title] = (torch.cuda.max_memory_allocated() - before) / 1e6
            if number:  # the first round warms up
                times[title].append(seconds)
    where = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(
        f"{where}, {torch.get_num_threads()} threads, torch {torch.__version__}; {config.name}, "
        f"{options.batch} segments of {options.segment}, fastest of {options.rounds} steps\n"
    )
    print("| Frozen | step (ms) | of nothing frozen | kept (MB) | of nothing frozen | peak (MB) |")
    print("|---|---|---|---|---|---|")
    first = min(times["nothing"])
    for title in runs:
        step = min(times[title])
        peak = f"{peaks[title]:,.0f}" if peaks else ""
        print(
            f"| `{title}` | {step * 1000:,.0f} | {step / first:.2f} | {megabytes[title]:,.0f} | "
            f"{megabytes[title] / megabytes['nothing']:.2f} | {peak} |"
        )


if __name__ == "__main__":
    main()
