"""Real cases, where they are at hand: a shortened version of benchmarks/brats2015.py."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "brats2015.py"


def benchmark():
    spec = importlib.util.spec_from_file_location("brats2015", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_tiny_network_finds_the_tumours_of_real_cases(tmp_path):
    """A third of the benchmark's segments; DeepMedic reaches 0.905 with all of them."""
    brats = benchmark()
    data = Path(__file__).parents[2] / brats.DATA
    if not data.is_dir():
        pytest.skip(f"the real cases are not at {data} (DEEPSEG_DATA says where they are)")
    dice = brats.whole_tumour_dice(tmp_path, data, seed=0, segments=330)
    assert len(dice) == 2
    assert min(dice) > 0.75
