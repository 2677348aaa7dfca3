"""Enough of JSON Schema to hold a record against the schemas of the documentation."""

import json
import re
from pathlib import Path

SCHEMAS = Path(__file__).parents[1] / "documentation" / "schemas"
TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}
UNDERSTOOD = {
    *("$schema", "$id", "title", "description", "type", "const", "enum", "pattern", "anyOf"),
    *("properties", "required", "additionalProperties", "items"),
}


def schema(name):
    return json.loads((SCHEMAS / f"{name}.json").read_text("utf-8"))


def faults(value, rules, place="$"):
    """Places of ``value`` that break the schema ``rules``, with the rule."""
    assert rules.keys() <= UNDERSTOOD, rules.keys() - UNDERSTOOD
    found = []
    types = rules.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and not any(_has_type(value, name) for name in types):
        return [f"{place}: no {' or '.join(types)}"]
    if "const" in rules and value != rules["const"]:
        found.append(f"{place}: not {rules['const']!r}")
    if "enum" in rules and value not in rules["enum"]:
        found.append(f"{place}: none of {rules['enum']}")
    if "pattern" in rules and not re.search(rules["pattern"], value):
        found.append(f"{place}: not like {rules['pattern']}")
    if "anyOf" in rules and all(faults(value, option, place) for option in rules["anyOf"]):
        found.append(f"{place}: fits no option")
    if isinstance(value, dict):
        found += _faults_of_object(value, rules, place)
    for number, entry in enumerate(value if isinstance(value, list) else ()):
        found += faults(entry, rules.get("items", {}), f"{place}[{number}]")
    return found


def _faults_of_object(value, rules, place):
    known = rules.get("properties", {})
    found = [f"{place}: no {key}" for key in rules.get("required", ()) if key not in value]
    others = rules.get("additionalProperties", True)
    for key, entry in value.items():
        if key in known:
            found += faults(entry, known[key], f"{place}.{key}")
        elif others is False:
            found.append(f"{place}: {key} is unknown")
        elif others is not True:
            found += faults(entry, others, f"{place}.{key}")
    return found


def _has_type(value, name):
    return isinstance(value, TYPES[name]) and not (
        isinstance(value, bool) and name in ("integer", "number")
    )
