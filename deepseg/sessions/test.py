"""``-test``: segment cases, score them where there is a truth."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from operator import sub
from pathlib import Path
from typing import Any

from deepseg.config.cases import Preparation
from deepseg.config.loading import load
from deepseg.config.model import ModelConfig, cube
from deepseg.config.testing import TestConfig
from deepseg.data.cases import Case
from deepseg.errors import DeepsegError, Problem, SomeCasesFailed, raise_if_any
from deepseg.geometry.boxes import text
from deepseg.inference.metrics import FOREGROUND, Scores, summary
from deepseg.model.layout import layout
from deepseg.model.network import Network
from deepseg.report.console import Console
from deepseg.sessions.cases import checked_cases
from deepseg.sessions.devices import chosen_device
from deepseg.sessions.folder import SessionFolder
from deepseg.sessions.models import Model, read_or_make_model
from deepseg.sessions.records import announce
from deepseg.sessions.volumes import (
    case_scores,
    segmented,
    wanted_feature_maps,
    wanted_probabilities,
    write_results,
)
from deepseg.storage.atomic import write_json, write_text

MEASURES = tuple(field.name for field in fields(Scores))


def segment(
    config_file: Path, *, model_file: Path | None = None, device: str = "auto", quiet: bool = False
) -> Path:
    """Segment the cases of ``config_file``.

    Args:
        config_file: A test file, YAML or DeepMedic's.
        model_file: A `.save`; wins over the one in the test file.
        device: ``cpu``, ``cuda``, ``cudaN`` or ``auto``.
        quiet: Say warnings and errors only.

    Returns:
        The session's folder, with ``predictions``, ``cases.csv`` and ``cases.json``.

    Raises:
        DeepsegError: Anything that is wrong with files, settings or data, before the first case.
        SomeCasesFailed: With ``keep_going``, after all cases have been tried.
    """
    loaded = load(TestConfig, config_file)
    config = loaded.config
    computer = chosen_device(device)
    with SessionFolder(config.folder, config_file=config_file, quiet=quiet) as folder:
        console = folder.console
        announce(console, f"test {config.name}", loaded.warnings, computer)
        model = _model(config, model_file)
        console.say(f"weights: {model.origin}")
        preparation = _preparation(config, model, console)
        network = model.network().to(computer).eval()
        check_wishes(config, model.config)
        checked = checked_cases(
            config.cases, model.config, console, needs_labels=False,
            cache=folder.path / "cache", what="cases",
        )  # fmt: skip
        results: dict[str, dict[str, Any]] = {}
        scores: dict[str, dict[str, Scores]] = {}
        failures: list[Problem] = []
        for case in checked.cases:
            try:
                results[case.name] = _one_case(folder, network, case, preparation, config, scores)
            except DeepsegError as error:
                if not config.keep_going:
                    raise
                failures += error.at(case.name).problems
                console.warn(f"no result for {case.name}; going on with the other cases")
        _write_tables(folder.path, results, scores)
        _show_scores(console, scores)
        console.say(f"results in {folder.path}")
        if failures:
            raise SomeCasesFailed(*failures)
        return folder.path


def _model(config: TestConfig, model_file: Path | None) -> Model:
    path = config.model if model_file is None else model_file
    if path is None:
        raise DeepsegError(
            Problem(
                code="model-not-given",
                got="no model",
                expected="a .save",
                fix="add -model FILE, or model: FILE to the test file",
            )
        )
    return read_or_make_model(path, seed=0)


def _preparation(config: TestConfig, model: Model, console: Console) -> Preparation:
    """How cases are prepared: as the model says; the test file decides only where it does not."""
    if model.preparation is None:
        if config.preparation is None:
            console.warn(
                "the model does not say how its cases were prepared: they are normalised to "
                "z-scores inside the ROI; say otherwise with preparation in the test file"
            )
            return Preparation()
        return config.preparation
    if config.preparation is not None and config.preparation != model.preparation:
        raise DeepsegError(
            Problem(
                code="preparation-differs",
                got=f"preparation {config.preparation.model_dump(mode='json')}",
                expected=f"what the model learnt with, {model.preparation.model_dump(mode='json')}",
                fix="remove preparation from the test file: the model applies its own",
            )
        )
    return model.preparation


def check_wishes(config: TestConfig, model: ModelConfig) -> None:
    """Refuse what the test file asks for and the model does not have.

    Raises:
        DeepsegError: ``class-unknown``, ``layer-unknown``, ``name-twice`` or
            ``segment-too-small``.
    """
    raise_if_any(_tile_problems(config, model))
    wanted_probabilities(model, config.save)
    wanted_feature_maps(layout(model), config.save)
    last = len(model.classes) - 1
    raise_if_any(
        Problem(
            code="class-unknown",
            got=f"labels {list(labels)} in group {name!r}",
            expected=f"labels from 1 to {last}",
            fix="name labels of the model",
        )
        for name, labels in config.groups.items()
        if max(labels) > last
    )
    raise_if_any(
        Problem(
            code="name-twice",
            got=f"group {name!r}, which is also a class",
            expected=f"names that differ from those of the classes and from {FOREGROUND}",
            fix="rename the group",
        )
        for name in sorted({FOREGROUND, *model.classes} & config.groups.keys())
    )


def _tile_problems(config: TestConfig, model: ModelConfig) -> Iterator[Problem]:
    smallest = model.smallest_segment
    if config.tile is not None and min(map(sub, cube(config.tile), smallest)) < 0:
        yield Problem(
            code="segment-too-small",
            got=f"tile of {text(cube(config.tile))} voxels",
            expected=f"at least {text(smallest)}, the receptive field",
            fix="enlarge the tile, or leave it out",
        )


def _one_case(
    folder: SessionFolder, network: Network, case: Case, preparation: Preparation,
    config: TestConfig, scores: dict[str, dict[str, Scores]],
) -> dict[str, Any]:  # fmt: skip
    started = time.monotonic()
    tile = network.config.segment_sizes["inference"] if config.tile is None else cube(config.tile)
    result = segmented(
        network, case, preparation, tile=tile, batch_size=config.batch_size,
        feature_maps=wanted_feature_maps(network.layout, config.save), console=folder.console,
    )  # fmt: skip
    files = write_results(
        result, case.name, folder.path / "predictions", network.config, config.save, folder.console
    )
    if result.truth is not None:
        scores[case.name] = case_scores(result, network.config, config.groups)
    voxel_ml = result.source.geometry.voxel_ml
    return {
        "files": [str(file.relative_to(folder.path)) for file in files],
        "seconds": round(time.monotonic() - started, 2),
        "volumes_ml": {
            name: float((result.labels == label).sum()) * voxel_ml
            for label, name in enumerate(network.config.classes)
            if label > 0
        },
        "scores": None
        if result.truth is None
        else {row: asdict(one) for row, one in scores[case.name].items()},
    }


def _write_tables(
    folder: Path, results: Mapping[str, Any], scores: Mapping[str, Mapping[str, Scores]]
) -> None:
    write_json(
        folder / "cases.json",
        {"cases": dict(results), "summary": summary(scores) if scores else None},
    )
    rows = [
        [case, row, *("" if v is None else f"{v:.6g}" for v in asdict(one).values())]
        for case, per_row in scores.items()
        for row, one in per_row.items()
    ]
    write_text(folder / "cases.csv", _csv([["case", "class", *MEASURES], *rows]))


def _csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _show_scores(console: Console, scores: Mapping[str, Mapping[str, Scores]]) -> None:
    if not scores:
        return
    means = summary(scores)
    rows = [
        [
            row,
            _number(values["dice"]["mean"], ".3f"),
            _number(values["dice"]["standard_deviation"], ".3f"),
            _number(values["precision"]["mean"], ".3f"),
            _number(values["sensitivity"]["mean"], ".3f"),
            _number(values["hausdorff95_mm"]["mean"], ".1f"),
            _number(values["surface_distance_mm"]["mean"], ".2f"),
            f"{values['dice']['defined']} of {len(scores)}",
        ]
        for row, values in means.items()
        if len(means) > 2 or row != FOREGROUND  # with one class, that is the foreground
    ]
    console.table(
        f"mean scores of {len(scores)} cases",
        ["class", "Dice", "± s.d.", "precision", "sensitivity", "HD95 mm", "ASSD mm", "cases"],
        rows,
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
