"""Pydantic's complaints about a document, as problems with place, got, expected and fix.

A value that fits no member of a union gives one problem, not one per member: where the value has
the outer form of one member (a list), the problem is what is wrong inside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from deepseg.config.files.document import Document, KeyPath, key_text, short_text
from deepseg.config.validation.type_descriptions import SchemaType, schema_type_of_field, words
from deepseg.errors import Problem, did_you_mean

_KEY = "[key]"  # what pydantic appends to the path of a mapping's key
_UNKNOWN_KEYS = ("extra_forbidden", "invalid_key")
_FIXES = {
    "greater_than": "write a larger number",
    "greater_than_equal": "write a larger number",
    "less_than": "write a smaller number",
    "less_than_equal": "write a smaller number",
    "finite_number": "write an ordinary number",
    "int_from_float": "write it without a fraction",
    "too_short": "add entries",
    "too_long": "remove entries",
    "model_type": "write its keys on the lines below, indented",
    "model_attributes_type": "write its keys on the lines below, indented",
    "dict_type": "write its keys on the lines below, indented",
}

# Other programs' words for our keys, in small letters without separators.
SYNONYMS = {
    **dict.fromkeys(("lr", "initiallr", "learnrate", "lr0"), "learning_rate"),
    **dict.fromkeys(("wd", "weightdecay", "decay"), "weight_decay"),
    **dict.fromkeys(("numepochs", "maxepochs", "nepochs"), "epochs"),
    **dict.fromkeys(("numworkers", "nworkers", "numberofsamplers"), "workers"),
    **dict.fromkeys(("patchsize", "patch", "patches", "roisize"), "segments"),
    **dict.fromkeys(("scheduler", "lrscheduler", "lrschedule"), "schedule"),
    **dict.fromkeys(("randomseed", "manualseed"), "seed"),
    **dict.fromkeys(("modalities", "sequences", "inchannels"), "channels"),
    **dict.fromkeys(("nclasses", "numclasses", "labelnames"), "classes"),
    **dict.fromkeys(("mask", "masks", "brainmask"), "roi"),
    **dict.fromkeys(("outdir", "outputdir", "outputfolder"), "output"),
    **dict.fromkeys(("normalization", "normalisation", "normalise", "normalize"), "z_score"),
    **dict.fromkeys(("spacing", "voxelsize", "resolution"), "resample"),
    **dict.fromkeys(("checkpoint", "weights", "pretrained"), "model"),
    **dict.fromkeys(("tta", "mirroring", "flip"), "mirror"),
    **dict.fromkeys(("amp", "dtype"), "precision"),
}


@dataclass(frozen=True)
class Complaint:
    """One thing pydantic refuses.

    Attributes:
        path: The value, or the missing or unknown key.
        schema: Type that the model accepts there; for an unknown key, the block in which it stands.
        error: Pydantic's own words.
    """

    path: KeyPath
    schema: SchemaType
    error: ErrorDetails


_Errors = Sequence[tuple[KeyPath, ErrorDetails]]
"""Pydantic's errors, each with the rest of its path that is not walked yet."""


def problems_of(
    error: ValidationError, document: Document, model: type[BaseModel]
) -> tuple[Problem, ...]:
    """Everything that ``model`` refuses in ``document``, in the order of the file."""
    errors = [(details["loc"], details) for details in error.errors(include_url=False)]
    complaints = list(_complaints(errors, (), SchemaType(model)))
    order = {path: index for index, path in enumerate(document.places)}
    complaints.sort(key=lambda complaint: order.get(document.nearest(complaint.path), -1))
    return tuple(_problem(complaint, document, SchemaType(model)) for complaint in complaints)


def _complaints(errors: _Errors, path: KeyPath, schema: SchemaType) -> Iterator[Complaint]:
    """One complaint for each wrong place at ``path`` or below it."""
    here = _errors_here(errors)
    if here:
        tag = _tag_complaint(here[0], path, schema)
        yield tag or Complaint(path, schema, here[0])
        if tag is not None:
            yield from _unknown_to_all_members(here[0], path, schema)
        return
    groups: dict[str | int, list[tuple[KeyPath, ErrorDetails]]] = {}
    for rest, error in errors:
        if rest:
            groups.setdefault(rest[0], []).append((rest[1:], error))
    if schema.members:
        yield from _union_complaints(groups, path, schema)
        return
    for step, group in groups.items():
        values = []
        for rest, error in group:
            if rest == (_KEY,):
                yield Complaint((*path, step), schema.key(), error)
            elif not rest and error["type"] in _UNKNOWN_KEYS:
                yield Complaint((*path, step), schema, error)
            else:
                values.append((rest, error))
        yield from _complaints(values, (*path, step), schema.below(step))


def _errors_here(errors: _Errors) -> list[ErrorDetails]:
    """The errors that are about the value itself and not about something inside it.

    Missing entries of a list are about the list. A list that only counts as too short because
    entries in it are wrong is none of these.
    """
    here = [error for rest, error in errors if not rest]
    if len(here) < len(errors):
        here = [error for error in here if not _is_long_enough(error)]
    for rest, error in errors:
        if _is_missing_entry(rest, error):
            here.append({**error, "type": "too_short"})
    return here


def _is_long_enough(error: ErrorDetails) -> bool:
    return error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"]


def _is_missing_entry(rest: KeyPath, error: ErrorDetails) -> bool:
    return error["type"] == "missing" and len(rest) == 1 and isinstance(rest[0], int)


def _tag_complaint(error: ErrorDetails, path: KeyPath, schema: SchemaType) -> Complaint | None:
    """The complaint about the key by which the models of a union are told apart."""
    if schema.tag is None or not error["type"].startswith("union_tag"):
        return None
    is_missing = error["type"] == "union_tag_not_found"
    changed: ErrorDetails = {**error, "type": "missing" if is_missing else "literal_error"}
    return Complaint((*path, schema.tag), schema.below(schema.tag), changed)


def _unknown_to_all_members(
    error: ErrorDetails, path: KeyPath, schema: SchemaType
) -> Iterator[Complaint]:
    """Complaints about keys that are wrong whichever of the models is synonym."""
    fields = {name for member in schema.members for name in member.fields}
    for key in error["input"] if isinstance(error["input"], Mapping) else ():
        if key not in fields:
            yield Complaint((*path, key), schema, {**error, "type": "extra_forbidden"})


def _union_complaints(
    groups: Mapping[str | int, _Errors], path: KeyPath, schema: SchemaType
) -> Iterator[Complaint]:
    """Complaints about the member that comes closest, or else that no member fits.

    Pydantic walks the members in order and puts a label before each path, or a tag before the
    path of the one member that has it.
    """
    if schema.tag is not None:
        for tag, errors in groups.items():
            yield from _complaints(errors, path, schema.tagged(tag))
        return
    members = (
        schema.members if len(groups) == len(schema.members) else (SchemaType(Any),) * len(groups)
    )
    by_member = [
        list(_complaints(errors, path, member))
        for errors, member in zip(groups.values(), members, strict=True)
    ]
    inside = [complaints for complaints in by_member if not _is_outer(complaints, path)]
    fewest = min(map(len, inside), default=0)
    closest = [complaints for complaints in inside if len(complaints) == fewest]
    if len(closest) == 1:
        yield from closest[0]
    else:
        yield Complaint(path, schema, {**by_member[0][0].error, "type": "union"})


def _is_outer(complaints: Sequence[Complaint], path: KeyPath) -> bool:
    """True if a member of a union is refused as a whole, and not by a validator of the house."""
    return any(c.path == path and c.error["type"] != "refusal" for c in complaints)


def _problem(complaint: Complaint, document: Document, root: SchemaType) -> Problem:
    error_type = complaint.error["type"]
    if error_type == "refusal":
        texts = complaint.error["ctx"]
        where = document.place(complaint.path)
        return Problem(texts["code"], texts["got"], texts["expected"], texts["fix"], where)
    if error_type == "missing":
        return _missing_key(complaint, document)
    if error_type in _UNKNOWN_KEYS:
        return _unknown_key(complaint, document, root)
    return _wrong_value(complaint, document)


def _missing_key(complaint: Complaint, document: Document) -> Problem:
    *block, key = complaint.path
    accepted = words(complaint.schema)
    return Problem(
        code="config-missing-key",
        got=f"no key {key!r}",
        expected=f"{key!r} with {accepted}" if accepted else f"{key!r}",
        fix=f"add {key!r} {f'under {key_text(tuple(block))!r}' if block else 'to the file'}",
        where=document.place(tuple(block)),
    )


def _unknown_key(complaint: Complaint, document: Document, root: SchemaType) -> Problem:
    key = complaint.path[-1]
    options = (complaint.schema, *complaint.schema.members)
    names = list(dict.fromkeys(name for option in options for name in option.fields))
    homes = {key_text(path) for path in _all_paths(root, ()) if path[-1] == key}
    elsewhere = sorted(homes - {key_text(complaint.path)})
    hint = did_you_mean(str(key), names, synonyms=SYNONYMS)
    if len(elsewhere) == 1:
        fix = f"move it to {elsewhere[0]!r}"
    else:
        fix = f"correct or remove it{hint or _synonym_elsewhere(str(key), root)}"
    return Problem(
        code="config-unknown-key",
        got=f"the unknown key {key!r}",
        expected=f"one of the keys {', '.join(names)}",
        fix=fix,
        where=document.place(complaint.path),
    )


def _synonym_elsewhere(key: str, root: SchemaType) -> str:
    """Question about the one place of the file where the synonym of ``key`` belongs, if any."""
    synonym = SYNONYMS.get(key.lower().replace("_", ""))
    paths = sorted({key_text(path) for path in _all_paths(root, ()) if path[-1] == synonym})
    return f"; did you mean {paths[0]!r}?" if len(paths) == 1 else ""


def _all_paths(schema: SchemaType, path: KeyPath) -> Iterator[KeyPath]:
    """Paths of all keys that a model knows, blocks in lists left out."""
    for option in (schema, *schema.members):
        for name, field in option.fields.items():
            yield (*path, name)
            if name not in path:
                yield from _all_paths(schema_type_of_field(field), (*path, name))


def _wrong_value(complaint: Complaint, document: Document) -> Problem:
    error = complaint.error
    is_key = error["loc"][-1:] == (_KEY,)
    value = error["input"] if is_key else _value_at(complaint, document)
    return Problem(
        code="config-value",
        got=f"the key {value!r}" if is_key else short_text(value),
        expected=_expected(complaint),
        fix=_fix(complaint, value),
        where=document.place(complaint.path),
    )


def _value_at(complaint: Complaint, document: Document) -> object:
    """Value as the user wrote it, or as pydantic saw it where a validator has changed it."""
    value: Any = document.values
    for step in complaint.path:
        if isinstance(value, list):
            value = dict(enumerate(value))
        if not isinstance(value, dict) or step not in value:
            return complaint.error["input"]
        value = value[step]
    return value


def _expected(complaint: Complaint) -> str:
    error = complaint.error
    match error["type"]:
        case "value_error" | "assertion_error":
            return str(error["ctx"]["error"])
        case "string_pattern_mismatch":
            return f"text that fits the pattern {error['ctx']['pattern']}"
        case "finite_number":
            return "a finite number"
        case _:
            return words(complaint.schema) or error["msg"].removeprefix("Input should be ")


def _is_from_validator(complaint: Complaint) -> bool:
    """True if a validator of the house refuses the value, whatever type it has."""
    return complaint.error["type"] == "value_error"


def _fix(complaint: Complaint, value: object) -> str:
    schema = complaint.schema
    choices = [str(choice) for option in (schema, *schema.members) for choice in option.choices]
    if complaint.error["type"] in _FIXES:
        return _FIXES[complaint.error["type"]]
    if value is None:
        return "write a value behind the key"
    if choices and isinstance(value, str):
        return f"write one of these{did_you_mean(value, choices)}"
    if schema.base is str and isinstance(value, int | float) and not _is_from_validator(complaint):
        return "put quotes around it"
    if len(schema.items) == 1 and not isinstance(value, list | dict):
        return f"write [{short_text(value)}] for a list of one"
    return "change this value"
