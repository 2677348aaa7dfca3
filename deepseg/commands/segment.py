"""``-test``: segment cases, score them where there is a truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from deepseg.config.load import in_words_of, wording_of
from deepseg.config.load import load as load_config
from deepseg.config.settings import Precision
from deepseg.config.testing import TestConfig
from deepseg.counts import counted
from deepseg.data.cases.case import Case, list_cases
from deepseg.errors import DeepsegError, SomeCasesFailed, raise_if_any
from deepseg.inference import memory
from deepseg.inference.predictor import UNKNOWN_PREPARATION, Listener, Predictor, Tiles
from deepseg.model.checkpoint import Checkpoint
from deepseg.model.devices import chosen_device, current, device_warnings
from deepseg.report.console import Console
from deepseg.sessions.checked_cases import (
    THREADS,
    CheckedCases,
    CheckRules,
    checked_test_cases,
)
from deepseg.sessions.cohort import learnt_columns
from deepseg.sessions.compatibility import (
    preparation_for,
    testing_incompatibilities,
    untrained_problems,
)
from deepseg.sessions.folder import SessionFolder
from deepseg.sessions.model_files import NamedFiles, named_files, say_weights, session_models
from deepseg.sessions.processes.shard import Shard
from deepseg.sessions.reports.testing_page import write_testing_page
from deepseg.sessions.result_names import result_endings
from deepseg.sessions.segmentation.case_stages import CaseStages
from deepseg.sessions.segmentation.completed_cases import CompletedCases
from deepseg.sessions.segmentation.label_names import write_label_files
from deepseg.sessions.segmentation.pipeline import in_stages
from deepseg.sessions.segmentation.score_table import ScoreTable
from deepseg.sessions.set_aside import warn_of_set_aside
from deepseg.sessions.training.epoch_log import announce, log_settings


def segment(
    config_file: Path | str,
    *,
    model: Path | str | Sequence[Path | str] | None = None,
    load: Path | str | None = None,
    keep_going: bool | None = None,
    shard: Shard | None = None,
    precision: Precision | None = None,
    device: str = "auto",
    quiet: bool = False,
) -> Path:
    """Segment the cases of ``config_file`` that are not done yet.

    Args:
        config_file: A test file, YAML or DeepMedic's.
        model: A `.save`, or several whose predictions are averaged; wins over the test file's.
        load: Weights for the network of ``model``: a `.save`, or a checkpoint of DeepMedic.
        keep_going: Go on with the other cases after one that fails; wins over the test file.
        shard: Do these cases only; other processes may do the others at the same time.
        precision: Of the arithmetic; wins over the one in the test file.
        device: ``cpu``, ``cuda``, ``cudaN`` or ``auto``.
        quiet: Print warnings and errors only.

    Returns:
        The session's folder, with ``predictions``, ``cases.csv`` and ``cases.json``.

    Raises:
        DeepsegError: Anything that is wrong with files, settings or data, before the first case;
            without ``keep_going``, whatever is wrong with a case that was begun.
        SomeCasesFailed: With ``keep_going``, after all cases have been tried.
    """
    config_file = Path(config_file)
    loaded = load_config(TestConfig, config_file)
    config = _overridden(loaded.config, precision=precision, keep_going=keep_going)
    return segment_session(
        TestSession(
            config_file,
            config,
            named_files(model, load, config.models),
            chosen_device(device),
            loaded.warnings,
            shard=shard,
            quiet=quiet,
        )
    )


@dataclass(frozen=True)
class TestSession:
    """A testing session as the user asks for it.

    Attributes:
        config_file: The settings file, of which problems without a place of their own are.
        config: Its settings.
        files: All that are named for its models.
        device: That computes.
        warnings: About the settings file.
        shard: Do these cases only.
        quiet: Print warnings and errors only.
    """

    config_file: Path
    config: TestConfig
    files: NamedFiles
    device: torch.device
    warnings: tuple[str, ...] = ()
    shard: Shard | None = None
    quiet: bool = False

    __test__ = False  # its name starts like a test's, and pytest would collect it


def segment_session(session: TestSession) -> Path:
    """Segment the cases of a session that are not done yet; errors as of `deepseg.segment`.

    Returns:
        The session's folder.
    """
    config, file, device = session.config, session.config_file, session.device
    with (
        SessionFolder(
            config.folder,
            config_file=file,
            settings=config.model_dump(mode="json"),
            shard=session.shard,
            quiet=session.quiet,
        ) as folder,
        in_words_of(file, TestConfig),
        current(device),
    ):
        console = folder.console
        console.wording = wording_of(file, TestConfig)
        warnings = [*session.warnings, *device_warnings(config.inference.precision, device)]
        announce(console, f"test {config.name}", warnings, device)
        log_settings(console, config)
        models = _models(session.files, console)
        raise_if_any([*untrained_problems(models), *testing_incompatibilities(config, models)])
        predictor = _predictor(config, models, device, console)
        work = CaseStages(folder, config, predictor, models)
        checked = _checked(config, models, folder, session.shard)
        results = ScoreTable(checked.left_out)
        todo = _clear_pending(checked.cases, work, console)
        fault = _fault_of_cases(todo, work, results, console, keep_going=config.keep_going)
        columns = learnt_columns([model.cohort for model in models])
        cases = list_cases(config.cases, predictor.config.channels, columns=columns)
        report = partial(write_testing_page, folder.path, config, models) if config.report else None
        labels = partial(write_label_files, folder.path, config.save, predictor.config.classes)
        if fault is not None:
            with suppress(DeepsegError):  # the first fault is the one to report
                _gather(cases, work, results, folder, report, labels)
            raise fault
        _gather(cases, work, results, folder, report, labels)
        _say_memory(config, console)
        console.say(f"results in {folder.path}")
        if results.failures:
            raise SomeCasesFailed(*results.failures)
        return folder.path


def _overridden(
    config: TestConfig, *, precision: Precision | None, keep_going: bool | None
) -> TestConfig:
    """The settings, with those of the command line."""
    changes: dict[str, object] = {}
    if precision is not None:
        changes["inference"] = config.inference.model_copy(update={"precision": precision})
    if keep_going is not None:
        changes["keep_going"] = keep_going
    return config.model_copy(update=changes)


def _models(files: NamedFiles, console: Console) -> tuple[Checkpoint, ...]:
    models = session_models(files, seed=0, warn=console.warn)
    say_weights(models, console)
    return models


def _predictor(
    config: TestConfig, models: Sequence[Checkpoint], torch_device: torch.device, console: Console
) -> Predictor:
    """The models, ready to segment cases as the test file asks for."""
    if config.preparation is None and any(model.preparation is None for model in models):
        console.warn(f"{UNKNOWN_PREPARATION} in the test file")
    return Predictor(
        [replace(model, preparation=preparation_for(config, model)) for model in models],
        config.inference,
        device=torch_device,
        postprocess=config.postprocess,
        tiles=Tiles(config.tile_size, config.batch_size),
        listener=Listener(console.warn, console.progress),
    )


def _checked(
    config: TestConfig, models: Sequence[Checkpoint], folder: SessionFolder, part: Shard | None
) -> CheckedCases:
    """The cases, once nothing is wrong with them."""
    rules = CheckRules(
        title="cases",
        needs_labels=False,
        skip_faulty=config.keep_going,
        shard=part,
        endings=result_endings(config.save, models[0].config),
        cache=folder.path / "cache",
        # A limit is kept by reading one case at a time.
        threads=THREADS if config.inference.memory is None else 1,
    )
    return checked_test_cases(config, models, folder.console, rules)


def _clear_pending(cases: Sequence[Case], work: CaseStages, console: Console) -> list[Case]:
    """Delete older results of the cases that are not done, or set them aside.

    Returns:
        These cases.
    """
    todo = [case for case in cases if work.record(case) is None]
    done = len(cases) - len(todo)
    if done:
        console.say(f"{done} of {len(cases)} cases are done already")
    cleared = [work.clear(case) for case in todo]
    warn_of_set_aside([file for case in cleared for file in case.set_aside], console)
    deleted = sum(case.deleted for case in cleared)
    if deleted:
        console.say(
            counted(
                deleted,
                "result file of an older computation is deleted",
                "result files of an older computation are deleted",
            )
        )
    return todo


def _fault_of_cases(
    cases: Sequence[Case],
    work: CaseStages,
    results: ScoreTable,
    console: Console,
    *,
    keep_going: bool,
) -> DeepsegError | None:
    """Do the cases; return what ends the session before all have been tried, or None."""
    stages = in_stages(
        cases,
        read=work.read,
        compute=work.segment,
        write=work.write,
        fits_beside=work.fits_beside,
    )
    with closing(stages):
        for case, outcome in stages:
            if not isinstance(outcome, DeepsegError):
                continue
            if not keep_going:
                return outcome
            results.failures += outcome.at(case.name).problems
            console.warn(f"no result for {case.name}; going on with the other cases")
    return None


def _gather(
    cases: Sequence[Case],
    work: CaseStages,
    results: ScoreTable,
    folder: SessionFolder,
    report: Callable[[Mapping[str, Mapping[str, Any]]], tuple[Path, ...]] | None,
    labels: Callable[[], tuple[Path, ...]],
) -> None:
    """Write the results of all cases that are done, by this process or by others."""
    with CompletedCases(folder.path).alone():
        listed = {case.name: work.record(case) for case in cases}
        records = {name: record for name, record in listed.items() if record is not None}
        for name, record in records.items():
            results.add(name, record)
        warn_of_set_aside(results.write(folder.path), folder.console)
        warn_of_set_aside(labels(), folder.console)
        if report is not None:
            warn_of_set_aside(report(records), folder.console)
    results.show(folder.console)


def _say_memory(config: TestConfig, console: Console) -> None:
    used, limit = memory.peak(), config.inference.memory_bytes
    console.say(f"most memory used: {used / 1e9:.2f} GB")
    if limit is not None and used > limit // memory.processes():
        allowed = limit / memory.processes() / 1e9
        console.warn(
            f"{used / 1e9:.2f} GB of memory were used, more than the {allowed:.3g} GB that "
            "inference.memory allows this process"
        )
