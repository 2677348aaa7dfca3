"""The parts of a report that say what was run: settings, weights, and where they come from."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from deepseg.model.checkpoint import Checkpoint
from deepseg.model.layout import layout
from deepseg.report.network_drawing import network_svg
from deepseg.report.page.document import Section
from deepseg.report.page.markup import Html, element, joined, pairs, table
from deepseg.sessions.tables import PLAN_COLUMNS
from deepseg.sessions.training.progress import flattened


def settings_section(config: BaseModel, command: str) -> Section:
    """The settings that differ from their defaults, and the command."""
    changed = flattened(config.model_dump(mode="json", exclude_defaults=True))
    content = joined(
        [
            element("pre", command),
            element("p", "Settings that differ from their defaults:", class_="note"),
            pairs({key: _words(value) for key, value in changed.items()}),
        ]
    )
    return Section("Settings", content)


def weights_section(models: Sequence[Checkpoint], frozen: Collection[str] = ()) -> Section:
    """Network and provenance of each model, and the plan of a transfer.

    Args:
        models: Those that were used.
        frozen: Addresses of layers that kept their weights.
    """
    return Section("Weights", joined(_model(model, frozen) for model in models))


def _words(value: Any) -> str:
    """A setting as it is written in a file, or nearly so."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _model(model: Checkpoint, frozen: Collection[str]) -> Html:
    config = model.config
    facts = {
        "network": config.name,
        "channels": ", ".join(config.channels),
        "classes": ", ".join(config.classes),
        "parameters": f"{sum(weight.numel() for weight in model.weights.values()):,}",
    }
    words = model.provenance.words()
    texts = {key: str(value) for key, value in words.items() if not key.startswith("layers")}
    filled = () if model.provenance.filled_from is None else model.provenance.filled_from.all
    plans = [
        joined(
            [element("h3", f"Taken over from {source.file}"), table(PLAN_COLUMNS, source.layers)]
        )
        for source in filled
        if source.layers
    ]
    drawing = network_svg(
        layout(config), config.classes, origins=layer_origins(model), frozen=frozen
    )
    picture = element("div", Html(drawing), class_="figure")
    return joined([element("h3", str(model.origin)), picture, pairs(facts | texts), *plans])


def layer_origins(model: Checkpoint) -> dict[str, str]:
    """Where the weights of layers come from, by address; layers that stayed new are left out."""
    filled = model.provenance.filled_from
    origins: dict[str, str] = {}
    for source in () if filled is None else filled.all:
        for layer, taken_from, *_, new in source.layers:
            if taken_from:
                part = "partly from" if new else "from"
                origins.setdefault(layer, f"{part} {Path(source.file).name}")
    if origins:
        return {address: origins.get(address, "new") for address in layout(model.config).order}
    return {}
