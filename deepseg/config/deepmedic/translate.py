"""DeepMedic's ``.cfg`` files in the house's vocabulary: their flat keys → our nested ones.

The tables of keys are data in `deepseg.config.deepmedic.model_keys` and
`deepseg.config.deepmedic.session_keys`. Here a file is walked with them: old names are renewed,
unknown keys refused, DeepMedic's own defaults filled in, and every value keeps the line and the
key that the user wrote, so that later errors speak of them. What values mean together is judged
by the house's models, not here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from deepseg.config.deepmedic.convert import AFFINE_IGNORED
from deepseg.config.deepmedic.model_keys import MODEL_KEYS
from deepseg.config.deepmedic.row_types import (
    ConfigKind,
    Given,
    Ignored,
    Key,
    KeyRule,
    Old,
    Refused,
)
from deepseg.config.deepmedic.session_keys import TEST_KEYS, TRAIN_KEYS
from deepseg.config.files.document import Document, Path_, shown
from deepseg.errors import DeepsegError, Problem, did_you_mean

KEYS: dict[ConfigKind, tuple[KeyRule, ...]] = {
    "model": MODEL_KEYS,
    "train": TRAIN_KEYS,
    "test": TEST_KEYS,
}


HOUSE_KEY = re.compile(r"(?<![\w.])[a-z_]+(?:\.[a-z_0-9]+)+(?![\w.])")
"""One of our keys in a text, such as ``segments.train``."""


@dataclass(frozen=True)
class Translation:
    """A ``.cfg`` file, translated as far as possible.

    Attributes:
        document: The values by the house's keys; places name the user's file, line and key.
        warnings: What is ignored or means something slightly different here.
        problems: What has no translation; the values concerned are not in the document.
    """

    document: Document
    warnings: tuple[str, ...]
    problems: tuple[Problem, ...]


def translated(document: Document, kind: ConfigKind) -> Translation:
    """The house's form of a ``.cfg`` file of DeepMedic."""
    return _Translator(document, kind).translation()


def in_their_words(problem: Problem, document: Document, kind: ConfigKind) -> Problem:
    """A problem of the house's models, told with DeepMedic's keys and the line of the first one.

    Args:
        problem: Such as ``got segments.train of 9 x 9 x 9 voxels``.
        document: Of the translation.
        kind: Of the file.
    """
    names = house_names(kind)
    mentioned = [found[0] for found in HOUSE_KEY.finditer(problem.got) if found[0] in names]
    is_placed = problem.where != str(document.file)
    return replace(
        problem,
        got=_renamed(problem.got, names),
        expected=_renamed(problem.expected, names),
        fix=_renamed(problem.fix, names),
        where=problem.where
        if is_placed or not mentioned
        else document.place(tuple(mentioned[0].split("."))),
    )


def _renamed(text: str, names: Mapping[str, str]) -> str:
    return HOUSE_KEY.sub(lambda found: names.get(found[0], found[0]), text)


def house_names(kind: ConfigKind) -> dict[str, str]:
    """DeepMedic's first key by ours: ``optimiser.rho`` → ``rhoRms``."""
    names: dict[str, str] = {}
    for row in KEYS[kind]:
        if isinstance(row, Key) and row.path:
            names.setdefault(row.path, row.full_name)
    return names


class _Translator:
    """The state of one translation: what is given, what came out, what was wrong."""

    def __init__(self, document: Document, kind: ConfigKind) -> None:
        self.source = document
        self.kind = kind
        self.rows = KEYS[kind]
        self.given = {str(k): v for k, v in document.values.items() if v is not None}
        self.written_as: dict[str, str] = {}
        self.values: dict[str, Any] = {}
        self.origins: dict[Path_, str] = {}
        self.problems: list[tuple[str, Problem]] = []
        self.warnings: list[str] = []
        self.unused: list[str] = []

    def translation(self) -> Translation:
        """Everything in order; later steps see what earlier ones have renewed."""
        self._refuse_unknown_keys()
        self._renew_old_keys()
        self._drop_extra_feature_maps()
        for name, rows in self._rows_by_name():
            self._translate(name, rows)
        self._warn()
        self.problems.sort(key=lambda one: self._rank(one[0]))
        origins = sorted(self.origins.items(), key=lambda one: self._rank(one[1]))
        places = {path: self._place(name) for path, name in origins}
        return Translation(
            document=Document(self.source.file, self.values, places),
            warnings=tuple(f"{self.source.file}: {warning}" for warning in self.warnings),
            problems=tuple(problem for _, problem in self.problems),
        )

    def _place(self, name: str) -> str:
        """Line and key as the user wrote them; file and key for what the user did not write."""
        written = self.written_as.get(name, name)
        return self.source.places.get((written,), f"{self.source.file} {written}")

    def _rank(self, name: str) -> int:
        """Where the key stands in the file; last for what the user did not write."""
        written = self.written_as.get(name, name)
        order = list(self.source.values)
        return order.index(written) if written in order else len(order)

    def _refuse(self, name: str, error: DeepsegError) -> None:
        self.problems += [(name, problem) for problem in error.at(self._place(name)).problems]

    def _refuse_unknown_keys(self) -> None:
        known = {row.name for row in self.rows}
        for name in self.given:
            if name not in known:
                self._refuse(name, DeepsegError(_unknown_key(name, self.kind, known)))
        for row in self.rows:
            if isinstance(row, Refused) and row.name in self.given:
                self._refuse(row.name, DeepsegError(_refused_key(row)))

    def _renew_old_keys(self) -> None:
        for row in self.rows:
            if not isinstance(row, Old) or row.name not in self.given:
                continue
            if not row.used(self.given):
                self.unused.append(row.name)
                continue
            if row.new in self.given and not row.wins:
                self._refuse(row.name, DeepsegError(_twice(row)))
                continue
            try:
                self.given[row.new] = row.read(self.given[row.name], self.given)
                self.written_as[row.new] = row.name
            except DeepsegError as error:
                self._refuse(row.name, error)
                self.given.pop(row.new, None)

    def _drop_extra_feature_maps(self) -> None:
        maps = self.given.get("numberFMsPerLayerSubsampled", [])
        factors = self.given.get("subsampleFactor", [[3, 3, 3]])
        count = len(factors) if _is_list_of_lists(factors) else 1
        if _is_list_of_lists(maps) and len(maps) > count:
            self.given["numberFMsPerLayerSubsampled"] = maps[:count]
            self.warnings.append(
                f"numberFMsPerLayerSubsampled has more lists ({len(maps)}) than subsampleFactor "
                f"has entries ({count}); the last ones are ignored"
            )

    def _rows_by_name(self) -> Iterator[tuple[str, list[Key]]]:
        rows: dict[str, list[Key]] = {}
        for row in self.rows:
            if isinstance(row, Key):
                rows.setdefault(row.name, []).append(row)
        yield from rows.items()

    def _translate(self, name: str, rows: list[Key]) -> None:
        used = [row for row in rows if row.used(self.given)]
        if name not in self.given:
            if any(row.required(self.given) for row in used):
                self._refuse(name, DeepsegError(_missing_key(name, str(self.source.file))))
            for row in used:
                value = row.default(self.given)
                if value is not None:
                    self._put(row, value)
            return
        value = self.given[name]
        if not used and not _is_empty(value):
            self.unused.append(self.written_as.get(name, name))
        entries = [row.entry for row in rows if row.entry]
        if entries and not self._has_only(name, value, entries):
            return
        for row in used:
            self._put(row, value.get(row.entry) if row.entry else value)

    def _has_only(self, name: str, value: object, entries: list[str]) -> bool:
        """Whether ``value`` is a dict with known entries; says so if it is not."""
        wrong = list(_dict_problems(value, entries))
        if wrong:
            self._refuse(name, DeepsegError(*wrong))
        return not wrong

    def _put(self, row: Key, value: Any) -> None:
        try:
            ours = row.convert(value)
        except DeepsegError as error:
            self._refuse(row.name, error)
            return
        if not row.path or (ours is None and row.path not in _NULLABLE):
            return
        *blocks, last = row.path.split(".")
        home = self.values
        for block in blocks:
            home = home.setdefault(block, {})
        home[last] = _joined(home.get(last), ours, lists=row.joins)
        path = (*blocks, last)
        self.origins[path] = row.name
        self.origins.update(dict.fromkeys(_entries(path, ours, home[last]), row.name))

    def _warn(self) -> None:
        ignored = [
            f"{row.name} ({row.note})"
            for row in self.rows
            if isinstance(row, Ignored)
            and row.name in self.given
            and not row.silent(self.given[row.name])
        ]
        if ignored:
            self.warnings.append(
                f"keys that mean nothing here and are ignored: {', '.join(ignored)}"
            )
        if self.unused:
            self.warnings.append(
                "keys that are not used, given the other keys of the file: "
                f"{', '.join(dict.fromkeys(self.unused))}"
            )
        self.warnings += [text for caution in _CAUTIONS for text in caution(self.given)]


_NULLABLE = ("validation.samples", "validation.volumes")
"""Where null says 'none', and leaving the key out would give the house's default."""


def _entries(path: Path_, new: object, whole: object) -> Iterator[Path_]:
    """The paths of what ``new`` has brought into the list or block ``whole``."""
    if isinstance(new, list) and isinstance(whole, list):
        yield from ((*path, index) for index in range(len(whole) - len(new), len(whole)))
    elif isinstance(new, dict):
        yield from ((*path, key) for key in new)


def _joined(old: Any, new: Any, *, lists: bool) -> Any:
    """Blocks that several keys fill are joined, lists only on request; else ``new`` wins."""
    if lists and isinstance(old, list):
        return [*old, *new]
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **new}
    return new


def _is_empty(value: object) -> bool:
    """Whether it asks for nothing: False, 0, ``[]``, ``[[], []]``."""
    return all(map(_is_empty, value)) if isinstance(value, list) else not value


def _is_list_of_lists(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, list) for one in value)


def _dict_problems(value: object, entries: list[str]) -> Iterator[Problem]:
    wanted = ", ".join(map(repr, entries))
    if not isinstance(value, dict):
        expected = f"a dict with any of {wanted}"
        yield Problem("config-value", shown(value), expected, fix="change this value")
        return
    for key in value:
        if key not in entries:
            yield Problem(
                "config-unknown-key",
                got=f"the unknown entry {key!r}",
                expected=f"one of {wanted}",
                fix=f"correct or remove it{did_you_mean(str(key), entries)}",
            )


def _unknown_key(name: str, kind: ConfigKind, known: set[str]) -> Problem:
    homes = [other for other, rows in KEYS.items() if name in {row.name for row in rows}]
    return Problem(
        code="config-unknown-key",
        got=f"the unknown key {name!r}",
        expected=f"a key of DeepMedic's {kind} files",
        fix=f"move it to the {' or '.join(homes)} file"
        if homes
        else f"correct or remove it{did_you_mean(name, sorted(known))}",
    )


def _refused_key(row: Refused) -> Problem:
    return Problem(
        code="config-old-key",
        got=f"the key {row.name!r} of an old version",
        expected="a key of DeepMedic 0.7 to 0.8.4",
        fix=row.fix,
    )


def _twice(row: Old) -> Problem:
    return Problem(
        code="config-duplicate-key",
        got=f"both {row.name!r} and {row.new!r}",
        expected="one of the two, which mean the same",
        fix=f"remove {row.name!r}, the older name",
    )


def _missing_key(name: str, where: str) -> Problem:
    return Problem(
        code="config-missing-key",
        got=f"no key {name!r}",
        expected=f"{name!r}",
        fix=f"add {name!r} to the file",
        where=where,
    )


def _whole_image(given: Given) -> Iterator[str]:
    for name in ("typeOfSamplingForTraining", "typeOfSamplingForVal"):
        if given.get(name) == 2:
            yield f"{name} = 2 samples the whole image here, as named; DeepMedic stayed in the ROI"


def _rising_learning_rate(given: Given) -> Iterator[str]:
    first = given.get("learningRate", 0.001)
    match given.get("typeOfLearningRateSchedule"), given.get("paramsForExpSchedForLrAndMom"), first:
        case "expon", [int() | float() as last, *_], int() | float() if last > first:
            yield (
                f"the learning rate rises from {first:g} to {last:g}: the first entry of "
                "paramsForExpSchedForLrAndMom is a rate, not a factor"
            )


def _affine_details(given: Given) -> Iterator[str]:
    match given.get("augm_img_prms_tr"):
        case {"affine": dict() as affine}:
            ignored = [key for key in affine if key in AFFINE_IGNORED]
            if ignored:
                yield f"entries of augm_img_prms_tr that are ignored: {', '.join(ignored)}"
            match affine.get("max_rot_xyz"):
                case [x, _, z] if x != z:
                    yield (
                        "max_rot_xyz turns about X, Y and Z here, as named; DeepMedic turned about "
                        "Z by the first angle and about X by the last"
                    )


_CAUTIONS: tuple[Callable[[Mapping[str, Any]], Iterator[str]], ...] = (
    _whole_image,
    _rising_learning_rate,
    _affine_details,
)
