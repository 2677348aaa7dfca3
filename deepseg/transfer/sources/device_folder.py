"""Folders in which a device has trained an exported model: its weights after so many steps.

A folder holds the weights at the export, a file for every state since, and a manifest with the
description of the model.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from deepseg.errors import DeepsegError, Problem
from deepseg.transfer.sources.numpy_files import SUFFIX, read_numpy

FORMAT = "deepseg train-step 1"
MANIFEST, EXPORTED = "manifest.json", "state.npz"
_STATE = re.compile(r"state_(\d+)\.npz")


@dataclass(frozen=True)
class DeviceState:
    """A model as a device left it.

    Attributes:
        file: Of the state.
        description: Of the model that was exported, as JSON.
        preparation: Of the cases on the device.
        arrays: Parameters and statistics by name, those that did not learn included.
        steps: That the device has made.
    """

    file: Path
    description: str
    preparation: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]
    steps: int


def device_state(path: Path) -> DeviceState | None:
    """The state in an exported folder; None for any other path.

    Args:
        path: The folder, whose latest state is read, or one of its states.

    Raises:
        DeepsegError: ``device-folder``, ``tensors-damaged`` or ``weights-do-not-fit``.
    """
    folder = path if path.is_dir() else path.parent
    if not path.is_dir() and path.suffix != SUFFIX:
        return None
    manifest = _manifest(folder / MANIFEST)
    if manifest is None:
        return None
    exported = folder / EXPORTED
    content = exported.read_bytes() if exported.is_file() else b""
    if hashlib.sha256(content).hexdigest() != manifest["files"][EXPORTED]:
        raise _damaged(f"another {EXPORTED} than was exported", exported)
    file = _latest(folder) if path.is_dir() else path
    arrays, changed = read_numpy(exported), read_numpy(file)
    missing = [name for name in manifest["state"] if name not in changed]
    if missing:
        raise _damaged(f"a state without {missing[0]}", file)
    merged = arrays | {name: changed[name] for name in manifest["state"]}
    return DeviceState(
        file=file,
        description=json.dumps(manifest["description"]),
        preparation=manifest["preparation"],
        arrays={name: a for name, a in merged.items() if not name.startswith("velocity.")},
        steps=int(changed["step"]) if "step" in changed else 0,
    )


def _manifest(file: Path) -> Mapping[str, Any] | None:
    """A manifest of a folder that trains; None for a file of another kind."""
    if not file.is_file():
        return None
    try:
        manifest = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        return None
    needed = ("files", "state", "description", "preparation")
    if any(not isinstance(manifest.get(key), dict) for key in needed):
        raise _damaged("a manifest without all its parts", file)
    return manifest


def _latest(folder: Path) -> Path:
    steps = {int(m[1]): f for f in folder.iterdir() if (m := _STATE.fullmatch(f.name))}
    return steps[max(steps)] if steps else folder / EXPORTED


def _damaged(got: str, file: Path) -> DeepsegError:
    return DeepsegError(
        Problem(
            "device-folder",
            got,
            expected="the files of one export and its states",
            fix="copy the folder again",
            where=str(file),
        )
    )
