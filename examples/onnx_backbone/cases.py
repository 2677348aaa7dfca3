"""Writes the brains of this example: the MNI152, deformed, with grey and white matter."""

from pathlib import Path

from deepseg.data.phantom import write_cases

if __name__ == "__main__":
    folder = Path(__file__).parent / "data"
    write_cases(folder, {"train": 2, "validation": 1}, seed=5, task="tissue", channels=["T1"])
