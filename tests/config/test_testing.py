"""How much memory a test file allows."""

import pytest
from pydantic import ValidationError

from deepseg.config.testing import Inference


@pytest.mark.parametrize(
    ("text", "bytes_"), [("2 GB", 2_000_000_000), ("1.5GB", 1_500_000_000), ("300 MB", 300_000_000)]
)
def test_memory_is_a_number_with_a_unit(text, bytes_):
    assert Inference(memory=text).memory_bytes == bytes_


def test_memory_is_not_limited_by_default():
    assert Inference().memory_bytes is None


@pytest.mark.parametrize("text", ["2", "2 TB", "GB", "-1 GB", "2 GB "])
def test_other_words_are_refused(text):
    with pytest.raises(ValidationError, match="a number with MB or GB, such as 2 GB"):
        Inference(memory=text)
