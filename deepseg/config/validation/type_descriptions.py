"""What a pydantic model accepts at one place of a document, and how to say it in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen, MultipleOf
from pydantic import BaseModel
from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class SchemaType:
    """A type as it is written in a model, unwrapped.

    Attributes:
        base: The type without ``Annotated``, and without ``| None`` where one type remains; ``Any``
            where it is unknown.
        limits: What ``Annotated`` and ``Field`` add to it, such as ``Ge(1)``.
        tag: The key that tells the members of a union of models apart, if there is one.
    """

    base: Any
    limits: tuple[object, ...] = ()
    tag: str | None = None

    @property
    def members(self) -> tuple[SchemaType, ...]:
        """The alternatives of a union; empty for every other kind."""
        if get_origin(self.base) not in (Union, UnionType):
            return ()
        return tuple(schema_type(m) for m in get_args(self.base) if m is not type(None))

    @property
    def fields(self) -> Mapping[str, FieldInfo]:
        """The fields of a model by the key that users write; empty for every other kind."""
        if not (isinstance(self.base, type) and issubclass(self.base, BaseModel)):
            return {}
        fields = self.base.model_fields
        return {name if f.alias is None else f.alias: f for name, f in fields.items()}

    @property
    def items(self) -> tuple[SchemaType, ...]:
        """The kinds of a list's entries: one for lists of any length, else one per entry."""
        arguments = [argument for argument in get_args(self.base) if argument is not Ellipsis]
        return tuple(schema_type(argument) for argument in arguments) if _is_list(self) else ()

    @property
    def choices(self) -> tuple[object, ...]:
        """The values of a ``Literal``; empty for every other kind."""
        return get_args(self.base) if get_origin(self.base) is Literal else ()

    def below(self, step: str | int) -> SchemaType:
        """The kind of the value under a key or list index."""
        if self.tag is not None and step == self.tag:
            return SchemaType(Literal[tuple(_tags(self))])
        if step in self.fields and isinstance(step, str):
            return schema_type_of_field(self.fields[step])
        if isinstance(step, int) and self.items:
            return self.items[step % len(self.items)]
        if _is_mapping(self):
            return schema_type(get_args(self.base)[1])
        return SchemaType(Any)

    def key(self) -> SchemaType:
        """The kind of the keys of a mapping."""
        return schema_type(get_args(self.base)[0]) if _is_mapping(self) else SchemaType(Any)

    def tagged(self, tag: object) -> SchemaType:
        """The member of a tagged union to which ``tag`` belongs."""
        fitting = (m for m in self.members if self.tag is not None and tag in _tag_of(m, self.tag))
        return next(fitting, SchemaType(Any))


def schema_type(annotation: Any) -> SchemaType:
    """The kind that a type annotation stands for."""
    if get_origin(annotation) is Annotated:
        base, *extras = get_args(annotation)
        return _narrowed(schema_type(base), extras)
    if get_origin(annotation) in (Union, UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        return schema_type(members[0]) if len(members) == 1 else SchemaType(annotation)
    return SchemaType(annotation)


def schema_type_of_field(field: FieldInfo) -> SchemaType:
    """The kind that a field of a model stands for."""
    return _narrowed(schema_type(field.annotation), [field])


def _narrowed(kind: SchemaType, extras: Sequence[object]) -> SchemaType:
    for extra in extras:
        if isinstance(extra, FieldInfo):
            tag = extra.discriminator if isinstance(extra.discriminator, str) else kind.tag
            kind = replace(kind, limits=(*kind.limits, *extra.metadata), tag=tag)
        else:
            kind = replace(kind, limits=(*kind.limits, extra))
    return kind


def _is_list(kind: SchemaType) -> bool:
    return get_origin(kind.base) in (list, tuple, set, frozenset, Sequence)


def _is_mapping(kind: SchemaType) -> bool:
    return get_origin(kind.base) in (dict, Mapping)


def _is_endless(kind: SchemaType) -> bool:
    return get_origin(kind.base) is not tuple or get_args(kind.base)[-1] is Ellipsis


def _tags(kind: SchemaType) -> Iterator[object]:
    for member in kind.members:
        yield from _tag_of(member, kind.tag) if kind.tag is not None else ()


def _tag_of(member: SchemaType, tag: str) -> tuple[object, ...]:
    return schema_type_of_field(member.fields[tag]).choices if tag in member.fields else ()


_NOUNS: dict[object, tuple[str, str]] = {
    bool: ("true or false", "values that are true or false"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    Path: ("a path", "paths"),
}


def words(kind: SchemaType, *, many: bool = False) -> str:
    """``kind`` as a user would say it: ``a list of 3 whole numbers of at least 1``.

    Args:
        many: Speak of several of them: ``lists of 3 whole numbers of at least 1``.
    """
    if kind.members:
        return f"entries, each {_either(kind)}" if many else _either(kind)
    if kind.fields:
        return f"{'blocks' if many else 'a block'} with the keys {', '.join(kind.fields)}"
    if kind.choices:
        return _choice([str(choice) for choice in kind.choices], many=many)
    if kind.items:
        return f"{'lists' if many else 'a list'} of {_entries(kind)}"
    if _is_mapping(kind):
        pairs = f"{words(kind.key(), many=True)} to {words(kind.below(''), many=True)}"
        return f"blocks that map {pairs}" if many else f"a block that maps {pairs}"
    nouns = _NOUNS.get(kind.base)
    return "" if nouns is None else nouns[many] + _limited(kind)


def _either(kind: SchemaType) -> str:
    """The members of a union, lists last: ``a whole number, or a list of 3 of these``."""
    members = sorted(kind.members, key=lambda m: (bool(m.items), bool(m.choices)))
    texts: list[str] = []
    for i, member in enumerate(members):
        repeats = any(item in members[:i] and not item.items for item in member.items)
        is_list_of_them = repeats and _is_uniform(member)
        texts.append(f"a list of {_these(member)}" if is_list_of_them else words(member))
    return ", or ".join(texts)


def _these(kind: SchemaType) -> str:
    return f"{_length(kind)}of these" if _length(kind) else "these"


def _choice(choices: Sequence[str], *, many: bool) -> str:
    one = f"the word {choices[0]}" if len(choices) == 1 else f"one of: {', '.join(choices)}"
    return f"entries, each {one}" if many else one


def _entries(kind: SchemaType) -> str:
    if _is_uniform(kind):
        return _length(kind) + words(kind.items[0], many=True)
    return f"{len(kind.items)} entries: {', '.join(words(item) for item in kind.items)}"


def _is_uniform(kind: SchemaType) -> bool:
    return all(item == kind.items[0] for item in kind.items)


def _length(kind: SchemaType) -> str:
    """How many entries a list or characters a text has, with a space behind; empty if any."""
    if kind.items and not _is_endless(kind):
        return f"{len(kind.items)} "
    least, most = _lengths(kind)
    if least == most:
        return "" if least is None else f"{least} "
    if most is None:
        return "one or more " if least == 1 else f"at least {least} "
    return f"at most {most} " if least is None else f"{least} to {most} "


def _lengths(kind: SchemaType) -> tuple[int | None, int | None]:
    least = [limit.min_length for limit in kind.limits if isinstance(limit, MinLen)]
    most = [limit.max_length for limit in kind.limits if isinstance(limit, MaxLen)]
    return (max(least) if least else None, min(most) if most else None)


def _limited(kind: SchemaType) -> str:
    """What stands behind the noun: `` from 1 to 10``."""
    if kind.base is str:
        return f" of {_length(kind)}characters" if _length(kind) else ""
    bounds: dict[str, object] = {}
    for limit in kind.limits:
        match limit:
            case Ge(ge=bound):
                bounds["at least"] = bound
            case Gt(gt=bound):
                bounds["above"] = bound
            case Le(le=bound):
                bounds["at most"] = bound
            case Lt(lt=bound):
                bounds["below"] = bound
            case MultipleOf(multiple_of=factor):
                bounds["divisible by"] = factor
    if bounds.keys() == {"at least", "at most"}:
        return f" from {bounds['at least']} to {bounds['at most']}"
    text = " and ".join(f"{word} {bound}" for word, bound in bounds.items())
    return f" of {text}" if text.startswith("at ") else f" {text}".rstrip()
