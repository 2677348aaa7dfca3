"""Address, depth, shape and weight names of every layer of a network, before it is built.

A layer is addressed as users write it: ``normal.3``, ``sub1.3``, ``fc.2``; layers count from 1 at
the image. ``depth`` counts parallel layers together and the FC layers after them, as users of
``-layers`` count. Nothing here imports torch.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from deepseg.config.blocks.pathways import Padding, PathwayPlan
from deepseg.config.model import Activation, ModelConfig
from deepseg.errors import DeepsegError, Problem, did_you_mean
from deepseg.geometry.boxes import Int3, add, sub, volume
from deepseg.geometry.context import Alignment, NetworkGeometry, PathwayGeometry


@dataclass(frozen=True)
class LayerPlan:
    """One pre-activation layer: [norm or bias] → activation → dropout → padding → convolution.

    Attributes:
        address: ``normal.3``.
        depth: Position from the image, parallel layers of one depth together.
        inputs: Feature maps, or image channels, that it reads.
        outputs: Feature maps that it makes.
        reads_image: First layer of a parallel pathway: a bias per channel and no activation.
        is_head: The layer that gives the classes; it adds a bias per class.
        adds_earlier_input: Adds the input of the layer before to its output.
        normalises: Batch-normalises its input; otherwise it adds a bias.
    """

    address: str
    depth: int
    inputs: int
    outputs: int
    kernel: Int3
    padding: Padding
    dropout: float
    activation: Activation
    reads_image: bool
    is_head: bool
    adds_earlier_input: bool
    is_low_rank: bool
    normalises: bool

    @property
    def parameters(self) -> int:
        """Trainable numbers of the layer."""
        shifts = 2 * self.inputs if self.normalises else self.inputs
        slopes = self.inputs if self.activation == "prelu" else 0
        return shifts + slopes + self.weights + (self.outputs if self.is_head else 0)

    @property
    def weights(self) -> int:
        """Numbers in the convolution kernels."""
        return sum(
            self.inputs * outputs * volume(kernel) for outputs, kernel in self.convolutions.values()
        )

    @property
    def convolutions(self) -> dict[str, tuple[int, Int3]]:
        """Outputs and kernel of each convolution by name; one unnamed one unless low-rank."""
        if not self.is_low_rank:
            return {"": (self.outputs, self.kernel)}
        x, y, z = self.kernel
        third = self.outputs // 3
        return {
            "xy": (third, (x, y, 1)),
            "yz": (third, (1, y, z)),
            "xz": (self.outputs - 2 * third, (x, 1, z)),
        }

    @property
    def planes(self) -> dict[str, tuple[int, int]]:
        """First output and number of outputs of each convolution by name."""
        places, begin = {}, 0
        for name, (outputs, _) in self.convolutions.items():
            places[name] = (begin, outputs)
            begin += outputs
        return places


@dataclass(frozen=True)
class PathwayLayout:
    """The layers of one pathway in their order.

    Attributes:
        geometry: Its factor and its shrink.
    """

    name: str
    geometry: PathwayGeometry
    layers: tuple[LayerPlan, ...]

    @property
    def outputs(self) -> int:
        """Feature maps of the last layer."""
        return self.layers[-1].outputs


@dataclass(frozen=True)
class Layout:
    """All layers of a network.

    Attributes:
        pathways: The parallel pathways, the normal one first.
        fc: The final classification pathway.
    """

    pathways: tuple[PathwayLayout, ...]
    fc: PathwayLayout

    def __iter__(self) -> Iterator[LayerPlan]:
        for pathway in (*self.pathways, self.fc):
            yield from pathway.layers

    @property
    def blocks(self) -> dict[str, int]:
        """Where the maps of each parallel pathway begin among those that the FC pathway reads."""
        begins, begin = {}, 0
        for pathway in self.pathways:
            begins[pathway.name] = begin
            begin += pathway.outputs
        return begins

    @property
    def parameters(self) -> int:
        """Trainable numbers of the network."""
        return sum(layer.parameters for layer in self)

    @property
    def shrink(self) -> Int3:
        """Voxels by which the prediction is smaller than the segment."""
        return add(self.pathways[0].geometry.shrink, self.fc.geometry.shrink)

    def geometry(self, alignment: Alignment) -> NetworkGeometry:
        """Where in the image the network reads and predicts."""
        return NetworkGeometry(
            tuple(pathway.geometry for pathway in self.pathways), self.fc.geometry.shrink, alignment
        )

    def prediction_size(self, segment: Int3) -> Int3:
        """Voxels that are predicted from a segment."""
        return sub(segment, self.shrink)

    def addresses(self, patterns: Iterable[str]) -> tuple[str, ...]:
        """Layers named by ``normal.1``, ranges ``normal.1-3``, wildcards ``sub*.1-2``, ``head``.

        A rule for all subsampled pathways (``sub*``) holds also where there are none.

        Raises:
            DeepsegError: ``layer-unknown``, if any other pattern names no layer.
        """
        addresses = [layer.address for layer in self]
        chosen: set[str] = set()
        problems = []
        for pattern in patterns:
            names = set(_expanded(pattern, head=addresses[-1]))
            matches = [
                address
                for address in addresses
                if any(fnmatch.fnmatchcase(address, name) for name in names)
            ]
            if not matches and not (pattern.startswith("sub*") and len(self.pathways) == 1):
                problems.append(
                    Problem(
                        code="layer-unknown",
                        got=f"{pattern!r}",
                        expected=f"layers of {', '.join(self._ranges())}",
                        fix="name layers as pathway.number or pathway.first-last"
                        + did_you_mean(pattern, [*addresses, "head"]),
                    )
                )
            chosen.update(matches)
        if problems:
            raise DeepsegError(*problems)
        return tuple(address for address in addresses if address in chosen)

    def _ranges(self) -> list[str]:
        counts = {pathway.name: len(pathway.layers) for pathway in (*self.pathways, self.fc)}
        return [f"{name}.1-{n}" if n > 1 else f"{name}.1" for name, n in counts.items()]


def _expanded(pattern: str, *, head: str) -> list[str]:
    """``normal.1-3`` as its three addresses; ``head`` as the address of the last layer.

    >>> _expanded("sub*.2-3", head="fc.3")
    ['sub*.2', 'sub*.3']
    """
    if pattern == "head":
        return [head]
    span = re.fullmatch(r"(.+)\.(\d+)-(\d+)", pattern)
    if span is None:
        return [pattern]
    pathway, first, last = span.groups()
    return [f"{pathway}.{number}" for number in range(int(first), int(last) + 1)]


def layout(config: ModelConfig) -> Layout:
    """The layers that ``config`` describes."""
    parallel = tuple(
        _pathway(plan, config, inputs=len(config.channels), first_depth=1)
        for plan in config.pathways
    )
    return Layout(
        pathways=parallel,
        fc=_pathway(
            config.fc_pathway,
            config,
            inputs=sum(pathway.outputs for pathway in parallel),
            first_depth=1 + max(len(pathway.layers) for pathway in parallel),
        ),
    )


def _pathway(
    plan: PathwayPlan, config: ModelConfig, *, inputs: int, first_depth: int
) -> PathwayLayout:
    is_fc = plan.name == "fc"
    layers = []
    for number, outputs in enumerate(plan.feature_maps, start=1):
        reads_image = number == 1 and not is_fc
        layers.append(
            LayerPlan(
                address=f"{plan.name}.{number}",
                depth=first_depth + number - 1,
                inputs=inputs,
                outputs=outputs,
                kernel=plan.kernels[number - 1],
                padding=plan.padding[number - 1],
                dropout=plan.dropout[number - 1],
                activation="linear" if reads_image else config.activation,
                reads_image=reads_image,
                is_head=is_fc and number == len(plan.feature_maps),
                adds_earlier_input=number in plan.residuals,
                is_low_rank=number in plan.low_rank,
                normalises=config.batch_norm != "none" and not reads_image,
            )
        )
        inputs = outputs
    return PathwayLayout(plan.name, PathwayGeometry(plan.factor, plan.shrink), tuple(layers))
