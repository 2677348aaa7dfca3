"""Values from which batch normalisation takes its statistics, counted before anything is built.

A single value is its own mean: normalised it is 0 whatever the image, and nothing is learnt.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from deepseg.config.model import ModelConfig
from deepseg.config.settings import cube
from deepseg.config.training import TrainConfig
from deepseg.errors import Problem
from deepseg.geometry.boxes import Int3, add, sub, text, volume
from deepseg.geometry.context import coarse_size
from deepseg.model.graph.program import BATCH_NORM, program
from deepseg.model.graph.trace import Tracer
from deepseg.model.imported import graph_of
from deepseg.model.layout import Layout, PathwayLayout, layout
from deepseg.training.freezing import frozen_layers


def single_value_problems(config: TrainConfig, model: ModelConfig) -> Iterator[Problem]:
    """The problem of batches in which a layer normalises one value per feature map.

    The last batch of a sub-epoch counts too, which may be smaller than the others.
    """
    plan, segment = layout(model), cube(model.segments.train)
    batch, segments = config.training.batch_size, config.training.segments_per_subepoch
    smallest = segments % batch or min(batch, segments)
    frozen = frozen_layers(plan, config.freeze, epoch=config.epochs - 1)
    fixed = {address for address, block in frozen.items() if block.batch_norm == "frozen"}
    alone = [
        address
        for address, count in distinct_values(plan, segment).items()
        if count == 1 and address not in fixed
    ]
    if smallest > 1 or not alone:
        return
    of_batch = "a batch" if batch == 1 else f"the last batch of {segments} segments by {batch}"
    larger = (
        "raise batch_size" if batch == 1 else "choose segments_per_subepoch without such a rest"
    )
    yield Problem(
        code="batch-norm-one-value",
        got=f"one value per feature map for the batch normalisation of {_listed(alone)}, in "
        f"{of_batch}: 1 segment of {text(segment)} voxels",
        expected="several, since a single value is normalised to 0 and teaches nothing",
        fix=f"{larger}, or enlarge segments.train of the model",
    )


def distinct_values(plan: Layout, segment: Int3) -> dict[str, int]:
    """Values per feature map that differ, in one segment, in each layer that normalises.

    Maps of a subsampled pathway are repeated before the FC pathway reads them: there the coarse
    voxels count.
    """
    normal = plan.pathways[0]
    core = sub(segment, normal.geometry.shrink)
    counts: dict[str, int] = {}
    for pathway in plan.pathways:
        coarse = coarse_size(core, pathway.geometry.factor)
        size = segment if pathway is normal else add(coarse, pathway.geometry.shrink)
        if pathway.geometry.sizes is not None:
            size = pathway.geometry.sizes.at_least(size)
        counts |= _values(pathway, size) if pathway.network is None else _imported(pathway, size)
    counts |= _values(plan.fc, core)
    first = plan.fc.layers[0] if plan.fc.layers else None
    if first is not None and first.normalises:
        factors = [
            factor
            for pathway in plan.pathways
            for factor in (
                pathway.geometry.factor,
                *(point.stride for point in pathway.attach_points if not point.is_interpolated),
            )
        ]
        counts[first.address] = min(volume(coarse_size(core, factor)) for factor in factors)
    return counts


def _values(pathway: PathwayLayout, size: Int3) -> dict[str, int]:
    """Voxels that each normalising layer of ``pathway`` reads, if the first reads ``size``."""
    counts = {}
    for layer in pathway.layers:
        if layer.normalises:
            counts[layer.address] = volume(size)
        if layer.padding == "none":
            size = sub(size, sub(layer.kernel, (1, 1, 1)))
    return counts


def _imported(pathway: PathwayLayout, size: Int3) -> dict[str, int]:
    """Voxels that each batch normalisation of an imported network reads of an image of ``size``."""
    assert pathway.network is not None
    graph = graph_of(pathway.network)
    (image,) = graph.inputs
    shapes = Tracer(program(graph)).shapes({image.name: (2, pathway.network.channels, *size)})
    layer_of = {node: layer.address for layer in pathway.imported_layers for node in layer.nodes}
    return {
        layer_of[node.outputs[0]]: prod(shapes[node.inputs[0]][2:])
        for node in graph.nodes
        if node.operator == BATCH_NORM
    }


def _listed(addresses: list[str]) -> str:
    shown = ", ".join(addresses[:3])
    return shown + f" and {len(addresses) - 3} more" * (len(addresses) > 3)
