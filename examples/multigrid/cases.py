"""Writes the brains of this example: grey and white matter in T1, at voxels of 2 mm."""

from pathlib import Path

from deepseg.data.phantom import write_cases

HERE = Path(__file__).parent


if __name__ == "__main__":
    write_cases(
        HERE / "data", {"train": 6, "validation": 3}, seed=3, task="tissue", channels=["T1"]
    )
