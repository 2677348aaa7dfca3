"""The network of a model of nnU-Net as a graph, from its plans and its weights.

Its two U-Nets, plain and with a residual encoder, are built node by node under their own names, so
that no package of nnU-Net is needed. Axes are X, Y, Z.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from deepseg.errors import DeepsegError
from deepseg.geometry.boxes import Int3
from deepseg.model.graph.graph import AttributeValue, Graph, GraphInput, GraphNode
from deepseg.transfer.sources.nnunet.folder import PLANS, NnunetFolder, damaged, refused

PLAIN, RESIDUAL = "PlainConvUNet", "ResidualEncoderUNet"
_OPSET = 21
_SLOPE = 0.01  # of torch's LeakyReLU
_OLD_NORM = {"eps": 1e-5, "affine": True}
_REPEATED = ("all_modules", "decoder.encoder")  # names by which nnU-Net stores tensors again


@dataclass(frozen=True)
class Architecture:
    """The layers of a U-Net of nnU-Net; sizes along X, Y, Z.

    Attributes:
        kind: ``PlainConvUNet`` or ``ResidualEncoderUNet``.
        maps: Of each stage.
        layers: Convolutions, or residual blocks, of each stage.
        decoder: Convolutions of each stage of the decoder, the coarsest first.
        slope: For negative values, behind every normalisation.
        normalisation: ``InstanceNormalization``, or ``BatchNormalization``.
    """

    kind: str
    maps: tuple[int, ...]
    kernels: tuple[Int3, ...]
    strides: tuple[Int3, ...]
    layers: tuple[int, ...]
    decoder: tuple[int, ...]
    slope: float
    normalisation: str
    epsilon: float


def nnunet_graph(model: NnunetFolder) -> Graph:
    """The network with its weights; its only output are the scores at full resolution.

    Raises:
        DeepsegError: ``nnunet-refused`` for another architecture than those two, or for weights
            that belong to another one; ``nnunet-damaged``.
    """
    builder = _Builder(architecture(model), _turned(model.weights(), model.axes))
    try:
        builder.build()
    except KeyError as error:
        raise _unfitting(model, f"no tensor {error.args[0]}") from error
    unused = [name for name in builder.weights if name not in builder.used]
    unused = [name for name in unused if "seg_layers" not in name]  # of deep supervision
    if unused:
        raise _unfitting(model, f"a tensor {unused[0]}")
    image = GraphInput("image", (None, len(model.channels), None, None, None))
    weights = {name: builder.weights[name] for name in builder.used}
    return Graph(tuple(builder.nodes), (image,), (builder.output,), weights, {}, _OPSET)


def architecture(model: NnunetFolder) -> Architecture:
    """The layers that the plans of a model describe."""
    entry = model.configuration.get("architecture")
    if isinstance(entry, dict):
        name, arguments = str(entry.get("network_class_name")), entry.get("arch_kwargs", {})
    else:
        name, arguments = _of_old_plans(model)
    kind = name.rpartition(".")[2]
    reason = _refusal(kind, arguments)
    if reason is not None:
        raise refused(
            reason,
            f"{PLAIN} or {RESIDUAL} as nnU-Net plans them",
            "build the network with module, and its weights with weights, as an imported pathway",
            model.folder / PLANS,
        )
    try:
        return _architecture(model, kind, arguments)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise damaged(f"an architecture without {error}", model.folder / PLANS) from error


def _architecture(model: NnunetFolder, kind: str, arguments: Mapping[str, Any]) -> Architecture:
    stages = int(arguments["n_stages"])
    norm = arguments.get("norm_op_kwargs") or {}
    is_batch = "BatchNorm" in str(arguments["norm_op"])
    slope = (arguments.get("nonlin_kwargs") or {}).get("negative_slope", _SLOPE)
    layers = arguments["n_conv_per_stage" if kind == PLAIN else "n_blocks_per_stage"]
    return Architecture(
        kind=kind,
        maps=_per_stage(arguments["features_per_stage"], stages),
        kernels=tuple(model.along_axes(_triple(n)) for n in arguments["kernel_sizes"]),
        strides=tuple(model.along_axes(_triple(n)) for n in arguments["strides"]),
        layers=_per_stage(layers, stages),
        decoder=_per_stage(arguments["n_conv_per_stage_decoder"], stages - 1),
        slope=0.0 if str(arguments["nonlin"]).endswith(".ReLU") else float(slope),
        normalisation="BatchNormalization" if is_batch else "InstanceNormalization",
        epsilon=float(norm.get("eps", 1e-5)),
    )


def _of_old_plans(model: NnunetFolder) -> tuple[str, Mapping[str, Any]]:
    """Class and arguments as plans had them before nnU-Net 2.3."""
    plans = model.configuration
    try:
        kernels, base = plans["conv_kernel_sizes"], int(plans["UNet_base_num_features"])
        most = int(plans["unet_max_num_features"])
        arguments = {
            "n_stages": len(kernels),
            "features_per_stage": [min(base * 2**n, most) for n in range(len(kernels))],
            "kernel_sizes": kernels,
            "strides": plans["pool_op_kernel_sizes"],
            "n_conv_per_stage": plans["n_conv_per_stage_encoder"],
            "n_blocks_per_stage": plans["n_conv_per_stage_encoder"],
            "n_conv_per_stage_decoder": plans["n_conv_per_stage_decoder"],
            "norm_op": "torch.nn.InstanceNorm3d",
            "norm_op_kwargs": _OLD_NORM,
            "nonlin": "torch.nn.LeakyReLU",
        }
        return str(plans["UNet_class_name"]), arguments
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(f"an architecture without {error}", model.folder / PLANS) from error


def _refusal(kind: str, arguments: Mapping[str, Any]) -> str | None:
    if kind not in (PLAIN, RESIDUAL):
        return f"architecture {kind}"
    if not str(arguments.get("norm_op")).endswith(("InstanceNorm3d", "BatchNorm3d")):
        return f"normalisation {arguments.get('norm_op')}"
    if not (arguments.get("norm_op_kwargs") or {}).get("affine", True):
        return "normalisation without weights"
    if not str(arguments.get("nonlin")).endswith((".LeakyReLU", ".ReLU")):
        return f"activation {arguments.get('nonlin')}"
    if arguments.get("dropout_op") is not None:
        return f"dropout {arguments['dropout_op']}"
    if arguments.get("nonlin_first") or arguments.get("bottleneck_channels"):
        return "layers in another order, or bottlenecks"
    if str(arguments.get("block", "BasicBlockD")).rpartition(".")[2] != "BasicBlockD":
        return f"blocks of kind {arguments['block']}"
    return None


def _turned(weights: Mapping[str, Tensor], axes: Int3) -> dict[str, Tensor]:
    """The tensors with kernels along X, Y, Z, each once."""
    order = (0, 1, *(2 + axis for axis in axes))
    return {
        name: value.permute(order).contiguous() if value.ndim == 5 else value
        for name, value in weights.items()
        if not any(word in name for word in _REPEATED) and not name.endswith("num_batches_tracked")
    }


def _per_stage(value: int | Sequence[int], count: int) -> tuple[int, ...]:
    values = (value,) * count if isinstance(value, int) else tuple(int(n) for n in value)
    if len(values) != count:
        raise ValueError(f"{count} stages")
    return values


def _triple(value: int | Sequence[int]) -> list[int]:
    return [value] * 3 if isinstance(value, int) else [int(n) for n in value]


def _unfitting(model: NnunetFolder, got: str) -> DeepsegError:
    return refused(
        f"{got} in {model.checkpoint.name}",
        "the tensors of the network in plans.json",
        "give the plans with which it was trained; a trainer that changes the network is not known",
        model.folder,
    )


@dataclass
class _Builder:
    """The nodes of a U-Net, one after the other.

    Attributes:
        plan: The layers.
        weights: By name.
        nodes: So far.
        used: Names of weights that nodes read.
        output: The last tensor.
    """

    plan: Architecture
    weights: Mapping[str, Tensor]
    nodes: list[GraphNode] = field(default_factory=list)
    used: list[str] = field(default_factory=list)
    output: str = "image"

    def build(self) -> None:
        """Add all nodes."""
        x, skips = "image", []
        if self.plan.kind == RESIDUAL:
            x = self.layer("encoder.stem.convs.0", x, self.plan.kernels[0], (1, 1, 1))
        for number in range(len(self.plan.maps)):
            x = self.stage(number, x)
            skips.append(x)
        for number, skip in enumerate(reversed(skips[:-1])):
            name = f"decoder.transpconvs.{number}"
            x = self.convolution(name, x, self.plan.strides[-1 - number], is_transposed=True)
            x = self.add("Concat", [x, skip], f"decoder.stages.{number}", "concat", axis=1)
            kernel = self.plan.kernels[-2 - number]
            for layer in range(self.plan.decoder[number]):
                x = self.layer(f"decoder.stages.{number}.convs.{layer}", x, kernel, (1, 1, 1))
        last = f"decoder.seg_layers.{len(skips) - 2}"
        self.output = self.convolution(last, x, (1, 1, 1))

    def stage(self, number: int, x: str) -> str:
        """A stage of the encoder."""
        kernel, name = self.plan.kernels[number], f"encoder.stages.{number}"
        for layer in range(self.plan.layers[number]):
            stride = self.plan.strides[number] if layer == 0 else (1, 1, 1)
            if self.plan.kind == PLAIN:
                x = self.layer(f"{name}.0.convs.{layer}", x, kernel, stride)
            else:
                x = self.block(f"{name}.blocks.{layer}", x, kernel, stride)
        return x

    def block(self, name: str, x: str, kernel: Int3, stride: Int3) -> str:
        """A residual block; its bypass is pooled and projected where sizes or maps change."""
        y = self.layer(f"{name}.conv1", x, kernel, stride)
        y = self.layer(f"{name}.conv2", y, kernel, (1, 1, 1), is_activated=False)
        place = 0
        if stride != (1, 1, 1):
            settings: dict[str, AttributeValue] = {"kernel_shape": stride, "strides": stride}
            x = self.add("AveragePool", [x], f"{name}.skip.0", "pool", **settings)
            place = 1
        if f"{name}.skip.{place}.conv.weight" in self.weights:
            skip = f"{name}.skip.{place}"
            x = self.layer(skip, x, (1, 1, 1), (1, 1, 1), is_activated=False)
        total = self.add("Add", [y, x], name, "sum")
        return self.activation(total, name)

    def layer(
        self, name: str, x: str, kernel: Int3, stride: Int3, *, is_activated: bool = True
    ) -> str:
        """Convolution, normalisation and, mostly, activation."""
        border = tuple((n - 1) // 2 for n in kernel)
        x = self.convolution(f"{name}.conv", x, stride, border=(*border, *border))
        norm = self.plan.normalisation
        inputs = [x, self.weight(f"{name}.norm.weight"), self.weight(f"{name}.norm.bias")]
        if norm == "BatchNormalization":
            inputs += [self.weight(f"{name}.norm.running_{key}") for key in ("mean", "var")]
        x = self.add(norm, inputs, f"{name}.norm", "norm", epsilon=self.plan.epsilon)
        return self.activation(x, name) if is_activated else x

    def activation(self, x: str, scope: str) -> str:
        """Leaky ReLU, or ReLU where the slope is 0."""
        if self.plan.slope == 0:
            return self.add("Relu", [x], scope, "nonlin")
        return self.add("LeakyRelu", [x], scope, "nonlin", alpha=self.plan.slope)

    def convolution(
        self,
        name: str,
        x: str,
        stride: Int3,
        *,
        border: tuple[int, ...] = (0,) * 6,
        is_transposed: bool = False,
    ) -> str:
        """A convolution with or without bias."""
        inputs = [x, self.weight(f"{name}.weight")]
        if f"{name}.bias" in self.weights:
            inputs.append(self.weight(f"{name}.bias"))
        operator = "ConvTranspose" if is_transposed else "Conv"
        return self.add(operator, inputs, name, "out", strides=stride, pads=border)

    def weight(self, name: str) -> str:
        """The name of a tensor of the checkpoint, which is noted as used."""
        _ = self.weights[name]
        self.used.append(name)
        return name

    def add(
        self,
        operator: str,
        inputs: Sequence[str],
        scope: str,
        leaf: str,
        **settings: AttributeValue,
    ) -> str:
        """Add a node; the name of its output."""
        output = f"{scope}.{leaf}"
        self.nodes.append(GraphNode(operator, tuple(inputs), (output,), settings, scope=scope))
        return output
