"""``-plan``: look at the cases, and write the settings files that follow from them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from deepseg.config.load import load
from deepseg.config.model import ModelConfig
from deepseg.config.testing import TestConfig
from deepseg.config.training import TrainConfig
from deepseg.data.cases.case import list_cases
from deepseg.data.cases.checks import examine
from deepseg.errors import DeepsegError, Problem
from deepseg.inference.memory import available
from deepseg.model.checkpoint import new_checkpoint
from deepseg.model.devices import chosen_device
from deepseg.report.console import Console
from deepseg.sessions.planning.facts import StudyFacts, fact_rows, study_facts
from deepseg.sessions.planning.files import TABLE, cases_table, settings_files
from deepseg.sessions.planning.layouts import Study, find_study
from deepseg.sessions.planning.rules import (
    Choice,
    Request,
    choices,
    expected_seconds,
    hints,
)
from deepseg.sessions.planning.speed import Speed, measured_speed
from deepseg.sessions.planning.split import split
from deepseg.storage.atomic import replacing_folder, write_json, write_text

RECORD = "plan.json"
GIGABYTE = 10**9
MEASURED_CASES = 2


def plan(
    path: Path | str,
    *,
    minutes: float = 60,
    memory: int | None = None,
    speed: Path | str | None = None,
    out: Path | str | None = None,
    device: str = "auto",
    quiet: bool = False,
) -> Path:
    """Write ``cases.csv``, ``model.yaml``, ``train.yaml`` and ``test.yaml`` for a study.

    The same cases give the same files; only the number of epochs depends on how long steps take,
    which is measured, or read from an earlier plan.

    Args:
        path: The cases: a table, a folder with one for each case, a dataset.json of the Decathlon
            or nnU-Net or its folder, or a BIDS tree.
        minutes: That training may take, validation included.
        memory: Bytes that it may take. Default: what is free.
        speed: The plan.json of an earlier plan, whose machine and times of steps are used.
        out: Folder of the study, which must not exist. Default: ``study``.
        device: ``cpu``, ``cuda``, ``cudaN`` or ``auto``.
        quiet: Print warnings and errors only.

    Returns:
        The folder of the study.

    Raises:
        DeepsegError: Everything that is wrong with the cases; ``plan-study-exists``,
            ``plan-minutes``, ``plan-memory``, ``plan-speed``.
    """
    console = Console(quiet=quiet)
    folder = Path("study") if out is None else Path(out)
    if folder.exists():
        raise DeepsegError(_exists(folder))
    computer = chosen_device(device)
    earlier = None if speed is None else _earlier_request(Path(speed), minutes)
    request = _request(minutes, memory, computer) if earlier is None else earlier
    study = find_study(Path(path))
    with console.progress("looking at the cases", len(study.cases)) as advance:
        facts = study_facts(study, advance)
    parts = split(facts.cases, study.patients)
    plan_ = _Plan(study, facts, parts)
    with replacing_folder(folder) as unfinished:
        if request.speed is None:
            plan_.write(unfinished, choices(facts, request), folder)
            console.say("measuring the time of a few steps")
            request = replace(request, speed=_measured(unfinished, computer))
        selected = choices(facts, request)
        plan_.write(unfinished, selected, folder)
        seconds = expected_seconds(facts, request)
        _check(unfinished)
        write_json(unfinished / RECORD, _record(plan_, selected, request, seconds))
    console.table("facts", ["", ""], fact_rows(facts))
    console.table(
        f"choices in {folder}",
        ["setting", "value", "because of"],
        [[_last_words(choice.key), _short(choice.value), choice.fact] for choice in selected],
    )
    for hint in hints(facts):
        console.say(hint)
    console.say(f"training takes about {seconds / 60:.3g} minutes in all")
    console.say(f"next: -train {folder / 'train.yaml'}, then -test {folder / 'test.yaml'}")
    return folder


@dataclass(frozen=True)
class _Plan:
    """A study and the part of each of its cases."""

    study: Study
    facts: StudyFacts
    parts: dict[str, str]

    def write(self, folder: Path, selected: list[Choice], final: Path) -> None:
        """Write the settings files and the table into ``folder``, which becomes ``final``."""
        for name, text in settings_files(selected, self.study).items():
            write_text(folder / name, text)
        write_text(folder / TABLE, cases_table(self.study, self.parts, final))


def _request(minutes: float, memory: int | None, device: torch.device) -> Request:
    """What is asked for, on this machine."""
    free = available() // (2 * GIGABYTE) * 2 * GIGABYTE  # in large steps, to be the same next time
    return Request(
        minutes=minutes,
        memory_bytes=max(free, GIGABYTE) if memory is None else memory,
        cores=os.cpu_count() or 1,
        is_gpu=device.type == "cuda",
    )


def _earlier_request(file: Path, minutes: float) -> Request:
    """What is asked for, on the machine of an earlier plan.

    Raises:
        DeepsegError: ``plan-speed``.
    """
    try:
        record = json.loads(file.read_text("utf-8"))
        machine = record["machine"]
        return Request(
            minutes=minutes,
            memory_bytes=int(machine["memory_bytes"]),
            cores=int(machine["cores"]),
            is_gpu=bool(machine["is_gpu"]),
            speed=Speed.from_record(machine, str(file)),
        )
    except (OSError, ValueError, LookupError, TypeError):
        raise DeepsegError(
            Problem(
                code="plan-speed",
                got="no file with the times of steps",
                expected="plan.json of a study that -plan has selected",
                fix="give that file, or leave -speed out to measure",
                where=str(file),
            )
        ) from None


def _measured(folder: Path, device: torch.device) -> Speed:
    """The speed of the network of the settings files in ``folder``, on a few of its cases."""
    network = load(ModelConfig, folder / "model.yaml").config
    config = load(TrainConfig, folder / "train.yaml").config
    cases = list_cases(config.training.cases, network.channels)[:MEASURED_CASES]
    count = len(network.classes)
    examined = [(case, examine(case, class_count=count, needs_labels=True)) for case in cases]
    return measured_speed(new_checkpoint(network, seed=config.seed), config, examined, device)


def _check(folder: Path) -> None:
    """Read the settings files again, as sessions will."""
    load(ModelConfig, folder / "model.yaml")
    load(TrainConfig, folder / "train.yaml")
    load(TestConfig, folder / "test.yaml")


def _record(
    plan_: _Plan, selected: list[Choice], request: Request, seconds: float
) -> dict[str, Any]:
    """Facts, choices and the machine, for programs and for ``-speed``."""
    assert request.speed is not None
    return {
        "facts": dict(fact_rows(plan_.facts)),
        "choices": [
            {"key": choice.key, "value": choice.value, "fact": choice.fact} for choice in selected
        ],
        "split": plan_.parts,
        "minutes": request.minutes,
        "expected_minutes": round(seconds / 60, 2),
        "machine": {
            "cores": request.cores,
            "memory_bytes": request.memory_bytes,
            "is_gpu": request.is_gpu,
            "speed": request.speed.record(),
        },
    }


def _last_words(key: str) -> str:
    """The key without its file, and without blocks that say no more.

    >>> _last_words("train.training.sampling.type"), _last_words("model.classes")
    ('sampling', 'classes')
    """
    words = [word for word in key.split(".")[1:] if word not in ("training", "preparation")]
    return ".".join(words[:-1] if words[-1] == "type" else words)


def _short(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(entry)}" for key, entry in value.items()) or "on"
    if isinstance(value, list):
        return " ".join(_short(entry) for entry in value)
    return str(value)


def _exists(folder: Path) -> Problem:
    return Problem(
        code="plan-study-exists",
        got="a folder or file that is there already",
        expected="a new folder for the study",
        fix="choose another one with -out, or remove this one",
        where=str(folder),
    )
