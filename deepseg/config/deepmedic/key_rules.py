"""Kinds of rules for DeepMedic's keys: translated, renamed since, ignored, refused.

`deepseg.config.deepmedic.translate` translates files with tables of such rules. Nothing here knows
a single key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from deepseg.config.deepmedic.convert import Convert, unchanged

CfgValues: TypeAlias = Mapping[str, Any]
"""Keys of one ``.cfg`` file whose value is not None."""
Condition: TypeAlias = Callable[[CfgValues], bool]


def always(_: CfgValues) -> bool:
    """True, whatever else the file says."""
    return True


def never(_: CfgValues) -> bool:
    """False, whatever else the file says."""
    return False


def no_default(_: CfgValues) -> Any:
    """None: the house's default holds, which is DeepMedic's too."""
    return None


def default(value: Any) -> Callable[[CfgValues], Any]:
    """Function that gives ``value`` as the default, whatever else the file says.

    >>> default(60)({"numberOfEpochs": 5})
    60
    """
    return lambda _: value


@dataclass(frozen=True, kw_only=True)
class Key:
    """A key that means something here.

    Attributes:
        name: DeepMedic's key.
        path: The house's key, with dots; empty for a switch that only decides what other keys mean.
        convert: DeepMedic's value → the house's.
        entry: Key in DeepMedic's dict, where every entry has a key of its own here.
        default: DeepMedic's value of a key that is left out; None leaves it to the house.
        used: Condition under which DeepMedic reads the key.
        required: Condition under which the key may not be left out.
        joins: True if its list is added to those of other keys with the same path.
        note: The difference from DeepMedic, if there is one.
    """

    name: str
    path: str
    convert: Convert = unchanged
    entry: str = ""
    default: Callable[[CfgValues], Any] = no_default
    used: Condition = always
    required: Condition = never
    joins: bool = False
    note: str = ""

    @property
    def full_name(self) -> str:
        """DeepMedic's key with its entry.

        >>> Key(name="losses_and_weights", entry="dsc", path="loss.dice").full_name
        "losses_and_weights['dsc']"
        """
        return f"{self.name}[{self.entry!r}]" if self.entry else self.name


@dataclass(frozen=True, kw_only=True)
class OldKey:
    """A key of an older version that has a newer name.

    Attributes:
        name: The old key.
        new: The key of the last version that says the same.
        read: The old value and all keys → value of the new key.
        used: Condition under which the old version read the key.
        wins: True if it holds even where the new key is present as well.
    """

    name: str
    new: str
    read: Callable[[Any, CfgValues], Any] = lambda value, _: value
    used: Condition = always
    wins: bool = False


@dataclass(frozen=True)
class IgnoredKey:
    """A key that means nothing here; a warning names it and says why."""

    name: str
    note: str
    silent: Callable[[Any], bool] = never


@dataclass(frozen=True)
class CarriedKey:
    """A key of old model files about training, which is read beside an old train file only."""

    name: str


@dataclass(frozen=True)
class RefusedKey:
    """A key of old versions that would change the result, but has no safe translation."""

    name: str
    fix: str


@dataclass(frozen=True)
class Reading:
    """Value that an old version took for a key.

    Attributes:
        name: DeepMedic's key.
        value: The value; None if the key was not read.
        note: For the user.
        origin: Key that the user wrote and that decides it; empty where none does.
    """

    name: str
    value: Any
    note: str = ""
    origin: str = ""


KeyRule: TypeAlias = Key | OldKey | IgnoredKey | CarriedKey | RefusedKey


def is_true(name: str) -> Condition:
    """Condition that the switch ``name`` is on.

    >>> is_true("tensorboard_log")({"tensorboard_log": 1})
    True
    """
    return lambda cfg: cfg.get(name, False) in (True, 1)


def is_absent(name: str) -> Condition:
    """Condition that the key ``name`` is left out.

    >>> is_absent("dataframe")({"channels": []})
    True
    """
    return lambda cfg: name not in cfg
