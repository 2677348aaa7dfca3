"""Ranks that do not come together, or lose each other while all live: what they say."""

import socket
from itertools import count

import pytest
import torch
import torch.distributed as dist

from deepseg.errors import DeepsegError, RankLost, ReportedByPeer
from deepseg.sessions.processes import failure_board, rank_session
from deepseg.sessions.processes.failure_board import FailureBoard, RankSupervisor
from deepseg.training import distributed
from deepseg.training.distributed import PeerLost


@pytest.fixture
def rank_0(monkeypatch):
    """This process is the first of two ranks; gives the port of another program."""
    with socket.socket() as second:
        second.bind(("127.0.0.1", 0))
        second.listen()
        port = second.getsockname()[1]
        values = {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
        yield port


def test_a_port_that_is_taken_is_named(rank_0):
    with pytest.raises(DeepsegError) as refusal:
        rank_session._store()
    (problem,) = refusal.value.problems
    assert problem.code == "ranks-not-joined"
    assert "address already in use" in problem.got
    assert problem.got.endswith("for rank 0")
    assert problem.expected.startswith(f"127.0.0.1:{rank_0}, a free port")


def test_an_interface_that_is_not_there_is_named(rank_0, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nope0")
    with pytest.raises(DeepsegError) as refusal, rank_session._joining():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=2)
    (problem,) = refusal.value.problems
    assert problem.code == "ranks-not-joined"
    assert "Unable to find address for: nope0" in problem.got
    assert "GLOO_SOCKET_IFNAME" in problem.fix


def test_a_rank_without_a_gpu_tells_those_that_wait_for_it(rank_0, monkeypatch):
    store = dist.HashStore()
    monkeypatch.setattr(rank_session, "_store", lambda: store)
    monkeypatch.setattr(rank_session, "SETTLING_S", 0)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(DeepsegError, match="device-absent"):
        rank_session.device_of_rank("cuda")
    waiting = RankSupervisor(failure_board.board_of(store), 1, 2)
    with pytest.raises(ReportedByPeer) as end, waiting.failing_together():
        waiting.begin()
    waiting.end()
    assert [problem.code for problem in end.value.problems] == ["device-absent"]
    assert end.value.exit_code == 2


def test_a_sum_that_fails_while_all_ranks_live_is_told_in_the_words_of_the_library(monkeypatch):
    monkeypatch.setattr(failure_board, "SETTLING_S", 0.0)
    pulses = map(str, count())  # all ranks give signs of life
    monkeypatch.setattr(FailureBoard, "pulse", lambda _board, _rank: next(pulses))
    board = FailureBoard(dist.HashStore())
    ranks = [RankSupervisor(board, rank, 2) for rank in range(2)]
    ends = []
    for rank in ranks:
        with pytest.raises(DeepsegError) as end, rank.failing_together():
            raise PeerLost("NCCL error: invalid usage\nLast error:\nDuplicate GPU detected")
        ends.append(end.value)
    first, second = ends
    assert str(first) == (
        "[collective-failed] got 'NCCL error: invalid usage Last error: Duplicate GPU detected' "
        "while ranks added up their parts; expected ranks that reach each other, each with a GPU "
        "of its own; fix: look at drivers, network and NCCL_SOCKET_IFNAME or GLOO_SOCKET_IFNAME, "
        "with NCCL_DEBUG=INFO; give the same command, it goes on"
    )
    assert isinstance(first, RankLost)
    assert isinstance(second, ReportedByPeer)  # it is silent, and ends with the same code
    assert second.problems == first.problems
    assert second.exit_code == first.exit_code == 137


@pytest.mark.parametrize(
    ("is_shared", "counts", "meets"),
    [
        pytest.param("True", ("0", "1"), False, id="a store of all attempts: boards apart"),
        pytest.param("False", ("0", "1"), True, id="machines count attempts differently"),
        pytest.param("False", ("2", "2"), True, id="one machine"),
    ],
)
def test_ranks_of_one_attempt_have_one_board(monkeypatch, is_shared, counts, meets):
    store = dist.HashStore()
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", is_shared)
    boards = []
    for attempts in counts:
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", attempts)
        boards.append(failure_board.board_of(store))
    boards[0].fail(failure_board.lost(1, "rank 1 killed"))
    assert (boards[1].failure() is not None) == meets


def test_memory_that_runs_out_in_a_sum_is_no_broken_network():
    def add_up():
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        distributed._communicate(add_up)
