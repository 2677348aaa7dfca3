"""Kernels of even size, as DeepMedic computes them: a whole case against plain numpy.

DeepMedic's inference is written down here once more, from its rules alone: tiles, borders, context,
convolutions, residuals. Nothing of deepseg's geometry is used.
"""

from itertools import product

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

from deepseg.data.images.volumes import Geometry
from deepseg.data.preparation import PreparedCase
from deepseg.data.segments.segment import inputs
from deepseg.errors import DeepsegError
from deepseg.geometry.boxes import Box
from deepseg.inference.boxwise.network import BoxwiseNetwork
from deepseg.inference.boxwise.plan import work_units
from deepseg.inference.boxwise.predict import box_predictions
from deepseg.inference.prediction import Prediction, RequestedMaps
from deepseg.inference.predictor import Predictor
from deepseg.inference.tilewise import predict
from deepseg.model.checkpoint import new_checkpoint
from tests.networks import small_config, trained_network

SHAPE = (13, 11, 12)
TINY = 1.17549435e-38
NORMAL = {
    "feature_maps": [3, 4, 4],
    "kernels": [[2, 3, 4], [3, 2, 1], [2, 2, 2]],  # residual over 3, 2 and 1 lost voxels
    "residuals": [3],
}
NETWORKS = {
    "flat kernels": {"normal": {**NORMAL, "low_rank": [2]}, "subsampled": None, "fc": {}},
    "one pathway": {"normal": NORMAL, "subsampled": None, "fc": {}},
    "two contexts, mirrored kernels of 2": {
        "normal": NORMAL,
        "subsampled": {"factors": [[3, 3, 3], [2, 5, 1]]},
        "fc": {
            "feature_maps": [5, 4],
            "kernels": [[2, 2, 2], [1, 1, 1], [1, 1, 1]],
            "padding": ["mirror", "none", "none"],
            "residuals": [2],
        },
    },
    "unpadded kernels of 2 behind a context": {
        "normal": NORMAL,
        "subsampled": {"factors": [3]},
        "fc": {
            "feature_maps": [5, 4],
            "kernels": [[2, 1, 3], [1, 2, 2], [1, 1, 1]],
            "padding": ["none", "zero", "none"],
            "residuals": [2],
        },
    },
}


# ---- DeepMedic, from its rules ----


def convolved(x, kernel):
    """Without a border; cross-correlation."""
    windows = sliding_window_view(x, kernel.shape[2:], axis=(1, 2, 3))
    return np.einsum("cxyzijk,fcijk->fxyz", windows, kernel)


def layer(x, weights, plan):
    per_map = {name: value[:, None, None, None] for name, value in weights.items()
               if value.ndim == 1}  # fmt: skip
    if plan.normalises:
        x = (x - per_map["norm.running_mean"]) / np.sqrt(per_map["norm.running_var"] + TINY)
        x = x * per_map["norm.weight"] + per_map["norm.bias"]
    else:
        x = x + per_map["input_bias"]
    if plan.activation == "prelu":
        x = np.maximum(0, x) + per_map["activation.weight"] * (x - np.abs(x)) / 2
    x = x * (1 - plan.dropout)
    if plan.padding == "mirror":
        before = [(k - 1) // 2 for k in plan.kernel]
        border = [(b, k - 1 - b) for b, k in zip(before, plan.kernel, strict=True)]
        x = np.pad(x, [(0, 0), *border], "symmetric")
    if plan.padding == "zero":
        before = [(k - 1) // 2 for k in plan.kernel]
        x = np.pad(x, [(0, 0), *((b, k - 1 - b) for b, k in zip(before, plan.kernel, strict=True))])
    if not plan.is_low_rank:
        return convolved(x, weights["conv.weight"])
    planes = []
    for plane, flat_axis in (("xy", 3), ("yz", 1), ("xz", 2)):
        y, k = convolved(x, weights[f"conv.{plane}.weight"]), plan.kernel[flat_axis - 1]
        first = (k - 1) // 2
        planes.append(np.take(y, range(first, first + x.shape[flat_axis] - k + 1), flat_axis))
    return np.concatenate(planes)


def chain(x, plans, state):
    earlier = x
    for plan in plans:
        prefix = f"{plan.address}."
        weights = {n.removeprefix(prefix): w for n, w in state.items() if n.startswith(prefix)}
        y = layer(x, weights, plan)
        if plan.adds_earlier_input:
            cut = earlier[: len(y)]
            for axis in (1, 2, 3):
                size, target = cut.shape[axis], y.shape[axis]
                start = (size - 1) // 2 - (target - 1) // 2
                cut = np.take(cut, range(start, start + target), axis)
            y[: len(cut)] += cut
        earlier, x = x, y
    return x


def context(image, corner_mean, start, factor, field, outputs):
    """The voxels that a subsampled pathway reads, along each axis and then together."""
    places = []
    for s, f, rf, o, n in zip(start, factor, field, outputs, image.shape[1:], strict=True):
        if f % 2:
            before, centre = (f - 1) // 2 * rf, f // 2
        else:
            before, centre = (f - 2) // 2 * rf + rf // 2, f // 2 - 1
        low = s + centre - before
        high = low + f * rf + (-(-o // f) - 1) * f
        values = np.arange(max(low, 0), min(high, n), f)
        offset = 0 if low >= 0 else -low // f
        line = np.full((high - low) // f, -1)
        line[offset : offset + len(values)] = values[: len(line) - offset]
        places.append(line)
    x, y, z = np.ix_(*places)
    block = image[:, x, y, z]
    block[:, (x < 0) | (y < 0) | (z < 0)] = corner_mean[:, None]
    return block


def probabilities(network, image, tile):
    state = {name: w.double().numpy() for name, w in network.state_dict().items()}
    normal, *contexts = network.layout.pathways
    fc = network.layout.fc
    field = [1 + sum(p.kernel[a] - 1 for p in normal.layers) for a in range(3)]
    lost = [
        field[a] - 1 + sum(p.kernel[a] - 1 for p in fc.layers if p.padding == "none")
        for a in range(3)
    ]
    image = np.pad(image, [(0, 0), *((m // 2, m - m // 2) for m in lost)], "reflect")
    corners = image[:, [0, 0, 0, 0, -1, -1, -1, -1], [0, 0, -1, -1] * 2, [0, -1] * 4]
    result = np.zeros((len(state["fc.1.bias"]) if "fc.1.bias" in state else 3, *image.shape[1:]))
    starts = []
    for size, n, m in zip(tile, image.shape[1:], lost, strict=True):
        begin, along = 0, []
        while not along or along[-1] + size < n:
            along.append(min(begin + size, n) - size)
            begin += size - m
        starts.append(along)
    for z, y, x in product(*reversed(starts)):
        start = (x, y, z)
        box = tuple(slice(a, a + n) for a, n in zip(start, tile, strict=True))
        maps = [chain(image[(slice(None), *box)], normal.layers, state)]
        size = maps[0].shape[1:]
        for pathway in contexts:
            factor = pathway.geometry.factor
            read = context(image, corners.mean(1), start, factor, field, size)
            coarse = chain(read, pathway.layers, state)
            for axis, f in zip((1, 2, 3), factor, strict=True):
                coarse = np.repeat(coarse, f, axis)
            maps.append(coarse[:, : size[0], : size[1], : size[2]])
        logits = chain(np.concatenate(maps), fc.layers, state)
        logits += state[f"{fc.layers[-1].address}.bias"][:, None, None, None]
        shares = np.exp(logits - logits.max(0))
        shares /= shares.sum(0)
        first = [a + m // 2 for a, m in zip(start, lost, strict=True)]
        place = tuple(slice(a, a + n) for a, n in zip(first, shares.shape[1:], strict=True))
        result[(slice(None), *place)] = shares
    inside = tuple(slice(m // 2, n - (m - m // 2)) for m, n in zip(lost, image.shape[1:],
                                                                   strict=True))  # fmt: skip
    return result[(slice(None), *inside)]


# ---- Against deepseg ----


def network_of(name, alignment):
    return trained_network(
        **NETWORKS[name],
        context_alignment=alignment,
        batch_norm={"statistics": "window", "length": 3, "epsilon": TINY},
        segments={"train": 10},
    )


def case():
    channels = np.random.default_rng(5).normal(size=(2, *SHAPE)).astype(np.float32)
    return PreparedCase("a", channels, None, None, None, Geometry(SHAPE, np.eye(4)))


def boxwise(network, prepared, tile):
    labels = range(3)
    quick = Prediction(prepared.shape, 3, RequestedMaps(labels))
    fast = BoxwiseNetwork(network)
    units = work_units(fast, prepared, memory=1 << 28, tile=tile)
    for _, piece in box_predictions(fast, prepared, units, labels=labels):
        quick.put(piece)
    return np.stack([quick.probabilities[label] for label in labels])


@pytest.mark.parametrize("tile", [(9, 10, 11), (12, 9, 10)])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_case_is_segmented_as_deepmedic_does(name, tile):
    network, prepared = network_of(name, "deepmedic"), case()
    expected = probabilities(network, prepared.channels.astype(float), tile)
    plain = predict(network, prepared, tile=tile, batch_size=3).probabilities
    np.testing.assert_allclose(plain, expected, atol=1e-5)
    np.testing.assert_allclose(boxwise(network, prepared, tile), expected, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_training_and_segmenting_see_the_same(name):
    """Segments of any size, where their context is on the grid of the whole image's."""
    network, prepared = network_of(name, "centred"), case()
    whole = boxwise(network, prepared, None)
    padded = "mirror" in str(NETWORKS[name]) or "zero" in str(NETWORKS[name])
    for size in ((9, 10, 11), (10, 9, 8)):
        target = Box((6, 0, 3), tuple(n - m for n, m in zip(size, network.layout.shrink,
                                                            strict=True)))  # fmt: skip
        segment = network.geometry.segment(target)
        assert segment.size == size
        read = [torch.from_numpy(x)[None] for x in inputs(prepared, segment, network.geometry)]
        with torch.inference_mode():
            shares = network(read)[0].softmax(0).numpy()
        inner = tuple(slice(padded, n - padded) for n in shares.shape[1:])  # borders are other ones
        there = target.slices
        np.testing.assert_allclose(
            shares[(slice(None), *inner)],
            whole[(slice(None), *there)][(slice(None), *inner)],
            atol=1e-5,
        )


def test_the_whole_image_as_one_tile_is_refused_where_rounding_depends_on_the_tile():
    config = network_of("one pathway", "deepmedic").config
    Predictor(new_checkpoint(config, seed=0), {"tiling": "deepmedic"}, preparation={})
    with pytest.raises(DeepsegError) as error:
        Predictor(new_checkpoint(config, seed=0), {"tiling": "global"}, preparation={})
    assert str(error.value) == (
        "[tiling-uneven] got tiling: global with new, whose residuals of normal.3 skip an odd "
        "number of voxels, so that DeepMedic's rounding depends on the size of a tile; expected "
        "the tiles of DeepMedic; fix: remove tiling: global"
    )
    even = small_config(
        normal={**NORMAL, "kernels": [[2, 3, 4], [2, 3, 2], [2, 1, 4]]},
        subsampled=None,
        context_alignment="deepmedic",
    )
    Predictor(new_checkpoint(even, seed=0), {"tiling": "global"}, preparation={})
