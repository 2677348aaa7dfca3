"""Operations of ATen in the operators of a graph, one function for each kind.

What is not in the table keeps its own name, and is refused where the graph is cut so that it is
needed.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx

from deepseg.model.graph.graph import AttributeValue
from deepseg.transfer.sources.modules.aten_call import (
    LAST,
    AtenCall,
    Result,
    Translate,
    Translation,
    result,
)


def pointwise(operator: str, **attributes: AttributeValue) -> Translate:
    """An operation that changes every value by itself, with fixed settings."""

    def translate(call: AtenCall) -> Translation:
        return result(operator, call.tensor(_first(call)), **attributes)

    return translate


def with_settings(operator: str, settings: Mapping[str, str]) -> Translate:
    """An operation on every value whose settings are arguments; attribute by argument."""

    def translate(call: AtenCall) -> Translation:
        attributes = {name: float(call.values[key]) for key, name in settings.items()}
        return result(operator, call.tensor(_first(call)), **attributes)

    return translate


def unchanged(call: AtenCall) -> Translation:
    """Its input, as far as values go."""
    return call.tensor(_first(call))


def binary(operator: str) -> Translate:
    """An operation on two tensors, or a tensor and a number; ``alpha`` multiplies the second."""

    def translate(call: AtenCall) -> Translation:
        left, right = call.tensor("self"), call.number_like("other", "self")
        alpha = call.values.get("alpha", 1)
        if alpha != 1:
            factor = call.constant(torch.tensor(alpha, dtype=call.meta("self").dtype))
            right = call.step("Mul", right, factor)
        return result(operator, left, right)

    return translate


def power(call: AtenCall) -> Translation:
    """A power with a fixed exponent."""
    return result("Pow", call.tensor("self"), call.number_like("exponent", "self"))


def reversed_difference(call: AtenCall) -> Translation:
    """The second minus the first."""
    if call.values.get("alpha", 1) != 1:
        return None
    return result("Sub", call.number_like("other", "self"), call.tensor("self"))


def reciprocal_root(call: AtenCall) -> Translation:
    """One over the square root."""
    return result("Reciprocal", call.step("Sqrt", call.tensor("self")))


def swish(call: AtenCall) -> Translation:
    """A value times its sigmoid."""
    x = call.tensor("self")
    return result("Mul", x, call.step("Sigmoid", x))


def softplus(call: AtenCall) -> Translation:
    """With its usual settings."""
    is_usual = call.values.get("beta", 1) == 1 and call.values.get("threshold", 20) == 20
    return result("Softplus", call.tensor("self")) if is_usual else None


def elu(call: AtenCall) -> Translation:
    """With a slope, unscaled."""
    if call.values.get("scale", 1) != 1 or call.values.get("input_scale", 1) != 1:
        return None
    return result("Elu", call.tensor("self"), alpha=float(call.values["alpha"]))


def gelu(call: AtenCall) -> Translation:
    """Exact, or by tanh."""
    return result("Gelu", call.tensor("self"), approximate=str(call.values["approximate"]))


def clip(low: str, high: str) -> Translate:
    """Values between two arguments, either of which may be None."""

    def translate(call: AtenCall) -> Translation:
        limits = [
            call.number_like(key, "self") if call.is_given(key) else "" for key in (low, high)
        ]
        return result("Clip", call.tensor("self"), *limits)

    return translate


def relu6(call: AtenCall) -> Translation:
    """Values between 0 and 6."""
    limits = [call.constant(torch.tensor(limit)) for limit in (0.0, 6.0)]
    return result("Clip", call.tensor("self"), *limits)


def prelu(call: AtenCall) -> Translation:
    """One slope, or one for every map."""
    slope, x = call.tensor("weight"), call.meta("self")
    maps = call.meta("weight").numel()
    if maps > 1:
        slope = call.step("Reshape", slope, call.sizes([maps, *[1] * (x.ndim - 2)]))
    return result("PRelu", call.tensor("self"), slope)


def softmax(operator: str) -> Translate:
    """Over one axis."""

    def translate(call: AtenCall) -> Translation:
        return result(operator, call.tensor("self"), axis=int(call.values["dim"]))

    return translate


def dropout(call: AtenCall) -> Translation:
    """Of single values."""
    ratio = call.constant(torch.tensor(float(call.values["p"])))
    return result("Dropout", call.tensor("input"), ratio)


def dropout_of_maps(call: AtenCall) -> Translation:
    """Of whole maps."""
    ratio = call.constant(torch.tensor(float(call.values["p"])))
    return result("Dropout", call.tensor("input"), ratio, whole_maps=1)


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


def reduction(operator: str) -> Translate:
    """Over some axes, or over all."""

    def translate(call: AtenCall) -> Translation:
        axes = call.values.get("dim")
        listed = call.sizes([axes] if isinstance(axes, int) else list(axes)) if axes else ""
        keeps = int(call.values.get("keepdim", False))
        return result(operator, call.tensor("self"), listed, keepdims=keeps)

    return translate


def linear(call: AtenCall) -> Translation:
    """A matrix product with a weight ``(F, C)``, and a bias."""
    weight = call.step("Transpose", call.tensor("weight"), perm=(1, 0))
    if not call.is_given("bias"):
        return result("MatMul", call.tensor("input"), weight)
    product = call.step("MatMul", call.tensor("input"), weight)
    return result("Add", product, call.tensor("bias"))


def matrix_product(call: AtenCall) -> Translation:
    """Of the last two axes."""
    second = "other" if "other" in call.values else "mat2"
    return result("MatMul", call.tensor("self"), call.tensor(second))


def einsum(call: AtenCall) -> Translation:
    """A sum of products, by its equation."""
    return result("Einsum", *call.tensors("tensors"), equation=str(call.values["equation"]))


def concatenation(call: AtenCall) -> Translation:
    """One after the other along an axis."""
    return result("Concat", *call.tensors("tensors"), axis=int(call.values["dim"]))


def reshaped(call: AtenCall) -> Translation:
    """Its values in another shape."""
    key = "size" if "size" in call.values else "shape"
    return result("Reshape", call.tensor("self"), call.sizes(list(call.values[key])))


def flattened(call: AtenCall) -> Translation:
    """Axes up to the last made one."""
    first, last = int(call.values["start_dim"]), int(call.values["end_dim"])
    if first < 0 or last not in (-1, call.meta("self").ndim - 1):
        return None
    return result("Reshape", call.tensor("self"), call.sizes([*[0] * first, -1]))


def transposed(call: AtenCall) -> Translation:
    """Two axes exchanged."""
    count = call.meta("self").ndim
    order = list(range(count))
    a, b = int(call.values["dim0"]) % count, int(call.values["dim1"]) % count
    order[a], order[b] = b, a
    return result("Transpose", call.tensor("self"), perm=tuple(order))


def permuted(call: AtenCall) -> Translation:
    """Axes in another order."""
    count = call.meta("self").ndim
    order = tuple(n % count for n in call.integers("dims"))
    return result("Transpose", call.tensor("self"), perm=order)


def squeezed(call: AtenCall) -> Translation:
    """Without axes of one voxel."""
    if "dim" not in call.values:
        return None
    return result("Squeeze", call.tensor("self"), call.sizes(call.integers("dim")))


def unsqueezed(call: AtenCall) -> Translation:
    """With an axis of one voxel."""
    return result("Unsqueeze", call.tensor("self"), call.sizes(call.integers("dim")))


def expanded(call: AtenCall) -> Translation:
    """Axes of one voxel repeated."""
    sizes = [1 if n == -1 else n for n in call.values["size"]]
    return result("Expand", call.tensor("self"), call.sizes(sizes))


def repeated(call: AtenCall) -> Translation:
    """The whole, several times along each axis."""
    times = list(call.values["repeats"])
    if len(times) != call.meta("self").ndim:
        return None
    return result("Tile", call.tensor("self"), call.sizes(times))


def sliced(call: AtenCall) -> Translation:
    """A range of one axis."""
    start, end = call.values.get("start"), call.values.get("end")
    parts = (
        [0 if start is None else start],
        [LAST if end is None else end],
        [call.values["dim"]],
        [call.values["step"]],
    )
    return result("Slice", call.tensor("self"), *(call.sizes(part) for part in parts))


def narrowed(call: AtenCall) -> Translation:
    """A number of entries of one axis, from a first one on."""
    start, length = call.values["start"], call.values["length"]
    if isinstance(start, int) and start < 0:
        return None
    first = call.sizes([start])
    end = call.step("Add", first, call.sizes([length]))
    axis = call.sizes([call.values["dim"]])
    return result("Slice", call.tensor("self"), first, end, axis, call.sizes([1]))


def counted(call: AtenCall) -> Translation:
    """Whole numbers from a start, or 0, to an end."""
    if call.node.meta["val"].dtype != torch.int64:
        return None
    start, step = call.values.get("start", 0), call.values.get("step", 1)
    return result("Range", *(call.sizes([n]) for n in (start, call.values["end"], step)))


def indexed(call: AtenCall) -> Translation:
    """Entries of one axis by their numbers."""
    axis = int(call.values["dim"])
    return result("Gather", call.tensor("self"), call.tensor("index"), axis=axis)


def selected(call: AtenCall) -> Translation:
    """One place of an axis, which is gone afterwards."""
    if isinstance(call.values["index"], fx.Node):
        return None
    place = call.constant(torch.tensor(int(call.values["index"])))
    return result("Gather", call.tensor("self"), place, axis=int(call.values["dim"]))


def split(call: AtenCall) -> Translation:
    """Pieces along an axis, by their number or their sizes."""
    pieces = len(call.node.meta["val"])
    axis = int(call.values["dim"])
    key = next(key for key in ("chunks", "split_sizes", "split_size") if key in call.values)
    sizes = call.values[key]
    if key == "split_sizes":
        return Result(
            "Split", (call.tensor("self"), call.sizes(list(sizes))), {"axis": axis}, pieces
        )
    if key == "split_size" and pieces > 1:
        return None
    return Result("Split", (call.tensor("self"),), {"axis": axis, "num_outputs": pieces}, pieces)


def padded(call: AtenCall) -> Translation:
    """With a border of a constant, of repeated or of mirrored values."""
    modes = {"constant": "constant", "replicate": "edge", "reflect": "reflect", "circular": "wrap"}
    mode = modes.get(str(call.values.get("mode", "constant")))
    if mode is None:
        return None
    pads, count = list(call.values["pad"]), call.meta("self").ndim
    low, high = [0] * count, [0] * count
    for n, (before, after) in enumerate(zip(pads[::2], pads[1::2], strict=True), start=1):
        low[count - n], high[count - n] = before, after
    value = call.values.get("value")
    filling = call.number_like("value", "self") if value is not None else ""
    return result("Pad", call.tensor("self"), call.sizes([*low, *high]), filling, mode=mode)


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


def size(call: AtenCall) -> Translation:
    """Voxels along one axis, as a tensor ``(1,)``."""
    place = call.sizes([int(call.values["dim"])])
    return result("Gather", call.step("Shape", call.tensor("self")), place, axis=0)


def of_sizes(operator: str) -> Translate:
    """Arithmetic of sizes."""

    def translate(call: AtenCall) -> Translation:
        left, right = call.values["0"], call.values["1"]
        return result(operator, call.sizes([left]), call.sizes([right]))

    return translate


def converted(call: AtenCall) -> Translation:
    """To another type; between floats, nothing is to be done."""
    types = (call.node.meta["val"].dtype, call.meta("self").dtype)
    if all(dtype.is_floating_point for dtype in types) or types[0] == types[1]:
        return call.tensor("self")
    name = "float32" if types[0].is_floating_point else str(types[0]).removeprefix("torch.")
    return result("Cast", call.tensor("self"), to=name)


def _first(call: AtenCall) -> str:
    return "self" if "self" in call.values else "input"


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


_POINTWISE = {
    **{name: pointwise(name.capitalize()) for name in ("relu", "sigmoid", "tanh", "mish")},
    **{name: pointwise(name.capitalize()) for name in ("sqrt", "exp", "log", "neg", "abs", "erf")},
    **{name: pointwise(name.capitalize()) for name in ("reciprocal", "floor", "ceil", "round")},
    "hardswish": pointwise("HardSwish"),
    "hardsigmoid": pointwise("HardSigmoid", alpha=1 / 6, beta=0.5),
    "selu": pointwise("Selu"),
    "celu": with_settings("Celu", {"alpha": "alpha"}),
    "leaky_relu": with_settings("LeakyRelu", {"negative_slope": "alpha"}),
}
_TRANSLATIONS: dict[str, Translate] = {
    **_POINTWISE,
    **{f"conv{n}d": convolution for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": transposed_convolution for n in (1, 2, 3)},
    **{f"max_pool{n}d": max_pooling for n in (1, 2, 3)},
    **{f"avg_pool{n}d": average_pooling for n in (1, 2, 3)},
    **{f"adaptive_avg_pool{n}d": global_pooling("GlobalAveragePool") for n in (1, 2, 3)},
    **{f"upsample_nearest{n}d": resized("nearest", "asymmetric") for n in (1, 2, 3)},
    **{f"_upsample_nearest_exact{n}d": resized("nearest", "half_pixel") for n in (1, 2, 3)},
    **dict.fromkeys(
        ("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d"),
        resized("linear", "half_pixel"),
    ),
    **dict.fromkeys(
        ("contiguous", "clone", "detach", "alias", "lift_fresh_copy", "detach_copy"), unchanged
    ),
    **dict.fromkeys(("to", "_to_copy", "type_as", "float"), converted),
    **dict.fromkeys(("view", "reshape", "_unsafe_view"), reshaped),
    **dict.fromkeys(("matmul", "bmm", "mm"), matrix_product),
    **dict.fromkeys(("split", "chunk", "split_with_sizes"), split),
    **dict.fromkeys(("pad", "constant_pad_nd"), padded),
    "batch_norm": batch_normalisation,
    "instance_norm": instance_normalisation,
    "group_norm": group_normalisation,
    "layer_norm": layer_normalisation,
    "dropout": dropout,
    "feature_dropout": dropout_of_maps,
    "prelu": prelu,
    "elu": elu,
    "gelu": gelu,
    "silu": swish,
    "softplus": softplus,
    "relu6": relu6,
    "clamp": clip("min", "max"),
    "clamp_min": clip("min", "none"),
    "hardtanh": clip("min_val", "max_val"),
    "softmax": softmax("Softmax"),
    "log_softmax": softmax("LogSoftmax"),
    "add": binary("Add"),
    "sub": binary("Sub"),
    "mul": binary("Mul"),
    "div": binary("Div"),
    "rsub": reversed_difference,
    "pow": power,
    "rsqrt": reciprocal_root,
    "maximum": binary("Max"),
    "minimum": binary("Min"),
    "mean": reduction("ReduceMean"),
    "sum": reduction("ReduceSum"),
    "amax": reduction("ReduceMax"),
    "amin": reduction("ReduceMin"),
    "linear": linear,
    "einsum": einsum,
    "cat": concatenation,
    "flatten": flattened,
    "transpose": transposed,
    "permute": permuted,
    "squeeze": squeezed,
    "unsqueeze": unsqueezed,
    "expand": expanded,
    "repeat": repeated,
    "slice": sliced,
    "narrow": narrowed,
    "arange": counted,
    "index_select": indexed,
    "remainder": binary("Mod"),
    "select": selected,
    "sym_size": size,
}
TRANSLATIONS: dict[str, Translate] = {
    **{f"aten.{name}": translate for name, translate in _TRANSLATIONS.items()},
    "python.add": of_sizes("Add"),
    "python.sub": of_sizes("Sub"),
    "python.mul": of_sizes("Mul"),
    "python.floordiv": of_sizes("Div"),
}
"""Translation by operation."""
