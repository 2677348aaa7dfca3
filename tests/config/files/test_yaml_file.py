"""YAML files: the values of YAML 1.2, the line of every value, and a refusal for every trap."""

import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import h5py
import matplotlib.pyplot as plt
import nibabel
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from deepseg.config.files.yaml_file import plain_value, read_yaml
from deepseg.errors import DeepsegError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def document(content: str | bytes):
    file = Path("train.yml")
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_yaml(file)


def refusal(content: str | bytes) -> str:
    with pytest.raises(DeepsegError) as refused:
        document(content)
    return str(refused.value)


def test_every_value_knows_its_line():
    read = document("# a model\nname: tiny\nnormal:\n  kernels:\n  - 3\n  - [5, 7]\nmap: {4: 3}\n")
    assert read.values == {"name": "tiny", "normal": {"kernels": [3, [5, 7]]}, "map": {4: 3}}
    assert read.places == {
        ("name",): "train.yml:2 name",
        ("normal",): "train.yml:3 normal",
        ("normal", "kernels"): "train.yml:4 normal.kernels",
        ("normal", "kernels", 0): "train.yml:5 normal.kernels[0]",
        ("normal", "kernels", 1): "train.yml:6 normal.kernels[1]",
        ("normal", "kernels", 1, 0): "train.yml:6 normal.kernels[1][0]",
        ("normal", "kernels", 1, 1): "train.yml:6 normal.kernels[1][1]",
        ("map",): "train.yml:7 map",
        ("map", 4): "train.yml:7 map[4]",
    }


def test_a_path_without_a_line_of_its_own_has_the_place_of_the_block_around_it():
    read = document("name: tiny\nnormal:\n  kernels: 3\n")
    assert read.place(("normal", "kernels", 0, "x")) == "train.yml:3 normal.kernels"
    assert read.place(("normal", "padding")) == "train.yml:2 normal"
    assert read.place(("classes",)) == "train.yml"
    assert read.place(()) == "train.yml"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        ("-2e+3", -2000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("0.25", 0.25),
        ("0", 0),
        ("-7", -7),
        ("+7", 7),
        ("1_000", 1000),
        ("1_000.5", 1000.5),
        ("0x1F", 31),
        ("0o17", 15),
        (".inf", float("inf")),
        ("-.inf", float("-inf")),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("1:30", "1:30"),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("2020-01-31", "2020-01-31"),
        ("1_", "1_"),
        ("1.2.3", "1.2.3"),
        (".", "."),
        ("-", "-"),
        ("e5", "e5"),
        ("0b11", "0b11"),
        ("nan", "nan"),
        ("=", "="),
        ("9" * 101, "9" * 101),
    ],
)
def test_text_without_quotes_means_what_yaml_1_2_says(text, value):
    assert (plain_value(text), type(plain_value(text))) == (value, type(value))


def test_not_a_number_is_read_as_such():
    assert str(plain_value(".nan")) == "nan"


def test_text_in_quotes_is_always_text():
    read = document("a: '1e-3'\nb: \"010\"\nc: 'true'\nd: !!str 010\ne: |\n  5\n")
    assert read.values == {"a": "1e-3", "b": "010", "c": "true", "d": "010", "e": "5\n"}


def test_a_class_may_be_called_no():
    assert document("classes: [yes, no]\nno: 3\n").values == {"classes": ["yes", "no"], "no": 3}


plain = st.recursive(
    st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none() | st.text("ab :#'[]-"),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text("abc"), values),
    max_leaves=8,
)


@given(values=st.dictionaries(st.text("abcno"), plain, min_size=1), flow=st.booleans())
def test_what_pyyaml_writes_is_read_back(values, flow):
    assert document(yaml.safe_dump(values, default_flow_style=flow)).values == values


def test_aliases_and_merged_blocks_are_copied():
    read = document("a: &a {p: 1, q: [5]}\nb: {<<: *a, p: 2}\nc: *a\nd: {<<: [{p: 3}, *a]}\n")
    assert read.values == {
        "a": {"p": 1, "q": [5]},
        "b": {"p": 2, "q": [5]},
        "c": {"p": 1, "q": [5]},
        "d": {"p": 3, "q": [5]},
    }
    assert read.place(("b", "p")) == "train.yml:2 b.p"
    assert read.place(("b", "q")) == "train.yml:1 b.q"


@pytest.mark.parametrize("content", ["", "# only\n# comments\n", "---\n", "~\n"])
def test_an_empty_file_has_no_values(content):
    read = document(content)
    assert (read.values, read.places) == ({}, {})


def test_windows_line_ends_and_byte_order_marks_change_nothing():
    read = document(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert read.values == {"a": 1, "b": 2}
    assert read.place(("b",)) == "train.yml:2 b"


def test_a_key_given_twice_is_refused_with_both_lines_at_every_depth():
    assert refusal("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n\na: 2\n") == (
        "[config-duplicate-key] train.yml:5 b.c: got 'c' on line 3 and again on line 5; "
        "expected every key once; fix: remove one of the two\n"
        "[config-duplicate-key] train.yml:7 a: got 'a' on line 1 and again on line 7; "
        "expected every key once; fix: remove one of the two"
    )


@pytest.mark.parametrize(
    ("written", "advice"),
    [
        ("010", "10, 0o10 for octal digits"),
        ("-007", "-7"),
        ("08", "8"),
        ("00", "0, 0o0 for octal digits"),
        ("0_12", "12, 0o12 for octal digits"),
        ("01.50", "1.50"),
    ],
)
def test_a_leading_zero_is_refused_with_what_may_be_meant(written, advice):
    assert refusal(f"batch_size: {written}\n") == (
        f"[config-ambiguous-number] train.yml:1 batch_size: got {written}, which some programs "
        "read as an octal number; expected a number without leading zeros; "
        f"fix: write {advice}, or '{written}' with quotes for text"
    )


def test_a_tag_is_refused_and_not_obeyed():
    assert refusal('a: !!python/object/apply:os.system ["touch PWNED"]\nb: [!x 3]\n') == (
        "[config-not-data] train.yml:1 a: got the tag '!!python/object/apply:os.system'; "
        "expected plain values: text, numbers, true, false, lists and blocks; "
        "fix: remove the tag; config files are read, never run\n"
        "[config-not-data] train.yml:2 b[0]: got the tag '!x'; "
        "expected plain values: text, numbers, true, false, lists and blocks; "
        "fix: remove the tag; config files are read, never run"
    )
    assert not Path("PWNED").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(
            "a:\n\tb: 1\n",
            "train.yml:2 column 1: got a tab; expected spaces; fix: replace the tab by spaces",
            id="a tab",
        ),
        pytest.param(
            "a: 1\nb: [1, 2\nc: 3\n",
            "train.yml:3 column 2: got ':'; expected ',' or ']' for the '[' of line 2 column 4; "
            "fix: correct this line or the one before",
            id="an open bracket before another key",
        ),
        pytest.param(
            "a: {b: 2\n",
            "train.yml:2 column 1: got the end of the file; "
            "expected ',' or '}' for the '{' of line 1 column 4; "
            "fix: correct this line or the one before",
            id="an open brace at the end",
        ),
        pytest.param(
            "a: 'b\n",
            "train.yml:2 column 1: got the end of the file; "
            "expected a closing quote for the quote of line 1 column 4; fix: close the quote",
            id="an open quote",
        ),
        pytest.param(
            "a: b: c\n",
            "train.yml:1 column 5: got ':' where no key can be; "
            "expected one 'key: value' in a line; "
            "fix: correct the indentation, or put quotes around text that holds ': '",
            id="two colons",
        ),
        pytest.param(
            "a: 1\nb\n",
            "train.yml:2 column 1: got a line without ':'; expected 'key: value'; "
            "fix: write ': ' and a value behind the key",
            id="no colon",
        ),
        pytest.param(
            "a: - 1\n",
            "train.yml:1 column 4: got '- ' behind a key; "
            "expected list entries on lines of their own; fix: start a new line before '- '",
            id="a list behind a key",
        ),
        pytest.param(
            "a:\n  - 1\n b: 2\n",
            "train.yml:3 column 2: got an indented key; "
            "expected the same indentation as above; fix: correct this line or the one before",
            id="an indentation between two others",
        ),
        pytest.param(
            "a: @b\n",
            "train.yml:1 column 4: got '@'; expected a key or a value; "
            "fix: put quotes around the text",
            id="a sign that YAML reserves",
        ),
        pytest.param(
            "a: *b\n",
            "train.yml:1 column 4: got the alias '*b'; expected an anchor '&b' above it; "
            "fix: write the anchor, or put quotes around the text",
            id="an unknown alias",
        ),
        pytest.param(
            "a: 1\n---\nb: 2\n",
            "train.yml:2 column 1: got a second '---'; expected one document in a file; "
            "fix: remove this line and what follows it",
            id="two documents",
        ),
        pytest.param(
            "%YAML 9.1\n---\na: 1\n",
            "train.yml:1 column 1: got 'found incompatible YAML document (version 1.* is "
            "required)' from the YAML parser; expected valid YAML; fix: correct this line",
            id="what has no text of its own",
        ),
        pytest.param(
            'a: "\\UFFFFFFFF"\n',
            "train.yml:1 column 7: got an escape of no character; expected valid YAML; "
            "fix: correct this text",
            id="an impossible character",
        ),
        pytest.param(
            "a: 1\r\nb: \x00\n",
            "train.yml:2 column 4: got the control character U+0000; expected readable text; "
            "fix: remove this character, or give the file that was meant",
            id="a NUL byte",
        ),
        pytest.param(
            'a: ["x", "\\0"]\n',
            "train.yml:1 a[1]: got the control character U+0000 in a text; "
            "expected readable text; fix: remove this character",
            id="a NUL escape",
        ),
        pytest.param(
            "a: ä\nb: caf\xe9\n".encode("latin-1").replace(b"\xe4", "ä".encode()),
            "train.yml:2 column 7: got the byte 0xe9; expected text in UTF-8; "
            "fix: save the file with the encoding UTF-8",
            id="Latin-1",
        ),
        pytest.param(
            "ä: ".encode() + b"\xff",
            "train.yml:1 column 4: got the byte 0xff; expected text in UTF-8; "
            "fix: save the file with the encoding UTF-8",
            id="columns are counted in characters",
        ),
        pytest.param(
            "- 1\n- 2\n",
            "train.yml:1: got a list; expected lines of the form 'key: value'; "
            "fix: give the path of a config file, or write a key before the value",
            id="a list at the top",
        ),
        pytest.param(
            "name:tiny\n",
            "train.yml:1: got only 'name:tiny'; expected lines of the form 'key: value'; "
            "fix: give the path of a config file, or write a key before the value",
            id="no space behind the colon",
        ),
        pytest.param(
            "a: {true: 1}\n",
            "train.yml:1 a: got 'true' as a key; expected text or a whole number before ':'; "
            "fix: put quotes around the key",
            id="a boolean as a key",
        ),
        pytest.param(
            "? [1, 2]\n: 3\n",
            "train.yml:1: got a list or block as a key; "
            "expected text or a whole number before ':'; fix: put quotes around the key",
            id="a list as a key",
        ),
        pytest.param(
            "a: {<<: 3}\n",
            "train.yml:1 a: got '<<' with a value that has no keys; "
            "expected an alias of a block; "
            "fix: write '<<: *name', where '&name' stands before a block",
            id="merging a number",
        ),
    ],
)
def test_broken_files_are_refused_with_the_place(content, message):
    assert refusal(content) == f"[config-syntax] {message}"


LEVELS = "got more than 100 levels of nesting; expected a few levels"
VALUES = "got more than 100000 values; expected a config file"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("a: " + "[" * 10_000 + "]" * 10_000, LEVELS, id="brackets"),
        pytest.param("".join(f"{' ' * n}a:\n" for n in range(2_000)), LEVELS, id="blocks"),
        pytest.param("a: &a [*a]\n", LEVELS, id="a list that holds itself"),
        pytest.param("a: &a {<<: *a}\n", LEVELS, id="a block that merges itself"),
        pytest.param(
            "a0: &a0 [1]\n"
            + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)),
            VALUES,
            id="aliases of aliases",
        ),
    ],
)
def test_hostile_sizes_are_refused_quickly(content, message):
    start = time.perf_counter()
    assert message in refusal(content)
    assert time.perf_counter() - start < 5


def test_a_hundred_levels_are_read_and_one_more_is_refused():
    assert document("a: " + "[" * 99 + "[]" + "]" * 99).values
    assert refusal("a:\n\n  " + "[" * 100 + "[]" + "]" * 100) == (
        "[config-too-large] train.yml:3: got more than 100 levels of nesting; "
        "expected a few levels; "
        "fix: write the values out without aliases, or move long lists into files of their own"
    )


def test_a_missing_file_is_refused_with_the_nearest_name():
    Path("trian.yml").touch()
    with pytest.raises(DeepsegError) as refused:
        read_yaml(Path("train.yml"))
    assert str(refused.value) == (
        "[config-file-missing] train.yml: got no such file; expected a config file; "
        "fix: correct the path; did you mean 'trian.yml'?"
    )


def test_a_missing_folder_is_named():
    with pytest.raises(DeepsegError) as refused:
        read_yaml(Path("confgis/train.yml"))
    assert str(refused.value) == (
        "[config-file-missing] confgis/train.yml: got no such file; expected a config file; "
        "fix: correct the path; there is no folder 'confgis'"
    )


def test_a_folder_is_refused():
    with pytest.raises(DeepsegError) as refused:
        read_yaml(Path())
    assert str(refused.value) == (
        "[config-file-unreadable] .: got a folder; expected a config file that can be read; "
        "fix: give the path of a YAML or .cfg file"
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("t1.nii", "a NIfTI image"),
        ("t1.nii.gz", "a file that gzip has packed, such as a .nii.gz image"),
        ("slice.dcm", "a DICOM file"),
        ("A.save", "a zip archive, as model files are"),
        ("net.h5", "an HDF5 file"),
        ("slice.png", "a picture"),
        ("image.npy", "an array of numpy"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_its_kind(name, kind):
    write_binary_file(Path(name))
    with pytest.raises(DeepsegError) as refused:
        read_yaml(Path(name))
    assert str(refused.value) == (
        f"[config-file-unreadable] {name}: got {kind}; expected a config file that can be read; "
        "fix: give the path of a YAML or .cfg file"
    )


def write_binary_file(file: Path) -> None:
    image = np.zeros((2, 3, 4), np.float32)
    match file.suffix:
        case ".nii" | ".gz":
            nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), file)
        case ".dcm":
            file.write_bytes(bytes(128) + b"DICM" + bytes(9))
        case ".save":
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("model.json", "{}")
        case ".h5":
            with h5py.File(file, "w") as archive:
                archive["weights"] = image
        case ".png":
            plt.imsave(file, image[0])
        case ".npy":
            np.save(file, image)


def test_a_file_as_a_folder_is_refused():
    Path("model.yml").touch()
    with pytest.raises(DeepsegError) as refused:
        read_yaml(Path("model.yml/train.yml"))
    assert str(refused.value) == (
        "[config-file-unreadable] model.yml/train.yml: got 'Not a directory' from the system; "
        "expected a config file that can be read; fix: give the path of a YAML or .cfg file"
    )


def test_a_pipe_is_refused_without_waiting_for_it():
    os.mkfifo("pipe.yml")
    code = "import sys; from pathlib import Path\n"
    code += "from deepseg.config.files.yaml_file import read_yaml\n"
    code += "try: read_yaml(Path('pipe.yml'))\nexcept Exception as error: print(error)"
    root = str(Path(sys.modules["deepseg"].__file__).parents[1])
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert run.stdout == (
        "[config-file-unreadable] pipe.yml: got a pipe or a device; "
        "expected a config file that can be read; fix: give the path of a YAML or .cfg file\n"
    )


def test_a_file_above_ten_megabytes_is_refused_unread():
    with Path("train.yml").open("wb") as file:
        file.truncate(12_340_000)
    with pytest.raises(DeepsegError) as refused:
        read_yaml(Path("train.yml"))
    assert str(refused.value) == (
        "[config-too-large] train.yml: got 12.3 MB; expected a config file of at most 10 MB; "
        "fix: give the path of a config file; lists of many cases belong into files of their own"
    )
