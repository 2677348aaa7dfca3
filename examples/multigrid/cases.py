"""Writes the brains of this example: grey and white matter in T1, at voxels of 2 mm."""

import csv
from pathlib import Path

from deepseg.data.phantom import write_cases

HERE = Path(__file__).parent


def without(column: str, table: Path) -> None:
    """Take a column out of a table of cases: the model has no such channel."""
    rows = list(csv.DictReader(table.read_text("utf-8").splitlines()))
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [name for name in rows[0] if name != column])
        writer.writeheader()
        writer.writerows({k: v for k, v in row.items() if k != column} for row in rows)


if __name__ == "__main__":
    for table in write_cases(HERE / "data", {"train": 6, "validation": 3}, seed=3, task="tissue"):
        without("channel_FLAIR", table)
