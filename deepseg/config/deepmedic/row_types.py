"""What a table of DeepMedic's keys consists of.

`deepseg.config.deepmedic.translate` translates files with such tables. Nothing here knows a
single key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from deepseg.config.deepmedic.convert import Convert, as_it_is

ConfigKind: TypeAlias = Literal["model", "train", "test"]
Given: TypeAlias = Mapping[str, Any]
"""The keys of one file whose value is not None."""
Condition: TypeAlias = Callable[[Given], bool]


def always(_: Given) -> bool:
    """Whatever else the file says."""
    return True


def never(_: Given) -> bool:
    """Nothing makes it so."""
    return False


def no_default(_: Given) -> Any:
    """Leave it to the house's default, which is DeepMedic's too."""
    return None


def default(value: Any) -> Callable[[Given], Any]:
    """The same default whatever else the file says."""
    return lambda _: value


@dataclass(frozen=True, kw_only=True)
class Key:
    """A key that means something here.

    Attributes:
        name: DeepMedic's key.
        path: Ours, with dots; empty for a switch that only decides what other keys mean.
        convert: DeepMedic's value → ours.
        entry: Of DeepMedic's dict, where every entry has a key of its own here.
        default: DeepMedic's value of a key that is not given; None leaves it to the house.
        used: Whether DeepMedic reads the key, given the others.
        required: Whether the key has to be given.
        joins: Whether its list is added to those of other keys with the same path.
        note: What is different here.
    """

    name: str
    path: str
    convert: Convert = as_it_is
    entry: str = ""
    default: Callable[[Given], Any] = no_default
    used: Condition = always
    required: Condition = never
    joins: bool = False
    note: str = ""

    @property
    def full_name(self) -> str:
        """With the entry, such as ``losses_and_weights['dsc']``."""
        return f"{self.name}[{self.entry!r}]" if self.entry else self.name


@dataclass(frozen=True, kw_only=True)
class Old:
    """A key of an older version that has a newer name.

    Attributes:
        name: The old key.
        new: The key of the last version that says the same.
        read: The old value and all keys → value of the new key.
        used: Whether the old version read the key.
        wins: Whether it is meant even where the new key is given as well.
    """

    name: str
    new: str
    read: Callable[[Any, Given], Any] = lambda value, _: value
    used: Condition = always
    wins: bool = False


@dataclass(frozen=True)
class Ignored:
    """A key that means nothing here; a warning names it and says why."""

    name: str
    note: str
    silent: Callable[[Any], bool] = never


@dataclass(frozen=True)
class Refused:
    """A key of old versions that would change the result, but has no safe translation."""

    name: str
    fix: str


KeyRule: TypeAlias = Key | Old | Ignored | Refused


def is_true(name: str) -> Condition:
    """The switch ``name`` is on."""
    return lambda given: given.get(name, False) in (True, 1)


def is_absent(name: str) -> Condition:
    """The key ``name`` is not given."""
    return lambda given: name not in given
