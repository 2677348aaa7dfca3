"""Labels of a ``dataset.json``, against the classes of a model.

The Decathlon and nnU-Net 1 name the class of every label, nnU-Net 2 the label of every class, or
the labels of every region; there, ``ignore`` is the label of voxels that nobody has labelled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from deepseg.errors import Problem

LabelMap: TypeAlias = Mapping[int, int | Literal["ignore"]]

IGNORE = "ignore"  # nnU-Net's name of the label of unlabelled voxels


def labels_by_name(labels: Mapping[str, int | str | Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """The labels of every class or region, whichever way they are written.

    >>> labels_by_name({"0": "background", "1": "oedema"})
    {'background': (0,), 'oedema': (1,)}
    >>> labels_by_name({"background": 0, "whole": [1, 2], "core": 2})
    {'background': (0,), 'whole': (1, 2), 'core': (2,)}
    """
    named: dict[str, tuple[int, ...]] = {}
    for key, value in labels.items():
        if isinstance(value, str) and key.isdigit():
            named[value] = (*named.get(value, ()), int(key))
        elif isinstance(value, str) and value.isdigit():
            named[key] = (int(value),)
        elif not isinstance(value, str):
            named[key] = (value,) if isinstance(value, int) else tuple(value)
    return named


def ignored_labels(named: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
    """Labels of voxels that nobody has labelled.

    >>> ignored_labels({"background": (0,), "oedema": (1,), "ignore": (2,)})
    (2,)
    """
    return tuple(named.get(IGNORE, ()))


def class_mix_ups(
    named: Mapping[str, Sequence[int]], classes: Sequence[str], label_map: LabelMap, where: str
) -> list[Problem]:
    """A problem if names say that labels mean other classes than they are taken for.

    Args:
        named: Labels of every class or region of the dataset.
        classes: Names of the model's classes, the background first.
        label_map: The user's; what it says of a label counts.
        where: The file that names the labels.
    """
    targets: dict[int, set[int]] = {}
    numbers = {_letters(name): number for number, name in enumerate(classes)}
    for name, labels in named.items():
        number = numbers.get(_letters(name))
        for label in labels if number is not None and name != IGNORE else ():
            targets.setdefault(label, set()).add(number or 0)
    judged = {label: numbers_of for label, numbers_of in targets.items() if label not in label_map}
    mixed = {label: numbers_of for label, numbers_of in judged.items() if numbers_of != {label}}
    if not mixed:
        return []
    overlapping = sorted(label for label, numbers_of in mixed.items() if len(numbers_of) > 1)
    if overlapping:
        regions = [n for n, labels in named.items() if overlapping[0] in labels]
        return [
            Problem(
                code="dataset-labels",
                got=f"label {overlapping[0]} in the regions {' and '.join(regions)}",
                expected="one class for every label, because the classes of a model exclude each "
                "other",
                fix="use a model with a class for every label, and score regions as groups; or say "
                "in label_map which class each label is",
                where=where,
            )
        ]
    meanings = ", ".join(f"{label} is {classes[min(mixed[label])]}" for label in sorted(mixed))
    entries: dict[int, int | str] = {**label_map, **{k: min(v) for k, v in mixed.items()}}
    pasted = ", ".join(f"{label}: {entries[label]}" for label in sorted(entries))
    return [
        Problem(
            code="dataset-labels",
            got=f"labels of which {meanings}",
            expected="the numbers of the model's classes: "
            + ", ".join(f"{number} {name}" for number, name in enumerate(classes)),
            fix=f"set 'label_map: {{{pasted}}}'",
            where=where,
        )
    ]


def unknown_classes(named: Mapping[str, Sequence[int]], classes: Sequence[str]) -> str | None:
    """A warning if no class above the background has a name that the model knows.

    Models whose classes are called class1, class2, … say nothing about them.
    """
    foreground = [name for name, labels in named.items() if 0 not in labels and name != IGNORE]
    model_names = {_letters(name) for name in classes}
    is_named = any(not re.fullmatch(r"class_?\d+", name) for name in classes[1:])
    if not foreground or not is_named or any(_letters(name) in model_names for name in foreground):
        return None
    meanings = ", ".join(
        f"{label} is {name!r} there and {classes[label]!r} in the model"
        for name in foreground
        for label in named[name]
        if label < len(classes)
    )
    return f"its labels have other names than the model's classes: {meanings}" if meanings else None


def _letters(name: str) -> str:
    """``name`` without what people write in several ways: case, spaces, hyphens, underscores."""
    return re.sub(r"[\W_]+", "", name.casefold())
