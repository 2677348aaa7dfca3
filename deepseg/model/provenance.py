"""Where the weights of a model come from: a seed, an older model, training sessions.

Programs decide by the fields. People, and versions of deepseg before this record, read the same in
words, which are parsed here and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import TypeAdapter

from deepseg.counts import counted

_TRAINED_BY = "trained by "


@dataclass(frozen=True)
class FilledFrom:
    """An older model whose weights were taken over.

    Attributes:
        file: As the user named it.
        sha256: Of the file, or files, that held the weights.
        rules: The rules of the transfer that are not the default.
        tensors: Such as ``20 of 25``: tensors of the new model that were filled, of all.
        layers: Rows of the transfer's table.
        is_random: The older model had learnt nothing either.
        device_steps: Steps that it was trained on a device; None if it was on none.
        earlier: Other older models, whose weights were taken over before.
    """

    file: str
    sha256: str = ""
    rules: Mapping[str, Any] = field(default_factory=dict)
    tensors: str = ""
    layers: tuple[tuple[str, ...], ...] = ()
    is_random: bool = False
    device_steps: int | None = None
    earlier: tuple[FilledFrom, ...] = ()

    @property
    def all(self) -> tuple[FilledFrom, ...]:
        """All older models in the order in which their weights were taken over."""
        return (*self.earlier, self)


@dataclass(frozen=True)
class TrainedBy:
    """A session that trained the weights, and for how many epochs."""

    session: str
    epochs: int


@dataclass(frozen=True)
class Provenance:
    """Where weights come from.

    Attributes:
        seed: Of the weights as they were initialised; None if that is unknown.
        filled_from: The older model that filled some of them, or None.
        trained_by: Sessions that trained them since, the oldest first.

    >>> new = Provenance(seed=3)
    >>> new.is_random, new.trained("lesions", epochs=2).is_random
    (True, False)
    >>> new.trained("lesions", epochs=2).words()
    {'initialised': 'seed 3', 'trained by lesions': '2 epochs'}
    """

    seed: int | None = None
    filled_from: FilledFrom | None = None
    trained_by: tuple[TrainedBy, ...] = ()

    @property
    def is_random(self) -> bool:
        """The weights have learnt nothing, in this model or in the one that they were taken from.

        Weights of unknown provenance are not called random.
        """
        if self.trained_by or self.seed is None:
            return False
        return self.filled_from is None or all(old.is_random for old in self.filled_from.all)

    def trained(self, session: str, *, epochs: int) -> Provenance:
        """The provenance after ``epochs`` epochs of ``session``, counted from its beginning."""
        earlier = tuple(entry for entry in self.trained_by if entry.session != session)
        return replace(self, trained_by=(*earlier, TrainedBy(session, epochs)))

    def record(self) -> dict[str, Any]:
        """The fields as plain data."""
        values: dict[str, Any] = _RECORD.dump_python(self, mode="json")
        return values

    @classmethod
    def from_record(cls, values: Mapping[str, Any]) -> Provenance:
        """The provenance of which ``values`` are the record; fields of later versions are ignored.

        Raises:
            pydantic.ValidationError: A field is missing or of another type.
        """
        return _RECORD.validate_python(values)

    def words(self) -> dict[str, Any]:
        """The fields as they are shown to people."""
        words: dict[str, Any] = {}
        if self.seed is not None:
            words["initialised"] = f"seed {self.seed}"
        older = () if self.filled_from is None else self.filled_from.all
        for number, source in enumerate(older, start=1):
            mark = f" ({number})" if number < len(older) else ""
            words |= {
                f"weights from{mark}": source.file,
                f"sha256{mark}": source.sha256,
                f"rules{mark}": dict(source.rules),
                f"tensors{mark}": source.tensors,
                f"layers{mark}": [list(row) for row in source.layers],
            }
            if source.device_steps is not None:
                words[f"steps on the device{mark}"] = source.device_steps
        for entry in self.trained_by:
            words[_TRAINED_BY + entry.session] = counted(entry.epochs, "epoch")
        return words

    @classmethod
    def from_words(cls, words: Mapping[str, Any]) -> Provenance:
        """The provenance that a file of an older deepseg has in words.

        >>> Provenance.from_words({"initialised": "seed 3", "trained by lesions": "2 epochs"})
        Provenance(seed=3, filled_from=None, trained_by=(TrainedBy(session='lesions', epochs=2),))
        """
        filled_from = None
        if "weights from" in words:
            filled_from = FilledFrom(
                file=str(words["weights from"]),
                sha256=str(words.get("sha256", "")),
                rules=dict(words.get("rules", {})),
                tensors=str(words.get("tensors", "")),
                layers=tuple(tuple(row) for row in words.get("layers", ())),
            )
        sessions = {key: _number(text) for key, text in words.items() if _TRAINED_BY in key}
        return cls(
            seed=_number(words.get("initialised")),
            filled_from=filled_from,
            trained_by=tuple(
                TrainedBy(key.removeprefix(_TRAINED_BY), epochs or 0)
                for key, epochs in sessions.items()
            ),
        )


def _number(text: Any) -> int | None:
    """The number in ``seed 3`` or ``2 epochs``."""
    match = re.search(r"-?\d+", str(text))
    return None if match is None else int(match[0])


_RECORD = TypeAdapter(Provenance)
