"""DeepMedic's ``.cfg`` files in the house's vocabulary: their flat keys → the house's nested ones.

The tables of keys are data in `deepseg.config.deepmedic.model_keys` and
`deepseg.config.deepmedic.session_keys`. Here a file is walked with them: old names are renewed,
unknown keys refused, DeepMedic's own defaults filled in, and every value keeps the line and the
key that the user wrote, so that later errors speak of them. What values mean together is judged
by the house's models, not here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from deepseg.config.deepmedic.convert import AFFINE_IGNORED
from deepseg.config.deepmedic.key_rules import (
    CarriedKey,
    CfgValues,
    IgnoredKey,
    Key,
    KeyRule,
    OldKey,
    Reading,
    RefusedKey,
)
from deepseg.config.deepmedic.model_keys import MODEL_KEYS
from deepseg.config.deepmedic.old_models import model_readings
from deepseg.config.deepmedic.old_versions import evidence, old_readings
from deepseg.config.deepmedic.session_keys import TEST_KEYS, TRAIN_KEYS
from deepseg.config.files.document import Document, KeyPath, short_text
from deepseg.config.files.kind_of_file import FileKind
from deepseg.errors import DeepsegError, Problem, did_you_mean

KEYS: dict[FileKind, tuple[KeyRule, ...]] = {
    "model": MODEL_KEYS,
    "train": TRAIN_KEYS,
    "test": TEST_KEYS,
}


HOUSE_KEY = re.compile(r"(?<![\w.])[a-z_]+(?:\.[a-z_0-9]+)+(?![\w.])")
"""One of the house's keys in a text, such as ``segments.train``."""


_PHRASES = {
    "model: FILE": "cnnModelFilePath = 'FILE'",
    "fewer than epochs": "fewer than numberOfEpochs",
    "raise epochs": "raise numberOfEpochs",
    "'preparation: {roi: nonzero}' for": "this file as YAML, by -convert, with 'preparation: {roi: "
    "nonzero}' for",
    "schedule plateau": "typeOfLearningRateSchedule 'auto'",
    "add validation": "set performValidationOnSamplesThroughoutTraining = True",
    "cross_entropy, dice, iou and focal": "xentr, dsc and iou in losses_and_weights",
    "cross_entropy: 1": "'xentr': 1",
    "batch_size": "the batch size",
    "with preparation in the test file": "with norm_zscore_prms in the test file",
    "segments_per_subepoch": "numberTrainingSegmentsLoadedOnGpuPerSubep",
    "preparation from the test file": "norm_zscore_prms from the test file",
    "foreground_background and per_class": "types 0 and 3",
    "proportions for uniform sampling": "shares for sampling of type 1",
    "proportions for whole_image sampling": "shares for sampling of type 2",
    "remove proportions": "remove the shares",
    "loss.class_weights": "reweight_classes_in_cost",
    "save.feature_maps": "minMaxIndicesOfFmsToSaveFromEachLayerOf…Pathway",
}
"""The house's keys and values in texts where no dot shows what they are, in DeepMedic's words."""


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


def translate(
    document: Document, kind: FileKind, *, carried: Mapping[str, Any] = MappingProxyType({})
) -> Translation:
    """House's form of a ``.cfg`` file of DeepMedic.

    Args:
        document: Its values.
        kind: Of the file.
        carried: What the model file beside an old train file says about training, by the keys of
            later train files.
    """
    return _Translator(document, kind, carried).translation()


def in_deepmedic_words(problem: Problem, document: Document, kind: FileKind) -> Problem:
    """A problem of the house's models, with DeepMedic's keys and the line of the first of them.

    Args:
        problem: Such as ``got segments.train of 9 x 9 x 9 voxels``.
        document: Of the translation.
        kind: Of the file.
    """
    names = house_names(kind)
    mentioned = [match[0] for match in HOUSE_KEY.finditer(problem.got) if match[0] in names]
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


def in_deepmedic_keys(problem: Problem, kind: FileKind) -> Problem:
    """A problem of a session, with DeepMedic's keys in place of the house's.

    >>> problem = Problem("model-not-given", "no model", "a model file", "add model: FILE")
    >>> in_deepmedic_keys(problem, "test").fix
    "add cnnModelFilePath = 'FILE'"
    """
    names = house_names(kind)
    return replace(
        problem,
        got=_renamed(problem.got, names),
        expected=_renamed(problem.expected, names),
        fix=_renamed(problem.fix, names),
    )


def text_in_deepmedic_keys(text: str, kind: FileKind) -> str:
    """A warning of a session, with DeepMedic's keys in place of the house's.

    >>> text_in_deepmedic_keys("optimiser.rho changed since the last epoch", "train")
    'rhoRms changed since the last epoch'
    """
    return _renamed(text, house_names(kind))


def _renamed(text: str, names: Mapping[str, str]) -> str:
    renamed = HOUSE_KEY.sub(lambda match: names.get(match[0], match[0]), text)
    for words, replacement in _PHRASES.items():
        renamed = re.sub(rf"(?<![\w.]){re.escape(words)}(?!\w)", replacement, renamed)
    return renamed


def house_names(kind: FileKind) -> dict[str, str]:
    """DeepMedic's first key by the house's.

    >>> house_names("train")["optimiser.rho"]
    'rhoRms'
    """
    names: dict[str, str] = {}
    for rule in KEYS[kind]:
        if isinstance(rule, Key) and rule.path:
            names.setdefault(rule.path, rule.full_name)
    return names


class _Translator:
    """State of one translation: keys of the file, values for the house, problems."""

    def __init__(self, document: Document, kind: FileKind, carried: Mapping[str, Any]) -> None:
        self.source = document
        self.carried = carried
        self.kind = kind
        self.rules = KEYS[kind]
        self.cfg = {str(k): v for k, v in document.values.items() if v is not None}
        self.written_as: dict[str, str] = {}
        self.values: dict[str, Any] = {}
        self.origins: dict[KeyPath, str] = {}
        self.problems: list[tuple[str, Problem]] = []
        self.warnings: list[str] = []
        self.unused: list[str] = []

    def translation(self) -> Translation:
        """Everything in order; later steps see what earlier ones have renewed."""
        self._refuse_unknown_keys()
        self._read_as_old_version()
        self._renew_old_keys()
        for name, rules in self._rules_by_name():
            self._translate(name, rules)
        self._warn()
        self.problems.sort(key=lambda entry: self._rank(entry[0]))
        origins = sorted(self.origins.items(), key=lambda origin: self._rank(origin[1]))
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
        names = {rule.name for rule in self.rules}
        for name in self.cfg:
            if name not in names | self.source.referenced:
                self._refuse(name, DeepsegError(_unknown_key(name, self.kind, names)))
        for rule in self.rules:
            if isinstance(rule, RefusedKey) and rule.name in self.cfg:
                self._refuse(rule.name, DeepsegError(_refused_key(rule)))

    def _read_as_old_version(self) -> None:
        """Give keys the values that they had in the version of the file."""
        if self.kind == "model":
            readings = list(model_readings(self.cfg))
            self.warnings += [reading.note for reading in readings]
            self._take(readings)
        if self.kind != "train":
            return
        reason = evidence(self.cfg)
        readings = list(old_readings(self.cfg, self.carried))
        self._take(readings)
        notes = ", ".join(reading.note for reading in readings if reading.note)
        if notes and reason:
            self.warnings.append(
                f"read as a file of DeepMedic 0.7.2 or before, as {reason}: {notes}"
            )
        elif notes:
            self.warnings.append(f"not given, and read as in DeepMedic 0.7.1: {notes}")

    def _take(self, readings: Iterable[Reading]) -> None:
        for reading in readings:
            self.cfg.pop(reading.name, None)
            if reading.value is not None:
                self.cfg[reading.name] = reading.value
            if reading.origin and reading.name not in self.source.values:
                self.written_as[reading.name] = reading.origin

    def _renew_old_keys(self) -> None:
        for rule in self.rules:
            if not isinstance(rule, OldKey) or rule.name not in self.cfg:
                continue
            if not rule.used(self.cfg):
                self.unused.append(rule.name)
                continue
            if rule.new in self.cfg and not rule.wins:
                self._refuse(rule.name, DeepsegError(_twice(rule)))
                continue
            try:
                self.cfg[rule.new] = rule.read(self.cfg[rule.name], self.cfg)
                self.written_as[rule.new] = rule.name
            except DeepsegError as error:
                self._refuse(rule.name, error)
                self.cfg.pop(rule.new, None)

    def _rules_by_name(self) -> Iterator[tuple[str, list[Key]]]:
        rules: dict[str, list[Key]] = {}
        for rule in self.rules:
            if isinstance(rule, Key):
                rules.setdefault(rule.name, []).append(rule)
        yield from rules.items()

    def _translate(self, name: str, rules: list[Key]) -> None:
        used = [rule for rule in rules if rule.used(self.cfg)]
        if name not in self.cfg:
            if any(rule.required(self.cfg) for rule in used):
                self._refuse(name, DeepsegError(_missing_key(name, str(self.source.file))))
            for rule in used:
                value = rule.default(self.cfg)
                if value is not None:
                    self._put(rule, value)
            return
        value = self.cfg[name]
        if not used and not _is_empty(value):
            self.unused.append(self.written_as.get(name, name))
        entries = [rule.entry for rule in rules if rule.entry]
        if entries and not self._has_only(name, value, entries):
            return
        for rule in used:
            self._put(rule, value.get(rule.entry) if rule.entry else value)

    def _has_only(self, name: str, value: object, entries: list[str]) -> bool:
        """True for a dict with known entries; a problem is added for anything else."""
        wrong = list(_dict_problems(value, entries))
        if wrong:
            self._refuse(name, DeepsegError(*wrong))
        return not wrong

    def _put(self, rule: Key, value: Any) -> None:
        try:
            house_value = rule.convert(value)
        except DeepsegError as error:
            self._refuse(rule.name, error)
            return
        if not rule.path or (house_value is None and rule.path not in _NULLABLE):
            return
        *blocks, last = rule.path.split(".")
        home = self.values
        for block in blocks:
            home = home.setdefault(block, {})
        home[last] = _merged(home.get(last), house_value, lists=rule.joins)
        path = (*blocks, last)
        self.origins[path] = rule.name
        self.origins.update(dict.fromkeys(_paths_in(path, house_value, home[last]), rule.name))

    def _warn(self) -> None:
        ignored = [
            f"{rule.name} ({rule.note})"
            for rule in self.rules
            if isinstance(rule, IgnoredKey)
            and rule.name in self.cfg
            and not rule.silent(self.cfg[rule.name])
        ]
        if ignored:
            self.warnings.append(
                f"keys that mean nothing here and are ignored: {', '.join(ignored)}"
            )
        carried = [
            rule.name
            for rule in self.rules
            if isinstance(rule, CarriedKey) and rule.name in self.cfg
        ]
        if carried:
            self.warnings.append(
                "keys about training, which only train files of 0.7.2 and before take from here: "
                f"{', '.join(carried)}"
            )
        if self.unused:
            self.warnings.append(
                "keys that are not used, given the other keys of the file: "
                f"{', '.join(dict.fromkeys(self.unused))}"
            )
        self.warnings += [text for caution in _CAUTIONS for text in caution(self.cfg)]


_NULLABLE = ("validation.samples", "validation.volumes")
"""Where null says 'none', and leaving the key out would give the house's default."""


def _paths_in(path: KeyPath, new: object, whole: object) -> Iterator[KeyPath]:
    """The paths of what ``new`` has brought into the list or block ``whole``."""
    if isinstance(new, list) and isinstance(whole, list):
        yield from ((*path, index) for index in range(len(whole) - len(new), len(whole)))
    elif isinstance(new, dict):
        yield from ((*path, key) for key in new)


def _merged(old: Any, new: Any, *, lists: bool) -> Any:
    """Blocks that several keys fill are joined, lists only on request; else ``new`` wins."""
    if lists and isinstance(old, list):
        return [*old, *new]
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **new}
    return new


def _is_empty(value: object) -> bool:
    """True for a value that asks for nothing: False, 0, ``[]``, ``[[], []]``."""
    return all(map(_is_empty, value)) if isinstance(value, list) else not value


def _dict_problems(value: object, entries: list[str]) -> Iterator[Problem]:
    choices = ", ".join(map(repr, entries))
    if not isinstance(value, dict):
        expected = f"a dict with any of {choices}"
        yield Problem("config-value", short_text(value), expected, fix="change this value")
        return
    for key in value:
        if key not in entries:
            yield Problem(
                "config-unknown-key",
                got=f"the unknown entry {key!r}",
                expected=f"one of {choices}",
                fix=f"correct or remove it{did_you_mean(str(key), entries)}",
            )


def _unknown_key(name: str, kind: FileKind, names: set[str]) -> Problem:
    homes = [other for other, rules in KEYS.items() if name in {rule.name for rule in rules}]
    return Problem(
        code="config-unknown-key",
        got=f"the unknown key {name!r}",
        expected=f"a key of DeepMedic's {kind} files",
        fix=f"move it to the {' or '.join(homes)} file"
        if homes
        else f"correct or remove it{did_you_mean(name, sorted(names))}",
    )


def _refused_key(rule: RefusedKey) -> Problem:
    return Problem(
        code="config-old-key",
        got=f"the key {rule.name!r} of an old version",
        expected="a key of DeepMedic 0.7 to 0.8.4",
        fix=rule.fix,
    )


def _twice(rule: OldKey) -> Problem:
    return Problem(
        code="config-duplicate-key",
        got=f"both {rule.name!r} and {rule.new!r}",
        expected="one of the two, which mean the same",
        fix=f"remove {rule.name!r}, the older name",
    )


def _missing_key(name: str, where: str) -> Problem:
    return Problem(
        code="config-missing-key",
        got=f"no key {name!r}",
        expected=f"{name!r}",
        fix=f"add {name!r} to the file",
        where=where,
    )


def _whole_image(cfg: CfgValues) -> Iterator[str]:
    for name in ("typeOfSamplingForTraining", "typeOfSamplingForVal"):
        if cfg.get(name) == 2:
            yield f"{name} = 2 samples the whole image here, as named; DeepMedic stayed in the ROI"


def _rising_learning_rate(cfg: CfgValues) -> Iterator[str]:
    first = cfg.get("learningRate", 0.001)
    match cfg.get("typeOfLearningRateSchedule"), cfg.get("paramsForExpSchedForLrAndMom"), first:
        case "expon", [int() | float() as last, *_], int() | float() if last > first:
            yield (
                f"the learning rate rises from {first:g} to {last:g}: the first entry of "
                "paramsForExpSchedForLrAndMom is a rate, not a factor"
            )


def _affine_details(cfg: CfgValues) -> Iterator[str]:
    match cfg.get("augm_img_prms_tr"):
        case {"affine": dict() as affine}:
            ignored = [
                key
                for key, value in affine.items()
                if key in AFFINE_IGNORED and value != AFFINE_IGNORED[key]
            ]
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
