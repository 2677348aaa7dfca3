"""Operations of ATen on values: arithmetic, activations, reductions, matrix products."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from deepseg.model.graph.graph import AttributeValue
from deepseg.transfer.sources.modules.aten_call import (
    AtenCall,
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


def converted(call: AtenCall) -> Translation:
    """To another type; between floats, nothing is to be done."""
    types = (call.node.meta["val"].dtype, call.meta("self").dtype)
    if all(dtype.is_floating_point for dtype in types) or types[0] == types[1]:
        return call.tensor("self")
    name = "float32" if types[0].is_floating_point else str(types[0]).removeprefix("torch.")
    return result("Cast", call.tensor("self"), to=name)


def _first(call: AtenCall) -> str:
    return "self" if "self" in call.values else "input"
