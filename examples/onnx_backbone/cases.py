"""Writes the brains of this example: the MNI152, deformed, with grey and white matter."""

import csv
from pathlib import Path

from deepseg.data.phantom import write_cases


def without(column: str, table: Path) -> None:
    """Take a column out of a table of cases: the model has no such channel."""
    rows = list(csv.DictReader(table.read_text("utf-8").splitlines()))
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [name for name in rows[0] if name != column])
        writer.writeheader()
        writer.writerows({k: v for k, v in row.items() if k != column} for row in rows)


if __name__ == "__main__":
    folder = Path(__file__).parent / "data"
    for table in write_cases(folder, {"train": 2, "validation": 1}, seed=5, task="tissue"):
        without("channel_FLAIR", table)
