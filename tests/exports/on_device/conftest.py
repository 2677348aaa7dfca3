"""The program of an exported folder, run in this process."""

from __future__ import annotations

import pytest

from deepseg.exports.on_device.device_train import main
from tests.exports.on_device.runs import RATE


@pytest.fixture
def train(device, cases):
    """Run the program in this process; gives the exit code."""

    def run(*words, folder=device, data=cases):
        return main([str(folder), "--data", str(data), *RATE, *map(str, words)])

    return run
