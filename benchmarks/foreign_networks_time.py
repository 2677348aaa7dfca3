"""Imported networks against the plain modules: a training step, and segmenting by windows.

    python benchmarks/foreign_networks_time.py [TURNS] [NAME …]

Networks of MONAI are exported and imported with their own classifiers. A step
is that of our training loop (loss, scores, optimiser), against the module with torch's
cross-entropy and SGD. Segmenting is `Predictor.segment` of an array, against MONAI's
``sliding_window_inference`` with the same window, overlap and Gaussian weights. Both take turns,
with one thread; times are those of the processor, so that other programs count little. Needs
``pip install monai onnx onnxscript``.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from monai.networks.nets import BasicUNet, DynUNet, SegResNet, UNet
from torch import nn
from torch.nn import functional as F

from deepseg.config.blocks.losses import Loss
from deepseg.config.blocks.optimisers import Sgd
from deepseg.config.model import ModelConfig
from deepseg.data.segments.loader import Batch
from deepseg.inference.predictor import Predictor
from deepseg.model.checkpoint import Checkpoint, new_checkpoint
from deepseg.training.freezing import trainable
from deepseg.training.optimization import Optimizer
from deepseg.training.parameter_groups import parameter_groups
from deepseg.training.tally import Tally
from deepseg.training.trainer import Trainer
from deepseg.transfer.imported import read_imported

SEGMENT, BATCH, STEPS = 48, 2, 8  # steps of a sub-epoch, which ends with a check of all weights
IMAGE, WINDOW, OVERLAP = (80, 72, 64), 48, 0.5
CLASSES = ("background", "rim", "core")
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "UNet": lambda: UNet(3, 1, 3, (16, 32, 64), (2, 2), num_res_units=2, norm="BATCH"),
    "DynUNet": lambda: DynUNet(3, 1, 3, [3] * 4, [1, 2, 2, 2], [2] * 3, filters=[8, 16, 32, 64]),
    "SegResNet": lambda: SegResNet(3, 8, 1, 3),
    "BasicUNet": lambda: BasicUNet(3, 1, 3, (8, 8, 16, 16, 32, 8)),
}


def main(turns: int, names: list[str]) -> None:
    torch.set_num_threads(1)
    for name in names or NETWORKS:
        torch.manual_seed(0)
        module = NETWORKS[name]()
        model = imported(module.eval())
        report(f"{name}: step", *steps(module.train(), model), turns)
        report(f"{name}: segmenting", *segmentations(module.eval(), model), turns)


def report(name: str, ours: Callable[[], None], theirs: Callable[[], None], turns: int) -> None:
    ours()
    theirs()
    times = [(seconds(ours), seconds(theirs)) for _ in range(turns)]
    ratios = [a / b for a, b in times]
    least = [min(column) for column in zip(*times, strict=True)]
    print(
        f"{name}: {least[0]:.3f} s against {least[1]:.3f} s at least; ratio "
        f"{statistics.median(ratios):.3f} in the median of {turns} turns, "
        f"{least[0] / least[1]:.3f} of the least",
        flush=True,
    )


def seconds(function: Callable[[], None]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def imported(module: nn.Module) -> Checkpoint:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.onnx"
        torch.onnx.export(
            module, (torch.zeros(1, 1, 32, 32, 32),), file, dynamo=False, opset_version=17,
            do_constant_folding=False, input_names=["image"],
            dynamic_axes={"image": {0: "n", 2: "x", 3: "y", 4: "z"}},
        )  # fmt: skip
        config = ModelConfig.model_validate(
            {
                "channels": ["T1"],
                "classes": CLASSES,
                "imported": [{"file": str(file)}],
                "fc": "none",
                "segments": {"train": SEGMENT, "inference": WINDOW},
            }
        )
        result = read_imported(config, file)
    return new_checkpoint(result.config, seed=0, imported=result.weights)


def steps(module: nn.Module, model: Checkpoint) -> tuple[Callable[[], None], Callable[[], None]]:
    rng = torch.Generator().manual_seed(1)
    image = torch.randn(BATCH, 1, SEGMENT, SEGMENT, SEGMENT, generator=rng)
    labels = torch.randint(3, (BATCH, SEGMENT, SEGMENT, SEGMENT), generator=rng)
    network = model.network()
    rule = Sgd(name="sgd", learning_rate=1e-4, momentum=0.9)
    groups = parameter_groups(network, rule)
    trainer = Trainer(network, Optimizer(trainable(network), rule, groups), Loss(l1=0, l2=0))
    optimizer = torch.optim.SGD(module.parameters(), 1e-4, momentum=0.9, nesterov=True)
    batch = Batch((image,), labels, ("a", "b"))

    def ours() -> None:
        trainer.train([batch] * STEPS, Tally(3), epoch=0, epochs=1, on_step=lambda _: None)

    def theirs() -> None:
        for _ in range(STEPS):
            optimizer.zero_grad()
            F.cross_entropy(module(image), labels).backward()
            optimizer.step()

    return ours, theirs


def segmentations(
    module: nn.Module, model: Checkpoint
) -> tuple[Callable[[], None], Callable[[], None]]:
    image = np.random.default_rng(0).normal(size=(1, *IMAGE)).astype(np.float32)
    settings = {"overlap": OVERLAP}
    predictor = Predictor(model, settings, device="cpu", preparation={"z_score": "none"})

    def ours() -> None:
        predictor.segment(image, spacing_mm=1)

    @torch.inference_mode()
    def theirs() -> None:
        scores = sliding_window_inference(
            torch.from_numpy(image[None]), (WINDOW,) * 3, 1, module, OVERLAP, mode="gaussian"
        )
        scores.argmax(1).to(torch.uint8).numpy()

    return ours, theirs


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15, sys.argv[2:])
