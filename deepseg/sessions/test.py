"""``-test``: segment cases, score them where there is a truth."""

from __future__ import annotations

import time
from pathlib import Path

from deepseg.config.cases import Preparation
from deepseg.config.loading import load
from deepseg.config.model import cube
from deepseg.config.testing import Precision, TestConfig
from deepseg.data.cases import Case
from deepseg.errors import DeepsegError, SomeCasesFailed, raise_if_any
from deepseg.inference import memory
from deepseg.report.console import Console
from deepseg.sessions.cases import CheckedCases, checked_cases
from deepseg.sessions.devices import chosen_device
from deepseg.sessions.folder import SessionFolder
from deepseg.sessions.models import Model, given_model
from deepseg.sessions.records import announce
from deepseg.sessions.results import Results
from deepseg.sessions.volumes import (
    Computing,
    case_scores,
    computing,
    segmented,
    write_results,
)
from deepseg.sessions.wishes import preparation_for, testing_misfits

SAME_SPACING = 1.05  # ratio up to which voxel sizes count as the same


def segment(
    config_file: Path | str,
    *,
    model_file: Path | str | None = None,
    device: str = "auto",
    precision: Precision | None = None,
    quiet: bool = False,
) -> Path:
    """Segment the cases of ``config_file``.

    Args:
        config_file: A test file, YAML or DeepMedic's.
        model_file: A `.save`; wins over the one in the test file.
        device: ``cpu``, ``cuda``, ``cudaN`` or ``auto``.
        precision: Of the arithmetic; wins over the one in the test file.
        quiet: Say warnings and errors only.

    Returns:
        The session's folder, with ``predictions``, ``cases.csv`` and ``cases.json``.

    Raises:
        DeepsegError: Anything that is wrong with files, settings or data, before the first case.
        SomeCasesFailed: With ``keep_going``, after all cases have been tried.
    """
    config_file = Path(config_file)
    loaded = load(TestConfig, config_file)
    config = loaded.config
    computer = chosen_device(device)
    inference = config.inference
    if precision is not None:
        inference = inference.model_copy(update={"precision": precision})
    with SessionFolder(config.folder, config_file=config_file, quiet=quiet) as folder:
        console = folder.console
        announce(console, f"test {config.name}", loaded.warnings, computer)
        model = _model(config, None if model_file is None else Path(model_file), console)
        raise_if_any(testing_misfits(config, model))
        preparation = preparation_for(config, model, console)
        how = computing(
            model.network().to(computer).eval(), inference,
            tile=None if config.tile is None else cube(config.tile), batch_size=config.batch_size,
        )  # fmt: skip
        checked = checked_cases(
            config.cases, model.config, console, needs_labels=False, what="cases",
            cache=folder.path / "cache", only_good=config.keep_going,
        )  # fmt: skip
        _warn_of_spacing(checked, model, console)
        results = Results(checked.left_out)
        for case in checked.cases:
            try:
                _segment_one(folder, how, case, preparation, config, results)
            except DeepsegError as error:
                if not config.keep_going:
                    raise
                results.failures += error.at(case.name).problems
                console.warn(f"no result for {case.name}; going on with the other cases")
        results.write(folder.path)
        results.show(console)
        console.say(f"most memory used: {memory.peak() / 1e9:.2f} GB")
        console.say(f"results in {folder.path}")
        if results.failures:
            raise SomeCasesFailed(*results.failures)
        return folder.path


def _model(config: TestConfig, model_file: Path | None, console: Console) -> Model:
    model = given_model(model_file, config.model, seed=0)
    console.say(f"weights: {model.origin}")
    if model.training is None and "initialised" in model.provenance:
        console.warn(f"{model.origin}: these weights are random, nothing has been learnt")
    return model


def _warn_of_spacing(checked: CheckedCases, model: Model, console: Console) -> None:
    """Cases of another voxel size than the model learnt with, where nothing is resampled."""
    resampled = model.preparation is not None and model.preparation.resample is not None
    if resampled or model.spacing_mm is None:
        return
    for facts in checked.facts:
        if facts.spacing_mm is None:
            continue
        pairs = zip(facts.spacing_mm, model.spacing_mm, strict=True)
        ratio = max(max(a / b, b / a) for a, b in pairs)
        if ratio > SAME_SPACING:
            console.warn(
                f"{facts.name} has voxels of {_mm(facts.spacing_mm)}, the model learnt with "
                f"{_mm(model.spacing_mm)}: expect a worse segmentation, or train with the key "
                "'resample'"
            )


def _mm(spacing: tuple[float, float, float]) -> str:
    return " x ".join(f"{mm:.3g}" for mm in spacing) + " mm"


def _segment_one(
    folder: SessionFolder, how: Computing, case: Case, preparation: Preparation,
    config: TestConfig, results: Results,
) -> None:  # fmt: skip
    started = time.monotonic()
    found = segmented(how, case, preparation, save=config.save, console=folder.console)
    network = how.network
    files = write_results(
        found, case.name, folder.path / "predictions", network.config, config.save, folder.console
    )
    scores = None if found.truth is None else case_scores(found, network.config, config.groups)
    voxel_ml = found.source.geometry.voxel_ml
    record = {
        "files": [str(file.relative_to(folder.path)) for file in files],
        "volumes_ml": {
            name: float((found.labels == label).sum()) * voxel_ml
            for label, name in enumerate(network.config.classes)
            if label > 0
        },
        "seconds": round(time.monotonic() - started, 2),
    }
    results.add(case.name, record, scores)
