"""Weights, velocities, statistics and counters as files; equal states are equal bytes."""

from __future__ import annotations

import math
import os
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deepseg.exports.on_device.errors import DeviceError
from deepseg.exports.on_device.files import replacing

STATE_NAME = re.compile(r"state_(\d{6,})\.npz")

COUNTERS = ("step", "lowest_loss", "best_dice")  # beside the tensors of a state

State: TypeAlias = dict[str, NDArray[Any]]


def latest_state(folder: Path) -> Path:
    """The state of the furthest step in a folder; ``state.npz`` before the first one."""
    steps = {int(m[1]): f for f in folder.iterdir() if (m := STATE_NAME.fullmatch(f.name))}
    return steps[max(steps)] if steps else folder / "state.npz"


def read_state(file: Path, manifest: Mapping[str, Any]) -> State:
    """Weights, velocities, statistics and counters, all of them there and finite."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise _bad_state(file, "a file that cannot be read as a state") from error
    shapes = {name: tuple(shape) for name, shape in manifest["state"].items()}
    for name, shape in shapes.items():
        if name not in arrays or arrays[name].shape != shape:
            actual = str(arrays[name].shape) if name in arrays else "nothing"
            raise _bad_state(file, f"{actual} for {name} of shape {shape}")
        if arrays[name].dtype.kind not in "fiu" or not np.isfinite(arrays[name]).all():
            raise _bad_state(file, f"infinite or undefined values in {name}")
    defaults = {"step": 0, "lowest_loss": math.inf, "best_dice": -math.inf}
    counters = {name: np.asarray(arrays.get(name, value)) for name, value in defaults.items()}
    for name, counter in counters.items():
        if counter.shape or counter.dtype.kind not in "fiu" or not counters["step"] >= 0:
            raise _bad_state(file, f"a counter {name} that is no number")
    types = manifest["types"]
    state = {n: np.asarray(arrays[n], types.get(n, "float32")) for n in shapes}
    return state | counters


def _bad_state(file: Path, got: str) -> DeviceError:
    return DeviceError(
        "device-state", f"{got} in {file}", "a state of this network", "begin with another --state"
    )


def write_state(file: Path, state: Mapping[str, NDArray[Any]]) -> None:
    """A state as a file that is whole or absent; equal states give equal bytes."""
    with replacing(file) as temporary, temporary.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **state)
        stream.flush()
        os.fsync(stream.fileno())


def set_aside(folder: Path, step: int) -> None:
    """States after ``step`` belong to a run that went another way, and nothing continues there."""
    for file in sorted(folder.iterdir()):
        match = STATE_NAME.fullmatch(file.name)
        if match and int(match[1]) > step:
            file.replace(folder / f"aside_{file.name}")
            print(f"{file.name} is set aside as aside_{file.name}")
        if re.fullmatch(r"\.\d+\.partial\..*", file.name):
            file.unlink(missing_ok=True)  # of a run that was killed
