"""A Python caller's process after each public function: nothing of it has changed.

Each function runs in a process of its own, on a small session that was trained before.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # each starts a process

CHECKOUT = Path(__file__).parents[2]
CALLS = {
    "new_model": "deepseg.new_model('model.yaml', out='new.save', quiet=True)",
    "load": "deepseg.load('runs/training/models/last.save')",
    "check": "deepseg.check('train.yaml', quiet=True)",
    "show": "deepseg.show('runs/training/models/last.save')",
    "train": "deepseg.train('train.yaml', seed=3, device='cpu', quiet=True)",
    "segment": "deepseg.segment('test.yaml', model='runs/training/models/last.save', "
    "device='cpu', quiet=True)",
}
PROGRAM = """\
import gc, json, sys, torch
import deepseg
from tests.process_state import *
torch.set_num_threads(2)
before = process_state()
blocks = large_blocks_are_mapped()
{call}
gc.collect()
names = changed(before, process_state())
names += ["allocator"] * (blocks and not large_blocks_are_mapped())
print(json.dumps([names, mapped_files(sys.argv[1]), open_files(sys.argv[1])]))
"""


@pytest.mark.parametrize("name", CALLS)
def test_a_public_function_leaves_the_process_of_its_caller_as_it_was(name, trained, tmp_path):
    program = PROGRAM.format(call=CALLS[name])
    result = subprocess.run(
        [sys.executable, "-c", program, str(trained.path)],
        cwd=trained.path,
        env={"PYTHONPATH": str(CHECKOUT), "CUDA_VISIBLE_DEVICES": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    names, mappings, files = json.loads(result.stdout.splitlines()[-1])
    assert (names, mappings, files) == ([], [], [])
