"""Steps of training: how many times faster than a plain torch port they are, and as exact.

    python benchmarks/training.py [--cases FOLDER] [--steps 4] [--curve 20] [--curve-batch 10]

The default three-pathway model, segments of 37 in batches of 10 from real cases, one core. Three
processes, each with the same first weights and the same batches, take their steps in turns, so that
whatever else the machine does slows all alike: the port (simple modules, repetition, one
concatenation, float32), deepseg in float32, deepseg in bfloat16. A step is forward, loss, backward
and optimiser (SGD with momentum, which is the same on all sides). Times are those of the default
network; costs are compared without dropout, since its masks differ.
FOLDER holds, at any depth, folders with ``Flair_subtrMeanDivStd.nii.gz``,
``T1c_subtrMeanDivStd.nii.gz``, ``brainmask.nii.gz`` and ``OTMultiClass.nii.gz``.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepseg.cli.process import keep_freed_memory
from deepseg.config.blocks.losses import Loss
from deepseg.config.blocks.optimisers import Sgd
from deepseg.config.blocks.sampling import Sampling
from deepseg.config.cases import CasesConfig, Preparation
from deepseg.config.load import load
from deepseg.config.model import ModelConfig
from deepseg.data.case_cache import prepared_folder
from deepseg.data.cases.case import list_cases
from deepseg.data.segments.loader import Batch, SegmentLoader
from deepseg.data.segments.segment_dataset import SegmentDataset, SegmentRules
from deepseg.model.layout import layout
from deepseg.model.network import Network
from deepseg.training.freezing import trainable
from deepseg.training.optimization import Optimizer
from deepseg.training.tally import Tally
from deepseg.training.trainer import Trainer

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("DEEPSEG_DATA", ROOT / "../shared/data"))
MODEL = ROOT / "configs/model/deepmedic.yaml"
RATE, MOMENTUM = 1e-3, 0.6
SIDES = ("plain port", "float32", "bfloat16")


class Layer(nn.Module):
    """norm (or bias) → PReLU → dropout → (mirrored border) → convolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int, rate: float, *, first: bool) -> None:
        super().__init__()
        self.rate = rate
        self.first = first
        if first:
            self.bias = nn.Parameter(torch.zeros(inputs, 1, 1, 1))
        else:
            self.norm = nn.BatchNorm3d(inputs)
            self.activation = nn.PReLU(inputs)
        self.border = nn.Identity()
        self.conv = nn.Conv3d(inputs, outputs, kernel, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, X, Y, Z)`` to ``(N, F, X', Y', Z')``."""
        x = x + self.bias if self.first else self.activation(self.norm(x))
        if self.rate:
            x = F.dropout(x, self.rate, self.training) * (1 - self.rate)
        return self.conv(self.border(x))


class Port(nn.Module):
    """The default network of DeepMedic in the plainest torch."""

    def __init__(self, channels: int, classes: int, rate: float) -> None:
        super().__init__()
        sizes = [channels, 30, 30, 40, 40, 40, 40, 50, 50]
        self.pathways = nn.ModuleList(
            nn.ModuleList(
                Layer(a, b, 3, 0, first=i == 0) for i, (a, b) in enumerate(pairwise(sizes))
            )
            for _ in range(3)
        )
        self.fc = nn.ModuleList(
            Layer(a, b, k, r, first=False)
            for a, b, k, r in ((150, 250, 3, 0), (250, 250, 1, rate), (250, classes, 1, rate))
        )
        self.fc[0].border = nn.ReplicationPad3d(1)
        self.class_bias = nn.Parameter(torch.zeros(classes, 1, 1, 1))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Logits."""
        outputs = []
        for pathway, image in zip(self.pathways, inputs, strict=True):
            before = x = image
            for number, layer in enumerate(pathway, start=1):
                y = layer(x)
                if number in (4, 6, 8):
                    earlier = before[:, :, 2:-2, 2:-2, 2:-2]
                    maps = earlier.shape[1]
                    y = torch.cat([y[:, :maps] + earlier, y[:, maps:]], 1)
                before, x = x, y
            outputs.append(x)
        width, height, depth = outputs[0].shape[2:]
        joined = torch.cat(
            [
                y_.repeat_interleave(f, 2)
                .repeat_interleave(f, 3)
                .repeat_interleave(f, 4)[:, :, :width, :height, :depth]
                for y_, f in zip(outputs, (1, 3, 5), strict=True)
            ],
            1,
        )
        first = self.fc[0](joined)
        second = self.fc[1](first)
        second = torch.cat([second[:, :150] + joined, second[:, 150:]], 1)
        return self.fc[2](second) + self.class_bias


def model_config(rate: float) -> ModelConfig:
    """The default model with so much dropout in front of the last two layers."""
    own = load(ModelConfig, MODEL).config.model_dump()
    return ModelConfig.model_validate({**own, "fc": {**own["fc"], "dropout": [0, rate, rate]}})


def port_of(network: Network, rate: float) -> Port:
    """The port with the weights of ``network``."""
    port = Port(len(network.config.channels), len(network.config.classes), rate)
    *parallel, fc = network.pathways()
    pairs = [
        *((ours, own) for ours, own in zip(parallel, port.pathways, strict=True)),
        (fc, port.fc),
    ]
    with torch.no_grad():
        for ours, own in pairs:
            for layer, copied in zip(ours.layers(), own, strict=True):
                copied.conv.weight.copy_(next(layer.conv.parameters()))
                if not copied.first:
                    copied.activation.weight.copy_(layer.activation.weight)
    return port


def port_steps(port: Port, batch: Batch, settings: Loss, optimiser: torch.optim.Optimizer) -> float:
    """One step of the port; its cost."""
    port.train()
    logits = port(batch.inputs)
    own = logits.softmax(1).gather(1, batch.labels.clamp(min=0).unsqueeze(1)).squeeze(1)
    known = batch.labels >= 0
    cost = -((own + 1e-6).log() * known).sum() / known.sum()
    kernels = [m.weight for m in port.modules() if isinstance(m, nn.Conv3d)]
    cost = cost + settings.l1 * sum(k.abs().sum() for k in kernels)
    cost = cost + settings.l2 * sum(k.square().sum() for k in kernels)
    optimiser.zero_grad()
    cost.backward()
    optimiser.step()
    return float(cost.detach())


def step_function(side: str, rate: float) -> Callable[[Batch], float]:
    """What takes one step on a batch and says its cost."""
    network = Network(model_config(rate), rng=torch.Generator().manual_seed(0))
    if side == "plain port":
        port = port_of(network, rate)
        rule = torch.optim.SGD(port.parameters(), lr=RATE, momentum=MOMENTUM)
        return lambda batch: port_steps(port, batch, Loss(), rule)
    keep_freed_memory()  # as the command line does
    settings = Sgd(name="sgd", learning_rate=RATE, momentum=MOMENTUM, nesterov=False)
    optimizer = Optimizer(trainable(network), settings)
    trainer = Trainer(network, optimizer, Loss(), dtype=getattr(torch, side))

    def step(batch: Batch) -> float:
        costs: list[float] = []
        tally = Tally(len(network.config.classes))
        trainer.train([batch], tally, epoch=0, epochs=1, on_step=costs.append)
        return costs[0]

    return step


def serve(side: str, file: Path) -> None:
    """Take a step for every line with dropout, number of the batch and its size."""
    batches = [Batch(*one) for one in torch.load(file, weights_only=True)]
    functions = {}
    for line in sys.stdin:
        rate, number, size = line.split()
        if rate not in functions:
            functions.clear()
            functions[rate] = step_function(side, float(rate))
        clock, busy = time.perf_counter(), time.process_time()
        cost = functions[rate](_part(batches[int(number)], int(size)))
        clock, busy = time.perf_counter() - clock, time.process_time() - busy
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(clock, busy, cost, peak, flush=True)


def _part(batch: Batch, size: int) -> Batch:
    return Batch(tuple(x[:size] for x in batch.inputs), batch.labels[:size], batch.cases[:size])


@dataclass(frozen=True)
class Step:
    """What one step took, in seconds of the clock and of the core, its cost and peak in MB."""

    clock: float
    busy: float
    cost: float
    peak: float


class Side:
    """A process that takes steps when asked."""

    def __init__(self, name: str, file: Path, threads: int) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve", name, str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)},
        )

    def step(self, rate: float, number: int, batch_size: int) -> Step:
        """Take one step on a batch."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{rate} {number} {batch_size}\n")
        self._process.stdin.flush()
        return Step(*map(float, self._process.stdout.readline().split()))

    def end(self) -> None:
        """No more steps."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def source_of(cases: Sequence[Path], cache: Path, *, segments: int) -> SegmentDataset:
    """Segments of 37 as the default session draws them."""
    config = load(ModelConfig, MODEL).config
    table = cache / "cases.csv"
    rows = ["case,channel_FLAIR,channel_T1c,labels,roi"]
    files = ("Flair_subtrMeanDivStd", "T1c_subtrMeanDivStd", "OTMultiClass", "brainmask")
    for case in cases:
        rows.append(",".join([case.name, *(str(case / f"{name}.nii.gz") for name in files)]))
    table.write_text("\n".join(rows) + "\n")
    listed = list_cases(CasesConfig(table=table), config.channels)
    preparation = Preparation(z_score="none")
    rules = SegmentRules(
        sampling=Sampling(), classes=config.classes, geometry=layout(config).geometry("centred"),
        size=config.segment_sizes["train"], segments=segments, cases=50, augmentation=None,
        seed=0, is_training=True,
    )  # fmt: skip
    folders = [prepared_folder(case, preparation, config.channels, cache) for case in listed]
    return SegmentDataset(folders, rules)


def table(folder: Path, cases: Sequence[Path], given: argparse.Namespace) -> str:
    """Take all steps in turns and say what was measured."""
    source = source_of(cases, folder, segments=10 * max(given.steps, given.curve))
    with SegmentLoader(source, batch_size=10, workers=0, first=0) as stream:
        batches = [(one.inputs, one.labels, one.cases) for one in stream.subepoch()]
    torch.save(batches, folder / "batches.pt")
    timed = _turns(folder / "batches.pt", 0.5, given.steps, 10, given.threads)
    curves = _turns(folder / "batches.pt", 0.0, given.curve, given.curve_batch, given.threads)
    return "\n".join(_lines(timed, curves, cases, given)) + "\n"


def _turns(
    file: Path, rate: float, steps: int, batch_size: int, threads: int
) -> dict[str, list[Step]]:
    """The steps of all sides."""
    sides = [Side(name, file, threads) for name in SIDES]
    found: dict[str, list[Step]] = {name: [] for name in SIDES}
    for number in range(steps):
        for side in sides:
            found[side.name].append(side.step(rate, number, batch_size))
            print(f"dropout {rate}, {side.name}: {found[side.name][-1]}", file=sys.stderr)
    for side in sides:
        side.end()
    return found


def _lines(
    timed: Mapping[str, Sequence[Step]],
    curves: Mapping[str, Sequence[Step]],
    cases: Sequence[Path],
    given: argparse.Namespace,
) -> Iterator[str]:
    yield (
        f"{os.cpu_count()} cores, {given.threads} of them used, torch {torch.__version__}; "
        f"segments of 37, batches of 10, {len(cases)} cases; medians of {given.steps - 1} steps."
    )
    yield ""
    yield "| | s per step | times the port | core s | times the port | peak MB |"
    yield "|---|---|---|---|---|---|"
    port = timed["plain port"]
    for name, own in timed.items():
        clock, busy = _median(own, "clock"), _median(own, "busy")
        yield (
            f"| {name} | {clock:.2f} | {_median(port, 'clock') / clock:.2f} | {busy:.2f} | "
            f"{_median(port, 'busy') / busy:.2f} | {own[-1].peak:.0f} |"
        )
    yield ""
    costs = {name: [step.cost for step in rows] for name, rows in curves.items()}
    for name in SIDES[1:]:
        off = [abs(a / b - 1) for a, b in zip(costs[name], costs["plain port"], strict=True)]
        yield (
            f"Costs of {name}: at most {max(off):.1e} of the port's away in the first {len(off)} "
            f"steps, on batches of {given.curve_batch}."
        )
    begin, *_, end = costs["plain port"]
    yield f"The port's cost falls from {begin:.4f} to {end:.4f}."


def _median(steps: Sequence[Step], what: Literal["clock", "busy"]) -> float:
    return statistics.median(one.clock if what == "clock" else one.busy for one in steps[1:])


def main() -> None:
    """Measure, print the table, keep it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=Path, default=DATA)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--curve", type=int, default=20)
    parser.add_argument("--curve-batch", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--serve", nargs=2, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        serve(given.serve[0], Path(given.serve[1]))
        return
    cases = sorted(file.parent.resolve() for file in given.cases.glob("**/train/*/OTMultiClass*"))
    with tempfile.TemporaryDirectory(prefix="deepseg-training-") as folder:
        found = table(Path(folder), cases, given)
    print(found)
    if given.out is not None:
        given.out.write_text(f"# Steps of training\n\n{found}")


if __name__ == "__main__":
    main()
