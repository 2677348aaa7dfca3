"""Networks of MONAI, exported by both exporters of torch and imported again.

    python benchmarks/foreign_networks.py [NAME …]

For each network and exporter a row: largest difference to the original at the size of the export
and at another one, parameters, seconds to find the geometry, receptive field, and the time of a
training step as a share of the original's, the median of pairs that take turns. Needs
``pip install monai onnx onnxscript``.
"""

from __future__ import annotations

import contextlib
import io
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from monai.networks.nets import BasicUNet, DynUNet, SegResNet, UNet, VNet
from torch import Tensor, nn

from deepseg.errors import DeepsegError
from deepseg.geometry.boxes import text
from deepseg.model.graph.geometry import graph_geometry
from deepseg.model.graph.network import GraphNetwork
from deepseg.transfer.sources.onnx_file import read_onnx

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "UNet": lambda: UNet(3, 1, 3, (8, 16, 32), (2, 2), num_res_units=2, norm="BATCH"),
    "DynUNet": lambda: DynUNet(3, 1, 3, [3] * 4, [1, 2, 2, 2], [2] * 3, filters=[8, 16, 32, 64]),
    "SegResNet": lambda: SegResNet(3, 8, 1, 3),
    "BasicUNet": lambda: BasicUNet(3, 1, 3, (8, 8, 16, 16, 32, 8)),
    "VNet": lambda: VNet(3, 1, 3),
}
EXPORTERS = ("torchscript", "dynamo", "dynamo, fixed size")
SIZE, OTHER_SIZE = (1, 1, 32, 32, 32), (1, 1, 48, 64, 32)
TURNS = 7


def main(names: list[str]) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(f"{'network':10} {'exporter':19} {'same size':>9} {'other':>8} {'parameters':>19} "
          f"{'geometry':>8} {'step':>5}  receptive field")  # fmt: skip
    for name in names or NETWORKS:
        original = NETWORKS[name]().eval()
        for exporter in EXPORTERS:
            print(f"{name:10} {exporter:19} {row(original, exporter)}", flush=True)


def row(original: nn.Module, exporter: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "m.onnx"
        export(original, file, exporter)
        network = GraphNetwork(read_onnx(file)).eval()
    counts = [sum(p.numel() for p in m.parameters()) for m in (network, original)]
    try:
        start = time.perf_counter()
        geometry = graph_geometry(network.program)
        seconds = f"{time.perf_counter() - start:6.1f} s"
        field = geometry.outputs[0].receptive_field
        extent = "the whole image" if field is None else text(field)
    except DeepsegError as error:
        seconds, extent = "-", error.problems[0].got
    return (
        f"{difference(network, original, SIZE):9.1e} {other(network, original):>8} "
        f"{counts[0]:9,}/{counts[1]:9,} {seconds:>8} {step_share(network, original):5.2f}  {extent}"
    )


def export(network: nn.Module, file: Path, exporter: str) -> None:
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        image = torch.zeros(SIZE)
        if exporter == "torchscript":
            torch.onnx.export(
                network, (image,), file, dynamo=False, opset_version=17,
                do_constant_folding=False, input_names=["image"],
                dynamic_axes={"image": {0: "n", 2: "x", 3: "y", 4: "z"}},
            )  # fmt: skip
            return
        free = dict.fromkeys((2, 3, 4), torch.export.Dim.DYNAMIC)
        shapes = (free,) if exporter == "dynamo" else None
        torch.onnx.export(
            network, (image,), file, dynamo=True, external_data=False, verbose=False,
            dynamic_shapes=shapes,
        )  # fmt: skip


@torch.no_grad()
def difference(network: nn.Module, original: nn.Module, size: tuple[int, ...]) -> float:
    image = torch.randn(size)
    return float((scores(network, image) - scores(original, image)).abs().max())


def other(network: nn.Module, original: nn.Module) -> str:
    try:
        return f"{difference(network, original, OTHER_SIZE):.1e}"
    except RuntimeError:
        return "pinned"


def scores(network: nn.Module, image: Tensor) -> Tensor:
    result = network(image)
    return result[0] if isinstance(result, tuple) else result


def step_share(network: nn.Module, original: nn.Module) -> float:
    """Time of a training step of the imported network as a share of the original's."""
    image = torch.randn(SIZE)
    pairs = [[seconds(module, image) for module in (network, original)] for _ in range(TURNS)]
    for module in (network, original):
        module.zero_grad()
        module.eval()
    return statistics.median(a / b for a, b in pairs)


def seconds(module: nn.Module, image: Tensor) -> float:
    module.eval()  # statistics stay as they are, so that outputs remain comparable
    start = time.perf_counter()
    module.zero_grad()
    scores(module, image).square().mean().backward()
    return time.perf_counter() - start


if __name__ == "__main__":
    main(sys.argv[1:])
