"""Parts of the cases: every case in one of them, whatever their number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseg.errors import DeepsegError
from deepseg.sessions.processes.shard import Shard, shard


def test_a_part_is_every_nth_case():
    assert shard("2/3").of("abcdefgh") == "beh"
    assert str(shard("2/3")) == "2of3"


@given(items=st.lists(st.integers()), count=st.integers(1, 12))
def test_parts_together_are_the_whole(items, count):
    parts = [Shard(number, count).of(items) for number in range(1, count + 1)]
    assert sorted(item for shard in parts for item in shard) == sorted(items)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["3/2", "0/2", "2", "1/0", "-1/2", "a/b", "1/2/3", "1 / 2", ""])
def test_other_words_are_refused(text):
    with pytest.raises(DeepsegError) as refusal:
        shard(text)
    assert str(refusal.value) == (
        f"[command-line] got -part {text}; expected i/n with i from 1 to n, such as 2/5; "
        "fix: correct it"
    )
