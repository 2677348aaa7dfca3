"""The tables that sessions begin with: what the network is, and what the cases are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from deepseg.config.model import ModelConfig
from deepseg.data.cases.checks import CaseSummary
from deepseg.geometry.boxes import Int3, add, ceil_div, mul, sub, text, volume
from deepseg.geometry.receptive_field import shrinkage
from deepseg.model.layout import Layout, PathwayLayout, layout
from deepseg.report.console import Console
from deepseg.transfer.plan import Plan

BYTES_PER_VALUE = 4
TAKEN = ["layer", "from", "kernels", "inputs", "what stays new or is made"]  # a plan's table
KEPT_PER_LAYER = 3  # input, normalised and activated: what a training step keeps of each layer


def network_table(console: Console, config: ModelConfig) -> None:
    """Show every pathway, the receptive field, parameters, sizes and memory."""
    plan = layout(config)
    console.table(
        f"network {config.name}: {len(config.channels)} channels "
        f"({', '.join(config.channels)}) → {len(config.classes)} classes "
        f"({', '.join(config.classes)})",
        ["pathway", "layers", "feature maps", "kernels", "sees (voxels)", "parameters"],
        [_pathway_row(pathway) for pathway in (*plan.pathways, plan.fc)],
    )
    console.say(f"parameters: {plan.parameters:,} trainable in all")
    for use, size in config.segment_sizes.items():
        console.say(
            f"segment for {use}: {text(size)} → {text(plan.prediction_size(size))} predicted, "
            f"{_memory(plan, size)} per segment" + (" and step" if use == "train" else "")
        )


def _pathway_row(pathway: PathwayLayout) -> list[str]:
    kernels = [text(layer.kernel).replace(" ", "") for layer in pathway.layers]
    shrink = shrinkage(layer.kernel for layer in pathway.layers)
    extent = add(mul(shrink, pathway.geometry.factor), 1)
    return [
        pathway.name,
        str(len(pathway.layers)),
        " ".join(str(layer.outputs) for layer in pathway.layers),
        " ".join(
            f"{times} x {kernel}" if times > 1 else kernel
            for kernel, times in Counter(kernels).items()
        ),
        text(extent),
        f"{sum(layer.parameters for layer in pathway.layers):,}",
    ]


def _memory(plan: Layout, segment: Int3) -> str:
    megabytes = _megabytes(plan, segment)
    return "less than 1 MB" if megabytes < 1 else f"about {megabytes:,.0f} MB"


def _megabytes(plan: Layout, segment: Int3) -> float:
    """Feature maps that a training step keeps for one segment; an estimate from the sizes."""
    values = 0
    for pathway in (*plan.pathways, plan.fc):
        core = sub(segment, plan.pathways[0].geometry.shrink)
        size = ceil_div(core, pathway.geometry.factor)
        if pathway is not plan.fc:
            size = add(size, pathway.geometry.shrink)
        for layer in pathway.layers:
            values += KEPT_PER_LAYER * layer.inputs * volume(size)
            if layer.padding == "none":
                size = sub(add(size, 1), layer.kernel)
    return values * BYTES_PER_VALUE / 1e6


def transfer_table(console: Console, plan: Plan) -> None:
    """Show what becomes of every layer, and what holds for the model as a whole."""
    console.table(f"weights from {plan.source.file} ({plan.source.kind})", TAKEN, plan.table())
    for note in plan.notes:
        console.say(note)
    console.say(plan.summary())


def cases_table(
    console: Console, title: str, facts: Sequence[CaseSummary], classes: Sequence[str]
) -> None:
    """Show number, size, spacing and class voxels of some cases."""
    shapes = Counter(text(one.shape) for one in facts if one.shape is not None)
    spacings = Counter(
        " x ".join(f"{mm:.3g}" for mm in one.spacing_mm)
        for one in facts
        if one.spacing_mm is not None
    )
    rows = [
        ["cases", str(len(facts))],
        ["voxels", _listed(shapes)],
        ["spacing in mm", _listed(spacings)],
    ]
    counted = [one.class_voxels for one in facts if one.class_voxels is not None]
    if counted:
        total = sum(sum(voxels) for voxels in counted)
        for label, name in enumerate(classes):
            own = sum(voxels[label] for voxels in counted)
            having = sum(voxels[label] > 0 for voxels in counted)
            rows.append(
                [f"class {label} {name}", f"{own:,} voxels ({own / total:.2%}) in {having} cases"]
            )
    console.table(title, ["", ""], rows)


def _listed(counts: Counter[str]) -> str:
    parts = [
        f"{value} ({times})" if len(counts) > 1 else value for value, times in counts.most_common(3)
    ]
    more = len(counts) - 3
    return ", ".join(parts) + (f" and {more} more" if more > 0 else "")
