"""``-newModel``: build a network from its description, fill it from an older one, and save it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deepseg.model.checkpoint import Checkpoint
from deepseg.report.console import Console
from deepseg.sessions.model_files import described
from deepseg.sessions.tables import imported_table, network_table, transfer_table
from deepseg.storage.atomic import write_json
from deepseg.storage.free_name import raise_if_taken
from deepseg.transfer.filling import planned_transfer
from deepseg.transfer.plan import Plan
from deepseg.transfer.rules import TransferRules


def new_model(
    config_file: Path | str,
    *,
    pretrained: Path | str | Sequence[Path | str] | None = None,
    rules: TransferRules | None = None,
    out: Path | str | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> Path:
    """Build the model that ``config_file`` describes, fill it from an older one, and save it.

    The plan of a transfer is shown, and written beside the model as ``<name>.transfer.json``.

    Args:
        config_file: A model file, YAML or DeepMedic's; or the folder of a model that nnU-Net has
            trained, or of one of its folds.
        pretrained: An older model: a `.save`, a session's folder, a TensorFlow checkpoint of
            DeepMedic, or a file of named tensors. Of several, each fills what those before left
            new.
        rules: Which weights are taken over and how. Default: all layers but the classification
            layer, by name.
        out: Where to write. Default: ``<output>/models/<name>.save``, or the next free name.
        seed: Of the weights that stay random.
        quiet: Print warnings and errors only.

    Returns:
        The file written.

    Raises:
        DeepsegError: The description is wrong, the older model does not fit, or ``out`` exists.
    """
    console = Console(quiet=quiet)
    model = _described(Path(config_file), seed=seed, console=console)
    planned = None
    if pretrained is not None:
        rules = TransferRules() if rules is None else rules
        planned = planned_transfer(model, _files(pretrained), rules, seed=seed)
        transfer_table(console, planned.plan)
        model = planned.filled()
    path = _free_path(model) if out is None else _not_there_yet(Path(out))
    model.write(path)
    if planned is not None:
        write_json(path.with_suffix(".transfer.json"), planned.plan.record())
    console.say(f"model written to {path}")
    return path


def plan_transfer(
    config_file: Path | str,
    pretrained: Path | str | Sequence[Path | str],
    *,
    rules: TransferRules | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> Plan:
    """Show the plan by which `new_model` fills a model from an older one, and write nothing.

    Args:
        config_file: A model file, YAML or DeepMedic's.
        pretrained: An older model, as for `new_model`.
        rules: Which weights are taken over and how. Default: all layers but the classification
            layer, by name.
        seed: Of the weights that stay random.
        quiet: Print warnings and errors only.

    Returns:
        The plan: every copy, and the reason for every weight that stays as initialised.

    Raises:
        DeepsegError: The description is wrong, or the older model does not fit.
    """
    console = Console(quiet=quiet)
    model = _described(Path(config_file), seed=seed, console=console)
    rules = TransferRules() if rules is None else rules
    plan = planned_transfer(model, _files(pretrained), rules, seed=seed).plan
    transfer_table(console, plan)
    return plan


def _files(pretrained: Path | str | Sequence[Path | str]) -> list[Path]:
    return list(map(Path, [pretrained] if isinstance(pretrained, (str, Path)) else pretrained))


def _described(config_file: Path, *, seed: int, console: Console) -> Checkpoint:
    description = described(config_file, console.warn)
    imported = description.imported()
    network_table(console, imported.config)
    imported_table(console, imported)
    if description.preparation is not None:
        console.say(f"cases are prepared {description.preparation.summary}")
    return description.checkpoint(imported, seed=seed)


def _free_path(model: Checkpoint) -> Path:
    name = model.config.name + (".pretrained" if model.provenance.filled_from is not None else "")
    folder = model.config.output / "models"
    path, number = folder / f"{name}.save", 2
    while path.exists():
        path, number = folder / f"{name}-{number}.save", number + 1
    return path


def _not_there_yet(out: Path) -> Path:
    path = out if out.suffix == ".save" or not out.name else out.with_name(f"{out.name}.save")
    raise_if_taken([out, path, path.with_suffix(".transfer.json")])
    return path
