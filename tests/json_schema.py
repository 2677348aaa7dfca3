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
    result = []
    types = rules.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and not any(_has_type(value, name) for name in types):
        return [f"{place}: no {' or '.join(types)}"]
    if "const" in rules and value != rules["const"]:
        result.append(f"{place}: not {rules['const']!r}")
    if "enum" in rules and value not in rules["enum"]:
        result.append(f"{place}: none of {rules['enum']}")
    if "pattern" in rules and not re.search(rules["pattern"], value):
        result.append(f"{place}: not like {rules['pattern']}")
    if "anyOf" in rules and all(faults(value, option, place) for option in rules["anyOf"]):
        result.append(f"{place}: fits no option")
    if isinstance(value, dict):
        result += _faults_of_object(value, rules, place)
    for number, entry in enumerate(value if isinstance(value, list) else ()):
        result += faults(entry, rules.get("items", {}), f"{place}[{number}]")
    return result


def _faults_of_object(value, rules, place):
    known = rules.get("properties", {})
    result = [f"{place}: no {key}" for key in rules.get("required", ()) if key not in value]
    further = rules.get("additionalProperties", True)
    for key, entry in value.items():
        if key in known:
            result += faults(entry, known[key], f"{place}.{key}")
        elif further is False:
            result.append(f"{place}: {key} is unknown")
        elif further is not True:
            result += faults(entry, further, f"{place}.{key}")
    return result


def _has_type(value, name):
    return isinstance(value, TYPES[name]) and not (
        isinstance(value, bool) and name in ("integer", "number")
    )
