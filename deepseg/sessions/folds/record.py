"""The folder of a cross-validation: its split, the sessions of its folds, and their models.

<output>/<name>/  folds.json  fold-1/ … fold-5/  cases.csv  cases.json  report.html
                  fold-1/training.txt  fold-1/held_out.txt  fold-1/held_out/  fold-1/models/ …

Each fold is a training session, and inside it a testing session ``held_out`` of the cases that it
has not learnt from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from deepseg.errors import DeepsegError, Problem, raise_if_any
from deepseg.model.checkpoint import FOLDS, model_in
from deepseg.sessions.folds.split import SHOWN, shortened
from deepseg.storage.atomic import write_json, write_text

SCHEMA = "folds-1"
TESTED = "held_out"  # name of the testing session inside a fold's
SOME_FAILED = 3


@dataclass(frozen=True)
class Folds:
    """The split of a cross-validation, and where its sessions are.

    Attributes:
        folder: Of the cross-validation.
        count: Number of folds.
        seed: By which cases that are alike were shuffled.
        cases: The fold in which each case is held out, counted from 1, by its name.
    """

    folder: Path
    count: int
    seed: int
    cases: Mapping[str, int]

    @property
    def numbers(self) -> range:
        """Of the folds, from 1."""
        return range(1, self.count + 1)

    def fold(self, number: int) -> Fold:
        """One of the folds, counted from 1."""
        return Fold(self.folder / f"fold-{number}", number)

    def held_out(self, number: int) -> list[str]:
        """Names of the cases that the model of a fold does not learn from."""
        return [name for name, fold in self.cases.items() if fold == number]

    def training(self, number: int) -> list[str]:
        """Names of the cases that the model of a fold learns from."""
        return [name for name, fold in self.cases.items() if fold != number]

    def write(self) -> None:
        """Write ``folds.json``, and the lists of cases into the folder of every fold."""
        for number in self.numbers:
            fold = self.fold(number)
            fold.folder.mkdir(parents=True, exist_ok=True)
            for file, names in {
                fold.training_list: self.training(number),
                fold.held_out_list: self.held_out(number),
            }.items():
                text = "".join(f"{name}\n" for name in names)
                if not file.is_file() or file.read_bytes() != text.encode(errors="surrogateescape"):
                    write_text(file, text)
        record = {"schema": SCHEMA, "folds": self.count, "seed": self.seed, "cases": self.cases}
        if not (self.folder / FOLDS).exists():
            write_json(self.folder / FOLDS, record)

    @property
    def untrained(self) -> list[int]:
        """Numbers of the folds that are still to be trained, or for more epochs as others were."""
        epochs = {number: self.fold(number).epochs for number in self.numbers}
        most = max(epochs.values())
        return [n for n in self.numbers if not self.fold(n).is_trained or epochs[n] < most]

    @property
    def unsegmented(self) -> list[int]:
        """Numbers of the folds whose cases are still to be segmented by their last model."""
        untrained = self.untrained
        return [n for n in self.numbers if n in untrained or not self.fold(n).is_segmented]

    def records(self) -> dict[str, dict[str, Any]]:
        """The result of every case that was held out and segmented, with its fold, by name.

        Files are paths from the folder of the cross-validation on.
        """
        missing = self.unsegmented
        by_fold = {n: {} if n in missing else self.fold(n).records() for n in self.numbers}
        return {
            name: _with_fold(by_fold[number][name], number)
            for name, number in self.cases.items()
            if name in by_fold[number]
        }

    def division(self, names: Sequence[str]) -> Problem:
        """The problem of cases of one patient, or with the same images, in different folds."""
        places = ", ".join(f"{name} in fold {self.cases[name]}" for name in names[:SHOWN])
        return _changed(self.folder, f"cases of one patient: {places}", "a patient in one fold")

    def changes(self, *, count: int, names: Sequence[str]) -> Iterator[Problem]:
        """Problems of a session that goes on with another number of folds or other cases.

        Args:
            count: Of folds, in the train file.
            names: Of its training cases.
        """
        if count != self.count:
            yield _changed(self.folder, f"folds: {count}", f"{self.count}, as it began with")
        added = [name for name in names if name not in self.cases]
        listed = set(names)
        lost = [name for name in self.cases if name not in listed]
        parts = {"added": added, "left out": lost}
        texts = [f"{change}: {shortened(part)}" for change, part in parts.items() if part]
        if texts:
            yield _changed(
                self.folder,
                f"other training cases; {'; '.join(texts)}",
                f"the {len(self.cases)} cases that were split into folds",
            )


@dataclass(frozen=True)
class Fold:
    """A fold, and what its sessions have come to.

    Attributes:
        folder: Of its training session.
        number: Counted from 1.
    """

    folder: Path
    number: int

    def __str__(self) -> str:
        return f"fold {self.number}"

    @property
    def training_list(self) -> Path:
        """File with the names of the cases that its model learns from."""
        return self.folder / "training.txt"

    @property
    def held_out_list(self) -> Path:
        """File with the names of the cases that its model does not learn from."""
        return self.folder / "held_out.txt"

    @property
    def results(self) -> Path:
        """Folder of the testing session of the held-out cases."""
        return self.folder / TESTED

    @property
    def model(self) -> Path:
        """The model with which new cases are segmented."""
        return model_in(self.folder)

    @property
    def has_begun(self) -> bool:
        """An epoch, or a part of the first, is saved."""
        names = ("last.save", "previous.save", "running.save")
        return any((self.folder / "models" / name).exists() for name in names)

    @property
    def is_trained(self) -> bool:
        """Its training has come to its end."""
        return self.model.is_file() and _outcome(self.folder).get("exit_code") == 0

    @property
    def epochs(self) -> int:
        """Epochs that it was to be trained for when its training began or went on last."""
        settings = _record_of_end(self.folder).get("settings") or {}
        return int(settings.get("epochs", 0))

    @property
    def is_segmented(self) -> bool:
        """Its held-out cases were segmented after that, but for those that failed."""
        trained, tested = _outcome(self.folder), _outcome(self.results)
        has_ended = tested.get("exit_code") in (0, SOME_FAILED)
        return self.is_trained and has_ended and tested["ended"] >= trained["ended"]

    def records(self) -> dict[str, dict[str, Any]]:
        """Results of its held-out cases by name, their files as paths from the fold's folder on."""
        listed = json.loads((self.results / "cases.json").read_text("utf-8"))["cases"]
        return {
            name: {**record, "files": [f"{TESTED}/{file}" for file in record["files"]]}
            for name, record in listed.items()
        }


def _with_fold(record: Mapping[str, Any], number: int) -> dict[str, Any]:
    files = [f"fold-{number}/{file}" for file in record["files"]]
    return {"fold": number, **record, "files": files}


def is_folds_folder(folder: Path) -> bool:
    """True for the folder of a cross-validation."""
    return (folder / FOLDS).is_file()


def stored_folds(folder: Path) -> Folds | None:
    """The cross-validation in ``folder``; None if it has none.

    Raises:
        DeepsegError: ``folds-damaged``.
    """
    file = folder / FOLDS
    if not file.is_file():
        return None
    try:
        record = _RECORD.validate_json(file.read_bytes())
        if record["schema"] == SCHEMA:
            cases = {name: int(fold) for name, fold in record["cases"].items()}
            return Folds(folder, int(record["folds"]), int(record["seed"]), cases)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ValidationError):
        pass
    raise DeepsegError(
        Problem(
            code="folds-damaged",
            got="a file without the split of a cross-validation",
            expected=f"a {SCHEMA} record, as -train writes it",
            fix="copy the file again; or give the session another name to begin anew",
            where=str(file),
        )
    )


_RECORD: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


def fold_models(folder: Path) -> list[Path]:
    """The models of all folds of a cross-validation, whose mean is taken for new cases.

    Raises:
        DeepsegError: ``folds-unfinished``, if some are still to be trained.
    """
    folds = stored_folds(folder)
    assert folds is not None
    raise_if_any(unfinished(folds, folds.untrained))
    return [folds.fold(number).model for number in folds.numbers]


def model_files(path: Path) -> list[Path]:
    """The models of all folds, if ``path`` is the folder of a cross-validation; else ``path``.

    Raises:
        DeepsegError: ``folds-unfinished``.
    """
    return fold_models(path) if is_folds_folder(path) else [path]


def unfinished(folds: Folds, missing: Sequence[int]) -> Iterator[Problem]:
    """The problem of folds that are still to be trained, or whose cases are still to be segmented.

    Args:
        folds: The cross-validation.
        missing: Numbers of such folds.
    """
    if missing:
        yield Problem(
            code="folds-unfinished",
            got=f"fold {', '.join(map(str, missing))} of {folds.count} not finished",
            expected="all folds",
            fix="give the command again that trains them; or name the models that are to be used, "
            f"such as {folds.fold(1).folder}",
            where=str(folds.folder),
        )


def mixed_session(folder: Path, *, has_folds: bool) -> Iterator[Problem]:
    """The problem of a folder with a session of the other kind, with or without folds."""
    if has_folds and any((folder / "models").glob("*.save")):
        yield _changed(folder, "folds for a session that began without", "no folds")
    if not has_folds and is_folds_folder(folder):
        yield _changed(folder, "no folds for a session that began with some", "the key folds")


def _changed(folder: Path, got: str, expected: str) -> Problem:
    return Problem(
        code="folds-changed",
        got=got,
        expected=expected,
        fix="take the change back to go on; or give the session another name, or remove the folder",
        where=str(folder),
    )


def _outcome(folder: Path) -> dict[str, Any]:
    """How the session in ``folder`` ended; empty if it has not."""
    record = _record_of_end(folder)
    return record if record.get("state") == "ended" else {}


def _record_of_end(folder: Path) -> dict[str, Any]:
    """The content of ``outcome.json``, which is there from the beginning; empty without it."""
    try:
        record = json.loads((folder / "outcome.json").read_text("utf-8"))
        return record if isinstance(record, dict) else {}
    except (OSError, ValueError, LookupError, TypeError):
        return {}
