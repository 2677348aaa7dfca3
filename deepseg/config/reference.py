"""Writes the page `documentation/configuration.md` from the models: every key, none by hand.

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
from deepseg.config.deepmedic.key_rules import CarriedKey, IgnoredKey, Key, OldKey, RefusedKey
from deepseg.config.deepmedic.session_keys import ALTERNATIVES
from deepseg.config.deepmedic.translate import KEYS
from deepseg.config.files.document import short_text
from deepseg.config.files.kind_of_file import FileKind
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

Everything that is wrong with a file is reported at once, with line, key and a proposal; unknown
keys are errors. `run.py -check FILE` does nothing but this.
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
"""Limits that readers do not need to know."""


@dataclass(frozen=True)
class KeyReference:
    """One key in a table.

    Attributes:
        key: With dots.
        value: What may be written, in words.
        default: Value that holds where nothing is written.
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
    """Text of the whole page."""
    return "\n".join((INTRODUCTION, *(_section(*file) for file in FILES)))


def _section(kind: FileKind, title: str, model: type[BaseModel]) -> str:
    lines = "".join(
        key_reference.line(_deepmedic(kind, key_reference))
        for key_reference in _keys_of(model, "", None)
    )
    other_keys = "".join(f"| `{name}` | {text} |\n" for name, text in _other_keys(kind))
    return (
        f"## {title}\n\n{TABLE_HEAD}{lines}\n"
        f"### Other keys of DeepMedic's {kind} files\n\n{OTHER_HEAD}{other_keys}"
    )


def _keys_of(
    model: type[BaseModel], prefix: str, defaults: BaseModel | None
) -> Iterator[KeyReference]:
    """The keys of ``model`` and, below each block, those of the block.

    Args:
        model: The block.
        prefix: Its own key and a dot.
        defaults: The block that stands for a missing one, if there is one.
    """
    for name, field in model.model_fields.items():
        if (
            isinstance(field.json_schema_extra, dict)
            and "is_stored_only" in field.json_schema_extra
        ):
            continue
        default = field.default if defaults is None else getattr(defaults, name)
        is_required = defaults is None and field.is_required()
        yield _key_of_field(
            f"{prefix}{name}", field, "required" if is_required else _written(default)
        )
        yield from _nested(schema_type_of_field(field), f"{prefix}{name}", default)


def _key_of_field(key: str, field: FieldInfo, default: str) -> KeyReference:
    value = _value(schema_type_of_field(field))
    for long, short in SHORTER.items():
        value = value.replace(long, short)
    return KeyReference(key, value, default, field.description or "")


def _value(schema: SchemaType) -> str:
    if schema.fields:
        return "a block"
    if any(member.fields for member in schema.members):
        plain = [words(member) for member in schema.members if not member.fields]
        return " or ".join([*plain, "a block"])
    return words(schema)


def _nested(schema: SchemaType, key: str, default: object) -> Iterator[KeyReference]:
    for member in (schema, *schema.members):
        if not member.fields:
            continue
        defaults = default if type(default) is member.base else None
        key_references = _keys_of(
            member.base, f"{key}.", defaults if isinstance(defaults, BaseModel) else None
        )
        yield from (
            key_references
            if schema.tag is None
            else _of_member(member, f"{key}.{schema.tag}", key_references)
        )


def _of_member(
    member: SchemaType, tag: str, key_references: Iterable[KeyReference]
) -> Iterator[KeyReference]:
    """The key that chooses this member, then those that belong to it."""
    by_key = {key_reference.key: key_reference for key_reference in key_references}
    choice = by_key.pop(tag)
    word = choice.value.removeprefix("the word ")
    meaning = " ".join((inspect.getdoc(member.base) or "").split())
    yield KeyReference(tag, f"**{word}**", "", meaning, (tag, word))
    yield from (replace(key_reference, member=(tag, word)) for key_reference in by_key.values())


def _written(default: object) -> str:
    match default:
        case None:
            return ""
        case BaseModel():
            return "as below"
        case Path():
            return f"`{default}`"
    return f"`{short_text(default)}`"


def _deepmedic(kind: FileKind, key_reference: KeyReference) -> str:
    """DeepMedic's name of a key, or of the block around it that is one value there."""
    rules = [rule for rule in KEYS[kind] if isinstance(rule, Key) and rule.path]
    if key_reference.member is not None and key_reference.member[0] in ALTERNATIVES:
        tag, word = key_reference.member
        name, meanings = ALTERNATIVES[tag]
        deepmedic_words = [spelling for spelling, meaning in meanings.items() if meaning == word]
        if not deepmedic_words:
            return ""
        if key_reference.key == tag:
            return f"`{name} = {deepmedic_words[0]!r}`"
        rules = [rule for rule in rules if rule.used({name: deepmedic_words[0]})]
    around = [
        rule
        for rule in rules
        if f"{key_reference.key}.".startswith(f"{rule.path}.")
        and (rule.path == key_reference.key or rule.convert is not block_if_on)
    ]
    names = dict.fromkeys(f"`{rule.full_name}`" for rule in around)
    notes = dict.fromkeys(
        rule.note for rule in around if rule.path == key_reference.key and rule.note
    )
    return ", ".join(names) + (f" ({'; '.join(notes)})" if notes else "")


def _other_keys(kind: FileKind) -> Iterator[tuple[str, str]]:
    for rule in KEYS[kind]:
        match rule:
            case Key(path=""):
                yield rule.name, "decides, as in DeepMedic, which other keys are read"
            case OldKey():
                yield rule.name, f"an older form of `{rule.new}`"
            case IgnoredKey():
                yield rule.name, f"ignored, with a warning: {rule.note}"
            case CarriedKey():
                yield rule.name, "read beside a train file of 0.7.2 or before, which lacks it"
            case RefusedKey():
                yield rule.name, f"refused: {rule.fix}"


def deepmedic_keys_markdown() -> str:
    """Table of all keys that files of any version of DeepMedic hold, with their meaning here."""
    lines = ["| DeepMedic's key | in | here |", "|---|---|---|"]
    for kind, rules in KEYS.items():
        lines += [f"| `{name}` | {kind} | {meaning} |" for name, meaning in _meanings(rules, kind)]
    return "\n".join(lines) + "\n"


def _meanings(rules: Iterable[object], kind: FileKind) -> Iterator[tuple[str, str]]:
    for rule in rules:
        if isinstance(rule, Key) and rule.path:
            yield rule.full_name, f"`{rule.path}`" + (f"; {rule.note}" if rule.note else "")
    yield from _other_keys(kind)


if __name__ == "__main__":
    pages = {"keys": reference_markdown, "deepmedic": deepmedic_keys_markdown}
    sys.stdout.write(pages[sys.argv[1] if len(sys.argv) > 1 else "keys"]())
