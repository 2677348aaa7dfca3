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
from functools import cached_property
from itertools import pairwise
from math import prod

from deepseg.config.blocks.imported import (
    AttachPoint,
    ImportedNetwork,
    ImportedPathway,
    ImportedWeight,
)
from deepseg.config.blocks.pathways import Padding, PathwayPlan
from deepseg.config.blocks.unet import UnetPathway
from deepseg.config.model import Activation, ModelConfig
from deepseg.counts import counted
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
    def lost(self) -> Int3:
        """Voxels by which the output is smaller than the input."""
        return add(self.kernel, -1) if self.padding == "none" else (0, 0, 0)

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
class ImportedLayerPlan:
    """A layer of an imported network: nodes that share the name of their weights.

    Attributes:
        address: ``imported1.encoder.conv1``.
        depth: Position among the layers of its pathway.
        operators: Such as ``Conv``.
        nodes: First outputs of its nodes.
        weights: By the names that they have within the pathway.
        below: Addresses of the layers whose results it reads.
    """

    address: str
    depth: int
    operators: tuple[str, ...]
    nodes: tuple[str, ...]
    weights: tuple[ImportedWeight, ...]
    below: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """Trainable numbers of the layer."""
        return sum(prod(weight.shape) for weight in self.weights if weight.learns)


@dataclass(frozen=True)
class PathwayLayout:
    """The layers of one pathway in their order.

    Attributes:
        geometry: Its factor and its shrink.
        layers: Of a pathway of our own.
        network: Of an imported pathway, or None.
        imported_layers: Of an imported pathway.
    """

    name: str
    geometry: PathwayGeometry
    layers: tuple[LayerPlan, ...]
    network: ImportedNetwork | None = None
    imported_layers: tuple[ImportedLayerPlan, ...] = ()

    @property
    def outputs(self) -> int:
        """Feature maps of the last layer, or of all attach points of an imported network."""
        return self.layers[-1].outputs if self.network is None else self.network.maps

    @property
    def attach_points(self) -> tuple[AttachPoint, ...]:
        """Where an imported network is cut; none of a pathway of our own."""
        return () if self.network is None else self.network.outputs

    @property
    def addresses(self) -> list[str]:
        """Addresses of all layers."""
        chain = [layer.address for layer in self.layers]
        return [*chain, *(layer.address for layer in self.imported_layers)]

    @property
    def parameters(self) -> int:
        """Trainable numbers of the pathway."""
        imported = sum(layer.parameters for layer in self.imported_layers)
        return imported + sum(layer.parameters for layer in self.layers)

    def below(self, address: str) -> set[str]:
        """Addresses of the layers of this pathway through which the image comes to a layer."""
        if self.network is None:
            chain = self.addresses
            return set(chain[: chain.index(address)])
        by_address = {layer.address: layer for layer in self.imported_layers}
        result: set[str] = set()
        pending = list(by_address[address].below)
        while pending:
            lower = pending.pop()
            if lower not in result:
                result.add(lower)
                pending += by_address[lower].below
        return result


@dataclass(frozen=True)
class Layout:
    """All layers of a network.

    Attributes:
        pathways: The parallel pathways: the normal one, subsampled ones, imported ones.
        fc: The final classification pathway; without layers where an imported network has its own
            classifier.
    """

    pathways: tuple[PathwayLayout, ...]
    fc: PathwayLayout

    def __iter__(self) -> Iterator[LayerPlan]:
        """The layers of our own, without those of imported networks."""
        for pathway in (*self.pathways, self.fc):
            yield from pathway.layers

    @cached_property
    def order(self) -> tuple[str, ...]:
        """Addresses of all layers, imported ones included, the head as the last."""
        return tuple(a for pathway in (*self.pathways, self.fc) for a in pathway.addresses)

    @property
    def head(self) -> str:
        """Address of the layer that gives the classes."""
        return self.order[-1]

    @property
    def classes(self) -> int:
        """Number K of classes."""
        last = self.fc if self.fc.layers else self.pathways[0]
        return last.outputs

    @cached_property
    def imported_layers(self) -> tuple[ImportedLayerPlan, ...]:
        """The layers of all imported networks."""
        return tuple(layer for pathway in self.pathways for layer in pathway.imported_layers)

    @cached_property
    def imported_weights(self) -> dict[str, tuple[str, ImportedWeight]]:
        """Address of the layer and description of every weight of imported networks, by name."""
        return {
            f"{pathway.name}.{weight.name}": (layer.address, weight)
            for pathway in self.pathways
            for layer in pathway.imported_layers
            for weight in layer.weights
        }

    def address_of(self, weight: str) -> str:
        """Address of the layer that a weight belongs to."""
        imported = self.imported_weights.get(weight)
        return ".".join(weight.split(".")[:2]) if imported is None else imported[0]

    @property
    def sees_whole(self) -> bool:
        """True if imported networks compute in a tile what they compute in the whole image."""
        return all(
            pathway.network is None or pathway.network.sees_whole(pathway.geometry.shrink)
            for pathway in self.pathways
        )

    @property
    def is_imported(self) -> bool:
        """Any pathway is an imported network."""
        return any(pathway.network is not None for pathway in self.pathways)

    @property
    def uneven_residuals(self) -> tuple[str, ...]:
        """Layers that add an earlier input which is larger by an odd number of voxels."""
        return tuple(
            layer.address
            for pathway in (*self.pathways, self.fc)
            for before, layer in pairwise(pathway.layers)
            if layer.adds_earlier_input and any(n % 2 for n in add(before.lost, layer.lost))
        )

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
        return sum(pathway.parameters for pathway in (*self.pathways, self.fc))

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

        The name of a module within an imported network names all layers below it. A rule for all
        subsampled pathways (``sub*``) holds also where there are none.

        Raises:
            DeepsegError: ``layer-unknown``, if any other pattern names no layer.
        """
        addresses = self.order
        imported = {layer.address for layer in self.imported_layers}
        chosen: set[str] = set()
        problems = []
        for pattern in patterns:
            names = {pattern, *_expanded(pattern, head=self.head)}
            matches = [
                address
                for address in addresses
                if any(_names(name, address, address in imported) for name in names)
            ]
            if not matches and not (pattern.startswith("sub*") and not self._is_subsampled):
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

    @property
    def _is_subsampled(self) -> bool:
        return any(pathway.name.startswith("sub") for pathway in self.pathways)

    def _ranges(self) -> list[str]:
        names = []
        for pathway in (*self.pathways, self.fc):
            n = len(pathway.layers)
            if not pathway.addresses:
                continue
            if pathway.network is not None:
                names.append(f"{pathway.name}.* ({counted(len(pathway.imported_layers), 'layer')})")
            else:
                names.append(f"{pathway.name}.1-{n}" if n > 1 else f"{pathway.name}.1")
        return names


def _names(pattern: str, address: str, is_imported: bool) -> bool:
    """True if a name or pattern names the layer, or the module that it is in."""
    if pattern == address or fnmatch.fnmatchcase(address, pattern):
        return True
    return is_imported and address.startswith(f"{pattern}.")


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
    """The layers that ``config`` describes; files of imported networks were read before."""
    chains = tuple(
        _pathway(plan, config, inputs=len(config.channels), first_depth=1)
        for plan in config.pathways
    )
    imported = (_imported_pathway(name, block) for name, block in config.networks.items())
    parallel = (*chains, *imported)
    return Layout(
        pathways=parallel,
        fc=_pathway(
            config.fc_pathway,
            config,
            inputs=sum(pathway.outputs for pathway in parallel),
            first_depth=1 + max(len(pathway.addresses) for pathway in parallel),
        ),
    )


def _imported_pathway(name: str, block: UnetPathway | ImportedPathway) -> PathwayLayout:
    network = block.content
    return PathwayLayout(
        name,
        block.geometry,
        layers=(),
        network=network,
        imported_layers=tuple(
            ImportedLayerPlan(
                address=f"{name}.{layer.name}",
                depth=depth,
                operators=layer.operators,
                nodes=layer.nodes,
                weights=layer.weights,
                below=tuple(f"{name}.{lower}" for lower in layer.below),
            )
            for depth, layer in enumerate(network.layers, start=1)
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
