"""The page `documentation/configuration.md`, written from the models: every key, none by hand.

Run ``python -m deepseg.config.reference > documentation/configuration.md`` after a change of a
model or of a table of DeepMedic's keys.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from deepseg.config.deepmedic.convert import block_if_on
from deepseg.config.deepmedic.row_types import ConfigKind as FileKind
from deepseg.config.deepmedic.row_types import Ignored, Key, Old, Refused
from deepseg.config.deepmedic.session_keys import ALTERNATIVES
from deepseg.config.deepmedic.translate import KEYS
from deepseg.config.files.document import shown
from deepseg.config.model import ModelConfig
from deepseg.config.testing import TestConfig
from deepseg.config.training import TrainConfig
from deepseg.config.validation.type_descriptions import SchemaType, schema_type_of_field, words

INTRODUCTION = """\
# Configuration

This page is generated: `python -m deepseg.config.reference > documentation/configuration.md`.

A **model file** describes a network, a **train file** a training session, a **test file** a testing
session. They are written in YAML; `configs/` holds examples with a comment above every key.
DeepMedic's `.cfg` files are read as they are, too: the last column names DeepMedic's key, in
brackets what is different. They are read as data, never run.

A key with dots stands for nested blocks: `segments.train` is

```yaml
segments:
  train: 37
```

Relative paths count from the folder of the file that holds them. Three numbers belong to the axes
X, Y, Z in the order in which the file of an image stores them; layers count from 1 at the image,
labels and epochs from 0.

Everything that is wrong with a file is said at once, with line, key and a proposal; unknown keys
are errors. `run.py -check FILE` does nothing but this.
"""

TABLE_HEAD = """\
| Key | Value | Default | Meaning | In DeepMedic |
|---|---|---|---|---|
"""

OTHER_HEAD = """\
| DeepMedic's key | Here |
|---|---|
"""

FILES: tuple[tuple[FileKind, str, type[BaseModel]], ...] = (
    ("model", "Model file", ModelConfig),
    ("train", "Train file", TrainConfig),
    ("test", "Test file", TestConfig),
)


SHORTER = {
    "texts of 1 to 200 characters": "names",
    "text of 1 to 200 characters": "a name",
    "from 1 to 1000000": "of at least 1",
    " and below 9223372036854775808": "",
}
"""Limits that no reader has to know."""


@dataclass(frozen=True)
class KeyReference:
    """One line of a table.

    Attributes:
        key: With dots.
        value: What may be written, in words.
        default: What is meant where nothing is written.
        meaning: The field's description.
        member: The alternative to which the key belongs, as its key and its word:
            ``("schedule.type", "poly")``.
    """

    key: str
    value: str
    default: str
    meaning: str
    member: tuple[str, str] | None = None

    def line(self, deepmedic: str) -> str:
        """The line as markdown."""
        cells = (f"`{self.key}`", self.value, self.default, self.meaning, deepmedic)
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def reference_markdown() -> str:
    """The whole page."""
    return "\n".join((INTRODUCTION, *(_section(*file) for file in FILES)))


def _section(kind: FileKind, title: str, model: type[BaseModel]) -> str:
    lines = "".join(entry.line(_deepmedic(kind, entry)) for entry in _entries(model, "", None))
    others = "".join(f"| `{name}` | {text} |\n" for name, text in _other_keys(kind))
    return (
        f"## {title}\n\n{TABLE_HEAD}{lines}\n"
        f"### Other keys of DeepMedic's {kind} files\n\n{OTHER_HEAD}{others}"
    )


def _entries(
    model: type[BaseModel], prefix: str, defaults: BaseModel | None
) -> Iterator[KeyReference]:
    """The keys of ``model`` and, below each block, those of the block.

    Args:
        model: The block.
        prefix: Its own key and a dot.
        defaults: The block that stands for a missing one, if there is one.
    """
    for name, field in model.model_fields.items():
        default = field.default if defaults is None else getattr(defaults, name)
        is_required = defaults is None and field.is_required()
        yield _entry(f"{prefix}{name}", field, "required" if is_required else _written(default))
        yield from _nested(schema_type_of_field(field), f"{prefix}{name}", default)


def _entry(key: str, field: FieldInfo, default: str) -> KeyReference:
    value = _value(schema_type_of_field(field))
    for long, short in SHORTER.items():
        value = value.replace(long, short)
    return KeyReference(key, value, default, field.description or "")


def _value(kind: SchemaType) -> str:
    if kind.fields:
        return "a block"
    if any(member.fields for member in kind.members):
        others = [words(member) for member in kind.members if not member.fields]
        return " or ".join([*others, "a block"])
    return words(kind)


def _nested(kind: SchemaType, key: str, default: object) -> Iterator[KeyReference]:
    for member in (kind, *kind.members):
        if not member.fields:
            continue
        own = default if type(default) is member.base else None
        entries = _entries(member.base, f"{key}.", own if isinstance(own, BaseModel) else None)
        yield from entries if kind.tag is None else _of_member(member, f"{key}.{kind.tag}", entries)


def _of_member(
    member: SchemaType, tag: str, entries: Iterable[KeyReference]
) -> Iterator[KeyReference]:
    """The key that chooses this member, then those that belong to it."""
    found = {entry.key: entry for entry in entries}
    choice = found.pop(tag)
    word = choice.value.removeprefix("the word ")
    meaning = " ".join((inspect.getdoc(member.base) or "").split())
    yield KeyReference(tag, f"**{word}**", "", meaning, (tag, word))
    yield from (replace(entry, member=(tag, word)) for entry in found.values())


def _written(default: object) -> str:
    match default:
        case None:
            return ""
        case BaseModel():
            return "as below"
        case Path():
            return f"`{default}`"
    return f"`{shown(default)}`"


def _deepmedic(kind: FileKind, entry: KeyReference) -> str:
    """DeepMedic's name of one of our keys, or of the block around it that is one value there."""
    rows = [row for row in KEYS[kind] if isinstance(row, Key) and row.path]
    if entry.member is not None and entry.member[0] in ALTERNATIVES:
        tag, word = entry.member
        name, meanings = ALTERNATIVES[tag]
        theirs = [their for their, ours in meanings.items() if ours == word]
        if not theirs:
            return ""
        if entry.key == tag:
            return f"`{name} = {theirs[0]!r}`"
        rows = [row for row in rows if row.used({name: theirs[0]})]
    around = [
        row
        for row in rows
        if f"{entry.key}.".startswith(f"{row.path}.")
        and (row.path == entry.key or row.convert is not block_if_on)
    ]
    names = dict.fromkeys(f"`{row.full_name}`" for row in around)
    notes = dict.fromkeys(row.note for row in around if row.path == entry.key and row.note)
    return ", ".join(names) + (f" ({'; '.join(notes)})" if notes else "")


def _other_keys(kind: FileKind) -> Iterator[tuple[str, str]]:
    for row in KEYS[kind]:
        match row:
            case Key(path=""):
                yield row.name, "decides, as in DeepMedic, which other keys are read"
            case Old():
                yield row.name, f"an older form of `{row.new}`"
            case Ignored():
                yield row.name, f"ignored, with a warning: {row.note}"
            case Refused():
                yield row.name, f"refused: {row.fix}"


def deepmedic_keys_markdown() -> str:
    """Every key that a file of DeepMedic may hold, of any version, and what becomes of it here."""
    lines = ["| DeepMedic's key | in | here |", "|---|---|---|"]
    for kind, rows in KEYS.items():
        lines += [f"| `{name}` | {kind} | {meaning} |" for name, meaning in _meanings(rows, kind)]
    return "\n".join(lines) + "\n"


def _meanings(rows: Iterable[object], kind: FileKind) -> Iterator[tuple[str, str]]:
    for row in rows:
        if isinstance(row, Key) and row.path:
            yield row.full_name, f"`{row.path}`" + (f"; {row.note}" if row.note else "")
    yield from _other_keys(kind)


if __name__ == "__main__":
    pages = {"keys": reference_markdown, "deepmedic": deepmedic_keys_markdown}
    sys.stdout.write(pages[sys.argv[1] if len(sys.argv) > 1 else "keys"]())
