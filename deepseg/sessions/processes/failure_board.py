"""Ranks fail together: the first that fails says why, all others end with the same exit code.

Ranks share a store of short texts (torch's TCPStore), the board. Each has a thread that leaves a
sign of life there every second and looks at the others: a process of this machine that is gone, or
a rank that is silent for long, is a failure too. A main thread that hangs in a call that nobody
answers any more cannot be interrupted; then the thread ends the process.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from torch._C._distributed_c10d import TCPStore
from torch.distributed.distributed_c10d import PrefixStore, Store

from deepseg.errors import Problem, RankLost, ReportedByPeer
from deepseg.parent_process import is_alive
from deepseg.sessions.outcome import exit_code, problems
from deepseg.training.distributed import PeerLost

LAUNCHER = -1  # writes on the board too, without a rank
START_S = 600.0  # for all ranks to begin
BEAT_S = 1.0
SETTLING_S = 6.0  # for other ranks to write why they are gone
GRACE_S = 20.0  # for the main thread to end by itself; torchrun kills after 30
PATIENCE = "DEEPSEG_RANK_TIMEOUT"  # seconds without a sign of life, in the environment
PATIENCE_S = "300"
TERMINATED = 143
LONGEST_TEXT = 400


@dataclass(frozen=True)
class Failure:
    """The first failure, by which all ranks end.

    >>> Failure.parse(Failure(rank=1, exit_code=130, problems=()).text())
    Failure(rank=1, exit_code=130, problems=())

    Attributes:
        rank: That failed first.
        exit_code: Of all ranks.
        problems: For the user; none for an interruption or a bug.
    """

    rank: int
    exit_code: int
    problems: tuple[Problem, ...]

    def text(self) -> str:
        """The failure as it stands on the board."""
        return json.dumps([self.rank, self.exit_code, [vars(problem) for problem in self.problems]])

    @staticmethod
    def parse(text: str) -> Failure:
        """The failure of which `text` gave ``text``."""
        rank, code, problems_of_rank = json.loads(text)
        return Failure(rank, code, tuple(Problem(**fields) for fields in problems_of_rank))


def lost(rank: int, got: str) -> Failure:
    """The failure that ``rank`` reports of another one."""
    problem = Problem(
        code="rank-lost",
        got=got,
        expected="all ranks at work",
        fix="give the same command, it goes on; lower batch_size or workers if memory ran out",
    )
    return Failure(rank, RankLost.exit_code, (problem,))


def disconnected(rank: int, text: str) -> Failure:
    """The failure of ranks that all live, but do not get through to each other.

    Args:
        rank: That reports it.
        text: In the words of the library that connects them.
    """
    problem = Problem(
        code="collective-failed",
        got=f"'{single_line(text)}' while ranks added up their parts",
        expected="ranks that reach each other, each with a GPU of its own",
        fix="look at drivers, network and NCCL_SOCKET_IFNAME or GLOO_SOCKET_IFNAME, with "
        "NCCL_DEBUG=INFO; give the same command, it goes on",
    )
    return Failure(rank, RankLost.exit_code, (problem,))


def single_line(text: str) -> str:
    """The text of a library's error in one line, without the trace of its own functions.

    >>> single_line("NCCL error: invalid usage\\n Last error:\\nDuplicate GPU")
    'NCCL error: invalid usage Last error: Duplicate GPU'
    """
    return " ".join(text.partition("Exception raised from")[0].split())[:LONGEST_TEXT]


def rank_text(ranks: Sequence[int]) -> str:
    """The ranks by name.

    >>> rank_text([1]), rank_text([1, 2])
    ('rank 1', 'ranks 1, 2')
    """
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


class FailureBoard:
    """Failures and signs of life of all ranks; methods raise RuntimeError if the store is gone."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def fail(self, failure: Failure) -> Failure:
        """The failure of all ranks: this one, unless another was first."""
        return Failure.parse(self._store.compare_set("failure", "", failure.text()).decode())

    def failure(self) -> Failure | None:
        """The failure of all ranks, if there is one."""
        text = self._read("failure")
        return None if text is None else Failure.parse(text)

    def begin(self, rank: int) -> None:
        """Write down the process of ``rank``."""
        self._store.set(f"process/{rank}", f"{os.getpid()} {_machine()}")
        self.beat(rank, 0)

    def process_here(self, rank: int) -> int | None:
        """The process of ``rank``, if it is of this machine and has begun."""
        pid, _, machine = (self._read(f"process/{rank}") or "0 ").partition(" ")
        return int(pid) if machine == _machine() else None

    def beat(self, rank: int, number: int) -> None:
        """Leave a sign of life."""
        self._store.set(f"pulse/{rank}", str(number))

    def pulse(self, rank: int) -> str | None:
        """The last sign of life."""
        return self._read(f"pulse/{rank}")

    def leave(self, rank: int) -> None:
        """Announce that no more signs of life will come."""
        self._store.set(f"left/{rank}", "")

    def has_left(self, rank: int) -> bool:
        """True once ``rank`` has announced that it leaves."""
        return bool(self._store.check([f"left/{rank}"]))

    def _read(self, key: str) -> str | None:
        return self._store.get(key).decode() if self._store.check([key]) else None


class RankSupervisor:
    """Watches the other ranks, and lets this one fail with them.

    Args:
        board: Shared with the other ranks.
        rank: Of this process.
        world_size: The number of ranks.

    Attributes:
        when_stuck: Called before a process is ended whose main thread hangs.
    """

    def __init__(self, board: FailureBoard, rank: int, world_size: int) -> None:
        self.when_stuck: Callable[[BaseException], None] = lambda _: None
        self._board = board
        self._rank = rank
        self._world_size = world_size
        self._done = threading.Event()
        self._pulses: dict[int, tuple[str | None, float]] = {}
        self._thread = threading.Thread(target=self._watch, name="ranks", daemon=True)

    def begin(self) -> None:
        """Start to give signs of life, and wait for those of all other ranks.

        Raises:
            RankLost: ``rank-lost``, one has not begun in time.
        """
        self._board.begin(self._rank)
        self._thread.start()
        until = time.monotonic() + START_S
        while missing := [r for r in range(self._world_size) if self._board.pulse(r) is None]:
            if time.monotonic() > until or self._board.failure() is not None:
                got = f"no start of {rank_text(missing)} in {START_S:g} s"
                raise RankLost(*lost(self._rank, got).problems)
            time.sleep(0.1)

    def end(self) -> None:
        """Give no more signs of life."""
        self._done.set()
        self._thread.join()

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Raise on all ranks, if one fails inside."""
        try:
            yield
        except BaseException as error:
            common = self._common_error(error)
            if common is error:
                raise
            raise common from error

    def _common_error(self, error: BaseException) -> BaseException:
        """The error to raise: ``error`` if this rank failed first, else an end in silence.

        Being asked to end meanwhile changes nothing: torchrun asks all ranks when one is gone.
        """
        while True:
            try:
                return self._settled(error)
            except (SystemExit, KeyboardInterrupt):
                continue

    def _settled(self, error: BaseException) -> BaseException:
        if isinstance(error, ReportedByPeer):
            return error
        failure = Failure(self._rank, exit_code(error), problems(error))
        try:
            self._board.leave(self._rank)
            # torchrun terminates all ranks when one is gone: was it that, or the user?
            if isinstance(error, PeerLost):
                failure = self._cause() or disconnected(self._rank, str(error))
            elif failure.exit_code == TERMINATED:
                failure = self._cause() or failure
            first = self._board.fail(failure)
        except RuntimeError:
            first = self._without_board()
        if first.rank != self._rank:
            return ReportedByPeer(*first.problems, exit_code=first.exit_code)
        if isinstance(error, PeerLost) or first.exit_code != exit_code(error):
            return RankLost(*first.problems)
        return error

    def _cause(self) -> Failure | None:
        """The failure by which peers are gone; None if all of them live."""
        before = {rank: self._board.pulse(rank) for rank in self._peers()}
        until = time.monotonic() + SETTLING_S
        while time.monotonic() < until:
            failure = self._board.failure()
            if failure is not None:
                return failure
            time.sleep(0.1)
        gone = [r for r in self._peers() if self._board.pulse(r) == before[r]]
        return lost(self._rank, f"no answer of {rank_text(gone)}") if gone else None

    def _peers(self) -> list[int]:
        """Other ranks that have not announced that they leave."""
        ranks = range(self._world_size)
        return [rank for rank in ranks if rank != self._rank and not self._board.has_left(rank)]

    def _watch(self) -> None:
        number = 0
        while not self._done.wait(BEAT_S):
            number += 1
            try:
                if not self._board.has_left(self._rank):
                    self._board.beat(self._rank, number)
                failure = self._board.failure() or self._loss()
            except RuntimeError:
                failure = self._without_board()
            if failure is not None:
                self._end_if_stuck(failure)
                return

    def _loss(self) -> Failure | None:
        """Report a rank that is gone or silent, if there is one."""
        gone = [rank for rank in self._peers() if _is_gone(self._board.process_here(rank))]
        silent = [rank for rank in self._peers() if self._is_silent(rank)]
        if gone:
            return self._board.fail(
                lost(self._rank, f"the end of the process of {rank_text(gone)}")
            )
        if silent:
            got = f"no sign of life of {rank_text(silent)} in {_patience_s():g} s"
            return self._board.fail(lost(self._rank, got))
        return None

    def _is_silent(self, rank: int) -> bool:
        """True if the next rank has given no sign of life for long; each watches one peer."""
        if rank != (self._rank + 1) % self._world_size:
            return False
        now, pulse = time.monotonic(), self._board.pulse(rank)
        if rank not in self._pulses or self._pulses[rank][0] != pulse:
            self._pulses[rank] = (pulse, now)
        return now - self._pulses[rank][1] > _patience_s()

    def _without_board(self) -> Failure:
        """The process that holds the board is gone: what started the ranks, or else rank 0."""
        speaker = 0 if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else 1
        return lost(speaker, "the end of the process that holds the ranks together")

    def _end_if_stuck(self, failure: Failure) -> None:
        if self._done.wait(grace_s()):
            return
        error = ReportedByPeer(*failure.problems, exit_code=failure.exit_code)
        self.when_stuck(error)
        if failure.rank == self._rank:
            for problem in failure.problems:
                print(f"ERROR {problem}", file=sys.stderr, flush=True)
        os._exit(failure.exit_code)


def store_of(address: str, port: int, *, holds: bool = False) -> TCPStore:
    """The store at this address; ``holds``: in this process, where port 0 is any free one."""
    wait = timedelta(seconds=START_S)
    return TCPStore(address, port, None, holds, wait, wait_for_workers=False)


def board_of(store: Store) -> FailureBoard:
    """The board of the ranks of this attempt."""
    return FailureBoard(attempt_store(store))


def attempt_store(store: Store) -> Store:
    """The part of ``store`` in which the ranks of this attempt of torchrun meet.

    What ranks of an earlier attempt have written, they must not read. Machines count attempts
    differently: each those that its own ranks made necessary. So where every attempt has a store of
    its own (``TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1``), that is enough.
    """
    is_shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if is_shared else "0"
    return PrefixStore(f"deepseg/{attempt}", store)


def grace_s() -> float:
    """Seconds in which a process may end by itself."""
    return min(GRACE_S, _patience_s())


def _patience_s() -> float:
    return float(os.environ.get(PATIENCE, PATIENCE_S))


def _is_gone(process: int | None) -> bool:
    return process is not None and not is_alive(process)


def _machine() -> str:
    """The machine and its space of process numbers, in which a number means one process."""
    space = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()} {space.readlink() if space.exists() else ''}"
