"""Steps, whole cases and their numbers on a GPU, in less than eight minutes; lines of JSON.

    PYTHONPATH=. python benchmarks/gpu.py [--device cuda] [--small] [--out FILE] [--only SECTION …]

Sections: facts; numbers (how far gradients are from the CPU's, by precision); steps (time, memory,
launches and waits, by precision and by switches of torch); bits (of two equal runs); case (a whole
one); files (from files to files). A section that fails says so, and the next one begins; after
``LIMIT_S`` no other begins. ``--device cpu --small`` tries the script itself.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import nibabel
import numpy as np
import torch

import deepseg
from benchmarks.launches import BRATS, default_network, phantom, random_batch, trainer_of
from deepseg.data.segments.loader import Batch
from deepseg.inference.boxwise.network import BoxwiseNetwork
from deepseg.inference.boxwise.plan import work_units
from deepseg.inference.boxwise.predict import box_predictions
from deepseg.inference.limits import DEFAULT_LIMITS
from deepseg.inference.memory import left_on
from deepseg.model import layers, network
from deepseg.model.arithmetic import arithmetic
from deepseg.model.devices import PRECISIONS
from deepseg.training.tally import Tally
from deepseg.training.trainer import Trainer

LIMIT_S = 430
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
TEST = """\
name: results
output: .
cases: {table: cases.csv}
preparation: {z_score: none}
save: {pictures: false}
report: false
inference: {precision: PRECISION}
"""


class Measurement:
    """What is measured, where, and how much of it.

    Attributes:
        device: That computes.
        is_small: Tries the script: small batches and cases.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.device = torch.device(options.device)
        self.is_small: bool = options.small
        self._out: Path | None = options.out
        self._begun = time.monotonic()
        self.batch = 2 if self.is_small else 10
        self.steps = 1 if self.is_small else 20
        self.shape = (60, 50, 40) if self.is_small else BRATS

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._begun

    @property
    def on_gpu(self) -> bool:
        """True on a GPU of CUDA."""
        return self.device.type == "cuda"

    def tell(self, section: str, **facts: Any) -> None:
        """Print a line, and add it to the file."""
        line = json.dumps({"section": section, "at_s": round(self.seconds, 1), **facts})
        print(line, flush=True)
        if self._out is not None:
            with self._out.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def trainer(self, **settings: Any) -> tuple[Trainer, Batch]:
        """A trainer of the default model on the device, and a batch."""
        options = argparse.Namespace(
            precision="float32", frequency=False, average=False, ranks=1, batch=self.batch,
            statistics="exponential",
        )  # fmt: skip
        vars(options).update(settings)
        net = default_network(options.statistics).to(self.device)
        batch = random_batch(net, options.batch)
        return trainer_of(net, options), batch.pin_memory() if self.on_gpu else batch


def train(trainer: Trainer, batch: Batch, steps: int) -> None:
    """Take so many steps on one batch."""
    trainer.train([batch] * steps, Tally(5), epoch=0, epochs=4)


@contextmanager
def switches(**flags: bool) -> Iterator[None]:
    """Switches of cuDNN, such as ``benchmark``, put back in the end."""
    with torch.backends.cudnn.flags(enabled=True, **flags):
        yield


def facts(run: Measurement) -> None:
    """The machine and its libraries."""
    run.tell(
        "facts",
        torch=torch.__version__,
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version() if run.on_gpu else None,
        device=torch.cuda.get_device_name(run.device) if run.on_gpu else run.device.type,
        date=time.strftime("%Y-%m-%d"),
    )


def numbers(run: Measurement) -> None:
    """How far logits and gradients are from those of the CPU."""
    net = default_network()
    for layer in net.layers():
        layer.dropout_enabled = False
    batch = random_batch(net, 2)

    def results(device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        own = copy.deepcopy(net).to(device)
        logits = own([x.to(device, dtype) for x in batch.inputs])
        rng = torch.Generator().manual_seed(8)
        (logits * torch.randn(logits.shape, generator=rng).to(device)).sum().backward()
        gradients = {name: p.grad.cpu() for name, p in own.named_parameters()}
        return {"logits": logits.detach().cpu(), **gradients}

    exact = results(torch.device("cpu"), torch.float32)
    for precision, dtype in PRECISIONS.items():
        with arithmetic(precision):
            other = results(run.device, dtype)
        far = {n: float((other[n] - x).norm() / x.norm().clamp(min=1e-9)) for n, x in exact.items()}
        worst = max((name for name in far if name.endswith("conv.weight")), key=far.__getitem__)
        run.tell(
            "numbers", precision=precision, logits=far["logits"], worst=worst, gradient=far[worst]
        )


def timed_steps(run: Measurement, how: str, precision: str = "float32", **settings: Any) -> None:
    """Print time, memory, launches and waits of a step."""
    try:
        trainer, batch = run.trainer(precision=precision, **settings)
        with arithmetic(precision):
            train(trainer, batch, 2)
            run.wait()
            if run.on_gpu:
                torch.cuda.reset_peak_memory_stats(run.device)
            begun = time.perf_counter()
            train(trainer, batch, run.steps)
            run.wait()
            seconds = (time.perf_counter() - begun) / run.steps
            seen = _launches_and_waits(run, trainer, batch) if run.on_gpu else {}
        rate = len(batch.cases) / seconds
        run.tell(
            "steps", how=how, ms=round(seconds * 1e3, 2), segments_per_s=round(rate, 1), **seen
        )
    except Exception as error:
        run.tell("steps", how=how, error=f"{type(error).__name__}: {str(error)[:300]}")


def _launches_and_waits(run: Measurement, trainer: Trainer, batch: Batch) -> dict[str, float]:
    peak = torch.cuda.max_memory_allocated(run.device)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    counts = []
    for steps in (1, 2):  # the difference is a step without the end of a sub-epoch
        with torch.profiler.profile(activities=activities) as profile:
            train(trainer, batch, steps)
            run.wait()
        rows = profile.key_averages()
        counts.append(sum(row.count for row in rows if row.key in LAUNCHES))
    busy = sum(row.self_device_time_total for row in rows) / 2
    waits = []
    for steps in (1, 2):
        with warnings.catch_warnings(record=True) as messages:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            train(trainer, batch, steps)
            torch.cuda.set_sync_debug_mode("default")
        waits.append(sum("synchronizing" in str(message.message) for message in messages))
    return {
        "launches": counts[1] - counts[0],
        "waits_besides_the_event": waits[1] - waits[0],
        "gpu_ms": round(busy / 1e3, 2),
        "peak_GB": round(peak / 1e9, 2),
    }


def steps(run: Measurement) -> None:
    """Steps by precision, and by each switch alone."""
    timed_steps(run, "float32")
    timed_steps(run, "tf32", "tf32")
    timed_steps(run, "bfloat16", "bfloat16")
    with switches(benchmark=True):
        timed_steps(run, "float32, cudnn.benchmark")
        timed_steps(run, "tf32, cudnn.benchmark", "tf32")
        timed_steps(run, "bfloat16, cudnn.benchmark", "bfloat16")
    timed_steps(run, "bfloat16, four times the batch", "bfloat16", batch=4 * run.batch)
    timed_steps(run, "float32, statistics of a window", statistics="window")
    timed_steps(run, "float32, moving average", average=True)
    with _channels_last():
        timed_steps(run, "tf32, channels last", "tf32")
    if not run.on_gpu:
        return
    with _alone_of_two():
        timed_steps(run, "float32, path of two ranks, nothing between them", ranks=2)
        timed_steps(run, "bfloat16, path of two ranks", "bfloat16", ranks=2)
    with arithmetic("float32", is_repeatable=True):
        timed_steps(run, "float32, deterministic")
    with mock.patch.object(network.Network, "forward", torch.compile(network.Network.forward)):
        timed_steps(run, "float32, torch.compile")


@contextmanager
def _channels_last() -> Iterator[None]:
    """Convolve float32 voxel by voxel, as bfloat16 is."""

    def arranged(x: torch.Tensor) -> torch.Tensor:
        return x.contiguous(memory_format=torch.channels_last_3d)

    with mock.patch.object(layers.kernels, "arranged", arranged):
        yield


@contextmanager
def _alone_of_two() -> Iterator[None]:
    """Collectives that do nothing, as if the other rank had the same."""
    dist = torch.distributed
    with (
        mock.patch.object(dist, "all_reduce", lambda x: x),
        mock.patch.object(
            dist, "all_gather_into_tensor", lambda y, x: y.view(2, -1).copy_(x.expand(2, -1))
        ),
    ):
        yield


def bits(run: Measurement) -> None:
    """Tensors that differ after the same five steps."""

    def weights() -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        trainer, batch = run.trainer()
        train(trainer, batch, 1 if run.is_small else 5)
        return {name: w.detach().cpu() for name, w in trainer.network.state_dict().items()}

    for name, is_repeatable in (("as it is", False), ("deterministic", True)):
        with arithmetic("float32", is_repeatable=is_repeatable and run.on_gpu):
            first, second = weights(), weights()
        unequal = sum(not torch.equal(w, second[key]) for key, w in first.items())
        run.tell("bits", how=name, tensors_that_differ=unequal, of=len(first))


def case(run: Measurement) -> None:
    """Seconds of the network for a whole case, and how many labels are those of float32."""
    ready, reference = phantom(run.shape, whole=False), None
    memory = left_on(run.device) if run.on_gpu else 1 << 30
    small = replace(DEFAULT_LIMITS, fc_voxels_of_gpu=DEFAULT_LIMITS.fc_voxels)
    for how, precision, limits in (
        ("float32", "float32", DEFAULT_LIMITS), ("tf32", "tf32", DEFAULT_LIMITS),
        ("bfloat16", "bfloat16", DEFAULT_LIMITS), ("bfloat16, small FC slices", "bfloat16", small),
    ):  # fmt: skip
        try:
            net = BoxwiseNetwork(default_network().eval().to(run.device), PRECISIONS[precision])
            with arithmetic(precision):
                seconds, labels = _segmented(run, net, ready, memory=memory, limits=limits)
            reference = labels if reference is None else reference
            same = float((labels == reference)[ready.roi].mean())
            run.tell("case", how=how, seconds=seconds, labels_equal=same)
        except Exception as error:
            run.tell("case", how=how, error=f"{type(error).__name__}: {str(error)[:300]}")


def _segmented(
    run: Measurement, net: BoxwiseNetwork, ready: Any, *, memory: int, limits: Any
) -> tuple[list[float], np.ndarray]:
    seconds, labels = [], np.zeros(ready.shape, np.int16)
    for _ in range(1 if run.is_small else 3):
        begun = time.perf_counter()
        plan = work_units(net, ready, memory=memory, tile=None, limits=limits)
        for _, piece in box_predictions(net, ready, plan, labels=(), limits=limits):
            labels[piece.box.slices] = piece.labels
        run.wait()
        seconds.append(round(time.perf_counter() - begun, 3))
    return seconds, labels


def files(run: Measurement) -> None:
    """Cases a minute, from files to files, by the command that users give."""
    count = 1 if run.is_small else 6
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ready = phantom(run.shape, whole=False)
        rows = ["case,channel_FLAIR,channel_T1c,roi"]
        images = {"f": ready.channels[0], "t": ready.channels[1], "r": ready.roi.astype(np.uint8)}
        for file, array in images.items():
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / f"{file}.nii.gz")
        rows += [f"case{number},f.nii.gz,t.nii.gz,r.nii.gz" for number in range(count)]
        (folder / "cases.csv").write_text("\n".join(rows) + "\n")
        model = deepseg.new_model(
            Path(__file__).parents[1] / "configs/model/deepmedic.yaml",
            out=folder / "M.save", quiet=True,
        )  # fmt: skip
        for precision in ("float32", "bfloat16"):
            text = TEST.replace("PRECISION", precision).replace("results", precision)
            (folder / "test.yaml").write_text(text)
            begun = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                deepseg.segment(
                    folder / "test.yaml", model=model, device=run.device.type, quiet=True
                )
            seconds = time.perf_counter() - begun
            run.tell("files", precision=precision, cases_per_minute=round(60 * count / seconds, 1))


SECTIONS: dict[str, Callable[[Measurement], None]] = {
    function.__name__: function for function in (facts, numbers, steps, bits, case, files)
}


def main() -> None:
    """Measure section after section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--only", nargs="*", choices=list(SECTIONS), default=list(SECTIONS))
    options = parser.parse_args()
    run = Measurement(options)
    with torch.cuda.device(run.device) if run.on_gpu else nullcontext():
        for name in options.only:
            if run.seconds > LIMIT_S:
                run.tell(name, error=f"not begun: {LIMIT_S} s are over")
                continue
            try:
                SECTIONS[name](run)
            except Exception as error:
                run.tell(name, error=f"{type(error).__name__}: {str(error)[:500]}")
    run.tell("end")


if __name__ == "__main__":
    main()
