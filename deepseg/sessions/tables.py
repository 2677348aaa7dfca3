"""The tables that sessions begin with: of the network, the cases, and a transfer of weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby

from deepseg.config.blocks.imported import ImportedNetwork
from deepseg.config.model import ModelConfig
from deepseg.config.training import TrainConfig
from deepseg.counts import counted
from deepseg.data.cases.summary import CaseSummary
from deepseg.geometry.boxes import Int3, add, ceil_div, maximum, mul, sub, text, volume
from deepseg.geometry.receptive_field import shrinkage
from deepseg.model.checkpoint import Checkpoint, TrainingCohort
from deepseg.model.imported_cost import imported_values
from deepseg.model.layout import Layout, PathwayLayout, layout
from deepseg.report.console import Console
from deepseg.training.weight_rules import weight_rules
from deepseg.transfer.imported import ImportedModel
from deepseg.transfer.plan import Plan

BYTES_PER_VALUE = 4
PLAN_COLUMNS = ["layer", "from", "kernels", "inputs", "what stays new or is made"]
IMAGE = 200  # voxels along each axis of the case by which windows are counted
MANY_WINDOWS, FEW_WINDOWS = 64, 8
KEPT_PER_LAYER = 3  # input, normalised and activated: what a training step keeps of each layer


def network_table(console: Console, config: ModelConfig) -> None:
    """Show every pathway, the receptive field, parameters, sizes and memory."""
    plan = layout(config)
    console.table(
        f"network {config.name}: {counted(len(config.channels), 'channel')} "
        f"({', '.join(config.channels)}) → {counted(len(config.classes), 'class', 'classes')} "
        f"({', '.join(config.classes)})",
        ["pathway", "layers", "feature maps", "kernels", "sees (voxels)", "parameters"],
        [_pathway_row(p) for p in (*plan.pathways, plan.fc) if p.addresses],
    )
    console.say(f"parameters: {plan.parameters:,} in all")
    for use, size in config.segment_sizes.items():
        console.say(
            f"segment for {use}: {text(size)} → {text(plan.prediction_size(size))} predicted, "
            f"{_memory(plan, size)} per segment" + (" and step" if use == "train" else "")
        )
    for line in _window_advice(plan, config.segment_sizes["inference"]):
        console.say(line)


def _window_advice(plan: Layout, window: Int3) -> Iterator[str]:
    """A line where cases are cut into many windows, with the number for larger ones."""
    networks = [pathway.network for pathway in plan.pathways if pathway.network is not None]
    if not networks or _windows(plan, window) <= MANY_WINDOWS:
        return
    larger = window
    while _windows(plan, larger) > FEW_WINDOWS:
        larger = add(larger, networks[0].step)
    image = text((IMAGE, IMAGE, IMAGE))
    yield (
        f"a case of {image} takes {_windows(plan, window):,} windows of segments.inference, each "
        f"with a border where the network sees nothing beyond; of {text(larger)} "
        f"({_memory(plan, larger)} each) it takes {_windows(plan, larger)}: enlarge it as memory "
        "allows"
    )


def _windows(plan: Layout, window: Int3) -> int:
    """Windows into which a case of `IMAGE` voxels along every axis is cut."""
    image = (IMAGE, IMAGE, IMAGE)
    return volume(ceil_div(image, maximum(plan.prediction_size(window), 1)))


def imported_table(console: Console, imported: ImportedModel) -> None:
    """Show of every imported layer where its weights come from; nothing where there are none."""
    if imported.rows:
        columns = ["layer", "operators", "weights from", "channels"]
        console.table("imported layers", columns, [list(row) for row in imported.rows])
    for notice in imported.notices:
        console.say(notice)


def _pathway_row(pathway: PathwayLayout) -> list[str]:
    if pathway.network is not None:
        return _imported_row(pathway, pathway.network)
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


def _imported_row(pathway: PathwayLayout, network: ImportedNetwork) -> list[str]:
    fields = [point.receptive_field for point in network.outputs]
    bounded = [field for field in fields if field is not None]
    sees = text(maximum(*bounded)) if len(bounded) == len(fields) else "whole image"
    operators = Counter(name for layer in pathway.imported_layers for name in layer.operators)
    return [
        pathway.name,
        str(len(pathway.imported_layers)),
        " ".join(str(point.maps) for point in network.outputs),
        " ".join(f"{times} x {name}" for name, times in operators.items()),
        sees,
        f"{pathway.parameters:,}",
    ]


def _memory(plan: Layout, segment: Int3) -> str:
    megabytes = training_megabytes(plan, segment)
    return "less than 1 MB" if megabytes < 1 else f"about {megabytes:,.0f} MB"


def training_megabytes(plan: Layout, segment: Int3) -> float:
    """Feature maps that a training step keeps for one segment; an estimate from the sizes."""
    values = imported_values(plan, sub(segment, plan.pathways[0].geometry.shrink))
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
    """Show the origin of every layer's weights, and the notes on the model as a whole."""
    for earlier in plan.earlier:
        transfer_table(console, earlier)
    console.table(
        f"weights from {plan.source.file} ({plan.source.kind})", PLAN_COLUMNS, plan.table()
    )
    for note in plan.notes:
        console.say(note)
    console.say(plan.summary())


def learning_table(console: Console, model: Checkpoint, config: TrainConfig) -> None:
    """Show of every tensor how it learns and which rule says so; those alike in a layer together.

    Args:
        console: That prints.
        model: That begins to learn.
        config: Of the session.
    """
    plan = layout(model.config)
    rules = weight_rules(model.weights, plan, config)
    rows = [
        [", ".join(_shortened([rule.name for rule in alike], address)), *words]
        for (address, words), alike in groupby(
            rules, key=lambda rule: (plan.address_of(rule.name), rule.words)
        )
    ]
    columns = ["tensor", "learning rate", "momentum", "decay", "set by"]
    console.table("first epoch: rates of every tensor", columns, rows)


def _shortened(names: Sequence[str], address: str) -> list[str]:
    """Names of a layer's tensors, the later ones without what is in front of them.

    >>> _shortened(["fc.1.norm.weight", "fc.1.norm.bias"], "fc.1")
    ['fc.1.norm.weight', 'norm.bias']
    """
    first, *rest = names
    return [first, *(name.removeprefix(f"{address}.") for name in rest)]


def cases_table(
    console: Console, title: str, summaries: Sequence[CaseSummary], classes: Sequence[str]
) -> None:
    """Show number, size, spacing and class voxels of some cases."""
    shapes = Counter(text(summary.shape) for summary in summaries if summary.shape is not None)
    spacings = Counter(
        " x ".join(f"{mm:.3g}" for mm in summary.spacing_mm)
        for summary in summaries
        if summary.spacing_mm is not None
    )
    rows = [
        ["cases", str(len(summaries))],
        ["voxels", _most_common(shapes)],
        ["spacing in mm", _most_common(spacings)],
    ]
    counts = [summary.class_voxels for summary in summaries if summary.class_voxels is not None]
    total = sum(map(sum, counts))
    for label, name in enumerate(classes if counts else ()):
        voxels = sum(count[label] for count in counts)
        cases = sum(count[label] > 0 for count in counts)
        share = f"{voxels:,} voxels ({voxels / total:.2%}) in {counted(cases, 'case')}"
        rows.append([f"class {label} {name}", share])
    console.table(title, ["", ""], rows)


def cohort_rows(cohort: TrainingCohort) -> list[list[str]]:
    """Rows about the cases that a model has learnt from.

    >>> cohort_rows(TrainingCohort(orientations=("LPS", "RAS"), missing_channels=()))
    [['axes of its cases', 'LPS RAS'], ['channels that some lacked', 'none']]
    """
    rows = []
    if cohort.orientations is not None:
        rows.append(["axes of its cases", " ".join(cohort.orientations)])
    if cohort.roi_share is not None:
        rows.append(["cases with a ROI", f"{cohort.roi_share:.0%}"])
    elif cohort.has_roi is not None:
        rows.append(["every case with a ROI", "yes" if cohort.has_roi else "no"])
    if cohort.missing_channels is not None:
        rows.append(["channels that some lacked", " ".join(cohort.missing_channels) or "none"])
    if cohort.columns is not None:
        rows.append(["columns of channels", " ".join(cohort.columns)])
    if cohort.foreground_share is not None:
        rows.append(["foreground", f"{cohort.foreground_share:.2%} of the voxels"])
    for name, share in (cohort.class_shares or {}).items():
        rows.append([f"voxels of {name}", f"{share:.2%}"])
    for name, values in (cohort.intensity or {}).items():
        words = f"{values.low:.5g} to {values.high:.5g}, mean {values.mean:.5g}"
        rows.append([f"intensities of {name}", words])
    return rows


def _most_common(counts: Counter[str]) -> str:
    values = [
        f"{value} ({times})" if len(counts) > 1 else value for value, times in counts.most_common(3)
    ]
    more = len(counts) - 3
    return ", ".join(values) + (f" and {more} more" if more > 0 else "")
