"""DeepMedic's .cfg files: the values Python would give, and nothing that is not a value."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseg.config.files.cfg_file import read_cfg
from deepseg.errors import DeepsegError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def document(content: str | bytes):
    file = Path("model.cfg")
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_cfg(file)


def refusal(content: str | bytes) -> str:
    with pytest.raises(DeepsegError) as refused:
        document(content)
    return str(refused.value)


def test_a_file_in_the_manner_of_deepmedic_is_read_with_its_lines():
    read = document(
        "# -*- coding: utf-8 -*-\n"
        "'''Parameters of the CNN.'''\n"
        'modelName = "tiny"  # any name\n'
        "\n"
        "numberFMsPerLayerNormal = [4, 5,\n"
        "                           6]\n"
        "kernelDimPerLayerNormal = [[3,3,3]]*2 + [(5, 5, 1)]\n"
        "useSubsampledPathway = True\n"
        "roi = None\n"
        "learningRate = 10**(-3)\n"
        "label_map = {4: -1, 'x': './a' \"b\"}\n"
    )
    assert read.values == {
        "modelName": "tiny",
        "numberFMsPerLayerNormal": [4, 5, 6],
        "kernelDimPerLayerNormal": [[3, 3, 3], [3, 3, 3], [5, 5, 1]],
        "useSubsampledPathway": True,
        "roi": None,
        "learningRate": 0.001,
        "label_map": {4: -1, "x": "./ab"},
    }
    assert read.places == {
        ("modelName",): "model.cfg:3 modelName",
        ("numberFMsPerLayerNormal",): "model.cfg:5 numberFMsPerLayerNormal",
        ("kernelDimPerLayerNormal",): "model.cfg:7 kernelDimPerLayerNormal",
        ("useSubsampledPathway",): "model.cfg:8 useSubsampledPathway",
        ("roi",): "model.cfg:9 roi",
        ("learningRate",): "model.cfg:10 learningRate",
        ("label_map",): "model.cfg:11 label_map",
    }


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 + 3 * 4", 14),
        ("(2 + 3) * 4", 20),
        ("7 // 2", 3),
        ("7 / 2", 3.5),
        ("1 - -2.5", 3.5),
        ("2 ** 10", 1024),
        ("2 ** -1", 0.5),
        ("4 ** 0.5", 2.0),
        ("-2 ** 2", -4),
        ("(-1) ** 1000000", 1),
        ("+5", 5),
        ("0x10", 16),
        ("'a' + 'b'", "ab"),
        ("[1] + [2]", [1, 2]),
        ("[0] * 3", [0, 0, 0]),
        ("()", []),
    ],
)
def test_arithmetic_gives_what_it_gives_in_python(expression, value):
    result = document(f"a = {expression}\n").values["a"]
    assert (result, type(result)) == (value, type(value))


plain = st.recursive(
    st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text("ab'\\"), values),
    max_leaves=8,
)


@given(values=st.dictionaries(st.sampled_from(["a", "b", "ä"]), plain))
def test_what_python_writes_is_read_back(values):
    text = "".join(f"{key} = {value!r}\n" for key, value in values.items())
    assert document(text).values == values


def test_a_backslash_in_a_path_stays_and_warns_of_nothing():
    assert document("a = 'C:\\data'\n").values == {"a": "C:\\data"}


NOT_DATA = (
    "expected 'key = value' with plain values; "
    "fix: write the value itself; config files are read, never run"
)


@pytest.mark.parametrize(
    ("statement", "got"),
    [
        ("import os", "import os"),
        ("from os import *", "from os import *"),
        ("for i in [1]: j = i", "for i in [1]: j = i"),
        ("b += 1", "b += 1"),
        ("b, c = 1, 2", "b, c = 1, 2"),
        ("b = c = 1", "b = c = 1"),
        ("b.c = 1", "b.c = 1"),
        ("b[0] = 1", "b[0] = 1"),
        ("b: int = 1", "b: int = 1"),
        ("del a", "del a"),
        ("print(1)", "print(1)"),
        ("3", "3"),
        ("b = [1, a.c]", "a.c"),
        ("b = {'x': f(3)}", "f(3)"),
        ("b = {**a}", "a"),
        ("b = {1.5: 2}", "1.5"),
        ("b = {True: 2}", "True"),
        ("b = {1: 2, 1: 3}", "1"),
        ("b = [*[1]]", "*[1]"),
        ("b = [i for i in [1]]", "[i for i in [1]]"),
        ("b = lambda: 0", "lambda: 0"),
        ("b = 1 if True else 2", "1 if True else 2"),
        ("b = (c := 3)", "c := 3"),
        ("b = 'abc'[0]", "'abc'[0]"),
        ("b = f'{a:3}'", "f'{a:3}'"),
        ("b = f'{a!r}'", "f'{a!r}'"),
        ("b = f'{[a]}'", "f'{[a]}'"),
        ("b = f'x{f(a)}'", "f'x{f(a)}'"),
        ("b = b'x'", "b'x'"),
        ("b = ...", "..."),
        ("b = 1j", "1j"),
        ("b = {1, 2}", "{1, 2}"),
        ("b = not True", "not True"),
        ("b = ~1", "~1"),
        ("b = -True", "-True"),
        ("b = True + 1", "True + 1"),
        ("b = 'x' * 3", "'x' * 3"),
        ("b = [0] * True", "[0] * True"),
        ("b = 5 % 3", "5 % 3"),
        ("b = 1 << 3", "1 << 3"),
        ("b = 1 < 2", "1 < 2"),
        ("b = True and 1", "True and 1"),
    ],
)
def test_what_is_not_data_is_refused(statement, got):
    assert refusal(f"a = 1\n{statement}\n") == (
        f"[config-not-data] model.cfg:2: got {got!r}; {NOT_DATA}"
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("root", "/data"),
        ("root + '/x'", "/data/x"),
        ("f'{root}/x{n}'", "/data/x3"),
        ("[root] + more * 2", ["/data", 1, 1]),
        ("n * 2 + 1", 7),
        ("{'a': [root]}", {"a": ["/data"]}),
    ],
)
def test_the_name_of_an_earlier_key_stands_for_its_value(value, expected):
    read = document(f"root = '/data'\nn = 3\nmore = [1]\nb = {value}\n")
    assert read.values["b"] == expected
    assert read.referenced <= {"root", "n", "more"}
    assert read.referenced


@pytest.mark.parametrize("name", ["c", "b", "print", "__file__"])
def test_only_keys_above_the_line_have_a_name(name):
    assert refusal(f"a = 1\nb = {name}\nc = 2\n") == (
        f"[config-not-data] model.cfg:2: got {name!r}; expected a plain value, or the name of a "
        "key above this line; fix: correct the name, or write the value itself; nothing else has a "
        "name here"
    )


@pytest.mark.parametrize("value", ["{0} + {0}", "[{0}, {0}]", "f'{{{0}}}{{{0}}}'"])
def test_names_do_not_let_a_small_file_grow_without_bounds(value):
    first = "['x']" if value.startswith("[") else "'x'"
    lines = [f"a0 = {first}", *(f"a{n + 1} = {value.format(f'a{n}')}" for n in range(90))]
    assert "[config-too-large] model.cfg:" in refusal("\n".join(lines))


def test_every_offending_line_is_named_and_nothing_is_run():
    content = "import os\na = 1\nb = [1,\n     os.system('touch PWNED'),\n]\ndef f():\n    pass\n"
    assert refusal(content) == (
        f"[config-not-data] model.cfg:1: got 'import os'; {NOT_DATA}\n"
        f"[config-not-data] model.cfg:4: got \"os.system('touch PWNED')\"; {NOT_DATA}\n"
        f"[config-not-data] model.cfg:6: got 'def f():...'; {NOT_DATA}"
    )
    assert not Path("PWNED").exists()


@pytest.mark.parametrize(
    "expression",
    [
        "9**9**9",
        "2**1024",
        "10**400",
        "2**(2**20)",
        "1/0",
        "1//0",
        "0**-1",
        "(-1)**0.5",
        "1e308*10",
        "1e999",
        "10.0**400",
        "0x1" + "0" * 256,
        "[0]*10**9",
        "[[0]*5000]*3",
    ],
)
def test_results_without_bounds_are_refused_uncomputed(expression):
    with pytest.raises(DeepsegError) as refused:
        document(f"\na = {expression}\n")
    (problem,) = refused.value.problems
    assert (problem.code, problem.where) == ("config-arithmetic", "model.cfg:2")
    assert problem.expected == "a finite number below 1e308, or a list of at most 10000 entries"


def test_a_refused_power_is_shown_in_full():
    assert refusal("a = 3 + 9**9**9\n") == (
        "[config-arithmetic] model.cfg:1: got '9**9**9'; "
        "expected a finite number below 1e308, or a list of at most 10000 entries; "
        "fix: write the result itself"
    )


def test_a_key_given_twice_is_refused_with_both_lines():
    assert refusal("a = 1\nb = 2\na = 3\n") == (
        "[config-duplicate-key] model.cfg:3 a: got 'a' on line 1 and again on line 3; "
        "expected every key once; fix: remove one of the two"
    )


@pytest.mark.parametrize(
    ("content", "start"),
    [
        ("a = 1\nb = [1, 2\nc = 3\n", "[config-syntax] model.cfg:2 column 5: got 'b = [1, 2'; "),
        ("a = 1\n  b = 2\n", "[config-syntax] model.cfg:2 column "),
        ("a = 'x\n", '[config-syntax] model.cfg:1 column 5: got "a = \'x"; '),
        ("a = 1\rb = \n", "[config-syntax] model.cfg:2 column "),
    ],
)
def test_broken_lines_are_refused_with_line_and_column(content, start):
    message = refusal(content)
    assert message.startswith(start)
    assert "; expected 'key = value' with plain values; fix: correct this line: " in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(
            b"a = 1\nb = '\xe9'\n",
            "model.cfg:2 column 6: got the byte 0xe9; expected text in UTF-8; "
            "fix: save the file with the encoding UTF-8",
            id="Latin-1",
        ),
        pytest.param(
            "a = 1\n\x00b = 2\n",
            "model.cfg:2 column 1: got the control character U+0000; expected readable text; "
            "fix: remove this character, or give the file that was meant",
            id="a NUL byte",
        ),
        pytest.param(
            "a = 'C:\\temp\\beta'\n",
            "model.cfg:1: got \"'C:\\\\temp\\\\beta'\"; expected readable text; "
            "fix: remove the control characters; write the backslashes of a path twice",
            id="a path whose backslashes make control characters",
        ),
    ],
)
def test_characters_that_no_text_holds_are_refused(content, message):
    assert refusal(content) == f"[config-syntax] {message}"


@pytest.mark.parametrize(
    "expression",
    [
        pytest.param("(" * 5_000 + "1" + ")" * 5_000, id="parentheses"),
        pytest.param("[" * 150 + "]" * 150, id="lists"),
        pytest.param("-" * 100_000 + "1", id="signs"),
        pytest.param("+".join(["1"] * 100_000), id="a long sum"),
        pytest.param("+".join(["1"] * 150), id="a sum"),
    ],
)
def test_deep_expressions_are_refused(expression):
    with pytest.raises(DeepsegError) as refused:
        document(f"a = {expression}\n")
    (problem,) = refused.value.problems
    assert problem.code in ("config-too-large", "config-syntax")


def test_a_file_above_one_megabyte_is_refused_unread():
    assert refusal("#" * 1_500_000) == (
        "[config-too-large] model.cfg: got 1.5 MB; expected a config file of at most 1 MB; "
        "fix: give the path of a config file; lists of many cases belong into files of their own"
    )


@pytest.mark.parametrize("content", ["", "# only a comment\n", "'''a text'''\n"])
def test_an_empty_file_has_no_values(content):
    assert document(content).values == {}


def test_windows_line_ends_and_byte_order_marks_change_nothing():
    read = document(b"\xef\xbb\xbfa = 1\r\nb = 2\r\n")
    assert read.values == {"a": 1, "b": 2}
    assert read.place(("b",)) == "model.cfg:2 b"
