"""``-show``: what is inside a model file, a file of weights, or a config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from torch import Tensor

from deepseg.builtin import builtin_file
from deepseg.commands.show_graph import show_graph
from deepseg.config.blocks.imported import ImportedPathway
from deepseg.config.blocks.unet import UnetPathway
from deepseg.config.files.kind_of_file import kind_of_file
from deepseg.config.load import load
from deepseg.config.testing import TestConfig
from deepseg.config.training import TrainConfig
from deepseg.errors import DeepsegError
from deepseg.geometry.boxes import text
from deepseg.model.checkpoint import Checkpoint, read_checkpoint
from deepseg.model.cost import multiply_adds, multiply_adds_in_inference
from deepseg.model.imported_cost import imported_multiply_adds
from deepseg.model.layout import LayerPlan, Layout, layout
from deepseg.report.console import Console
from deepseg.sessions.model_files import described
from deepseg.sessions.tables import PLAN_COLUMNS, cohort_rows, network_table
from deepseg.transfer.rules import in_options
from deepseg.transfer.source import Source, model_of_device, read_named_tensors
from deepseg.transfer.sources.device_folder import device_state
from deepseg.transfer.sources.graph_files import has_weights, is_graph_file
from deepseg.transfer.sources.nnunet.folder import is_nnunet_folder
from deepseg.transfer.sources.theano import refusal_of_theano_save


def show(file: Path | str) -> str:
    """The contents of a `.save`, a file of weights that others wrote, or a config file.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "weights.pt"
    ...     torch.save({"conv.weight": torch.zeros(2, 3)}, file)
    ...     print(show(file).partition("about it")[0], end="")
    tensors
    name         shape  type
    ---------------------------
    conv.weight  2x3    float32

    Args:
        file: The file, or the folder of a session, whose best model is shown, or else its last; or
            the folder of a model that nnU-Net has trained.

    Returns:
        Tables as plain text, 80 characters wide unless words need more.

    Raises:
        DeepsegError: The file is missing, damaged or wrong.
    """
    page = StringIO()
    show_contents(builtin_file(Path(file)), Console(stream=page))
    return page.getvalue()


def show_contents(file: Path, console: Console) -> None:
    """Print the tables of `show` on ``console``, as wide as its terminal.

    Raises:
        DeepsegError: The file is missing, damaged or wrong.
    """
    if is_graph_file(file) and not has_weights(file):
        show_graph(file, console)
        return
    if _show_device(file, console) or _show_weights(file, console):
        return
    refusal = refusal_of_theano_save(file)
    if refusal is not None:
        raise DeepsegError(refusal)
    if file.suffix == ".save" or file.is_dir():
        is_foreign = is_nnunet_folder(file)
        model = described(file, console.warn).new(seed=0) if is_foreign else read_checkpoint(file)
        _show_model(model, console)
        return
    match kind_of_file(file):
        case "model":
            _show_model(described(file, console.warn).new(seed=0), console)
            warnings: tuple[str, ...] = ()
        case "train":
            trained = load(TrainConfig, file)
            _show_settings(trained.config.model_dump(mode="json"), console)
            warnings = trained.warnings
        case "test":
            tested = load(TestConfig, file)
            _show_settings(tested.config.model_dump(mode="json"), console)
            warnings = tested.warnings
    for warning in warnings:
        console.warn(warning)


def _show_model(model: Checkpoint, console: Console) -> None:
    network_table(console, model.config)
    console.table(
        "layers",
        ["layer", "depth", "maps", "kernel", "before it", "with", "weights"],
        [_layer_row(layer) for layer in layout(model.config)],
    )
    _show_imported(layout(model.config), model.config.networks, console)
    _show_costs(layout(model.config), console)
    rows = [["file or origin", str(model.origin.file)], ["context", model.config.context_alignment]]
    if model.spacing_mm is not None:
        rows.append(["trained at (mm)", " x ".join(f"{mm:.3g}" for mm in model.spacing_mm)])
    if model.cohort is not None:
        rows += cohort_rows(model.cohort)
    if model.preparation is not None:
        rows.append(["preparation", _short(model.preparation.model_dump(mode="json"))])
    if model.training is not None:
        rows += _training_rows(model.training)
        _show_settings(model.training.get("settings", {}), console)
    words, source = model.provenance.words(), model.provenance.filled_from
    apart = ("layers", "rules")  # in tables of their own
    rows += [[key, _short(text)] for key, text in words.items() if key.split()[0] not in apart]
    older = () if source is None else source.all
    for filled in older:
        place = f" ({filled.file})" if len(older) > 1 else ""
        rows += [[f"rule {o}{place}", typed] for o, typed in in_options(filled.rules)]
    console.table("about it", ["", ""], rows)
    for filled in older:
        if filled.layers:
            console.table(f"taken from {filled.file}", PLAN_COLUMNS, filled.layers)


def _show_weights(file: Path, console: Console) -> bool:
    """Show named tensors, with the graph that they belong to; False for another file."""
    tensors = read_named_tensors(file)
    if tensors is None:
        return False
    _show_tensors(tensors, console)
    if is_graph_file(file):
        show_graph(file, console)
    return True


def _show_device(file: Path, console: Console) -> bool:
    """Show the model and the state of a folder in which a device trains; False for another path."""
    state = device_state(file)
    if state is None:
        return False
    _show_model(model_of_device(state), console)
    rows = [
        ["folder", str(state.file.parent)],
        ["made by", "-export MODEL train-step"],
        ["state", state.file.name],
        ["steps", f"{state.steps:,}"],
        ["way back", "-newModel MODEL -pretrained FOLDER -layers all -out M.save"],
    ]
    console.table("trained on a device", ["", ""], rows)
    return True


def _training_rows(training: Mapping[str, Any]) -> list[list[str]]:
    """The rows of a training state; parts that another program has removed are left out."""
    rows = [
        ["session", str(training.get("session"))],
        ["command", _short(training.get("command"))],
        ["epochs finished", str(training.get("epoch"))],
        ["best score", _short(training.get("best"))],
    ]
    optimizer = training.get("optimizer")
    rates = optimizer.get("learning_rates", {}) if isinstance(optimizer, dict) else {}
    rows.append(["learning rates", ", ".join(f"{k} {v:.3g}" for k, v in rates.items())])
    rows.append(["machine", _short(training.get("machine"))])
    return rows


def _show_imported(
    plan: Layout, blocks: Mapping[str, UnetPathway | ImportedPathway], console: Console
) -> None:
    """The layers of a U-Net and of imported networks, and where their images and results lie."""
    for pathway in plan.pathways:
        if pathway.network is None:
            continue
        network, block = pathway.network, blocks[pathway.name]
        console.table(
            pathway.name,
            ["layer", "depth", "operators", "weights"],
            [
                [
                    layer.address,
                    str(layer.depth),
                    " ".join(layer.operators),
                    f"{layer.parameters:,}",
                ]
                for layer in pathway.imported_layers
            ],
        )
        rows = []
        if isinstance(block, ImportedPathway):
            rows = [
                ["origin", str(block.origin)],
                ["sha256", network.sha256],
                ["weights", "new" if block.random else "of the file"],
            ]
        rows += [
            ["smallest image", text(network.smallest)],
            ["in steps of", text(network.step)],
            ["thrown away", text(pathway.geometry.shrink)],
        ]
        for point in network.outputs:
            field = point.receptive_field
            rows += [
                ["output", point.output],
                ["maps", str(point.maps)],
                ["stride", text(point.stride)],
                ["receptive field", "whole image" if field is None else text(field)],
            ]
        console.table(f"images of {pathway.name}", ["", ""], rows)


def _show_tensors(source: Source, console: Console) -> None:
    console.table(
        "tensors",
        ["name", "shape", "type"],
        [_tensor_row(name, tensor) for name, tensor in source.tensors.items()],
    )
    values = sum(tensor.numel() for tensor in source.tensors.values())
    console.table(
        "about it",
        ["", ""],
        [
            ["file", str(source.file)],
            ["kind", source.kind],
            ["sha256", source.sha256],
            ["tensors", f"{len(source.tensors):,} with {values:,} values"],
        ],
    )


def _tensor_row(name: str, tensor: Tensor) -> list[str]:
    shape = "x".join(str(n) for n in tensor.shape)
    return [name, shape or "-", str(tensor.dtype).removeprefix("torch.")]


def _show_costs(plan: Layout, console: Console) -> None:
    imported = imported_multiply_adds(plan)
    plain = {**imported, **multiply_adds(plan)}
    quick = {**imported, **multiply_adds_in_inference(plan)}
    whole = sum(plain.values())
    rows = [
        [address, f"{cost:,.0f}", f"{quick[address]:,.0f}", f"{cost / whole:.1%}"]
        for address, cost in plain.items()
    ]
    rows.append(["all", f"{whole:,.0f}", f"{sum(quick.values()):,.0f}", "100.0%"])
    console.table(
        "multiply-adds per predicted voxel, borders aside",
        ["layer", "plain", "as segmented", "share of plain"],
        rows,
    )


def _layer_row(layer: LayerPlan) -> list[str]:
    extras = [
        "residual" if layer.adds_earlier_input else "",
        "low rank" if layer.is_low_rank else "",
        f"{layer.padding} padding" if layer.padding != "none" else "",
        f"dropout {layer.dropout:g}" if layer.dropout else "",
        "head" if layer.is_head else "",
    ]
    return [
        layer.address,
        str(layer.depth),
        f"{layer.inputs} → {layer.outputs}",
        text(layer.kernel).replace(" ", ""),
        f"{'norm' if layer.normalises else 'bias'}, {layer.activation}",
        ", ".join(extra for extra in extras if extra),
        f"{layer.parameters:,}",
    ]


def _show_settings(settings: Mapping[str, Any], console: Console) -> None:
    console.table("settings", ["key", "value"], [list(row) for row in _flat(settings)])


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", _short(value)))
    return rows


def _short(value: Any) -> str:
    """A value for people: no braces, and no settings that are off."""
    match value:
        case str():
            return value
        case dict():
            switched_on = {k: v for k, v in value.items() if v not in (None, False, [], {})}
            return ", ".join(f"{key} {_short(v)}".strip() for key, v in switched_on.items())
        case list():
            return " ".join(map(_short, value))
        case None:
            return "-"
        case float():
            return f"{value:.4g}"
        case _:
            return json.dumps(value)
