"""Training sessions as they left their folders: settings and scores, and which belong together.

Sessions that differ in their seed only are a group. It is told by the name of the folder, which
``-seed N`` ends in ``-seedN``; settings are held against each other to see whether it is true.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from deepseg.errors import DeepsegError, Problem, raise_if_any
from deepseg.inference.metrics import Scores
from deepseg.model.provenance import Provenance
from deepseg.report.comparison import ScoredRun, SeedGroup
from deepseg.sessions.folder import SessionFolder
from deepseg.sessions.folds.record import Folds, stored_folds, unfinished
from deepseg.sessions.segmentation.case_result import mean_record
from deepseg.sessions.training.epoch_log import mean_dice
from deepseg.sessions.training.progress import WITHOUT_EFFECT, flattened
from deepseg.storage.save_file import read_save
from deepseg.training.model_selection import MEAN, OF_VOLUMES

Metric = Literal["volumes", "samples"]

METRICS: dict[Metric, str] = {
    "volumes": "Dice on whole volumes, mean of the foreground classes",
    "samples": "Dice on samples, mean of the foreground classes",
}
OF_A_SEED = (*WITHOUT_EFFECT, "name", "seed")  # settings in which the sessions of a group differ
OF_THE_MACHINE = ("deepseg", "torch", "device", "ranks")  # facts that may change scores
OF_A_FOLD = ("name", "output", "cache", "training.cases.only")
OF_A_START = ("freeze", "loss.l2_sp", "start")  # what `-fromScratch` changes, and the start itself
PARTS = ("training", "machine")  # whose entries are compared one by one


@dataclass(frozen=True)
class FinishedRun:
    """A session with at least one finished epoch.

    Attributes:
        folder: As the user named it.
        settings: Every key of its train file, and of its model file after ``network.``; ``start``
            is where its first weights come from, and ``machine.`` on what it was trained.
        records: The lines of metrics.jsonl, by epoch from 0; -1 is before the first.
    """

    folder: Path
    settings: Mapping[str, Any]
    records: Mapping[int, Mapping[str, Any]]

    @property
    def group(self) -> Path:
        """The folder without the seed."""
        return group_folder(self.folder)

    @property
    def epochs(self) -> int:
        """Number of epochs that it has finished."""
        return sum(epoch >= 0 for epoch in self.records)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that the network tells apart, the background left out."""
        return tuple(self.settings["network.classes"][1:])

    def scores(self, metric: Metric) -> dict[int, float]:
        """By epoch, counted from 1, where it was judged by ``metric``; 0 is before the first."""
        means = {
            epoch + 1: mean_dice(record.get(f"validation_{metric}"))
            for epoch, record in self.records.items()
        }
        return {epoch: score for epoch, score in means.items() if score is not None}

    def is_judged(self, metric: Metric) -> bool:
        """True if a model that it trained was judged by ``metric``."""
        return any(epoch > 0 for epoch in self.scores(metric))

    def scored(self, metric: Metric) -> ScoredRun:
        """Its scores by ``metric``, all of its best epoch, and the work that they took."""
        settings = self.settings
        segments = settings["training.segments_per_subepoch"]
        batches = -(-segments // settings["training.batch_size"])
        run = ScoredRun(
            folder=str(self.folder),
            seed=settings["seed"],
            scores=self.scores(metric),
            epochs=self.epochs,
            steps_per_epoch=settings["subepochs"] * batches,
            seconds=sum(record.get("seconds", 0.0) for record in self.records.values()),
        )
        best = self.records[run.best_epoch - 1][f"validation_{metric}"]
        return replace(run, class_scores=best["dice"], case_scores=best.get("cases", {}))


def group_folder(folder: Path) -> Path:
    """The folder without its seed, from the top of the disk.

    >>> str(group_folder(Path("/runs/lesions-seed2")))
    '/runs/lesions'
    """
    whole = folder.resolve()
    return whole.with_name(re.sub(r"(?<=.)-seed\d+$", "", whole.name))


def read_run(folder: Path) -> FinishedRun:
    """The training session in ``folder``, finished or not, or the cross-validation.

    Raises:
        DeepsegError: ``session-unknown``, if there is none, ``folds-unfinished``, or what is wrong
            with its model file.
    """
    folds = stored_folds(folder)
    if folds is not None:
        return _read_folds(folder, folds)
    session = SessionFolder(folder)
    model = next((f for f in map(session.models.joinpath, _MODELS) if f.exists()), None)
    try:
        records = {record["epoch"]: record for record in session.records()}
    except (ValueError, LookupError, TypeError):
        raise DeepsegError(_unknown(folder, "metrics.jsonl with other lines")) from None
    missing = [
        name
        for name, is_there in {"metrics.jsonl": records, "models/last.save": model}.items()
        if not is_there
    ]
    save = None if model is None else read_save(model)
    training = {} if save is None or save.training is None else save.training
    if not missing and not isinstance(training.get("settings"), dict):
        raise DeepsegError(_unknown(folder, f"{model} without settings of a session"))
    if missing or save is None:
        got = f"a folder without {' and '.join(missing)}" if folder.is_dir() else "no such folder"
        raise DeepsegError(_unknown(folder, got))
    facts = training.get("machine", {})
    machine = {key: facts[key] for key in OF_THE_MACHINE if key in facts}
    settings = flattened(
        {
            **training["settings"],
            "network": save.model,
            "start": _start(Provenance.from_words(save.provenance)),
            "machine": machine,
        }
    )
    return FinishedRun(folder, settings, records)


def _read_folds(folder: Path, folds: Folds) -> FinishedRun:
    """A cross-validation as one session, which is judged on all held-out cases after its end.

    Seconds are those of one fold, as a mean.
    """
    raise_if_any(unfinished(folds, folds.unsegmented))
    runs = [read_run(folds.fold(number).folder) for number in folds.numbers]
    per_case = {
        name: {row: Scores(**values) for row, values in record["scores"].items()}
        for name, record in folds.records().items()
    }
    epochs = max(run.epochs for run in runs)
    seconds = sum(r.get("seconds", 0.0) for run in runs for r in run.records.values())
    records: dict[int, Mapping[str, Any]] = {epoch: {} for epoch in range(epochs)}
    records[epochs - 1] = {
        "seconds": seconds / folds.count,
        "validation_volumes": mean_record(per_case, OF_VOLUMES),
    }
    settings = {
        key: value
        for key, value in runs[0].settings.items()
        if key not in OF_A_FOLD and not key.startswith("validation.")
    }
    judged = {"folds": folds.count, "validation.cases.held_out": f"of {folds.count} folds"}
    return FinishedRun(folder, settings | judged, records)


_MODELS = ("last.save", "previous.save")


def _start(provenance: Provenance) -> str:
    """The origin of the first weights of the last session that trained them, for people.

    >>> from deepseg.model.provenance import FilledFrom
    >>> _start(Provenance(seed=3)), _start(Provenance())
    ('random weights', 'unknown weights')
    >>> filled = Provenance(seed=3, filled_from=FilledFrom("old.save", rules={"layers": ["all"]}))
    >>> _start(filled.trained("lesions", epochs=2))
    "old.save (layers: ['all'])"
    """
    older = () if provenance.filled_from is None else provenance.filled_from.all
    files = [f"{source.file}{_rules_text(source.rules)}" for source in older]
    sessions = [f"session {entry.session}" for entry in provenance.trained_by[:-1]]
    if files or sessions:
        return ", then ".join([*files, *sessions])
    return "unknown weights" if provenance.seed is None else "random weights"


def _rules_text(rules: Mapping[str, Any]) -> str:
    return f" ({', '.join(f'{key}: {value}' for key, value in rules.items())})" if rules else ""


def _unknown(folder: Path, got: str) -> Problem:
    return Problem(
        code="session-unknown",
        got=got,
        expected="the folder of a training session that has finished an epoch, or a train file",
        fix="give <output>/<name> of a session, or train it first",
        where=str(folder),
    )


def common_metric(sessions: Sequence[FinishedRun]) -> Metric:
    """The metric by which all sessions are judged: on whole volumes, or else on samples.

    Raises:
        DeepsegError: ``scores-missing``: of every session without any score; or, if all have some,
            of those that cannot be compared.
    """
    metrics: tuple[Metric, ...] = ("volumes", "samples")
    scored = {
        session.folder: [metric for metric in metrics if session.is_judged(metric)]
        for session in sessions
    }
    raise_if_any(
        _without_scores(str(folder), "no score in any epoch")
        for folder, available in scored.items()
        if not available
    )
    for metric in metrics:
        if all(metric in available for available in scored.values()):
            return metric
    raise DeepsegError(
        *(
            _without_scores(str(folder), f"scores on {available[0]} only")
            for folder, available in scored.items()
            if len(available) == 1
        )
    )


def _without_scores(where: str, got: str) -> Problem:
    return Problem(
        code="scores-missing",
        got=got,
        expected="epochs of all sessions judged in one way, on whole volumes or on samples",
        fix="train with validation, or until the first epoch that is judged",
        where=where,
    )


def grouped(sessions: Sequence[FinishedRun]) -> list[tuple[FinishedRun, ...]]:
    """Sessions of one group together, in the order of the first of each; by seed inside."""
    groups: dict[Path, list[FinishedRun]] = {}
    for session in sessions:
        groups.setdefault(session.group, []).append(session)
    return [tuple(sorted(group, key=_seed)) for group in groups.values()]


def _seed(session: FinishedRun) -> int:
    seed: int = session.settings["seed"]
    return seed


def group_names(folders: Sequence[Path]) -> list[str]:
    """Names for the folders of groups; the whole path of those whose names are the same.

    >>> group_names([Path("/runs/a"), Path("/runs/b"), Path("/old/b")])
    ['a', '/runs/b', '/old/b']
    """
    names = [folder.name for folder in folders]
    return [
        str(folder) if names.count(name) > 1 else name
        for folder, name in zip(folders, names, strict=True)
    ]


def seed_groups(groups: Sequence[Sequence[FinishedRun]], metric: Metric) -> list[SeedGroup]:
    """The scores of each group."""
    names = group_names([sessions[0].group for sessions in groups])
    return [
        SeedGroup(name, tuple(session.scored(metric) for session in sessions))
        for name, sessions in zip(names, groups, strict=True)
    ]


def comparison_warnings(groups: Sequence[Sequence[FinishedRun]], metric: Metric) -> Iterator[str]:
    """Reasons for which the comparison may not mean what it seems to."""
    for sessions in groups:
        yield from _doubts_within(sessions)
    yield from _doubts_between(groups)
    first = groups[0][0]
    for session in (session for sessions in groups for session in sessions):
        folder, planned = session.folder, session.settings["epochs"]
        if session.epochs < planned:
            yield f"{folder} has finished {session.epochs} of {planned} epochs"
        if session.classes != first.classes:
            yield f"{folder} tells other classes apart than {first.folder}: " + (
                f"{', '.join(session.classes)}; {', '.join(first.classes)}"
            )
        if _judged_on(session) != _judged_on(first):
            yield f"{folder} is judged on other cases than {first.folder}"
        if metric == "samples" and session.is_judged("volumes"):
            yield f"best.save of {folder} is chosen on whole volumes, which others lack"
        chosen_by = session.settings.get("checkpoints.best")
        if chosen_by not in (None, f"validation_{metric}/dice/{MEAN}"):
            yield f"best.save of {folder} is chosen by {chosen_by}: it may be of another epoch"


def compared_settings(groups: Sequence[Sequence[FinishedRun]]) -> Iterator[str]:
    """A line for every group after the first: the settings in which the two differ.

    A start is one thing, with the layers that are frozen and pulled because of it.
    """
    for name, concerns in _concerns(groups):
        differences = [text for texts in concerns.values() for text in texts]
        yield f"{name}: " + ("; ".join(differences) or "no setting differs")


def _doubts_between(groups: Sequence[Sequence[FinishedRun]]) -> Iterator[str]:
    """Groups that differ from the first in more than one thing, or in the machine."""
    for name, concerns in _concerns(groups):
        if len(concerns) > 1:
            yield (
                f"{name} differ in more than one thing: {', '.join(concerns)}; a difference of "
                + ("their scores may come from any of them")
            )


def _concerns(
    groups: Sequence[Sequence[FinishedRun]],
) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """For every group after the first, the differing settings by what they are about."""
    names = group_names([sessions[0].group for sessions in groups])
    first = groups[0][0]
    for name, sessions in zip(names[1:], groups[1:], strict=True):
        concerns: dict[str, list[str]] = {}
        other = sessions[0]
        for key in _differing_keys(first, other):
            text = f"{key} {first.settings.get(key)} → {other.settings.get(key)}"
            concerns.setdefault(_concern(key), []).append(text)
        yield f"{names[0]} and {name}", concerns


def _concern(key: str) -> str:
    """The part of the settings that ``key`` belongs to.

    >>> _concern("optimiser.learning_rate"), _concern("training.batch_size"), _concern("freeze")
    ('optimiser', 'training.batch_size', 'start')
    """
    if key.startswith(OF_A_START):
        return "start"
    first, *rest = key.split(".")
    return f"{first}.{rest[0]}" if first in PARTS and rest else first


def _differing_keys(first: FinishedRun, second: FinishedRun) -> list[str]:
    """Settings that two sessions do not have in common, but for those of a seed."""
    return sorted(
        key
        for key in first.settings.keys() | second.settings.keys()
        if key not in OF_A_SEED
        and not key.startswith(("network.name", "network.output"))
        and first.settings.get(key) != second.settings.get(key)
    )


def _judged_on(session: FinishedRun) -> dict[str, Any]:
    return {k: v for k, v in session.settings.items() if k.startswith("validation.cases.")}


def _doubts_within(sessions: Sequence[FinishedRun]) -> Iterator[str]:
    """Settings in which the sessions of a group differ, and seeds that stand there twice."""
    first = sessions[0]
    for before, session in pairwise(sessions):
        keys = _differing_keys(first, session)
        if keys:
            yield f"{session.folder} differs from {first.folder} in more than its seed: " + (
                ", ".join(keys)
            )
        seed = session.settings["seed"]
        if seed == before.settings["seed"]:
            yield f"{before.folder} and {session.folder} have the same seed, {seed}"
