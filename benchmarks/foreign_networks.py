"""Networks of MONAI and of our own, imported through both exporters of torch and as modules.

    python benchmarks/foreign_networks.py [NAME …]

For each network and way a row of a markdown table: largest difference to the original at the size
of the export and at another one, parameters that learn, of all that its scores depend on, seconds
to find the geometry, receptive field, and the time of a training step as a share of the
original's, the median of pairs that take turns. Needs ``pip install monai onnx onnxscript``.
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
from monai.networks.nets import BasicUNet, DynUNet, SegResNet, UNet, VNet, resnet10
from torch import Tensor, nn

from deepseg.config.model import ModelConfig
from deepseg.errors import DeepsegError
from deepseg.geometry.boxes import text
from deepseg.model.graph.geometry import graph_geometry
from deepseg.model.graph.network import GraphNetwork
from deepseg.model.network import Network
from deepseg.transfer.sources.modules.module_graph import graph_of_module
from deepseg.transfer.sources.onnx_file import read_onnx


class Own(nn.Module):
    """A network of our own as a module that reads one image."""

    def __init__(self, **settings: object) -> None:
        super().__init__()
        values = {"channels": ["T1"], "classes": ["a", "b", "c"], "segments": {"train": 25}}
        config = ModelConfig.model_validate(values | settings)
        self.network = Network(config, rng=torch.Generator().manual_seed(0))

    def forward(self, image: Tensor) -> Tensor:
        return self.network([image])


OWN = {"normal": {"feature_maps": [8, 8, 10], "residuals": [3]}, "fc": {"feature_maps": [12]}}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "UNet": lambda: UNet(3, 1, 3, (8, 16, 32), (2, 2), num_res_units=2, norm="BATCH"),
    "DynUNet": lambda: DynUNet(3, 1, 3, [3] * 4, [1, 2, 2, 2], [2] * 3, filters=[8, 16, 32, 64]),
    "SegResNet": lambda: SegResNet(3, 8, 1, 3),
    "BasicUNet": lambda: BasicUNet(3, 1, 3, (8, 8, 16, 16, 32, 8)),
    "VNet": lambda: VNet(3, 1, 3),
    "resnet10": lambda: resnet10(spatial_dims=3, n_input_channels=1, num_classes=3),
    "our own": lambda: Own(**OWN),
}
WAYS = ("torchscript", "dynamo", "dynamo, fixed size", "module")
SIZE, OTHER_SIZE = (1, 1, 32, 32, 32), (1, 1, 48, 64, 32)
TURNS = 5


def main(names: list[str]) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print("| network | way | same size | other size | learn | geometry | step | sees |")
    print("|---|---|---|---|---|---|---|---|")
    for name in names or NETWORKS:
        original = NETWORKS[name]().eval()
        for way in WAYS:
            print(f"| {name} | {way} | {row(original, way)} |", flush=True)


def row(original: nn.Module, way: str) -> str:
    try:
        network = imported(original, way)
        same = f"{difference(network, original, SIZE):.1e}"
    except DeepsegError as error:
        problem = error.problems[0]
        return f"refused: {problem.code}, {problem.got.replace('|', ' ')} | | | | |"
    except Exception as error:  # of the exporter
        return f"not exported: {type(error).__name__} | | | | |"
    try:
        start = time.perf_counter()
        geometry = graph_geometry(network.program)
        seconds = f"{time.perf_counter() - start:.1f} s"
        field = geometry.outputs[0].receptive_field
        extent = "the whole image" if field is None else text(field)
    except DeepsegError as error:
        seconds, extent = "-", error.problems[0].got
    learning = sum(p.numel() for p in network.parameters())
    return (
        f"{same} | {other(network, original)} | {learning:,}/{needed(original):,} | {seconds} | "
        f"{step_share(network, original):.2f} | {extent}"
    )


def imported(original: nn.Module, way: str) -> GraphNetwork:
    if way == "module":
        return GraphNetwork(graph_of_module(original), drops_softmax=False).eval()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "m.onnx"
        export(original, file, way)
        return GraphNetwork(read_onnx(file), drops_softmax=False).eval()


def needed(original: nn.Module) -> int:
    """Parameters on which the scores depend."""
    original.zero_grad()
    scores(original, torch.randn(SIZE)).square().mean().backward()
    count = sum(p.numel() for p in original.parameters() if p.grad is not None)
    original.zero_grad()
    return count


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
