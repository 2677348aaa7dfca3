"""The files of a planned study: settings with the fact behind each, and the table of cases."""

from __future__ import annotations

import csv
import io
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from deepseg.data.cases.case import UNKNOWN, Case
from deepseg.sessions.planning.layouts import Study
from deepseg.sessions.planning.rules import Choice

WIDTH = 96
TABLE = "cases.csv"
HEADS = {
    "model": "The network. Made by -plan; every value follows from what its comment says.",
    "train": "The training. Made by -plan; start and continue it with: -train train.yaml",
    "test": "The test on cases that are not trained on: -test test.yaml",
}


def settings_files(choices: Sequence[Choice], study: Study) -> dict[str, str]:
    """The text of each settings file by its name.

    Args:
        choices: All that was chosen.
        study: Whose labels may have to be ignored.
    """
    ignored = {
        old: "ignore" for case in study.cases for old, new in case.label_map if new == UNKNOWN
    }
    label_map = [c for c in choices if c.key == "train.training.cases.label_map"]
    if ignored:
        chosen = label_map[0].value if label_map else {}
        fact = "voxels that nobody has labelled"
        label_map = [Choice("train.training.cases.label_map", {**chosen, **ignored}, fact)]
    rest = [choice for choice in choices if choice not in label_map and choice.key != _LABEL_MAP]
    files = {"model": _MODEL, "train": _TRAIN, "test": _TEST}
    everywhere = [
        Choice(key, choice.value, choice.fact) for choice in label_map for key in _LABEL_MAP_KEYS
    ]
    return {
        f"{name}.yaml": _yaml(
            HEADS[name],
            [
                *fixed,
                *(_without_file(c) for c in (*rest, *everywhere) if c.key.startswith(name + ".")),
            ],
        )
        for name, fixed in files.items()
    }


_LABEL_MAP = "train.training.cases.label_map"
_LABEL_MAP_KEYS = (_LABEL_MAP, "train.validation.cases.label_map", "test.cases.label_map")
_MODEL = (Choice("name", "model", ""), Choice("output", ".", ""))
_TRAIN = (
    Choice("name", "training", ""),
    Choice("output", ".", ""),
    Choice("model", "model.yaml", ""),
    Choice("training.cases.table", TABLE, ""),
    Choice("training.cases.part", "training", "the column split of the table"),
    Choice("validation.cases.table", TABLE, ""),
    Choice("validation.cases.part", "validation", ""),
    Choice("validation.samples", None, "whole cases tell more than samples of them"),
)
_TEST = (
    Choice("name", "results", ""),
    Choice("output", ".", ""),
    Choice("model", "training/models/best.save", ""),
    Choice("cases.table", TABLE, ""),
    Choice("cases.part", "test", "the column split of the table"),
)


def _without_file(choice: Choice) -> Choice:
    return Choice(choice.key.split(".", 1)[1], choice.value, choice.fact)


def _yaml(head: str, entries: Sequence[Choice]) -> str:
    """Nested keys, each with the fact that it follows from above it."""
    return f"# {head}\n" + "\n".join(_lines(entries, 0)) + "\n"


def _lines(entries: Sequence[Choice], depth: int) -> Iterator[str]:
    indent = "  " * depth
    blocks: dict[str, list[Choice]] = {}
    for entry in entries:
        blocks.setdefault(entry.key.split(".")[0], []).append(entry)
    for name, members in blocks.items():
        if len(members) == 1 and members[0].key == name:
            (entry,) = members
            if entry.fact:
                yield from textwrap.wrap(
                    entry.fact,
                    WIDTH,
                    initial_indent=f"{indent}# ",
                    subsequent_indent=f"{indent}# ",
                )
            yield f"{indent}{name}: {_flow(entry.value)}"
        else:
            yield f"{indent}{name}:"
            inner = [Choice(e.key.split(".", 1)[1], e.value, e.fact) for e in members]
            yield from _lines(inner, depth + 1)


def _flow(value: Any) -> str:
    """A value on one line, as YAML.

    >>> _flow([1, "a"]), _flow(None), _flow({"every": 5})
    ('[1, a]', 'null', '{every: 5}')
    """
    text = yaml.dump(
        value,
        Dumper=_WithoutAnchors,
        default_flow_style=True,
        width=10_000,
        sort_keys=False,
        allow_unicode=True,
    )
    return text.removesuffix("...\n").strip()


class _WithoutAnchors(yaml.SafeDumper):
    """Writes equal lists out, each time."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def cases_table(study: Study, parts: Mapping[str, str], folder: Path) -> str:
    """The table of cases, with the part of each.

    Args:
        study: The cases.
        parts: The part of each case that has one, by its name.
        folder: Of the table, from which paths count.
    """
    names = [f"channel_{name}" for name in study.channels]
    has_roi = any(case.roi is not None for case in study.cases)
    has_patients = bool(study.patients)
    head = ["case", "split", *["patient"] * has_patients, *names, "labels", *["roi"] * has_roi]
    rows = [
        [
            case.name,
            parts.get(case.name, ""),
            *[study.patients.get(case.name, case.name)] * has_patients,
            *(_path(path, folder) for path in _files(case, has_roi=has_roi)),
        ]
        for case in study.cases
    ]
    page = io.StringIO()
    csv.writer(page, lineterminator="\n").writerows([head, *rows])
    return page.getvalue()


def _files(case: Case, *, has_roi: bool) -> list[Path | None]:
    return [*case.channels, case.labels, *[case.roi] * has_roi]


def _path(path: Path | None, folder: Path) -> str:
    return "" if path is None else os.path.relpath(path.absolute(), folder.absolute())
