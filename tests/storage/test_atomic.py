"""Files that appear whole or not at all: after success, failure, a kill, a refusal."""

import errno
import json
import os
import platform
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import deepseg
from deepseg.errors import OutputNotWritable
from deepseg.storage.atomic import replacing, write_bytes, write_json, write_text

ROOT = Path(deepseg.__file__).parents[1]


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run ``program`` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    target = tmp_path / "scores.json"
    target.write_text("old")
    with replacing(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert names(tmp_path) == ["scores.json"]


def test_the_bytes_are_on_the_disk_before_the_name_is_theirs(tmp_path, monkeypatch):
    target = tmp_path / "model.save"
    target.write_text("old")
    content_at_flush = []
    monkeypatch.setattr(os, "fsync", lambda _: content_at_flush.append(target.read_text()))
    write_text(target, "new")
    assert content_at_flush == ["old", "new"]  # the file, then the folder with its new entry


def test_the_temporary_file_lies_in_the_same_folder_and_keeps_the_whole_name_at_its_end(tmp_path):
    with replacing(tmp_path / "case.one.nii.gz") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(".case.one.nii.gz")
        assert temporary.name.startswith(".")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failing_block_leaves_the_old_file_and_raises_what_it_raised(tmp_path, error):
    def fail_halfway():
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise error

    target = tmp_path / "model.save"
    target.write_text("old")
    with pytest.raises(error):
        fail_halfway()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["model.save"]


def test_a_kill_in_the_middle_leaves_the_old_file_and_the_next_write_cleans_up(tmp_path):
    target = tmp_path / "model[1].save"
    target.write_text("old")
    ended = run(
        """
        import os, signal, sys
        from pathlib import Path
        from deepseg.storage.atomic import replacing
        with replacing(Path(sys.argv[1])) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        target,
    )
    assert ended.returncode == -signal.SIGKILL
    assert target.read_text() == "old"
    assert len(names(tmp_path)) == 2

    write_text(target, "new")
    assert target.read_text() == "new"
    assert names(tmp_path) == ["model[1].save"]


def test_the_temporary_files_of_living_writers_and_of_other_targets_are_left_alone(tmp_path):
    token = "0123abcd"
    living = f".{platform.node()}-{os.getppid()}-{token}.partial.a.json"
    elsewhere = f".{platform.node()}x-{2**22 + 1}-{token}.partial.a.json"
    second = f".{platform.node()}-{2**22 + 1}-{token}.partial.b.json"
    for name in (living, elsewhere, second):
        (tmp_path / name).touch()
    write_text(tmp_path / "a.json", "{}")
    assert names(tmp_path) == sorted([living, elsewhere, second, "a.json"])


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_file_modes_follow_the_umask(tmp_path, umask, mode):
    target = tmp_path / "scores.json"
    before = os.umask(umask)
    try:
        write_text(target, "{}")
    finally:
        os.umask(before)
    assert stat.S_IMODE(target.stat().st_mode) == mode


def test_a_file_beyond_the_size_limit_is_refused_and_the_old_one_kept(tmp_path):
    target = tmp_path / "model.save"
    target.write_text("old")
    ended = run(
        """
        import resource, sys
        from pathlib import Path
        from deepseg.errors import OutputNotWritable
        from deepseg.storage.atomic import write_bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        try:
            write_bytes(Path(sys.argv[1]), bytes(20011))
        except OutputNotWritable as refusal:
            print(refusal, refusal.exit_code)
        """,
        target,
    )
    assert ended.stderr == ""
    assert ended.stdout == (
        f"[output-not-writable] {target}: got a limit on the size of files; "
        "expected a place where this file can be written; "
        "fix: raise the limit (ulimit -f) or choose another disk, "
        "then run the same command again 5\n"
    )
    assert target.read_text() == "old"
    assert names(tmp_path) == ["model.save"]


def test_a_missing_folder_is_named(tmp_path):
    target = tmp_path / "missing" / "scores.json"
    with pytest.raises(OutputNotWritable) as refusal:
        write_bytes(target, b"{}")
    assert str(refusal.value) == (
        f"[output-not-writable] {target}: got a folder that does not exist; "
        "expected a place where this file can be written; "
        "fix: create the folder or choose another one"
    )


def test_a_folder_in_place_of_the_file_is_refused(tmp_path):
    (tmp_path / "scores.json").mkdir()
    with pytest.raises(OutputNotWritable, match="got a folder of this name;"):
        write_text(tmp_path / "scores.json", "{}")
    assert names(tmp_path) == ["scores.json"]


@pytest.mark.parametrize(
    ("number", "got"),
    [
        (errno.ENOSPC, "a full disk"),
        (errno.EDQUOT, "an exhausted disk quota"),
        (errno.EROFS, "a read-only disk"),
        (errno.EACCES, "no permission to write here"),
        (errno.EIO, "an input/output error of the disk"),
    ],
)
def test_every_refusal_of_the_system_says_what_it_met(tmp_path, number, got):
    with pytest.raises(OutputNotWritable) as refusal, replacing(tmp_path / "a.save"):
        raise OSError(number, os.strerror(number))
    (problem,) = refusal.value.problems
    assert problem.got == got
    assert names(tmp_path) == []


def test_an_error_that_is_not_about_writing_passes_through(tmp_path):
    with pytest.raises(BrokenPipeError), replacing(tmp_path / "a.save"):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_json_is_readable_by_every_parser_and_ends_with_a_newline(tmp_path):
    target = tmp_path / "scores.json"
    value = {"case": "Müller \udcff", "dice": None, "voxels": [1, 2]}
    write_json(target, value)
    assert json.loads(target.read_bytes()) == value
    assert target.read_text().endswith("}\n")


def test_json_without_a_word_for_nan_refuses_it_and_keeps_the_old_file(tmp_path):
    target = tmp_path / "scores.json"
    target.write_text("{}")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(target, {"dice": float("nan")})
    assert target.read_text() == "{}"


def test_text_is_utf8_and_file_names_that_are_not_keep_their_bytes(tmp_path):
    write_text(tmp_path / "list.txt", "Köln \udcff\n")
    assert (tmp_path / "list.txt").read_bytes() == "Köln ".encode() + b"\xff\n"
