"""Writes the brains of this example: many with tissue labels, a few with lesion labels."""

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
    tissue = HERE / "data" / "tissue"
    for table in write_cases(tissue, {"train": 12, "validation": 2}, seed=1, task="tissue"):
        without("channel_T1", table)
    write_cases(HERE / "data" / "lesions", {"train": 2, "validation": 4}, seed=2, task="lesions")
