"""Small ONNX models for tests, and what onnxruntime computes of them."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

FREE = ["n", "c", "x", "y", "z"]


def model(nodes, inputs, outputs=("y",), *, weights=None, opset=17):
    """A ModelProto; ``inputs`` are shapes by name, ``weights`` arrays by name."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def write(path: Path, proto) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def by_onnxruntime(proto, images):
    """The outputs, as onnxruntime computes them without rewriting the graph."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    return [torch.from_numpy(a) for a in session.run(None, images)]


def export(network: nn.Module, image: torch.Tensor, path: Path, exporter: str) -> Path:
    """Write ``network`` with an exporter of torch: ``torchscript``, ``dynamo`` or ``static``."""
    network.eval()
    environment = dict(os.environ)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            if exporter == "torchscript":
                axes = dict(enumerate(FREE))
                axes.pop(1)
                torch.onnx.export(
                    network, (image,), path, dynamo=False, opset_version=17,
                    do_constant_folding=False, input_names=["image"], output_names=["scores"],
                    dynamic_axes={"image": axes},
                )  # fmt: skip
            else:
                free = dict.fromkeys((2, 3, 4), torch.export.Dim.DYNAMIC)
                torch.onnx.export(
                    network, (image,), path, dynamo=True, external_data=False, verbose=False,
                    dynamic_shapes=(free,) if exporter == "dynamo" else None,
                )  # fmt: skip
        finally:
            logging.disable(logging.NOTSET)
            os.environ.clear()
            os.environ.update(environment)
    return path


class UNet(nn.Module):
    """Two levels, strided and transposed convolutions, instance normalisation, leaky ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(
            [self.block(2, 5, 1), self.block(5, 7, 2), self.block(7, 8, 2)]
        )
        self.up = nn.ModuleList([nn.ConvTranspose3d(8, 7, 2, 2), nn.ConvTranspose3d(7, 5, 2, 2)])
        self.decoder = nn.ModuleList([self.block(14, 7, 1), self.block(10, 5, 1)])
        self.head = nn.Conv3d(5, 3, 1)

    @staticmethod
    def block(maps, more, stride):
        return nn.Sequential(
            nn.Conv3d(maps, more, 3, stride, 1),
            nn.InstanceNorm3d(more, affine=True),
            nn.LeakyReLU(0.01),
        )

    def forward(self, image):
        skips = []
        for block in self.encoder:
            image = block(image)
            skips.append(image)
        for up, block, skip in zip(self.up, self.decoder, reversed(skips[:-1]), strict=True):
            image = block(torch.cat([up(image), skip], 1))
        return self.head(image).softmax(1)


class Residual(nn.Module):
    """Batch normalisation, PReLU, pooling and a branch that is added; softmax at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(2, 6, 3, padding=1)
        self.norm1, self.norm2 = nn.BatchNorm3d(6), nn.BatchNorm3d(6)
        self.slope = nn.PReLU(6)
        self.conv = nn.Conv3d(6, 6, 3, padding=1, groups=2, bias=False)
        self.pool = nn.MaxPool3d(2)
        self.head = nn.Conv3d(6, 4, 1)

    def forward(self, image):
        x = self.norm1(self.stem(image))
        x = self.pool(x + self.norm2(self.conv(self.slope(x))))
        x = nn.functional.interpolate(self.head(x), scale_factor=2.0, mode="trilinear")
        return x.softmax(1)


class VNetLike(nn.Module):
    """Dilated and asymmetric convolutions, ELU, group normalisation, an average and a product."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv3d(2, 8, 2, 2)
        self.wide = nn.Conv3d(8, 8, (3, 5, 1), padding=(2, 4, 0), dilation=2)
        self.norm = nn.GroupNorm(4, 8)
        self.gate = nn.Conv3d(8, 8, 1)
        self.up = nn.ConvTranspose3d(8, 4, 3, 2, padding=1, output_padding=1)
        self.bypass = nn.Conv3d(2, 4, 1)

    def forward(self, image):
        x = nn.functional.elu(self.down(image))
        x = x + self.norm(self.wide(x))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3, 4), keepdim=True)))
        return self.up(x) + self.bypass(image)


NETWORKS = {"unet": UNet, "residual": Residual, "vnet": VNetLike}


def trained(name: str) -> nn.Module:
    """A network with weights and statistics that are not those it begins with, in eval mode."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(7)
        network = NETWORKS[name]()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
            if isinstance(module, nn.BatchNorm3d | nn.InstanceNorm3d | nn.GroupNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_()
    return network.eval()
