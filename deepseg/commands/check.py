"""``-check``: everything that is wrong with a config and its data, all at once, nothing started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import TypeAlias

from deepseg.config.files.kind_of_file import kind_of_file
from deepseg.config.load import in_words_of, wording_of
from deepseg.config.load import load as load_config
from deepseg.config.model import ModelConfig
from deepseg.config.testing import TestConfig
from deepseg.config.training import TrainConfig
from deepseg.counts import counted
from deepseg.data.cases.summary import CaseSummary
from deepseg.errors import DeepsegError, Problem, raise_if_any
from deepseg.model.checkpoint import Checkpoint
from deepseg.model.devices import chosen_device
from deepseg.report.console import Console
from deepseg.report.progress import duration
from deepseg.sessions.checked_cases import (
    CheckedCases,
    CheckRules,
    TrainingCases,
    checked_test_cases,
    training_and_held_out,
)
from deepseg.sessions.compatibility import testing_incompatibilities
from deepseg.sessions.folds.split import lost_classes, stratified_folds
from deepseg.sessions.model_files import (
    NamedFiles,
    described,
    named_files,
    session_models,
    the_model,
)
from deepseg.sessions.planning.speed import (
    folds_seconds,
    is_quick,
    measured_speed,
    training_seconds,
)
from deepseg.sessions.result_names import result_endings
from deepseg.sessions.tables import cases_table, imported_table, learning_table, network_table
from deepseg.sessions.training.starting_point import begun_model

_Network: TypeAlias = tuple[ModelConfig, Mapping[str, CheckedCases], str]


@dataclass(frozen=True)
class CheckReport:
    """Findings about a config file and its data.

    Attributes:
        problems: All that would stop the session; none if it can start.
        warnings: All that is odd, but stops nothing.
        text: The tables of the network and of the cases, as plain text; empty where there are
            problems.
        network: Settings of the network; None where there are problems.
        cases: Summaries of the cases, by title of their set: ``training cases``.
    """

    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]
    text: str
    network: ModelConfig | None = None
    cases: Mapping[str, tuple[CaseSummary, ...]] = field(default_factory=dict)


def check(
    config_file: Path | str,
    *,
    model: Path | str | Sequence[Path | str] | None = None,
    load: Path | str | None = None,
    quiet: bool = False,
) -> CheckReport:
    """Read a model, train or test file, its model and every file of every case.

    Tables and warnings are also printed while the files are read.

    >>> import tempfile
    >>> settings = "classes: [background, lesion], normal: {feature_maps: [4, 5]}"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "model.yaml"
    ...     _ = file.write_text("{channels: [T1], " + settings + ", segments: {train: 3}}")
    ...     report = check(file, quiet=True)
    >>> [(problem.code, problem.got) for problem in report.problems]
    [('segment-too-small', 'segments.train of 3 x 3 x 3 voxels')]

    Args:
        config_file: Any config file.
        model: A `.save` or model file; wins over the one in the config.
        load: Weights for the network of ``model``: a `.save`, or a checkpoint of DeepMedic.
        quiet: Print warnings only.

    Returns:
        The problems, warnings and tables.

    Raises:
        DeepsegError: Memory ran out. Problems of files and settings are returned, not raised.
    """
    console = Console(quiet=quiet)
    config_file = Path(config_file)
    try:
        network, groups, learning = _examined(config_file, named_files(model, load, None), console)
    except DeepsegError as error:
        if error.exit_code != DeepsegError.exit_code:
            raise
        return CheckReport(error.at(str(config_file)).problems, tuple(console.warnings), "")
    console.say(f"{config_file}: {_verdict(len(console.warnings))}")
    summaries = {title: cases.summaries for title, cases in groups.items()}
    text = _text(network, groups) + learning
    return CheckReport((), tuple(console.warnings), text, network, summaries)


def _verdict(warnings: int) -> str:
    if warnings == 0:
        return "nothing wrong"
    return f"{counted(warnings, 'warning')}, nothing that stops it"


def _examined(config_file: Path, files: NamedFiles, console: Console) -> _Network:
    """The network, faultless groups of cases by title, and the table of how tensors learn."""
    match kind_of_file(config_file):
        case "model":
            imported = described(config_file, console.warn).imported()
            network_table(console, imported.config)
            imported_table(console, imported)
            return imported.config, {}, ""
        case "train":
            console.wording = wording_of(config_file, TrainConfig)
            with in_words_of(config_file, TrainConfig):
                return _examined_training(config_file, files, console)
        case "test":
            console.wording = wording_of(config_file, TestConfig)
            with in_words_of(config_file, TestConfig):
                return _examined_testing(config_file, files, console)


def _examined_training(config_file: Path, files: NamedFiles, console: Console) -> _Network:
    described_by = files.model[0] if len(files.model) == 1 else None
    loaded = load_config(TrainConfig, config_file, model_file=described_by)
    _warn(console, loaded.warnings)
    files = replace(files, configured=named_files(None, None, loaded.config.model).configured)
    model = begun_model(loaded.config, files, console.warn)
    if model is None:
        start = the_model(session_models(files, seed=0, warn=console.warn))
        model = replace(start, training=None)  # as a session of its own
    _say_origins(console, [model])
    network_table(console, model.config)
    cases = training_and_held_out(loaded.config, model, console)
    raise_if_any(_problems_of_folds(loaded.config, cases.training, model.config))
    learning_table(console, model, loaded.config)
    groups = {"training cases": cases.training}
    if cases.held_out is not None:
        groups["validation cases"] = cases.held_out
    config = loaded.config.model_copy(update={"preparation": cases.preparation})
    _say_duration(config, model, cases, console)
    page = StringIO()
    learning_table(Console(stream=page), model, loaded.config)
    return model.config, groups, page.getvalue()


def _problems_of_folds(
    config: TrainConfig, training: CheckedCases, network: ModelConfig
) -> list[Problem]:
    """Classes that the model of a fold would not meet; none without folds.

    Raises:
        DeepsegError: ``folds-too-many``.
    """
    if config.folds is None:
        return []
    fold_of = stratified_folds(
        training.cases, training.summaries, folds=config.folds, seed=config.seed
    )
    if config.training.cases.allow_missing_classes:
        return []
    return list(lost_classes(training.summaries, fold_of, network.classes))


def _say_duration(
    config: TrainConfig, model: Checkpoint, cases: TrainingCases, console: Console
) -> None:
    """Print how long training will take, from a few steps on one case; nothing if it is short."""
    if console.is_quiet or is_quick(model.config, config):
        return
    first = next(zip(cases.training.cases, cases.training.summaries, strict=True))
    speed = measured_speed(replace(model, training=None), config, [first], chosen_device("auto"))
    held_out = 0 if cases.held_out is None else len(cases.held_out.cases)
    seconds = training_seconds(config, speed, cases=len(cases.training.cases), held_out=held_out)
    title = "training takes"
    if config.folds is not None:
        seconds = folds_seconds(config, speed, cases=len(cases.training.cases), held_out=held_out)
        title = f"{config.folds} folds take"
    console.say(
        f"{title} about {duration(seconds)} in all on this machine: a step takes "
        f"{speed.step_s:.2g} s, a case {speed.case_s:.2g} s"
    )


def _examined_testing(config_file: Path, files: NamedFiles, console: Console) -> _Network:
    loaded = load_config(TestConfig, config_file)
    _warn(console, loaded.warnings)
    files = replace(files, configured=loaded.config.models)
    models = session_models(files, seed=0, warn=console.warn)
    network = models[0].config
    _say_origins(console, models)
    network_table(console, network)
    raise_if_any(testing_incompatibilities(loaded.config, models))
    rules = CheckRules(
        title="cases",
        needs_labels=False,
        endings=result_endings(loaded.config.save, network),
    )
    cases = checked_test_cases(loaded.config, models, console, rules)
    return network, {"cases": cases}, ""


def _text(network: ModelConfig, groups: Mapping[str, CheckedCases]) -> str:
    """The tables of a network and of groups of cases by their title, as plain text."""
    page = StringIO()
    console = Console(stream=page)
    network_table(console, network)
    for title, cases in groups.items():
        cases_table(console, title, cases.summaries, network.classes)
    return page.getvalue()


def _say_origins(console: Console, models: Sequence[Checkpoint]) -> None:
    """Print which files were read: a session's folder was perhaps named."""
    for model in models:
        if not model.origin.is_new:
            console.say(f"model: {model.origin}")


def _warn(console: Console, warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        console.warn(warning)
