"""A level on top of a U-Net that goes on computing what the U-Net did, on voxels of half the size.

Every voxel of the older image is taken as the mean of the fine ones in it. The new level makes
these means, moves them to where the older kernel finds them although it now reads neighbours of
the fine image, and hands the older scores up, repeated for the fine voxels. A value z crosses a
non-linearity f as the pair f(z), f(-z), whose difference is z times a constant: so for ReLU, leaky
ReLU, PReLU and GELU.

Without a normalisation, or with that of batches, the function is kept to rounding. Normalisation of
single images takes the mean and the scale of the scores away; those of a random image replace them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import torch
from torch import Tensor
from torch.nn import functional as F

from deepseg.config.blocks.unet import UnetPathway
from deepseg.config.settings import cube
from deepseg.geometry.boxes import Int3, floor_div, mul, sub
from deepseg.model.feature_maps import map_size
from deepseg.model.graph.graph import Graph
from deepseg.model.graph.initialisation import SLOPE as PRELU_SLOPE
from deepseg.model.graph.network import GraphNetwork
from deepseg.model.imported import attach_point
from deepseg.model.unet import EPSILON, SLOPE, skip_loss, unet_geometry, unet_graph

MOST_SHIFTS = 3  # along one axis
VOXELS = 40  # of a random image, along each axis, at least
SEED = 1
NORMS_OF_IMAGES = ("instance", "group")


@dataclass(frozen=True)
class UnetSize:
    """A U-Net with a head on its finest level.

    Attributes:
        block: Its levels and settings.
        channels: Of the image.
        classes: Maps of its head.
    """

    block: UnetPathway
    channels: int
    classes: int

    @property
    def top(self) -> int:
        """Number of the finest level."""
        return len(self.block.levels) - 1

    def graph(self) -> Graph:
        """Its operators; weights are on torch's meta device."""
        return unet_graph(self.block, self.channels, self.classes, has_head=True)

    def network(self, weights: Mapping[str, Tensor]) -> GraphNetwork:
        """It with weights, as it computes in inference."""
        network = GraphNetwork(self.graph(), drops_softmax=False).eval()
        network.load_state_dict(weights)
        return network

    def begin(self) -> Int3:
        """The image voxel of the first one that is predicted."""
        geometry = unet_geometry(self.block, self.channels, self.classes, has_head=True)
        return attach_point(geometry.outputs[0]).begin

    def sizes_in(self, size: Int3) -> Int3:
        """The largest image that is computed and fits into ``size``."""
        rule = unet_geometry(self.block, self.channels, self.classes, has_head=True).sizes
        x, y, z = (
            n - (n - low) % step
            for n, low, step in zip(size, rule.smallest, rule.step, strict=True)
        )
        return x, y, z

    def without_top(self) -> UnetSize:
        """It without its finest level."""
        block = self.block.model_copy(update={"levels": self.block.levels[:-1], "network": None})
        return UnetSize(block, self.channels, self.classes)


@dataclass(frozen=True)
class Reading:
    """One tap of the older kernel, along an axis.

    Attributes:
        tap: Of the kernel as it is now, on the fine image.
        shift: Fine voxels from there to the first one of the mean that is read.
        error: Fine voxels by which the mean lies beside its place; 0 where it can be reached.
        misses_border: Whether a mean of the outermost voxels is read from beyond the image.
    """

    tap: int
    shift: int
    error: int
    misses_border: bool

    @property
    def cost(self) -> tuple[int, bool]:
        """For comparison with other readings of the same tap."""
        return self.error, self.misses_border


@dataclass(frozen=True)
class AxisPlan:
    """Means of fine voxels that the new level makes, along an axis.

    Attributes:
        begin: First voxel of a mean, seen from the voxel of the first convolution's result.
        shifts: Places of the means, seen from the voxel of the last convolution's result.
        readings: Of every tap of the older kernel.
    """

    begin: int
    shifts: tuple[int, ...]
    readings: tuple[Reading, ...]

    @property
    def error(self) -> int:
        """Sum of the errors of all taps, squared."""
        return sum(reading.error**2 for reading in self.readings)

    @property
    def cost(self) -> tuple[int, int]:
        """For comparison with other plans of the same axis."""
        return self.error, sum(reading.misses_border for reading in self.readings)


def axis_plans(
    *, older: int, kernel: int, stride: int, first: int, convolutions: int, is_padded: bool
) -> list[AxisPlan]:
    """The best plan for every number of shifts, along one axis.

    A kernel of 3 on voxels of twice the size reads two means before and one after those beside it:

    >>> (one, two, three) = axis_plans(
    ...     older=3, kernel=3, stride=2, first=0, convolutions=2, is_padded=True
    ... )
    >>> two.shifts, [reading.tap for reading in two.readings], one.error, two.error
    ((-1, 1), [0, 2, 2], 2, 0)

    Args:
        older: Size of the older kernel that read the image.
        kernel: Size of the new level's kernels.
        stride: Fine voxels for one of the older image.
        first: Fine voxel at which older voxel 0 begins.
        convolutions: Of the new level.
        is_padded: Whether the older kernel has a border of zeros.
    """
    border = (older - 1) // 2 if is_padded else 0
    low, high = (kernel - 1) // 2, kernel - 1 - (kernel - 1) // 2
    means = range(-low, max(high - stride + 1, -low) + 1)  # that one kernel makes
    begins = [0] if convolutions == 1 else sorted(means, key=lambda n: not -stride < n <= 0)
    best: dict[int, AxisPlan] = {}
    for begin in begins:
        reach = means if convolutions == 1 else range(begin - low, begin + high + 1)
        for count in range(1, MOST_SHIFTS + 1):
            for shifts in combinations(reach, count):
                readings = tuple(
                    _reading(tap, stride, first, border, range(older), shifts)
                    for tap in range(older)
                )
                plan = AxisPlan(begin, shifts, readings)
                if count not in best or plan.cost < best[count].cost:
                    best[count] = plan
    return [best[count] for count in sorted(best)]


def _reading(
    tap: int, stride: int, first: int, border: int, taps: range, shifts: Sequence[int]
) -> Reading:
    """The tap and the shift that together come closest to the mean that an older tap reads."""
    place = stride * (tap - border) + first + border
    return min(
        (
            Reading(
                now,
                shift,
                abs(place - now - shift),
                misses_border=(tap >= border > now) or (tap <= border < now - stride + 1),
            )
            for now in taps
            for shift in shifts
        ),
        key=lambda reading: reading.cost,
    )


@dataclass(frozen=True)
class _Means:
    """The values that the new level makes: the means of all places of every channel."""

    plans: tuple[AxisPlan, ...]
    channels: int

    @property
    def values(self) -> list[tuple[int, tuple[int, ...]]]:
        """Channel and place of each value."""
        return list(product(range(self.channels), product(*(plan.shifts for plan in self.plans))))

    def value(self, channel: int, place: tuple[int, ...]) -> int:
        """The number of a value."""
        return self.values.index((channel, place))


@dataclass(frozen=True)
class _Pairs:
    """Values that crossed a non-linearity as pairs: value n in maps 2n and 2n + 1.

    Attributes:
        difference: Of the maps of a pair, for a value of 1.
    """

    difference: float

    def read(self, kernel: Tensor, value: int, weight: Tensor | float) -> None:
        """Add a value to what a kernel reads, of which axis 0 is that of its inputs."""
        kernel[2 * value] += weight / self.difference
        kernel[2 * value + 1] -= weight / self.difference


def _places(plans: Sequence[AxisPlan]) -> int:
    """Places in space to which the means are moved."""
    x, y, z = (len(plan.shifts) for plan in plans)
    return x * y * z


def random_image(channels: int, size: Int3) -> Tensor:
    """``(1, C, *size)`` random numbers of mean 0 and deviation 1, smooth as scans are.

    >>> image = random_image(2, (16, 12, 8))
    >>> tuple(image.shape), round(float(image.std()), 3)
    ((1, 2, 16, 12, 8), 1.0)
    """
    rng = torch.Generator().manual_seed(SEED)
    image = torch.zeros(1, channels, *size)
    for factor in (1, 2, 4, 8):
        coarse = torch.randn(1, channels, *(-(-n // factor) + 1 for n in size), generator=rng)
        image += F.interpolate(coarse, size=size, mode="trilinear")
    return (image - image.mean()) / image.std()


def _larger(unet: UnetSize, voxels: int) -> Int3:
    """An image with at least so many voxels along each axis, that the U-Net computes."""
    rule = unet_geometry(unet.block, unet.channels, unet.classes, has_head=True).sizes
    return rule.at_least((voxels, voxels, voxels))


class Level:
    """The level on top of an older U-Net.

    Args:
        new: The U-Net with the level; its other levels are those of the older one.
        older: Weights of the older one, by name within the pathway.
        initial: Of the new one, as initialised.

    Attributes:
        weights: Of the new one.
        notes: What could not be kept, and why.
    """

    def __init__(
        self, new: UnetSize, older: Mapping[str, Tensor], initial: Mapping[str, Tensor]
    ) -> None:
        self._new, self._old = new, new.without_top()
        self._block = new.block
        self._older = older
        self._stride = new.block.stride_to(new.top - 1)
        self._maps = new.block.levels[-1].feature_maps
        self._kernel = cube(new.block.levels[-1].kernel)
        slope = {"leaky_relu": SLOPE, "prelu": PRELU_SLOPE}.get(new.block.activation, 0.0)
        self._pairs = _Pairs(1 + slope)
        self.notes: list[str] = []
        self.weights = {
            name: older[name] if name in older and older[name].shape == value.shape else value
            for name, value in initial.items()
        }
        self.weights = {name: value.clone() for name, value in self.weights.items()}
        self._fill_encoder()
        self._fill_decoder()

    def agreement(self) -> tuple[float, float]:
        """Share of the voxels of a random image with the older label, and change of the scores.

        The change is the root of its mean square, as a share of the standard deviation of scores.
        """
        new, old = self._new, self._old
        first = self._first_voxel()
        image = random_image(new.channels, new.sizes_in(_larger(new, VOXELS)))
        x, y, z = (max(n, 0) for n in first)
        coarse = F.avg_pool3d(image[..., x:, y:, z:], self._stride)
        x, y, z = old.sizes_in(map_size(coarse))
        coarse = coarse[..., :x, :y, :z]
        with torch.inference_mode():
            fine = new.network(self.weights)(image)[0]
            scores = old.network(self._older)(coarse)[0]
        for axis, (factor, start, begin, now) in enumerate(
            zip(self._stride, first, old.begin(), new.begin(), strict=True), start=2
        ):
            scores = scores.repeat_interleave(factor, axis)
            offset = max(start, 0) + factor * begin - now
            low = max(offset, 0)
            count = min(fine.shape[axis], offset + scores.shape[axis]) - low
            fine = fine.narrow(axis, low, count)
            scores = scores.narrow(axis, low - offset, count)
        share = (fine.argmax(1) == scores.argmax(1)).float().mean()
        fine, scores = fine - fine.mean(1, keepdim=True), scores - scores.mean(1, keepdim=True)
        change = (fine - scores).square().mean().sqrt() / scores.std().clamp(min=1e-12)
        return float(share), float(change)

    def _fill_encoder(self) -> None:
        """Let the older kernel read the means of the fine voxels in each older one."""
        top = self._new.top
        if self._block.preset == "residual":
            self.notes.append(
                f"level{top - 1}.stem of the source read the image, and there is no place for it "
                f"below another level: what level{top - 1} reads is new"
            )
            return
        name = f"level{top - 1}.encoder.1.conv.weight"
        older, channels = self._older[name], self._new.channels
        plans = self._best_plans()
        if plans is None:
            self.notes.append(
                f"{self._maps} feature maps in level{top}, {2 * channels} are needed to carry the "
                f"image: what level{top - 1} reads is new"
            )
            return
        if any(plan.error for plan in plans):
            exact = [p for p in self._plans() if not any(plan.error for plan in p)]
            needed = min((2 * channels * _places(p) for p in exact), default=None)
            self.notes.append(
                f"level{top - 1} reads some coarse voxels beside their places: "
                + (
                    f"{self._maps} feature maps in level{top}, {needed} would carry all"
                    if needed
                    else f"the kernels of level{top} do not reach them"
                )
            )
        means = _Means(plans, channels)
        for number in range(1, self._block.encoder_blocks(top) + 1):
            self._fill_means(number, means)
        kernel = torch.zeros_like(self.weights[name])
        for x, y, z in product(*map(range, older.shape[2:])):
            readings = [plan.readings[n] for plan, n in zip(plans, (x, y, z), strict=True)]
            shift = tuple(reading.shift for reading in readings)
            now_x, now_y, now_z = (reading.tap for reading in readings)
            for channel in range(channels):
                part = kernel[:, :, now_x, now_y, now_z].T
                self._pairs.read(part, means.value(channel, shift), older[:, channel, x, y, z])
        self.weights[name] = kernel

    def _fill_means(self, number: int, means: _Means) -> None:
        """A convolution on the way down: the first one averages, the last one moves."""
        is_first, is_last = number == 1, number == self._block.encoder_blocks(self._new.top)
        begin = tuple(plan.begin for plan in means.plans)
        values = means.values if is_last else [(c, begin) for c in range(means.channels)]
        kernel = self._carrying(f"encoder.{number}", 2 * len(values))
        for value, (channel, shift) in enumerate(values):
            taps = torch.zeros(kernel.shape[1:])
            if is_first:
                taps[channel] = self._mean(shift)
            else:
                unit = torch.zeros(self._kernel)
                x, y, z = (
                    (k - 1) // 2 + n - b for k, n, b in zip(self._kernel, shift, begin, strict=True)
                )
                unit[x, y, z] = 1
                self._pairs.read(taps, channel, unit)
            kernel[2 * value], kernel[2 * value + 1] = taps, -taps

    def _mean(self, begin: Sequence[int]) -> Tensor:
        """Taps that average the fine voxels of an older one, or those that the kernel reaches."""
        result = torch.ones(1)
        for size, first, stride in zip(self._kernel, begin, self._stride, strict=True):
            start = first + (size - 1) // 2
            taps = torch.zeros(size)
            taps[max(start, 0) : start + stride] = 1
            result = result[..., None] * (taps / taps.sum())
        return result[0]

    def _best_plans(self) -> tuple[AxisPlan, ...] | None:
        """Of the plans that the maps have room for, the ones that misplace least."""
        room = self._maps // (2 * self._new.channels)
        return min(
            (plans for plans in self._plans() if _places(plans) <= room),
            key=lambda plans: (sum(plan.error for plan in plans), _places(plans)),
            default=None,
        )

    def _plans(self) -> Iterator[tuple[AxisPlan, ...]]:
        """Plans for the three axes, in all combinations."""
        choices = [
            axis_plans(
                older=older,
                kernel=kernel,
                stride=stride,
                first=first,
                convolutions=self._block.encoder_blocks(self._new.top),
                is_padded=self._block.padding == "same",
            )
            for older, kernel, stride, first in zip(
                cube(self._block.levels[-2].kernel),
                self._kernel,
                self._stride,
                self._first_voxel_below(),
                strict=True,
            )
        ]
        yield from product(*choices)

    def _first_voxel_below(self) -> Int3:
        """Where voxel 0 of the older image begins, in what the way down gives the level below."""
        if self._block.padding == "same":
            return (0, 0, 0)
        cropped = floor_div(skip_loss(self._block, self._new.top), 2)
        return sub(cropped, mul(self._stride, self._old.begin()))

    def _first_voxel(self) -> Int3:
        """Where voxel 0 of the older image begins in the fine image."""
        if self._block.padding == "same":
            return (0, 0, 0)
        blocks = self._block.encoder_blocks(self._new.top)
        x, y, z = (
            n + blocks * ((k - 1) // 2)
            for n, k in zip(self._first_voxel_below(), self._kernel, strict=True)
        )
        return x, y, z

    def _carrying(self, place: str, count: int) -> Tensor:
        """The kernel of a convolution whose first maps are filled; its norm lets them pass."""
        passing = {
            "conv.bias": 0.0,
            "norm.weight": 1.0,
            "norm.bias": 0.0,
            "norm.running_mean": 0.0,
            "norm.running_var": 1 - EPSILON,
        }
        for role, value in passing.items():
            tensor = self.weights.get(f"level{self._new.top}.{place}.{role}")
            if tensor is not None:
                tensor[:count] = value
        return self.weights[f"level{self._new.top}.{place}.conv.weight"]

    def _fill_decoder(self) -> None:
        """Hand the older scores to the new head, or their differences to those of the first class.

        What comes across from the way down takes no part at first.
        """
        below, top = f"level{self._new.top - 1}.head", f"level{self._new.top}"
        head, bias = self._older[f"{below}.weight"].flatten(1), self._older[f"{below}.bias"]
        dropped = int(2 * len(bias) > self._maps)
        if dropped:
            head, bias = head[1:] - head[:1], bias[1:] - bias[:1]
        count = len(bias)
        if 2 * count > self._maps:
            self.notes.append(
                f"{self._maps} feature maps in {top}, {2 * count} are needed to carry the scores: "
                "its classifier is new"
            )
            return
        self.weights[f"{top}.up.weight"][:, :count] = head.T[:, :, None, None, None]
        self.weights[f"{top}.up.bias"][:count] = bias
        for number in range(1, self._block.decoder_blocks(self._new.top) + 1):
            self._fill_scores(number, count)
        if self._block.norm in NORMS_OF_IMAGES:
            self._fill_norms(head, bias)
        final = torch.zeros_like(self.weights[f"{top}.head.weight"])
        for value in range(count):
            self._pairs.read(final[value + dropped], value, 1.0)
        self.weights[f"{top}.head.weight"] = final
        self.weights[f"{top}.head.bias"].zero_()

    def _fill_scores(self, number: int, count: int) -> None:
        """A convolution on the way up, which passes the scores of its own voxel."""
        kernel = self._carrying(f"decoder.{number}", 2 * count)
        x, y, z = ((k - 1) // 2 for k in self._kernel)
        for value in range(count):
            taps = torch.zeros(kernel.shape[1:])
            if number == 1:
                taps[value, x, y, z] = 1
            else:
                self._pairs.read(taps[:, x, y, z], value, 1.0)
            kernel[2 * value], kernel[2 * value + 1] = taps, -taps

    def _fill_norms(self, head: Tensor, bias: Tensor) -> None:
        """Give scores the mean and scale back that they have on a random image."""
        old = self._old
        image = random_image(old.channels, old.sizes_in(_larger(old, VOXELS)))
        network = old.network(self._older)
        scores = network.graph.outputs[0]
        maps = next(n.inputs[0] for n in network.graph.nodes if n.outputs[0] == scores)
        with torch.inference_mode(), network.keeping([maps]) as inner:
            network(image)
        values = torch.einsum("km,mv->kv", head, inner[maps][0].flatten(1)) + bias[:, None]
        mean, scale = values.mean(1), values.std(1)
        if self._block.norm == "group":  # the mean of a pair of maps is 0
            mean, scale = torch.zeros_like(mean), values.square().mean(1).sqrt()
        for number in range(1, self._block.decoder_blocks(self._new.top) + 1):
            norm = f"level{self._new.top}.decoder.{number}.norm"
            for value in range(len(bias)):
                for row, sign in ((2 * value, 1), (2 * value + 1, -1)):
                    self.weights[f"{norm}.weight"][row] = scale[value]
                    self.weights[f"{norm}.bias"][row] = sign * mean[value]
