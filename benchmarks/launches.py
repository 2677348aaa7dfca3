"""Launches, waits and copies of a training step and of a whole case on a GPU, counted without one.

    python benchmarks/launches.py step [--batch 10] [--precision bfloat16] [--statistics window]
                                       [--average] [--frequency] [--ranks 2] [--operations 12]
    python benchmarks/launches.py case [--precision bfloat16] [--whole] [--operations 12]

The default model on the pretended device of the tests: shapes only, so it takes seconds. Launches
are those that CUDA starts at least; a wait is a place where the host waits for the device. The case
is an ellipsoid of the size of a brain on the grid of BraTS; with ``--whole``, the whole image
counts.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from pydantic import TypeAdapter

from deepseg.config.blocks.losses import Loss
from deepseg.config.blocks.optimisers import Optimiser
from deepseg.config.load import load
from deepseg.config.model import ModelConfig
from deepseg.data.images.volumes import Geometry
from deepseg.data.preparation import PreparedCase
from deepseg.data.segments.loader import Batch
from deepseg.geometry.boxes import Box
from deepseg.inference.boxwise.network import BoxwiseNetwork
from deepseg.inference.boxwise.plan import work_units
from deepseg.inference.boxwise.predict import box_predictions
from deepseg.model.devices import PRECISIONS
from deepseg.model.network import Network
from deepseg.training.distributed import Ranks
from deepseg.training.freezing import trainable
from deepseg.training.optimization import Optimizer
from deepseg.training.parameter_groups import parameter_groups
from deepseg.training.tally import Tally
from deepseg.training.trainer import Trainer
from deepseg.training.weight_averaging import WeightAverage
from tests.gpu import pretended

MODEL = Path(__file__).parents[1] / "configs/model/deepmedic.yaml"
SEGMENT = Box((0, 0, 0), (37, 37, 37))
BRATS = (240, 240, 155)
SHARES = (0.30, 0.37, 0.44)  # half axes of the ellipsoid, of the sides of the image
GPU_BYTES = 120 << 30


def default_network(statistics: str = "exponential") -> Network:
    """The default model, in training mode."""
    values = load(ModelConfig, MODEL).config.model_dump(mode="json")
    config = ModelConfig.model_validate({**values, "batch_norm": {"statistics": statistics}})
    return Network(config, rng=torch.Generator().manual_seed(1))


def random_batch(network: Network, size: int) -> Batch:
    """Segments of the size that the default session trains on, with random voxels."""
    rng = torch.Generator().manual_seed(2)
    points = network.geometry.lattices(SEGMENT)
    inputs = tuple(torch.randn(size, 2, *one.count, generator=rng) for one in points)
    shape = (size, *network.geometry.prediction(SEGMENT).size)
    return Batch(inputs, torch.randint(0, 5, shape, generator=rng), ("case",) * size)


def trainer_of(network: Network, options: argparse.Namespace) -> Trainer:
    """A trainer of ``network`` with the default optimiser and loss."""
    settings = TypeAdapter(Optimiser).validate_python({"name": "rmsprop"})
    loss = {"class_weights": {"type": "frequency"}} if options.frequency else {}
    return Trainer(
        network,
        Optimizer(trainable(network), settings, parameter_groups(network, settings)),
        Loss.model_validate(loss),
        average=WeightAverage(network, 0.99) if options.average else None,
        ranks=Ranks(0, options.ranks),
        dtype=PRECISIONS[options.precision],
    )


def count_collectives() -> Counter[str]:
    """Calls of torch's collectives from now on, which do nothing any more."""
    calls: Counter[str] = Counter()

    def counting(name: str):
        def call(target, *_words, **_options):
            tensor = target[0] if isinstance(target, list) else target
            calls[f"{name} on {tensor.device.type}"] += 1

        return call

    for name in ("all_reduce", "all_gather_into_tensor", "all_gather"):
        setattr(dist, name, counting(name))
    return calls


def count_step(options: argparse.Namespace) -> None:
    """Print what one step, and then the end of a sub-epoch, ask of the device."""
    device = pretended.set_up()
    with pretended.shapes_only():
        network = default_network(options.statistics).to(device)
        batch = random_batch(network, options.batch)
        trainer = trainer_of(network, options)
        calls = count_collectives()

        def train(steps: int) -> pretended.Record:
            with pretended.recorded() as record:
                trainer.train([batch] * steps, Tally(5), epoch=0, epochs=4)
            return record

        train(1)
        calls.clear()
        short, long = train(1), train(2)
        collectives = sum(calls.values()) // 3
        with pretended.recorded() as ending:
            trainer.train([], Tally(5), epoch=0, epochs=4)
        step = long.launches - short.launches
        waits = Counter(long.waits) - Counter(short.waits)
        uploads = Counter(long.uploads) - Counter(short.uploads)
    print(
        f"step of {options.batch} segments, {options.precision}, {options.statistics} statistics, "
        f"{options.ranks} ranks: {step.total()} launches, {waits.total()} waits, "
        f"{uploads.total()} uploads, {collectives} collectives, "
        f"{2e-12 * (long.multiply_adds - short.multiply_adds):.2f} TFLOP, "
        f"{1e-9 * (long.bytes - short.bytes):.1f} GB"
    )
    show(step, waits, uploads, options)
    print(f"end of a sub-epoch: {ending.launched} launches, {len(ending.waits)} waits")


def ellipsoid(shape: tuple[int, int, int]) -> np.ndarray:
    """Mask ``(X, Y, Z)`` in the middle of an image."""
    axes = [
        np.linspace(-0.5, 0.5, n, dtype=np.float32) / s for n, s in zip(shape, SHARES, strict=True)
    ]
    return axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2 < 1


def phantom(shape: tuple[int, int, int], *, whole: bool) -> PreparedCase:
    """A case of noise, of which an ellipsoid or the whole is predicted."""
    channels = np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32)
    roi = None if whole else ellipsoid(shape)
    return PreparedCase(
        "phantom", channels, None, roi, None, Geometry(shape, np.eye(4)), to_compute=roi
    )


def count_case(options: argparse.Namespace) -> None:
    """Print what a whole case asks of the device."""
    device, case = pretended.set_up(), phantom(BRATS, whole=options.whole)
    with pretended.shapes_only():
        network = BoxwiseNetwork(default_network().eval().to(device), PRECISIONS[options.precision])
        plan = work_units(network, case, memory=GPU_BYTES, tile=None)
        begun = time.process_time()
        with pretended.recorded() as record:
            for _ in box_predictions(network, case, plan, labels=()):
                pass
        seconds = time.process_time() - begun
    boxes = sum(len(unit.boxes) for unit in plan)
    print(
        f"case of {BRATS}, {'all' if case.roi is None else int(case.roi.sum())} voxels, "
        f"{options.precision}: {boxes} boxes, {record.launched} launches, "
        f"{len(record.waits)} waits, {len(record.uploads)} uploads, "
        f"{2e-12 * record.multiply_adds:.1f} TFLOP, {1e-9 * record.bytes:.0f} GB; "
        f"{seconds:.1f} s of one core here"
    )
    show(record.launches, Counter(record.waits), Counter(record.uploads), options)


def show(launches: Counter, waits: Counter, uploads: Counter, options: argparse.Namespace) -> None:
    """Print the most frequent of each."""
    for name, count in launches.most_common(options.operations):
        print(f"  {count:6d} launches of {name}")
    for (name, place), count in waits.most_common(options.operations):
        print(f"  {count:6d} waits: {name} in {place}")
    for (name, place, overlaps), count in uploads.most_common(options.operations):
        print(f"  {count:6d} uploads: {name} in {place}{'' if overlaps else ', blocking'}")


def main() -> None:
    """Count what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["step", "case"])
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--precision", choices=sorted(PRECISIONS), default="float32")
    parser.add_argument("--statistics", choices=["exponential", "window"], default="exponential")
    parser.add_argument("--average", action="store_true")
    parser.add_argument("--frequency", action="store_true")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--operations", type=int, default=0)
    options = parser.parse_args()
    count_step(options) if options.what == "step" else count_case(options)


if __name__ == "__main__":
    main()
