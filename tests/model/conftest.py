"""Networks draw dropout masks from torch's generator, as torch does: each test has its own."""

import pytest
import torch


@pytest.fixture(autouse=True)
def torch_generator():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


collect_ignore = ["files"]  # the program there needs packages that the tests do not
