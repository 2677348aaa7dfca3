"""Wishes of a user for an older model that fills a new one: which weights go where.

The rules are names only; `matching` and `map_selection` find out what they mean for two models.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeAlias, get_args

from deepseg.errors import DeepsegError, Problem, did_you_mean, raise_if_any

Width: TypeAlias = Literal["overlap", "net2net"]
Kernels: TypeAlias = Literal["same", "centre"]
Depth: TypeAlias = Literal["by-name", "first-common", "identity"]

NEW = "new"  # instead of the name of a pathway, layer or class: it is left as initialised
LEFT_NEW = "left new, as asked"
_OPTIONS = {
    "spacing_mm": "-spacing",
    "min_match": "-minMatch",
    "layer_map": "-map",
}  # whose names differ
_CHOICES = {"width": get_args(Width), "kernels": get_args(Kernels), "depth": get_args(Depth)}
_PAIRS = ("pathways", "channels", "classes", "layer_map")


@dataclass(frozen=True)
class TransferRules:
    """Rules by which an older model, the source, fills a new one, the target.

    Attributes:
        layers: Of the source: depths such as ``5``, addresses and ranges such as ``normal.1-3``,
            ``head``, or ``all``; None for all but the classification layer.
        pathways: Source pathway of a target pathway: ``{"sub2": "sub1"}``. By default the one of
            the same name, and for further ones the last parallel pathway of the source. ``new``
            leaves it as initialised.
        spacing_mm: Voxel size that the target is made for; pathways then correspond where they see
            at the same resolution in mm.
        width: ``overlap`` copies the maps that both have; ``net2net`` repeats those of the source
            so that the function is kept.
        kernels: ``same`` demands kernels of one shape; ``centre`` puts smaller ones into the
            middle of larger ones.
        depth: ``by-name`` demands a source layer for every target layer; ``first-common`` goes
            along each pathway until something differs; ``identity`` fills further layers so that
            the function is kept.
        channels: Source of a target channel: a source channel, ``copy:`` and a source channel,
            ``zero``, ``mean``, ``share`` (the mean, divided by the number of channels that share
            it) or ``random``. By default the channel of the same name, else zero; but the only
            channel ``image`` of an older model is shared by all.
        classes: Source class of a target class, or ``new``. By default the class of the same name.
        layer_map: Source layer of a target layer, or ``new``, by address, whatever the other rules
            say: ``{"normal.3": "normal.2"}``. In a file without addresses, the beginning of the
            names of the layer's tensors.
        min_match: Share of the target's tensors that a file without addresses must fill.

    Raises:
        DeepsegError: ``transfer-rules``, for values that no rule has or that exclude each other.

    >>> TransferRules(layers=["1", "head"], classes={"oedema": "lesion"}).chosen()
    {'layers': ['1', 'head'], 'classes': {'oedema': 'lesion'}}
    >>> TransferRules(depth="first_common")
    Traceback (most recent call last):
    ...
    deepseg.errors.DeepsegError: [transfer-rules] got depth 'first_common'; expected by-name, \
first-common or identity; fix: correct the word; did you mean 'first-common'?
    """

    layers: tuple[str, ...] | None = None
    pathways: Mapping[str, str] = field(default_factory=dict)
    spacing_mm: tuple[float, float, float] | None = None
    width: Width = "overlap"
    kernels: Kernels = "same"
    depth: Depth = "by-name"
    channels: Mapping[str, str] = field(default_factory=dict)
    classes: Mapping[str, str] = field(default_factory=dict)
    layer_map: Mapping[str, str] = field(default_factory=dict)
    min_match: float = 0.5

    def __post_init__(self) -> None:
        raise_if_any(_problems(vars(self)))
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(self.layers))  # of a list, as people write it
        if self.spacing_mm is not None:
            object.__setattr__(self, "spacing_mm", tuple(map(float, self.spacing_mm)))
        if not self.keeps_function:
            return
        if self.depth == "first-common":
            raise _conflict("-depth first-common with -width net2net", "one of the two")
        if self.layer_map:
            raise _conflict("-map where the function has to be kept", "one of the two")
        if self.layers not in (None, ("all",)):
            option = "-width net2net" if self.width == "net2net" else "-depth identity"
            raise _conflict(
                f"-layers {' '.join(self.layers or ())} with {option}",
                "all layers, without which the function cannot be kept",
            )

    @property
    def keeps_function(self) -> bool:
        """The target has to compute what the source computes.

        >>> TransferRules(width="net2net").keeps_function, TransferRules().keeps_function
        (True, False)
        """
        return self.width == "net2net" or self.depth == "identity"

    def of_source(self, number: int) -> TransferRules:
        """The rules for one of several older models.

        Words such as ``2:sub1`` are about the second one; the others leave that part new.

        >>> rules = TransferRules(layers=("1", "2:head"), pathways={"sub1": "2:normal"})
        >>> rules.of_source(1).chosen()
        {'layers': ['1'], 'pathways': {'sub1': 'new'}}
        >>> rules.of_source(2).chosen()
        {'layers': ['1', 'head'], 'pathways': {'sub1': 'normal'}}
        """
        layers = self.layers
        if layers is not None:
            words = [_of_source(word, number, "") for word in layers]
            layers = tuple(word for word in words if word)
        return replace(
            self,
            layers=layers,
            pathways=_pairs_of_source(self.pathways, number, NEW),
            channels=_pairs_of_source(self.channels, number, "zero"),
            classes=_pairs_of_source(self.classes, number, NEW),
            layer_map=_pairs_of_source(self.layer_map, number, NEW),
        )

    def chosen(self) -> dict[str, Any]:
        """The rules that are not the default, for people and for files."""
        default = TransferRules()
        return {
            rule.name: _plain(vars(self)[rule.name])
            for rule in fields(self)
            if vars(self)[rule.name] != vars(default)[rule.name]
        }


def in_options(chosen: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rules as they are typed, option and words.

    >>> in_options({"pathways": {"sub2": "sub1"}, "spacing_mm": [1.0, 1.0, 2.5]})
    [('-pathways', 'sub2=sub1'), ('-spacing', '1 1 2.5')]
    """
    return [(_OPTIONS.get(name, f"-{name}"), _typed(value)) for name, value in chosen.items()]


def _pairs_of_source(pairs: Mapping[str, str], number: int, otherwise: str) -> dict[str, str]:
    return {new: _of_source(old, number, otherwise) for new, old in pairs.items()}


def _of_source(word: str, number: int, otherwise: str) -> str:
    """A word without the number of the older model it is about; ``otherwise`` for another one."""
    numbered = re.fullmatch(r"(\d+):(.+)", word)
    if numbered is None:
        return word
    return numbered[2] if int(numbered[1]) == number else otherwise


def _problems(rules: Mapping[str, Any]) -> Iterator[Problem]:
    """Values that no rule has. Callers in Python may pass anything."""
    layers = rules["layers"]
    if layers is not None and not (_is_list(layers) and _are_words(layers)):
        yield _wrong("layers", layers, 'words in a tuple, such as ("1", "normal.2-3", "head")')
    for name in _PAIRS:
        pairs = rules[name]
        if not (isinstance(pairs, Mapping) and _are_words([*pairs, *pairs.values()])):
            yield _wrong(name, pairs, "a dictionary of words, new ones to older ones")
    spacing = rules["spacing_mm"]
    if spacing is not None and not (
        _is_list(spacing) and len(spacing) == 3 and all(_is_positive(mm) for mm in spacing)
    ):
        yield _wrong("spacing_mm", spacing, "three numbers of mm, above 0")
    for name, words in _CHOICES.items():
        if rules[name] not in words:
            *first, last = words
            hint = did_you_mean(rules[name], words) if isinstance(rules[name], str) else ""
            expected = f"{', '.join(first)} or {last}"
            yield _wrong(name, rules[name], expected, fix=f"correct the word{hint}")
    share = rules["min_match"]
    if not (_is_number(share) and 0 <= share <= 1):
        yield _wrong("min_match", share, "a share between 0 and 1")


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _are_words(values: Sequence[object]) -> bool:
    return all(isinstance(value, str) for value in values)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_positive(value: Any) -> bool:
    return _is_number(value) and 0 < value < math.inf


def _wrong(name: str, value: object, expected: str, *, fix: str = "correct it") -> Problem:
    return Problem("transfer-rules", got=f"{name} {value!r}", expected=expected, fix=fix)


def _typed(value: Any) -> str:
    match value:
        case Mapping():
            return " ".join(f"{new}={old}" for new, old in value.items())
        case list():
            return " ".join(_typed(entry) for entry in value)
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def _conflict(got: str, expected: str) -> DeepsegError:
    fix = "leave one of the options out"
    return DeepsegError(Problem("transfer-rules", got, expected, fix))
