"""Pools of threads where the system allows fewer of them, or none."""

import threading

import pytest

from deepseg.model.kernels.threads import map_on_threads
from deepseg.sessions.segmentation.pipeline import in_stages
from deepseg.thread_pool import thread_pool


@pytest.fixture(params=[0, 1, 2])
def allowed(request, monkeypatch):
    """Let only so many threads live at a time beside those of the tests."""
    start, before = threading.Thread.start, threading.active_count()

    def limited(thread):
        if threading.active_count() - before >= request.param:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    return request.param


def test_a_pool_has_as_many_threads_as_may_start(allowed):
    with thread_pool(3) as pool:
        names = set(pool.map(lambda _: threading.current_thread().name, range(9)))
        assert list(pool.map(abs, [-1, 2, -3])) == [1, 2, 3]
    assert 1 <= len(names) <= max(1, allowed)
    assert (threading.current_thread().name in names) == (allowed == 0)


def test_an_error_of_a_call_comes_with_its_result(allowed):
    with thread_pool(2) as pool, pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 / 0).result()


@pytest.mark.usefixtures("allowed")
def test_stages_and_kernels_do_without_threads(monkeypatch):
    stages = in_stages([1, 2, 3], read=lambda n: n + 1, compute=lambda n: 2 * n, write=str)
    assert list(stages) == [(1, "4"), (2, "6"), (3, "8")]
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    assert map_on_threads(lambda n: n * n, [1, 2, 3, 4]) == [1, 4, 9, 16]
