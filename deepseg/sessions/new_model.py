"""``-newModel``: build a network from its description and save it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deepseg.config.loading import load
from deepseg.config.model import ModelConfig
from deepseg.errors import DeepsegError, Problem
from deepseg.model.layout import layout
from deepseg.report.console import Console
from deepseg.sessions.models import Model, fresh, to_save
from deepseg.sessions.tables import network_table
from deepseg.storage.save_file import write_save
from deepseg.transfer.plan import Choice, applied, make_plan
from deepseg.transfer.source import read_source, settings_for


def new_model(
    config_file: Path | str,
    *,
    pretrained: Path | str | None = None,
    layers: Choice = "all but the head",
    out: Path | str | None = None,
    seed: int = 0,
    console: Console | None = None,
) -> Path:
    """Build the model that ``config_file`` describes, fill it from an older one, and save it.

    Args:
        config_file: A model file, YAML or DeepMedic's.
        pretrained: An older model: a `.save`, or a TensorFlow checkpoint of DeepMedic.
        layers: Which layers are taken over; the rest stays random.
        out: Where to write. Default: ``<output>/models/<name>.save``, or the next free name.
        seed: Of the random weights.
        console: Where to speak.

    Returns:
        The file written.

    Raises:
        DeepsegError: The description is wrong, the older model does not fit, or ``out`` exists.
    """
    console = Console() if console is None else console
    loaded = load(ModelConfig, Path(config_file))
    for warning in loaded.warnings:
        console.warn(warning)
    model = fresh(loaded.config, seed=seed, origin=f"new, from {config_file}")
    network_table(console, loaded.config)
    if pretrained is not None:
        model = _filled(model, Path(pretrained), layers, seed=seed, console=console)
    path = _free_path(model) if out is None else _not_there_yet(Path(out))
    write_save(path, to_save(model))
    console.say(f"model written to {path}")
    return path


def _filled(
    model: Model, pretrained: Path, layers: Choice, *, seed: int, console: Console
) -> Model:
    plan_of = layout(model.config)
    source = read_source(pretrained, plan_of)
    config = settings_for(source, model.config)
    weights = fresh(config, seed=seed, origin=model.origin).weights
    plan = make_plan(source, weights, plan_of.fc.layers[-1].address, layers)
    console.table(
        f"weights from {source.file} ({source.kind})",
        ["layer", "tensors", "what stays new"],
        plan.rows(plan_of),
    )
    return replace(
        model,
        config=config,
        weights=applied(plan, weights),
        provenance=plan.provenance() if layers == "all" else model.provenance | plan.provenance(),
    )


def _free_path(model: Model) -> Path:
    name = model.config.name + (".pretrained" if "weights from" in model.provenance else "")
    folder = model.config.output / "models"
    path, number = folder / f"{name}.save", 2
    while path.exists():
        path, number = folder / f"{name}-{number}.save", number + 1
    return path


def _not_there_yet(out: Path) -> Path:
    path = out if out.suffix == ".save" or not out.name else out.with_name(f"{out.name}.save")
    for taken in (out, path):
        if taken.exists():
            raise DeepsegError(
                Problem(
                    code="file-exists",
                    got="a folder of this name" if taken.is_dir() else "a file that is there",
                    expected="a name that is free",
                    fix="choose another -out, or remove the file",
                    where=str(taken),
                )
            )
    return path
