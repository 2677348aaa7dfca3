"""The functions of ``import deepseg``: options that they share have one name and one order."""

from __future__ import annotations

import inspect
import re

import pytest

import deepseg

FUNCTIONS = sorted(
    name
    for name in deepseg.__all__
    if inspect.isfunction(getattr(deepseg, name, None)) and not name.startswith("register_")
)
SUBJECTS = {"cases", "config_file", "file", "kind", "path", "pretrained", "runs"}
SHARED = ("model", "out", "seed", "precision", "device", "quiet")  # in this order


def parameters(name: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(getattr(deepseg, name)).parameters)


def test_these_are_the_functions():
    assert FUNCTIONS == [
        "check", "compare", "convert", "export", "load", "new_model", "plan", "plan_transfer",
        "prepare", "segment", "segment_batches", "show", "train",
    ]  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_only_what_a_function_is_about_is_given_by_place(name):
    by_place = {
        key for key, value in parameters(name).items() if value.kind is not value.KEYWORD_ONLY
    }
    assert by_place
    assert by_place <= SUBJECTS


@pytest.mark.parametrize("name", FUNCTIONS)
def test_shared_options_have_one_order(name):
    options = [option for option in parameters(name) if option in SHARED]
    assert options == [option for option in SHARED if option in options]


@pytest.mark.parametrize("option", SHARED)
def test_shared_options_have_one_default(option):
    defaults = {
        parameters(name)[option].default for name in FUNCTIONS if option in parameters(name)
    } - {inspect.Parameter.empty}
    assert defaults <= {"seed": {None, 0}, "device": {"auto"}, "quiet": {False}}.get(option, {None})


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in ("load", "show")])
def test_functions_that_print_can_be_quiet(name):
    assert list(parameters(name))[-1] == "quiet"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_docstring_explains_every_argument(name):
    docstring = inspect.getdoc(getattr(deepseg, name))
    section = re.search(r"^Args:\n((?:    .*\n|\n)+)", docstring, flags=re.MULTILINE)
    explained = re.findall(r"^    (\w+):", section[1], flags=re.MULTILINE)
    assert explained == list(parameters(name))
    assert "\nReturns:\n" in docstring
    assert "\nRaises:\n" in docstring
