"""Files of Keras: the description of a network, and where the weights of its layers lie.

Four forms are known: ``.keras``; the JSON of ``model.to_json()`` with ``.weights.h5`` or ``.h5``
beside it; a whole model in one ``.h5``; and a list of layers in JSON, as rmldnn writes it.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deepseg.errors import DeepsegError, Problem, did_you_mean
from deepseg.storage.readable import raise_if_unreadable
from deepseg.transfer.sources.keras.hdf5 import MAGIC, HdfContent, read_hdf5
from deepseg.transfer.sources.keras.problems import damaged, refused, unfitting_weights

Arrays: TypeAlias = tuple[NDArray[Any], ...]
Place: TypeAlias = tuple[str, ...]  # names of a layer and of the networks that it is in

SUFFIXES = (".keras", ".h5", ".hdf5", ".json")
WEIGHTS = (".weights.h5", ".h5", ".hdf5")  # what stands beside net.json
LARGEST_RATIO = 1000  # bytes of an entry of a zip for one that is compressed
_BEGINNING = 1 << 16  # bytes in which a description of a network names a class
_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")  # how versions of Keras call them


@dataclass(frozen=True)
class KerasFile:
    """A network as Keras describes it.

    Attributes:
        description: Of the network: class and settings, as in ``model.to_json()``.
        weights: Arrays of a layer in the order of Keras, by the names of the layer and the networks
            around it, and by their classes; None for a description without weights.
        is_legacy: Written by Keras 2.
        sha256: Of all that was read.
    """

    description: Mapping[str, Any]
    weights: Callable[[Place, Place], Arrays] | None
    is_legacy: bool
    sha256: str


def is_keras_file(file: Path) -> bool:
    """True for the name of a file of Keras, there or not; JSON may be about something else.

    >>> is_keras_file(Path("net.weights.h5")), is_keras_file(Path("net.onnx"))
    (True, False)
    """
    suffix = file.suffix.lower()
    return suffix in SUFFIXES and (suffix != ".json" or _describes_layers(file))


def _describes_layers(file: Path) -> bool:
    """True for JSON in which classes of layers are named; also where it is not well-formed."""
    try:
        with file.open("rb") as stream:
            return b"class_name" in stream.read(_BEGINNING)
    except OSError:
        return True


def open_keras(file: Path) -> KerasFile:
    """The description and the weights of a network.

    Args:
        file: ``net.keras``, ``net.h5``, ``net.json`` or ``net.weights.h5``; of the last two, the
            other is looked for beside it.

    Raises:
        DeepsegError: ``keras-missing``, ``keras-damaged``, ``keras-refused`` or
            ``keras-extra-missing``.
    """
    content = _bytes(file)
    if zipfile.is_zipfile(file) and content.startswith(b"PK"):
        return _archive(file, content)
    if content.startswith(MAGIC):
        stored = read_hdf5(content)
        config = stored.attributes[""].get("model_config")
        if isinstance(config, str):
            return _opened(_parsed(config, "model_config"), stored, content)
        beside = file.with_name(f"{_stem(file)}.json")
        if not beside.is_file():
            raise refused(
                "weights without a description of their network",
                f"{beside.name} beside them, of model.to_json(), or a .keras",
                f"write it with Keras: open('{beside.name}', 'w').write(model.to_json())",
            )
        text = _bytes(beside)
        return _opened(_json(text, beside), stored, text + content)
    if file.suffix.lower() != ".json":
        raise damaged("neither HDF5 nor a .keras")
    description = _json(content, file)
    neighbour = next((path for path in _beside(file) if path.is_file()), None)
    if neighbour is None:
        return _opened(description, None, content)
    weights = _bytes(neighbour)
    try:
        return _opened(description, read_hdf5(weights), content + weights)
    except DeepsegError as error:
        raise error.at(str(neighbour)) from error


def _bytes(file: Path) -> bytes:
    raise_if_unreadable(file)
    if not file.is_file():
        near = sorted(p.name for p in file.parent.glob("*") if is_keras_file(p))
        raise DeepsegError(
            Problem(
                code="keras-missing",
                got="a folder" if file.is_dir() else "no such file",
                expected="a file of Keras",
                fix="correct the path" + did_you_mean(file.name, near),
                where=str(file),
            )
        )
    return file.read_bytes()


def _stem(file: Path) -> str:
    """``net`` of ``net.weights.h5``."""
    name = file.name
    ending = next((e for e in (*WEIGHTS, ".json") if name.lower().endswith(e)), file.suffix)
    return name[: len(name) - len(ending)]


def _beside(file: Path) -> list[Path]:
    return [file.with_name(_stem(file) + ending) for ending in WEIGHTS]


def _archive(file: Path, content: bytes) -> KerasFile:
    try:
        with zipfile.ZipFile(file) as archive:
            text = _entry(archive, "config.json")
            weights = _entry(archive, "model.weights.h5")
            metadata = json.loads(_entry(archive, "metadata.json"))
    except (zipfile.BadZipFile, zlib.error, KeyError, OSError, EOFError, ValueError) as error:
        raise damaged(f"no config.json and model.weights.h5 that can be read ({error})") from error
    description = _json(text, Path("config.json"))
    version = metadata.get("keras_version") if isinstance(metadata, dict) else None
    return _opened({"keras_version": version, **description}, read_hdf5(weights), content)


def _entry(archive: zipfile.ZipFile, name: str) -> bytes:
    entry = archive.getinfo(name)
    if entry.file_size > LARGEST_RATIO * max(entry.compress_size, 1):
        raise refused(
            f"{name} of {entry.file_size} bytes", "no more than it holds", "save it again"
        )
    return archive.read(entry)


def _opened(description: Mapping[str, Any], stored: HdfContent | None, content: bytes) -> KerasFile:
    version = str(description.get("keras_version") or (3 if "module" in description else 2))
    return KerasFile(
        description,
        None if stored is None else _weights(stored),
        is_legacy=not version.startswith("3"),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _json(content: bytes, file: Path) -> dict[str, Any]:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise damaged("no text") from error
    return _parsed(text, str(file))


def _parsed(text: str, where: str) -> dict[str, Any]:
    """The description in a JSON text; a list of layers as the network that it makes."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if not isinstance(error, json.JSONDecodeError):
            raise damaged("JSON that cannot be read") from error
        fix = f"correct line {error.lineno}"
        if "',' delimiter" in error.msg:
            above = text[: error.pos].rstrip().count("\n") + 1
            fix = f"add the comma at the end of line {above}"
        raise DeepsegError(
            Problem(
                code="keras-damaged",
                got=f"{error.msg} in column {error.colno}",
                expected="JSON",
                fix=fix,
                where=f"{where}:{error.lineno}",
            )
        ) from error
    if isinstance(value, dict) and "layers" in value and "config" not in value:
        value = value["layers"]
    if isinstance(value, list):
        value = {"class_name": "Functional", "config": {"name": "", "layers": value}}
    if not isinstance(value, dict) or not isinstance(value.get("config"), (dict, list)):
        raise damaged("JSON that describes no network")
    return value


def _weights(stored: HdfContent) -> Callable[[Place, Place], Arrays]:
    root = "model_weights" if any(p.startswith("model_weights/") for p in stored.attributes) else ""
    if stored.words(root, "layer_names"):
        return lambda names, _: _by_name(stored, root, names)
    return lambda _, classes: _by_class(stored, classes)


def _by_class(stored: HdfContent, classes: Place) -> Arrays:
    """Arrays of a layer as Keras 3 stores them: by its class and a number, not by its name."""
    for container in _CONTAINERS:
        path = "/".join(f"{container}/{name}" for name in classes)
        if f"{path}/vars" in stored.attributes:
            return _numbered(stored, f"{path}/vars/")
    return ()


def _numbered(stored: HdfContent, prefix: str) -> Arrays:
    places = [path for path in stored.arrays if path.startswith(prefix)]
    numbers = sorted(int(n) for p in places if (n := p.removeprefix(prefix)).isdigit())
    return tuple(stored.arrays[f"{prefix}{number}"] for number in numbers)


def _by_name(stored: HdfContent, root: str, names: Place) -> Arrays:
    """Arrays of a layer as Keras 2 stores them: by the names of layers and weights."""
    group = f"{root}/{names[0]}" if root else names[0]
    if group not in stored.attributes:
        raise unfitting_weights(
            f"no weights of layer {names[0]!r}",
            f"those of {', '.join(stored.words(root, 'layer_names')[:8])}",
            "give the weights that belong to this description",
        )
    chosen = [name for name in stored.words(group, "weight_names") if _is_of(name, names)]
    missing = [name for name in chosen if f"{group}/{name}" not in stored.arrays]
    if missing:
        raise damaged(f"no array {missing[0]!r}")
    return tuple(stored.arrays[f"{group}/{name}"] for name in chosen)


def _is_of(weight: str, names: Place) -> bool:
    """True if a weight belongs to the layer itself, among all those of a network within."""
    return len(names) == 1 or weight.split("/")[-2:-1] == [names[-1]]


def as_float(array: NDArray[Any]) -> NDArray[np.float32]:
    """Numbers of 32 bits."""
    return np.ascontiguousarray(array, np.float32)
