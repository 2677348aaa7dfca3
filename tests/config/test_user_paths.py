"""Paths that people type: the shell's meaning of ``~`` and variables, or a refusal."""

from pathlib import Path

import pytest

from deepseg.config.user_paths import expanded, user_path
from deepseg.errors import DeepsegError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    monkeypatch.setenv("STUDY", "stroke")
    monkeypatch.delenv("UNSET", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("runs/A.save", "runs/A.save"),
        ("~/A.save", "/home/anna/A.save"),
        ("$HOME/A.save", "/home/anna/A.save"),
        ("/data/${STUDY}/$STUDY.yaml", "/data/stroke/stroke.yaml"),
        ("runs/~/A.save", "runs/~/A.save"),
    ],
)
def test_a_path_means_what_it_means_in_a_shell(text, path):
    assert user_path(text) == Path(path)


def test_a_dollar_in_a_name_that_is_there_is_a_letter(tmp_path):
    (tmp_path / "US$HOME").mkdir()
    (tmp_path / "a$UNSET.yaml").touch()
    assert user_path("US$HOME") == Path("US$HOME")
    assert user_path("US$HOME/new.save") == Path("US$HOME/new.save")
    assert user_path("a$UNSET.yaml") == Path("a$UNSET.yaml")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/T$HOME.nii").touch()
    assert expanded("T$HOME.nii", tmp_path / "lists") == "T$HOME.nii"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(
            "$UNSET/A.save",
            "got $UNSET in '$UNSET/A.save'; expected variables that are set; fix: set the "
            "variable, or write the whole path",
            id="unset",
        ),
        pytest.param(
            "~nobody9/A.save",
            "got '~nobody9/A.save'; expected a path, where '~' is the home folder of a known "
            "user; fix: write the whole path",
            id="unknown user",
        ),
        pytest.param(
            "ü" * 150,
            "got a path of 300 bytes, with a name of 300; expected a path that a disk can hold, "
            "mostly with names of up to 255 bytes; fix: correct the path",
            id="300 bytes in 150 letters",
        ),
        pytest.param(
            "loop",
            "got 'loop', a symbolic link that leads back to itself; expected a path that leads "
            "to a file; fix: correct the link",
            id="circle",
        ),
        pytest.param(
            "a\0b",
            "got 'a\\x00b'; expected a path without NUL characters; fix: correct the path",
            id="NUL",
        ),
    ],
)
def test_a_path_that_cannot_be_is_refused_with_the_reason(tmp_path, text, said):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DeepsegError) as refusal:
        user_path(text)
    assert str(refusal.value) == f"[path-unusable] {said}"
