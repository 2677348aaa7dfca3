"""Memory that runs out while cases are checked, before anything is computed."""

import re
import resource
from pathlib import Path

import pytest

import deepseg.sessions.checked_cases as checking

TEST = ("-test", "test.yaml", "-model", "M.save")


@pytest.fixture
def two_cases(place, model):
    """The test file lists d and c."""
    row = (place / "data/validation.csv").read_text().splitlines()[1]
    place.write("data/test.csv", (place / "data/test.csv").read_text() + row + "\n")


@pytest.fixture
def too_large(monkeypatch):
    """Let reading one case run out of memory, the first times or always; gives the reads."""

    def install(name, *, times):
        examine, reads = checking.examine, []

        def limited(case, **options):
            reads.append(case.name)
            if case.name == name and reads.count(name) <= times:
                raise MemoryError("Unable to allocate 3 GiB")
            return examine(case, **options)

        monkeypatch.setattr(checking, "examine", limited)
        return reads

    return install


PROBLEM = (
    "ERROR [out-of-memory] HERE/data/test.csv:2: got no memory to read d; expected memory for a "
    "whole case; fix: end other programs, or leave the case out"
)


def test_a_case_that_does_not_fit_beside_others_is_read_alone(command, two_cases, too_large):
    reads = too_large("d", times=1)
    result = command("-check", "test.yaml", "-model", "M.save")
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(reads) == ["c", "d", "d"]


def test_a_case_that_does_not_fit_alone_is_named(command, two_cases, too_large):
    too_large("d", times=9)
    result = command(*TEST)
    assert (result.returncode, result.errors) == (137, [PROBLEM])


def test_with_keep_going_a_case_that_does_not_fit_costs_only_itself(
    command, place, two_cases, too_large
):
    too_large("d", times=9)
    result = command(*TEST, "-keepGoing")
    assert (result.returncode, result.errors) == (3, [PROBLEM])
    files = {path.name for path in (place / "runs/results/predictions").iterdir()}
    assert files == {"c_Segm.nii.gz"}


def test_training_says_the_same_of_its_cases(command, place, too_large):
    too_large("c", times=9)
    result = command("-train", "train.yaml")
    assert result.returncode == 137
    assert result.errors[0].startswith("ERROR [out-of-memory] HERE/data/validation.csv:2: got no")


@pytest.fixture
def with_little_memory(command):
    """Give a command in this process, which may not take much more memory than it has."""

    def run(*arguments, megabytes):
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + megabytes * 10**6
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        try:
            return command(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

    return run


def test_training_that_the_system_refuses_memory_names_how_much(with_little_memory, place):
    place.edit("model.yaml", "[3, 4]", "[90, 90]")
    place.edit("model.yaml", "train: 9", "train: 41")
    result = with_little_memory("-train", "train.yaml", megabytes=300)
    assert result.returncode == 137
    (line,) = result.errors
    assert re.fullmatch(
        r"ERROR \[out-of-memory\] train.yaml: got no memory for \d+ MB more; expected memory for "
        "all segments or tiles of one batch; fix: lower batch_size, segments or tile in the config "
        "files",
        line,
    )
