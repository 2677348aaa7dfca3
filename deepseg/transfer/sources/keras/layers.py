"""Classes of layers of Keras as operators of a graph.

A class that stands here is computed as TensorFlow computes it, "same" padding with strides
included. Others, Lambda and custom objects among them, are never run: they stay in the graph as
nodes that can only be cut off.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch

from deepseg.transfer.sources.keras.builder import Facts, LayerCall, UnsupportedLayerError

Function: TypeAlias = Callable[[LayerCall, str], str]
Handler: TypeAlias = Callable[[LayerCall], str]

_KERNEL = (4, 3, 0, 1, 2)  # (X, Y, Z, C, F) as (F, C, X, Y, Z)
_LAST = (0, 2, 3, 4, 1)  # (N, C, X, Y, Z) as (N, X, Y, Z, C)
_FIRST = (0, 4, 1, 2, 3)
_PADDINGS = {"valid": "VALID", "same": "SAME_UPPER"}
_SIZE_DEPENDS = "a result that depends on the size of the image"


def _function(operator: str, **attributes: float) -> Function:
    return lambda call, x: call.node(operator, x, **attributes)


def _softmax(call: LayerCall, x: str) -> str:
    return call.node("Softmax", x, axis=1)


def _silu(call: LayerCall, x: str) -> str:
    return call.node("Mul", x, call.node("Sigmoid", x))


def _relu6(call: LayerCall, x: str) -> str:
    return _clipped(call, x, 6.0)


def _clipped(call: LayerCall, x: str, most: float) -> str:
    low = call.constant("least", torch.tensor(0.0))
    return call.node("Clip", x, low, call.constant("most", torch.tensor(most)))


def _hard_sigmoid(call: LayerCall, x: str) -> str:
    return call.node("HardSigmoid", x, alpha=0.2 if call.layer.is_legacy else 1 / 6, beta=0.5)


FUNCTIONS: dict[str, Function] = {
    "linear": lambda _, x: x,
    "relu": _function("Relu"),
    "relu6": _relu6,
    "leaky_relu": _function("LeakyRelu", alpha=0.2),
    "elu": _function("Elu", alpha=1.0),
    "selu": _function("Selu"),
    "celu": _function("Celu", alpha=1.0),
    "gelu": _function("Gelu"),
    "sigmoid": _function("Sigmoid"),
    "tanh": _function("Tanh"),
    "softplus": _function("Softplus"),
    "softsign": _function("Softsign"),
    "mish": _function("Mish"),
    "exponential": _function("Exp"),
    "hard_sigmoid": _hard_sigmoid,
    "silu": _silu,
    "swish": _silu,
    "softmax": _softmax,
    "log_softmax": lambda call, x: call.node("LogSoftmax", x, axis=1),
}


def _activated(call: LayerCall, x: str) -> str:
    """The activation that a layer has among its settings."""
    value = call.layer.settings.get("activation") or "linear"
    if isinstance(value, dict):  # Keras 3 wraps functions that it knows
        value = value.get("config")
    function = FUNCTIONS.get(value) if isinstance(value, str) else None
    if function is None:
        raise UnsupportedLayerError(f"activation {str(value)[:40]}")
    return function(call, x)


def _padding(call: LayerCall) -> str:
    word = call.layer.word("padding", "valid")
    if word not in _PADDINGS:
        raise UnsupportedLayerError(f"padding {word}")
    return _PADDINGS[word]


def _image(call: LayerCall) -> None:
    """Refuse anything but an image of three axes, such as the result of Flatten."""
    if not call.facts.is_image:
        raise UnsupportedLayerError("an input that is no image")


def _with_bias(call: LayerCall, filters: int) -> list[str]:
    return [call.weight("bias", (filters,))] if call.layer.flag("use_bias", default=True) else []


def _convolution(call: LayerCall) -> str:
    _image(call)
    layer = call.layer
    filters, groups = layer.integer("filters", 0), layer.integer("groups", 1)
    kernel = layer.triple("kernel_size")
    if filters < 1 or groups < 1 or call.maps % groups:
        raise UnsupportedLayerError(f"{groups} groups of {call.maps} channels")
    weight = call.weight("weight", (*kernel, call.maps // groups, filters), _KERNEL)
    y = call.node(
        "Conv",
        call.inputs[0],
        weight,
        *_with_bias(call, filters),
        auto_pad=_padding(call),
        strides=layer.triple("strides"),
        dilations=layer.triple("dilation_rate"),
        group=groups,
    )
    return call.give_back(_activated(call, y), Facts(filters))


def _transposed(call: LayerCall) -> str:
    _image(call)
    layer = call.layer
    filters, groups = layer.integer("filters", 0), layer.integer("groups", 1)
    kernel, strides = layer.triple("kernel_size"), layer.triple("strides")
    dilations = layer.triple("dilation_rate")
    extra = layer.settings.get("output_padding")
    if groups != 1:
        raise UnsupportedLayerError(f"{groups} groups")
    is_same = _padding(call) == "SAME_UPPER"
    borders = [
        transposed_border((k - 1) * d + 1, s, is_same=is_same, extra=n)
        for k, d, s, n in zip(
            kernel,
            dilations,
            strides,
            (None,) * 3 if extra is None else layer.triple("output_padding"),
            strict=True,
        )
    ]
    weight = call.weight("weight", (*kernel, filters, call.maps), _KERNEL)
    y = call.node(
        "ConvTranspose",
        call.inputs[0],
        weight,
        *_with_bias(call, filters),
        strides=strides,
        dilations=dilations,
        pads=(*(low for low, _ in borders), *(max(high, 0) for _, high in borders)),
        output_padding=tuple(max(-high, 0) for _, high in borders),
    )
    return call.give_back(_activated(call, y), Facts(filters))


def transposed_border(
    span: int, stride: int, *, is_same: bool, extra: int | None = None
) -> tuple[int, int]:
    """Voxels that are taken off before and after the result of a transposed convolution.

    Args:
        span: Voxels from the first to the last of the kernel.
        stride: Of the layer.
        is_same: With "same" padding; otherwise "valid".
        extra: ``output_padding``, where it is set.

    A kernel of 3 with stride 2 makes 2 n + 1 voxels of n, of which the last goes, as in TensorFlow;
    one of 2 with stride 3 leaves a voxel between, which is added after the last.

    >>> transposed_border(3, 2, is_same=True)
    (0, 1)
    >>> transposed_border(2, 3, is_same=False)
    (0, -1)
    """
    if is_same:
        total = span + stride - 2 if extra is None else span + span % 2 - 2 + extra
        low = min(-(-total // 2), span - 1)
        return span - 1 - low, span - 1 - (total - low)
    return 0, span - max(span, stride) if extra is None else -extra


def _pooling(operator: str) -> Handler:
    def pool(call: LayerCall) -> str:
        _image(call)
        size = call.layer.triple("pool_size", (2, 2, 2))
        y = call.node(
            operator,
            call.inputs[0],
            kernel_shape=size,
            strides=call.layer.triple("strides", size),
            auto_pad=_padding(call),
        )
        return call.give_back(y, call.facts)

    return pool


def _global_pooling(operator: str) -> Handler:
    def pool(call: LayerCall) -> str:
        _image(call)
        y = call.node(operator, call.inputs[0])
        if call.layer.flag("keepdims", default=False):
            return call.give_back(y, call.facts)
        return call.give_back(call.node("Flatten", y, axis=1), Facts(call.facts.maps, False))

    return pool


def _upsampling(call: LayerCall) -> str:
    _image(call)
    scales = [1.0, 1.0, *map(float, call.layer.triple("size", (2, 2, 2)))]
    y = call.node(
        "Resize",
        call.inputs[0],
        "",
        call.constant("scales", torch.tensor(scales)),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    return call.give_back(y, call.facts)


def _zero_padding(call: LayerCall) -> str:
    _image(call)
    pairs = call.layer.pairs("padding")
    pads = [0, 0, *(low for low, _ in pairs), 0, 0, *(high for _, high in pairs)]
    y = call.node("Pad", call.inputs[0], call.constant("pads", torch.tensor(pads)))
    return call.give_back(y, call.facts)


def _cropping(call: LayerCall) -> str:
    _image(call)
    pairs = call.layer.pairs("cropping")
    ends = [-high if high else (1 << 62) for _, high in pairs]
    y = call.node(
        "Slice",
        call.inputs[0],
        call.constant("starts", torch.tensor([low for low, _ in pairs])),
        call.constant("ends", torch.tensor(ends)),
        call.constant("axes", torch.tensor([2, 3, 4])),
    )
    return call.give_back(y, call.facts)


def _scale_and_shift(call: LayerCall, count: int) -> tuple[str, str]:
    """Weights of a normalisation, or constants where it has none."""
    has_scale, has_shift = (call.layer.flag(key, default=True) for key in ("scale", "center"))
    scale = (
        call.weight("weight", (count,)) if has_scale else call.constant("scale", torch.ones(count))
    )
    shift = (
        call.weight("bias", (count,)) if has_shift else call.constant("shift", torch.zeros(count))
    )
    return scale, shift


def _over_channels(call: LayerCall) -> None:
    axis = call.layer.axis("axis")
    if axis != 1:
        raise UnsupportedLayerError(f"axis {call.layer.settings.get('axis')}")


def _batch_norm(call: LayerCall) -> str:
    _image(call)
    _over_channels(call)
    scale, shift = _scale_and_shift(call, call.maps)
    y = call.node(
        "BatchNormalization",
        call.inputs[0],
        scale,
        shift,
        call.weight("running_mean", (call.maps,)),
        call.weight("running_var", (call.maps,)),
        epsilon=call.layer.number("epsilon", 1e-3),
        momentum=call.layer.number("momentum", 0.99),
    )
    return call.give_back(y, call.facts)


def _group_norm(call: LayerCall) -> str:
    _image(call)
    _over_channels(call)
    groups = call.layer.integer("groups", 32)
    scale, shift = _scale_and_shift(call, call.maps)
    epsilon = call.layer.number("epsilon", 1e-3)
    if groups in (-1, call.maps):
        y = call.node("InstanceNormalization", call.inputs[0], scale, shift, epsilon=epsilon)
    else:
        y = call.node(
            "GroupNormalization",
            call.inputs[0],
            scale,
            shift,
            epsilon=epsilon,
            num_groups=groups,
        )
    return call.give_back(y, call.facts)


def _layer_norm(call: LayerCall) -> str:
    """Over the channels of each voxel, for which these have to come last."""
    _image(call)
    _over_channels(call)
    if call.layer.flag("rms_scaling", default=False):
        raise UnsupportedLayerError("rms_scaling")
    scale, shift = _scale_and_shift(call, call.maps)
    x = call.node("Transpose", call.inputs[0], perm=_LAST)
    epsilon = call.layer.number("epsilon", 1e-3)
    x = call.node("LayerNormalization", x, scale, shift, axis=-1, epsilon=epsilon)
    return call.give_back(call.node("Transpose", x, perm=_FIRST), call.facts)


def _activation(call: LayerCall) -> str:
    y = _activated(call, call.inputs[0])
    return _identity(call) if y == call.inputs[0] else call.give_back(y, call.facts)


def _relu(call: LayerCall) -> str:
    slope, threshold = (call.layer.number(key, 0.0) for key in ("negative_slope", "threshold"))
    most = call.layer.settings.get("max_value")
    if threshold or (slope and most is not None):
        raise UnsupportedLayerError("threshold, or negative_slope with max_value")
    if slope:
        y = call.node("LeakyRelu", call.inputs[0], alpha=slope)
    elif most is not None:
        y = _clipped(call, call.inputs[0], call.layer.number("max_value", 0.0))
    else:
        y = call.node("Relu", call.inputs[0])
    return call.give_back(y, call.facts)


def _leaky_relu(call: LayerCall) -> str:
    key = "alpha" if "alpha" in call.layer.settings else "negative_slope"
    slope = call.layer.number(key, 0.3)
    return call.give_back(call.node("LeakyRelu", call.inputs[0], alpha=slope), call.facts)


def _elu(call: LayerCall) -> str:
    alpha = call.layer.number("alpha", 1.0)
    return call.give_back(call.node("Elu", call.inputs[0], alpha=alpha), call.facts)


def _parametric_relu(call: LayerCall) -> str:
    _image(call)
    shared = sorted(call.layer.settings.get("shared_axes") or ())
    spatial = [2, 3, 4] if call.layer.channels_first else [1, 2, 3]
    shape = (call.maps, 1, 1, 1) if call.layer.channels_first else (1, 1, 1, call.maps)
    if shared not in (spatial, [1, 2, 3, 4]):
        raise UnsupportedLayerError(_SIZE_DEPENDS)
    if shared == [1, 2, 3, 4]:
        shape = (1, 1, 1, 1)
    order = () if call.layer.channels_first else (3, 0, 1, 2)
    slopes = call.weight("weight", shape, order)
    return call.give_back(call.node("PRelu", call.inputs[0], slopes), call.facts)


def _softmax_layer(call: LayerCall) -> str:
    axis = call.layer.axis("axis") if call.facts.is_image else 1
    return call.give_back(call.node("Softmax", call.inputs[0], axis=axis), call.facts)


def _dropout(call: LayerCall, *, whole_maps: bool) -> str:
    rate = call.constant("ratio", torch.tensor(call.layer.number("rate", 0.5)))
    settings = {"whole_maps": 1} if whole_maps else {}
    return call.give_back(call.node("Dropout", call.inputs[0], rate, **settings), call.facts)


def _identity(call: LayerCall) -> str:
    return call.give_back(call.node("Identity", call.inputs[0]), call.facts)


def _merged(operator: str) -> Handler:
    def merge(call: LayerCall) -> str:
        first, *further = call.inputs
        if not further or (operator == "Sub" and len(further) != 1):
            raise UnsupportedLayerError(f"{len(call.inputs)} inputs")
        maps = [facts.maps for facts in call.all_facts]
        total = max((n for n in maps if n is not None), default=None) if None not in maps else None
        facts = Facts(total, any(facts.is_image for facts in call.all_facts))
        if operator in ("Sum", "Mean", "Max", "Min"):
            return call.give_back(call.node(operator, *call.inputs), facts)
        for other in further:
            first = call.node(operator, first, other)
        return call.give_back(first, facts)

    return merge


def _rescaling(call: LayerCall) -> str:
    scale, offset = call.layer.number("scale", 1.0), call.layer.number("offset", 0.0)
    y = call.node("Mul", call.inputs[0], call.constant("scale", torch.tensor(scale)))
    y = call.node("Add", y, call.constant("offset", torch.tensor(offset)))
    return call.give_back(y, call.facts)


def _flatten(call: LayerCall) -> str:
    _image(call)
    x = call.inputs[0]
    if not call.layer.channels_first:
        x = call.node("Transpose", x, perm=_LAST)
    return call.give_back(call.node("Flatten", x, axis=1), Facts(None, is_image=False))


def _dense(call: LayerCall) -> str:
    """A convolution of single voxels, or a matrix where the image has been flattened."""
    units = call.layer.integer("units", 0)
    if call.facts.is_image:
        if call.layer.channels_first:
            raise UnsupportedLayerError("channels in front")
        kernel = call.weight("weight", (call.maps, units), (1, 0), voxels=1)
        y = call.node("Conv", call.inputs[0], kernel, *_with_bias(call, units))
    else:
        arrays = call.layer.arrays
        inputs = call.facts.maps if not arrays else math.prod(arrays[0].shape[:1])
        if inputs is None:
            raise UnsupportedLayerError(_SIZE_DEPENDS)
        weights = [call.weight("weight", (inputs, units), (1, 0)), *_with_bias(call, units)]
        y = call.node("Gemm", call.inputs[0], *weights, transB=1)
    return call.give_back(_activated(call, y), Facts(units, call.facts.is_image))


def _concatenated(call: LayerCall) -> str:
    axis = call.layer.axis("axis")
    y = call.node("Concat", *call.inputs, axis=axis)
    maps = [facts.maps for facts in call.all_facts if facts.maps is not None]
    total = sum(maps) if len(maps) == len(call.inputs) else None
    return call.give_back(y, Facts(total if axis == 1 else call.facts.maps, call.facts.is_image))


HANDLERS: dict[str, Handler] = {
    "Conv3D": _convolution,
    "Convolution3D": _convolution,
    "Conv3DTranspose": _transposed,
    "Convolution3DTranspose": _transposed,
    "MaxPooling3D": _pooling("MaxPool"),
    "MaxPool3D": _pooling("MaxPool"),
    "AveragePooling3D": _pooling("AveragePool"),
    "AvgPool3D": _pooling("AveragePool"),
    "GlobalAveragePooling3D": _global_pooling("GlobalAveragePool"),
    "GlobalMaxPooling3D": _global_pooling("GlobalMaxPool"),
    "UpSampling3D": _upsampling,
    "ZeroPadding3D": _zero_padding,
    "Cropping3D": _cropping,
    "BatchNormalization": _batch_norm,
    "SyncBatchNormalization": _batch_norm,
    "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    "Activation": _activation,
    "ReLU": _relu,
    "LeakyReLU": _leaky_relu,
    "ELU": _elu,
    "PReLU": _parametric_relu,
    "Softmax": _softmax_layer,
    "Dropout": partial(_dropout, whole_maps=False),
    "SpatialDropout3D": partial(_dropout, whole_maps=True),
    "Identity": _identity,
    "ActivityRegularization": _identity,
    "Add": _merged("Sum"),
    "Subtract": _merged("Sub"),
    "Multiply": _merged("Mul"),
    "Average": _merged("Mean"),
    "Maximum": _merged("Max"),
    "Minimum": _merged("Min"),
    "Concatenate": _concatenated,
    "Rescaling": _rescaling,
    "Flatten": _flatten,
    "Dense": _dense,
}
