"""The graphs of an exported folder, ready to run, and their description."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from deepseg.exports.on_device.errors import DeviceError

FORMAT = "deepseg train-step 1"
KEYS = (
    *("channels", "classes", "preparation", "train", "infer"),
    *("trainable", "state", "types", "masks"),
)  # that a run reads


@dataclass(frozen=True)
class Network:
    """The two graphs of a folder, ready to run.

    Attributes:
        manifest: The description of the network.
        train: Session of ``train_step.onnx``.
        infer: Session of ``infer.onnx``.
    """

    manifest: Mapping[str, Any]
    train: Any
    infer: Any

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes, the background first."""
        names: Sequence[str] = self.manifest["classes"]
        return names


def read_manifest(folder: Path) -> Mapping[str, Any]:
    """The manifest of an exported folder, whose graphs are those that it names."""
    try:
        manifest: Mapping[str, Any] = json.loads((folder / "manifest.json").read_text("utf-8"))
        is_known = manifest["format"] == FORMAT
        digests = dict(manifest["files"])
        lacking = [key for key in KEYS if key not in manifest]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _bad_folder(f"{folder} without a readable manifest.json") from error
    if not is_known:
        raise _bad_folder(f"a manifest of format {manifest['format']!r}")
    if lacking:
        raise _bad_folder(f"a manifest without {', '.join(lacking)}")
    for name in ("train_step.onnx", "infer.onnx"):
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            raise _bad_folder(f"{folder} without {name}") from error
        if hashlib.sha256(content).hexdigest() != digests.get(name):
            raise _bad_folder(f"another content of {name} than was exported")
    return manifest


def _bad_folder(got: str) -> DeviceError:
    return DeviceError(
        "device-folder", got, f"a whole folder ({FORMAT})", "export or copy it again"
    )


def open_network(folder: Path, *, threads: int) -> Network:
    """The graphs of an exported folder; equal threads give equal bits."""
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceError(
            "device-runtime", "no package onnxruntime", "it", "pip install onnxruntime"
        ) from error
    manifest = read_manifest(folder)
    options = session_options(onnxruntime, threads)
    train, infer = (
        onnxruntime.InferenceSession(
            str(folder / name), options, providers=["CPUExecutionProvider"]
        )
        for name in ("train_step.onnx", "infer.onnx")
    )
    return Network(manifest, train, infer)


def session_options(onnxruntime: Any, threads: int) -> Any:
    """Options of a session; planned memory would be there beside that of the first step."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_mem_pattern = False
    return options


def outputs(session: Any, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """All outputs of a graph by name; of ``feeds``, those are fed that it reads.

    Raises:
        DeviceError: ``device-runtime``.
    """
    entries = (*session.get_inputs(), *session.get_overridable_initializers())
    inputs = {entry.name: feeds[entry.name] for entry in entries if entry.name in feeds}
    names = [entry.name for entry in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, inputs), strict=True))
    except MemoryError:
        raise
    except Exception as error:  # the runtime has its own, and one of them is too little memory
        raise DeviceError(
            "device-runtime",
            str(error).splitlines()[0],
            "a run of the graph",
            "free memory, or export with a smaller -batch or -segment",
        ) from error
