"""Cases for training, for stopping, and for the score at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from deepseg.exports.on_device.errors import DeviceError
from deepseg.exports.on_device.files import replacing

PARTS = ("first", "second", "third")

SPLIT = 0  # of the purposes of random numbers


def split(names: Sequence[str], seed: int) -> dict[str, list[str]]:
    """Cases for training, for stopping, and for the score at the end: 60, 20 and 20 per cent.

    >>> {part: len(cases) for part, cases in split([f"case{n}" for n in range(10)], 0).items()}
    {'first': 6, 'second': 2, 'third': 2}
    """
    if len(names) < 3:
        raise DeviceError(
            "device-split", f"{len(names)} cases", "at least 3, one for each part", "add cases"
        )
    rng = np.random.default_rng([seed, SPLIT])
    order = [names[i] for i in rng.permutation(len(names))]
    fifth = max(1, len(names) // 5)
    second, third = order[:fifth], order[fifth : 2 * fifth]
    return dict(zip(PARTS, map(sorted, (order[2 * fifth :], second, third)), strict=True))


def stored_split(folder: Path, names: Sequence[str], seed: int) -> Mapping[str, Sequence[str]]:
    """The split of a folder, made with its first run and the same ever after."""
    file = folder / "split.json"
    if not file.exists():
        parts = split(names, seed)
        with replacing(file) as temporary:
            temporary.write_text(json.dumps({"seed": seed, **parts}, indent=1) + "\n", "utf-8")
        return parts
    try:
        stored = json.loads(file.read_text("utf-8"))
        parts, first_seed = {part: list(stored[part]) for part in PARTS}, stored["seed"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _bad_split(file, "a file that cannot be read") from error
    if first_seed != seed:
        raise _bad_split(file, f"--seed {seed} and a split with seed {first_seed}")
    if sorted(name for part in parts.values() for name in part) != sorted(names):
        raise _bad_split(file, "other cases than those that were split")
    return parts


def _bad_split(file: Path, got: str) -> DeviceError:
    fix = f"go on as the run began, or remove {file} to split anew"
    return DeviceError("device-split", got, "the split of the first run", fix)
