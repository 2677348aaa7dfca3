"""Processes that share the cases of a session: what each is given, and what is said of them."""

import pytest

import deepseg
from deepseg.report.console import Console
from deepseg.sessions.model_files import NamedFiles
from deepseg.sessions.processes import part_workers as sharing
from deepseg.sessions.processes.case_workers import share_cases

MODEL = """\
channels: [T1]
classes: [background, a]
normal: {feature_maps: [3, 4]}
segments: {train: 11}
"""
TEST = """\
name: test
output: .
cases: {table: cases.csv}
"""


class Process:
    """Has ended as soon as it began; some cases are done, and a line is said."""

    def __init__(self, command, env, stderr, *, code, said):
        self.command, self.env, self.returncode = command, env, code
        stderr.write(said)

    def poll(self):
        return self.returncode

    wait = poll

    def terminate(self):
        self.is_over = True


@pytest.fixture
def share(tmp_path, monkeypatch):
    """Share three cases; gives the processes and the console."""
    (tmp_path / "model.yaml").write_text(MODEL)
    (tmp_path / "test.yaml").write_text(TEST)
    (tmp_path / "cases.csv").write_text("case,channel_T1\na,a.nii\nb,b.nii\nc,c.nii\n")
    console = Console(quiet=True)
    model = deepseg.new_model(tmp_path / "model.yaml", out=tmp_path / "M.save", quiet=True)

    def shared(codes, said=b""):
        waiting, processes = list(codes), []

        def started(command, *, env, stderr):
            processes.append(Process(command, env, stderr, code=waiting.pop(0), said=said))
            return processes[-1]

        monkeypatch.setattr(sharing.subprocess, "Popen", started)
        share_cases(
            tmp_path / "test.yaml",
            ["-keepGoing"],
            files=NamedFiles((model,)),
            count=len(codes),
            device="cpu",
            console=console,
        )
        assert all(process.is_over for process in processes)
        return processes, console

    return shared


def test_every_process_has_a_part_of_the_cases_and_of_the_memory(share):
    processes, console = share([0, 0, 0])
    for number, process in enumerate(processes, start=1):
        options = process.command[process.command.index("-keepGoing") :]
        assert options == ["-keepGoing", "-part", f"{number}/3", "-dev", "cpu", "-quiet"]
        assert process.env["LOCAL_WORLD_SIZE"] == "3"
    assert console.warnings == []


@pytest.mark.parametrize(("own", "each"), [(7, "2"), (2, "1")])
def test_processes_share_the_threads_that_this_one_may_use(share, monkeypatch, own, each):
    monkeypatch.setattr(sharing.torch, "get_num_threads", lambda: own)
    processes, _ = share([0, 0, 0])
    assert [process.env["OMP_NUM_THREADS"] for process in processes] == [each] * 3


def test_a_part_that_fails_is_named_and_a_bug_is_quoted(share):
    _, console = share([0, 5, -9, 1], said=b"WARNING a\nERROR [bug] ValueError: b\n")
    assert console.warnings == [
        "part 2of4 ended with exit code 5",
        "part 3of4 ended with exit code -9",
        "part 4of4 ended with exit code 1: ERROR [bug] ValueError: b",
    ]
