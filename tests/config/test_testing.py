"""How much memory a test file allows."""

import pytest
from pydantic import ValidationError

from deepseg.config.load import load
from deepseg.config.testing import Inference, TestConfig
from deepseg.errors import DeepsegError


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [
        ("2 GB", 2_000_000_000),
        ("1.5GB", 1_500_000_000),
        ("300 MB", 300_000_000),
        ("2 GiB", 2 * 1024**3),
        ("0.5MiB", 512 * 1024),
    ],
)
def test_memory_is_a_number_with_a_unit(text, bytes_):
    assert Inference(memory=text).memory_bytes == bytes_


def test_memory_is_not_limited_by_default():
    assert Inference().memory_bytes is None


@pytest.mark.parametrize("text", ["2", 2, "2 TB", "GB", "-1 GB", "2 GB ", "2 G", "2 Gib"])
def test_other_words_are_refused(text):
    with pytest.raises(ValidationError, match="a number with MB, GB, MiB or GiB, such as 2 GB"):
        Inference(memory=text)


def test_memory_without_a_unit_is_answered_with_what_is_missing(tmp_path):
    file = tmp_path / "test.yaml"
    file.write_text("output: runs\ncases: {table: cases.csv}\ninference: {memory: 2}\n")
    with pytest.raises(DeepsegError) as refused:
        load(TestConfig, file)
    assert str(refused.value) == (
        f"[config-value] {file}:3 inference.memory: got 2; expected a number with MB, GB, MiB or "
        "GiB, such as 2 GB; fix: change this value"
    )
