"""Writes the brains of this example: many with tissue labels, a few with lesion labels."""

from pathlib import Path

from deepseg.data.phantom import write_cases

HERE = Path(__file__).parent


if __name__ == "__main__":
    tissue = HERE / "data" / "tissue"
    write_cases(tissue, {"train": 12, "validation": 2}, seed=1, task="tissue", channels=["FLAIR"])
    write_cases(HERE / "data" / "lesions", {"train": 2, "validation": 4}, seed=2, task="lesions")
