"""The layers of a network of our own as nodes of a graph, in training and in inference.

They mirror `deepseg.model.layers` and `deepseg.model.network`, operation by operation.
"""

from __future__ import annotations

from collections.abc import Sequence

from deepseg.config.model import BatchNorm
from deepseg.exports.gradients import activation
from deepseg.exports.gradients.arithmetic import (
    add,
    matrix_product,
    multiply,
    per_map,
    reshape,
    total,
)
from deepseg.exports.gradients.convolution import convolution
from deepseg.exports.gradients.normalisation import (
    Statistics,
    by_fixed_statistics,
    normalised,
    scaled,
)
from deepseg.exports.gradients.resampling import box, chosen, joined, with_border
from deepseg.exports.gradients.tape import Tape, Variable
from deepseg.exports.train_step.construction import Construction
from deepseg.exports.train_step.imported import imported_outputs
from deepseg.geometry.boxes import Int3, sub
from deepseg.geometry.boxes import add as add_voxels
from deepseg.geometry.context import Alignment
from deepseg.model.feature_maps import AXES, border_before, crop_offset
from deepseg.model.layers import Layer, Norm
from deepseg.model.network import Network, Pathway

BATCH_AND_SPACE = (0, 2, 3, 4)


def logits(work: Construction, network: Network, inputs: Sequence[Variable]) -> Variable:
    """``(N, K, X', Y', Z')`` from ``(N, C, X, Y, Z)`` for every parallel pathway."""
    outputs = []
    for pathway, x in zip(network.layout.pathways, inputs, strict=True):
        if pathway.network is None:
            outputs.append(_chain(work, _pathway(network, pathway.name), x))
        else:
            module = network.imported(pathway.name)
            outputs.append(imported_outputs(work, module, pathway, x))
    if not network.layout.fc.layers:
        return outputs[0]
    factors = [pathway.geometry.factor for pathway in network.layout.pathways]
    size = _size(outputs[0])
    full = [_repeated(work.tape, y, f, size) for y, f in zip(outputs, factors, strict=True)]
    fc = _pathway(network, network.layout.fc.name)
    y = _chain(work, fc, joined(work.tape, full, 1))
    *_, head = fc.layers()
    bias = _parameter(work, head, "bias")
    return add(work.tape, y, per_map(work.tape, bias, 5))


def _pathway(network: Network, name: str) -> Pathway:
    module = network.get_submodule(name)
    assert isinstance(module, Pathway)
    return module


def _chain(work: Construction, pathway: Pathway, x: Variable) -> Variable:
    before = x
    for layer in pathway.layers():
        y = _layer(work, layer, x)
        if layer.plan.adds_earlier_input:
            y = _with_residual(work.tape, y, before, pathway.alignment)
        before, x = x, y
    return x


def _layer(work: Construction, layer: Layer, x: Variable) -> Variable:
    """norm (or bias) → activation → dropout → padding → convolution."""
    plan, tape = layer.plan, work.tape
    if plan.reads_image and plan.padding == "none" and not plan.is_low_rank:
        return _convolved_with_input_bias(work, layer, x)
    if layer.norm is None:
        x = add(tape, x, per_map(tape, _parameter(work, layer, "input_bias"), 5))
    else:
        x = _normalised(work, layer, layer.norm, x)
    x = _activated(work, layer, x)
    x = _dropped(work, layer, x)
    x = _padded(tape, x, layer)
    return _convolved(work, layer, x)


def _convolved_with_input_bias(work: Construction, layer: Layer, x: Variable) -> Variable:
    """A bias of the image is one of the result: what all taps make of it, the same everywhere."""
    tape = work.tape
    weight = _parameter(work, layer, "conv.weight")
    bias = reshape(tape, _parameter(work, layer, "input_bias"), (layer.plan.inputs, 1))
    taps = total(tape, weight, AXES, keeps=False)
    shift = reshape(tape, matrix_product(tape, taps, bias), (layer.plan.outputs,))
    return convolution(tape, x, weight, bias=shift)


def _normalised(work: Construction, layer: Layer, norm: Norm, x: Variable) -> Variable:
    tape, epsilon = work.tape, norm.settings.epsilon
    weight = per_map(tape, _parameter(work, layer, "norm.weight"), 5)
    bias = per_map(tape, _parameter(work, layer, "norm.bias"), 5)
    prefix = f"{layer.plan.address}.norm"
    if not (work.trains and norm.uses_batch_statistics):
        mean, variance = (
            per_map(tape, work[f"{prefix}.running_{kind}"], 5) for kind in ("mean", "var")
        )
        return by_fixed_statistics(tape, x, Statistics(mean, variance, epsilon), weight, bias)
    result = normalised(tape, x, BATCH_AND_SPACE, epsilon)
    _update(work, prefix, norm.settings, reshape(tape, result.mean, (x.shape[1],)), "mean")
    _update(work, prefix, norm.settings, reshape(tape, result.variance, (x.shape[1],)), "var")
    if norm.settings.statistics == "window":
        steps, unit = work[f"{prefix}.steps"], tape.constant(1, "int64")
        work.statistics[f"{prefix}.steps"] = tape.call("Add", [steps, unit], (), dtype="int64")
    return scaled(tape, result.values, weight, bias)


def _update(
    work: Construction, prefix: str, settings: BatchNorm, batch: Variable, kind: str
) -> None:
    """The statistics of a batch are taken into the running ones."""
    tape, running = work.tape, f"{prefix}.running_{kind}"
    if settings.statistics == "exponential":
        old = work[running]
        step = tape.call("Sub", [batch, old], old.shape)
        part = tape.call("Mul", [step, tape.constant(settings.momentum)], old.shape)
        work.statistics[running] = tape.call("Add", [old, part], old.shape)
        return
    window, steps = work[f"{prefix}.window_{kind}"], work[f"{prefix}.steps"]
    length = settings.length
    row = tape.call("Mod", [steps, tape.constant(length, "int64")], (), dtype="int64")
    rows = tape.constant([[n] for n in range(length)], "int64")
    is_row = tape.call("Equal", [rows, row], (length, 1), dtype="bool")
    new = tape.call("Where", [is_row, batch, window], window.shape)
    work.statistics[f"{prefix}.window_{kind}"] = new
    work.statistics[running] = tape.call("ReduceMean", [new], batch.shape, axes=(0,), keepdims=0)


def _activated(work: Construction, layer: Layer, x: Variable) -> Variable:
    tape = work.tape
    match layer.plan.activation:
        case "linear":
            return x
        case "relu":
            return activation.relu(tape, x)
        case "prelu":
            slope = _parameter(work, layer, "activation.weight")
            return activation.prelu(tape, x, activation.slopes_per_map(tape, slope, 5))
        case "elu":
            return activation.elu(tape, x)
        case "selu":
            return activation.selu(tape, x)


def _dropped(work: Construction, layer: Layer, x: Variable) -> Variable:
    """Dropout in its first form: masked in training, scaled by the kept share otherwise."""
    plan = layer.plan
    if plan.dropout == 0:
        return x
    if work.trains and layer.dropout_active:
        mask = work.mask(plan.address, x.shape, 1 - plan.dropout)
        return activation.dropped(work.tape, x, mask)
    return multiply(work.tape, x, work.tape.constant(1 - plan.dropout))


def _padded(tape: Tape, x: Variable, layer: Layer) -> Variable:
    kernel, padding = layer.plan.kernel, layer.plan.padding
    if padding == "none":
        return x
    low = border_before(kernel)
    high = sub(add_voxels(kernel, -1), low)
    if padding == "zero":
        return with_border(tape, x, (0, 0, *low), (0, 0, *high))
    for axis, before, after in zip(AXES, low, high, strict=True):
        size = x.shape[axis]
        turns = [place % (2 * size) for place in range(-before, size + after)]
        x = chosen(tape, x, axis, [min(n, 2 * size - 1 - n) for n in turns])
    return x


def _convolved(work: Construction, layer: Layer, x: Variable) -> Variable:
    plan = layer.plan
    if not plan.is_low_rank:
        return convolution(work.tape, x, _parameter(work, layer, "conv.weight"))
    planes = []
    for plane in plan.convolutions:
        y = convolution(work.tape, x, _parameter(work, layer, f"conv.{plane}.weight"))
        start = [0, 0, 0, 0, 0]
        shape = list(y.shape)
        for axis, k in zip(AXES, plan.kernel, strict=True):
            if y.shape[axis] == x.shape[axis]:
                start[axis], shape[axis] = (k - 1) // 2, x.shape[axis] - k + 1
        planes.append(box(work.tape, y, start, tuple(shape)))
    return joined(work.tape, planes, 1)


def _with_residual(tape: Tape, y: Variable, earlier: Variable, alignment: Alignment) -> Variable:
    """``y`` plus the middle of ``earlier``; missing feature maps count as 0, surplus is cut."""
    maps = min(y.shape[1], earlier.shape[1])
    sizes = zip(earlier.shape[2:], y.shape[2:], strict=True)
    offsets = (crop_offset(n, m, alignment) for n, m in sizes)
    middle = box(tape, earlier, (0, 0, *offsets), (y.shape[0], maps, *y.shape[2:]))
    missing = (0, y.shape[1] - maps, 0, 0, 0)
    return add(tape, y, with_border(tape, middle, (0,) * 5, missing))


def _repeated(tape: Tape, x: Variable, factor: Int3, size: Int3) -> Variable:
    """Every voxel repeated ``factor`` times along each axis, the first ``size`` kept."""
    for axis, f, n in zip(AXES, factor, size, strict=True):
        x = chosen(tape, x, axis, [place // f for place in range(n)])
    return x


def _size(x: Variable) -> Int3:
    return x.shape[2], x.shape[3], x.shape[4]


def _parameter(work: Construction, layer: Layer, role: str) -> Variable:
    return work[f"{layer.plan.address}.{role}"]
