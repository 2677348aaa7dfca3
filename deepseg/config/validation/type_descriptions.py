"""Types that a pydantic model accepts at one place of a document, described in plain words."""

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
        """The alternatives of a union; empty for any other type."""
        if get_origin(self.base) not in (Union, UnionType):
            return ()
        return tuple(schema_type(m) for m in get_args(self.base) if m is not type(None))

    @property
    def fields(self) -> Mapping[str, FieldInfo]:
        """The fields of a model by the key that users write; empty for any other type."""
        if not (isinstance(self.base, type) and issubclass(self.base, BaseModel)):
            return {}
        fields = self.base.model_fields
        return {name if f.alias is None else f.alias: f for name, f in fields.items()}

    @property
    def items(self) -> tuple[SchemaType, ...]:
        """Types of a list's entries: one for lists of any length, else one per entry."""
        arguments = [argument for argument in get_args(self.base) if argument is not Ellipsis]
        return tuple(schema_type(argument) for argument in arguments) if _is_list(self) else ()

    @property
    def choices(self) -> tuple[object, ...]:
        """The values of a ``Literal``; empty for any other type."""
        return get_args(self.base) if get_origin(self.base) is Literal else ()

    def below(self, step: str | int) -> SchemaType:
        """Type of the value under a key or list index."""
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
        """Type of the keys of a mapping."""
        return schema_type(get_args(self.base)[0]) if _is_mapping(self) else SchemaType(Any)

    def tagged(self, tag: object) -> SchemaType:
        """Member of a tagged union to which ``tag`` belongs."""
        fitting = (m for m in self.members if self.tag is not None and tag in _tag_of(m, self.tag))
        return next(fitting, SchemaType(Any))


def schema_type(annotation: Any) -> SchemaType:
    """Type that an annotation stands for.

    >>> schema_type(int | None).base
    <class 'int'>
    """
    if get_origin(annotation) is Annotated:
        base, *extras = get_args(annotation)
        return _narrowed(schema_type(base), extras)
    if get_origin(annotation) in (Union, UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        return schema_type(members[0]) if len(members) == 1 else SchemaType(annotation)
    return SchemaType(annotation)


def schema_type_of_field(field: FieldInfo) -> SchemaType:
    """Type that a field of a model stands for."""
    return _narrowed(schema_type(field.annotation), [field])


def _narrowed(schema: SchemaType, extras: Sequence[object]) -> SchemaType:
    for extra in extras:
        if isinstance(extra, FieldInfo):
            tag = extra.discriminator if isinstance(extra.discriminator, str) else schema.tag
            schema = replace(schema, limits=(*schema.limits, *extra.metadata), tag=tag)
        else:
            schema = replace(schema, limits=(*schema.limits, extra))
    return schema


def _is_list(schema: SchemaType) -> bool:
    return get_origin(schema.base) in (list, tuple, set, frozenset, Sequence)


def _is_mapping(schema: SchemaType) -> bool:
    return get_origin(schema.base) in (dict, Mapping)


def _is_endless(schema: SchemaType) -> bool:
    return get_origin(schema.base) is not tuple or get_args(schema.base)[-1] is Ellipsis


def _tags(schema: SchemaType) -> Iterator[object]:
    for member in schema.members:
        yield from _tag_of(member, schema.tag) if schema.tag is not None else ()


def _tag_of(member: SchemaType, tag: str) -> tuple[object, ...]:
    return schema_type_of_field(member.fields[tag]).choices if tag in member.fields else ()


_NOUNS: dict[object, tuple[str, str]] = {
    bool: ("true or false", "values that are true or false"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    Path: ("a path", "paths"),
}


def words(schema: SchemaType, *, plural: bool = False) -> str:
    """Type in the words of a user.

    Args:
        plural: Speak of several of them.

    >>> words(schema_type(tuple[int, int, int]))
    'a list of 3 whole numbers'
    >>> words(schema_type(tuple[int, int, int]), plural=True)
    'lists of 3 whole numbers'
    """
    if schema.members:
        return f"entries, each {_either(schema)}" if plural else _either(schema)
    if schema.fields:
        return f"{'blocks' if plural else 'a block'} with the keys {', '.join(schema.fields)}"
    if schema.choices:
        return _choice([str(choice) for choice in schema.choices], plural=plural)
    if schema.items:
        return f"{'lists' if plural else 'a list'} of {_entries(schema)}"
    if _is_mapping(schema):
        pairs = f"{words(schema.key(), plural=True)} to {words(schema.below(''), plural=True)}"
        return f"blocks that map {pairs}" if plural else f"a block that maps {pairs}"
    nouns = _NOUNS.get(schema.base)
    return "" if nouns is None else nouns[plural] + _limited(schema)


def _either(schema: SchemaType) -> str:
    """The members of a union, lists last: ``a whole number, or a list of 3 of these``."""
    members = sorted(schema.members, key=lambda m: (bool(m.items), bool(m.choices)))
    texts: list[str] = []
    for i, member in enumerate(members):
        repeats = any(item in members[:i] and not item.items for item in member.items)
        is_list_of_them = repeats and _is_uniform(member)
        texts.append(f"a list of {_reference_back(member)}" if is_list_of_them else words(member))
    return ", or ".join(texts)


def _reference_back(schema: SchemaType) -> str:
    return f"{_length(schema)}of these" if _length(schema) else "these"


def _choice(choices: Sequence[str], *, plural: bool) -> str:
    text = f"the word {choices[0]}" if len(choices) == 1 else f"one of: {', '.join(choices)}"
    return f"entries, each {text}" if plural else text


def _entries(schema: SchemaType) -> str:
    if _is_uniform(schema):
        return _length(schema) + words(schema.items[0], plural=True)
    return f"{len(schema.items)} entries: {', '.join(words(item) for item in schema.items)}"


def _is_uniform(schema: SchemaType) -> bool:
    return all(item == schema.items[0] for item in schema.items)


def _length(schema: SchemaType) -> str:
    """Number of entries of a list or characters of a text, then a space; empty if it is free."""
    if schema.items and not _is_endless(schema):
        return f"{len(schema.items)} "
    least, most = _lengths(schema)
    if least == most:
        return "" if least is None else f"{least} "
    if most is None:
        return "one or more " if least == 1 else f"at least {least} "
    return f"at most {most} " if least is None else f"{least} to {most} "


def _lengths(schema: SchemaType) -> tuple[int | None, int | None]:
    least = [limit.min_length for limit in schema.limits if isinstance(limit, MinLen)]
    most = [limit.max_length for limit in schema.limits if isinstance(limit, MaxLen)]
    return (max(least) if least else None, min(most) if most else None)


def _limited(schema: SchemaType) -> str:
    """Range after the noun: `` from 1 to 10``."""
    if schema.base is str:
        return f" of {_length(schema)}characters" if _length(schema) else ""
    bounds: dict[str, object] = {}
    for limit in schema.limits:
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
