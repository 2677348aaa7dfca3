"""Writes the brains of this example: two for the hospital, five for each of three devices."""

import shutil
from pathlib import Path

from deepseg.data.phantom import mni_brain, write_cases

DATA = Path(__file__).parent / "data"

if __name__ == "__main__":
    brain = mni_brain()
    write_cases(DATA / "hospital", {"train": 2}, seed=1, brain=brain)
    for number in (1, 2, 3):
        write_cases(DATA / f"site{number}", {"all": 5}, seed=10 + number, brain=brain)
    for number in (1, 2, 3):
        case = DATA / "held_out" / f"site{number}"
        write_cases(DATA / f"more{number}", {"all": 1}, seed=20 + number, brain=brain)
        shutil.copytree(DATA / f"more{number}" / "case01", case)
        shutil.rmtree(DATA / f"more{number}")
