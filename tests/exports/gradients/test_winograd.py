"""Winograd's convolutions: the same values and gradients as torch's, with fewer products."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from deepseg.exports.gradients.arithmetic import multiply, total
from deepseg.exports.gradients.convolution import convolution
from deepseg.exports.gradients.tape import Tape
from deepseg.exports.gradients.winograd import AxisTiles, MinimalFiltering, is_suited
from deepseg.exports.train_step.onnx_file import onnx_content
from deepseg.exports.train_step.step import StepGraph
from deepseg.model.graph.operators.window import SlidingWindow
from tests.exports.train_step.steps import computed, opened

BATCH, MAPS, FEATURES = 2, 8, 9


def window(kernel, low=(0, 0, 0), high=(0, 0, 0), stride=(1, 1, 1)) -> SlidingWindow:
    return SlidingWindow(kernel, stride, (1, 1, 1), low, high)


@pytest.mark.parametrize(("results", "taps"), [(2, 3), (3, 3), (4, 3), (5, 2), (3, 2), (2, 5)])
def test_minimal_filtering_is_the_sum_over_taps(results, taps):
    rule, rng = MinimalFiltering.of(results, taps), np.random.default_rng(0)
    kernel, image = rng.normal(size=taps), rng.normal(size=results + taps - 1)
    y = rule.results @ ((rule.kernel @ kernel) * (rule.image @ image))
    np.testing.assert_allclose(y, np.correlate(image, kernel), atol=1e-12)


@pytest.mark.parametrize(
    ("voxels", "taps", "low", "high"),
    [(v, t, a, b) for v, t, (a, b) in product((5, 9, 12), (1, 2, 3, 5), ((0, 0), (1, 2)))],
)
def test_tiles_cover_an_axis_with_its_borders(voxels, taps, low, high):
    tiles, rng = AxisTiles.of(voxels, taps, low, high), np.random.default_rng(1)
    kernel, image = rng.normal(size=taps), rng.normal(size=voxels)
    factors = np.repeat(tiles.kernel @ kernel, tiles.tiles)
    y = tiles.results @ (factors * (tiles.image @ image))
    padded = np.pad(image, (low, high))
    np.testing.assert_allclose(y, np.correlate(padded, kernel), atol=1e-5)
    assert tiles.points * tiles.tiles < taps * len(y) or taps < 3 or len(y) < 4


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        pytest.param((9, 8, 7), window((3, 3, 3)), id="a cube"),
        pytest.param((6, 7, 9), window((3, 1, 2)), id="a kernel without Y"),
        pytest.param((5, 8, 6), window((3, 5, 3), (1, 2, 0), (1, 2, 2)), id="borders"),
    ],
)
def test_values_and_gradients_are_those_of_torch(size, shape):
    rng = torch.Generator().manual_seed(2)
    image = torch.randn(BATCH, MAPS, *size, generator=rng).requires_grad_()
    kernel = torch.randn(FEATURES, MAPS, *shape.kernel, generator=rng).requires_grad_()
    borders = zip(shape.low[::-1], shape.high[::-1], strict=True)
    pads = [n for border in borders for n in border]
    y = torch.nn.functional.conv3d(torch.nn.functional.pad(image, pads), kernel)
    weights = torch.randn(y.shape, generator=rng)
    slopes = torch.autograd.grad((y * weights).sum(), [image, kernel])

    tape = Tape()
    x = tape.watch(tape.input("x", tuple(image.shape)))
    w = tape.watch(tape.input("w", tuple(kernel.shape)))
    assert is_suited(w, shape)
    result = convolution(tape, x, w, shape)
    loss = total(tape, multiply(tape, result, tape.constant(weights.numpy())), range(5))
    outputs = [result, *tape.gradients(loss, [x, w])]
    names = [tape.rename(output, name) for output, name in zip(outputs, "yab", strict=True)]
    session = opened(onnx_content(StepGraph(tape, tuple(names), {}), defaults={}, metadata={}))
    results = computed(session, {"x": image.detach().numpy(), "w": kernel.detach().numpy()})
    for name, expected in zip("yab", (y.detach(), *slopes), strict=True):
        largest = float(expected.abs().max())
        np.testing.assert_allclose(results[name], expected, atol=1e-5 * largest, err_msg=name)
    operators = {node.operator for node in tape.nodes}
    assert "Conv" not in operators


@pytest.mark.parametrize(
    ("kernel", "maps", "stride"),
    [((1, 1, 1), 8, 1), ((3, 1, 1), 8, 1), ((3, 3, 3), 7, 1), ((3, 3, 3), 8, 2), ((7, 3, 3), 8, 1)],
)
def test_other_convolutions_stay_what_they_are(kernel, maps, stride):
    weight = Tape().input("w", (9, maps, *kernel))
    assert not is_suited(weight, window(kernel, stride=(stride,) * 3))
