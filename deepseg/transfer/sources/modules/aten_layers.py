"""Operations of ATen that are layers: convolution, normalisation, pooling, resizing."""

from __future__ import annotations

import torch

from deepseg.model.graph.graph import AttributeValue
from deepseg.transfer.sources.modules.aten_call import (
    AtenCall,
    Result,
    Translate,
    Translation,
    result,
)


def convolution(call: AtenCall) -> Translation:
    """Of one, two or three axes, with a border in voxels or one that keeps the size."""
    axes = call.meta("weight").ndim - 2
    dilation = call.integers("dilation", axes)
    kernel = call.meta("weight").shape[2:]
    padding = call.values["padding"]
    if padding == "same":
        total = [d * (int(k) - 1) for d, k in zip(dilation, kernel, strict=True)]
        pads = (*(n // 2 for n in total), *(n - n // 2 for n in total))
    else:
        border = (0,) * axes if padding == "valid" else call.integers("padding", axes)
        pads = (*border, *border)
    return result(
        "Conv",
        call.tensor("input"),
        call.tensor("weight"),
        call.tensor("bias"),
        strides=call.integers("stride", axes),
        pads=pads,
        dilations=dilation,
        group=int(call.values["groups"]),
    )


def transposed_convolution(call: AtenCall) -> Translation:
    """Of one, two or three axes."""
    axes = call.meta("weight").ndim - 2
    border = call.integers("padding", axes)
    return result(
        "ConvTranspose",
        call.tensor("input"),
        call.tensor("weight"),
        call.tensor("bias"),
        strides=call.integers("stride", axes),
        pads=(*border, *border),
        output_padding=call.integers("output_padding", axes),
        dilations=call.integers("dilation", axes),
        group=int(call.values["groups"]),
    )


def batch_normalisation(call: AtenCall) -> Translation:
    """By running statistics, which is how a module is traced."""
    if not call.is_given("running_mean") or call.values["training"]:
        return None
    return result(
        "BatchNormalization",
        call.tensor("input"),
        *_scale_and_shift(call),
        call.tensor("running_mean"),
        call.tensor("running_var"),
        epsilon=float(call.values["eps"]),
        momentum=1 - float(call.values["momentum"]),
    )


def instance_normalisation(call: AtenCall) -> Translation:
    """Of each map of each image; not by running statistics."""
    if not call.values["use_input_stats"]:
        return None
    scale, shift = _scale_and_shift(call)
    epsilon = float(call.values["eps"])
    return result("InstanceNormalization", call.tensor("input"), scale, shift, epsilon=epsilon)


def group_normalisation(call: AtenCall) -> Translation:
    """Of groups of maps."""
    return result(
        "GroupNormalization",
        call.tensor("input"),
        *_scale_and_shift(call),
        num_groups=int(call.values["num_groups"]),
        epsilon=float(call.values["eps"]),
    )


def layer_normalisation(call: AtenCall) -> Translation:
    """Over the last axes."""
    shape = call.integers("normalized_shape")
    scale = call.tensor("weight") or call.constant(torch.ones(shape))
    return result(
        "LayerNormalization",
        call.tensor("input"),
        scale,
        call.tensor("bias"),
        axis=-len(shape),
        epsilon=float(call.values["eps"]),
    )


def max_pooling(call: AtenCall) -> Translation:
    """Of a window along each of the last axes."""
    return _pooling(call, "MaxPool", dilations=call.integers("dilation", _axes(call)))


def average_pooling(call: AtenCall) -> Translation:
    """Of a window along each of the last axes."""
    if call.is_given("divisor_override"):
        return None
    return _pooling(call, "AveragePool", count_include_pad=int(call.values["count_include_pad"]))


def global_pooling(operator: str) -> Translate:
    """Of all voxels of a map."""

    def translate(call: AtenCall) -> Translation:
        is_global = set(call.integers("output_size")) == {1}
        return result(operator, call.tensor("self")) if is_global else None

    return translate


def resized(mode: str, coordinates: str) -> Translate:
    """Finer or coarser, by factors or to sizes.

    Args:
        mode: ``nearest`` or ``linear``.
        coordinates: How places are counted where corners are not aligned.
    """
    rounding = "floor" if coordinates == "asymmetric" else "round_prefer_ceil"

    def translate(call: AtenCall) -> Translation:
        x, count = call.tensor("input"), call.meta("input").ndim
        counting = "align_corners" if call.values.get("align_corners") else coordinates
        settings = {
            "mode": mode,
            "coordinate_transformation_mode": counting,
            "nearest_mode": rounding,
        }
        if call.is_given("scale_factors"):
            factors = [1.0, 1.0, *(float(n) for n in call.values["scale_factors"])]
            return Result("Resize", (x, "", call.constant(torch.tensor(factors))), settings)
        sizes = call.sizes(list(call.values["output_size"]))
        axes = tuple(range(2, count))
        return Result("Resize", (x, "", "", sizes), {**settings, "axes": axes})

    return translate


def _axes(call: AtenCall) -> int:
    return call.meta("self").ndim - 2


def _scale_and_shift(call: AtenCall) -> tuple[str, str]:
    """Weight and bias, or the constants that stand for none."""
    maps = int(call.meta("input").shape[1])
    scale = call.tensor("weight") or call.constant(torch.ones(maps))
    return scale, call.tensor("bias") or call.constant(torch.zeros(maps))


def _pooling(call: AtenCall, operator: str, **attributes: AttributeValue) -> Translation:
    axes = _axes(call)
    kernel = call.integers("kernel_size", axes)
    border = call.integers("padding", axes)
    stride = call.integers("stride", axes) if call.values["stride"] else kernel
    return result(
        operator,
        call.tensor("self"),
        kernel_shape=kernel,
        strides=stride,
        pads=(*border, *border),
        ceil_mode=int(call.values["ceil_mode"]),
        **attributes,
    )
