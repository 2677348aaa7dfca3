"""Ranks of this machine: what each of them is started with."""

import pytest

from deepseg.sessions.processes import launcher


@pytest.mark.parametrize(("own", "each"), [(7, "2"), (2, "1")])
def test_ranks_share_the_threads_that_this_process_may_use(monkeypatch, own, each):
    """torch has read OMP_NUM_THREADS already; three ranks with 7 threads each would be 21."""
    monkeypatch.setattr(launcher.torch, "get_num_threads", lambda: own)
    monkeypatch.setenv("OMP_NUM_THREADS", str(own))
    assert launcher._environment(1, 3, port=5)["OMP_NUM_THREADS"] == each
