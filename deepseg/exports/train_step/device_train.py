"""Trains a segmentation network on a device; needs numpy and onnxruntime, and nothing else.

This file lies in a folder that deepseg has exported. One step of training is one run of
``train_step.onnx``: segments, labels and the state go in, the loss and the new state come out. All
that is to know about the network is in ``manifest.json``; nothing here depends on a certain one.

Every random number depends on the seed, the step and the number of the segment only: a run that is
interrupted and continued is the run that was not.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import gzip
import hashlib
import json
import math
import os
import re
import signal
import socket
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

FORMAT = "deepseg train-step 1"
STATE_NAME = re.compile(r"state_(\d{6,})\.npz")
SPLIT, MASKS, SEGMENTS = range(3)  # purposes of random numbers
COUNTERS = ("step", "lowest_loss", "best_dice")  # beside the tensors of a state
PARTS = ("first", "second", "third")
ROI, NO_ROI = "roi", "none"  # names of the region of interest
ENDINGS = (".npy", ".nii", ".nii.gz")
NIFTI_TYPES = dict(
    zip(
        (2, 4, 8, 16, 64, 256, 512, 768, 1024),
        ("u1", "i2", "i4", "f4", "f8", "i1", "u2", "u4", "i8"),
        strict=True,
    )
)
SPACING_TOLERANCE = 1e-3  # of a voxel size, relative
COLUMNS = "step,loss,lowest_loss,dice"

State = dict[str, NDArray[Any]]
Floats = NDArray[np.float32]
Labels = NDArray[np.int16]
Mask = NDArray[np.bool_]


class DeviceError(Exception):
    """One line about something that is wrong and what to do about it, with an exit code."""

    def __init__(self, code: str, got: str, expected: str, fix: str, *, exit_code: int = 2) -> None:
        super().__init__(f"[{code}] got {got}; expected {expected}; fix: {fix}")
        self.exit_code = exit_code


# Arguments


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise DeviceError("device-command", message, "options as in --help", "correct them")


def parser() -> argparse.ArgumentParser:
    """The options, which ``--help`` lists."""
    result = _Parser(description="Train an exported network on the cases of a folder.")
    result.add_argument(
        "folder", nargs="?", type=Path, default=Path(__file__).parent, help="with manifest.json"
    )
    result.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="CASES",
        help="a folder with a folder per case: CHANNEL.npy, .nii or .nii.gz for every channel, "
        "labels, and perhaps roi",
    )
    add = result.add_argument
    add("--steps", type=_whole, metavar="N", default=0, help="steps in all, earlier ones included")
    add("--eval-every", type=_whole, metavar="N", default=20, help="steps between scores (20)")
    add("--stop-at", type=float, metavar="DICE", help="end above this Dice on the second part")
    add("--save-every", type=_whole, metavar="N", default=20, help="steps between states (20)")
    add("--threads", type=_count, metavar="N", default=1, help="threads of a step (1)")
    add("--accumulate", type=_count, metavar="K", default=1, help="batches of one step (1)")
    add("--learning-rate", type=_rate, metavar="R", default=0.01, help="size of a step (0.01)")
    add("--momentum", type=_rate, metavar="M", default=0.9, help="share of the velocity kept (0.9)")
    add("--decay", type=_rate, metavar="D", default=1e-4, help="pull of weights to 0 (0.0001)")
    add("--class-weights", type=_rate, nargs="+", metavar="W", help="of the loss, one per class")
    add("--seed", type=_whole, metavar="N", default=0, help="of the split and the segments (0)")
    add("--state", type=Path, metavar="FILE", help="begin here instead of at the latest state")
    add(
        "--roi",
        default=ROI,
        metavar="NAME",
        help="file of the region of interest (roi); none takes whole images",
    )
    add("--score", action="store_true", help="score all cases with the state, and end")
    add("-v", "--verbose", action="store_true", help="print what each step makes of the tensors")
    return result


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}, which is not a whole number from 0 up")
    return int(text)


def _count(text: str) -> int:
    if _whole(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}, which is below 1")
    return int(text)


def _rate(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}, which is no number from 0 on")
    return number


# The folder: manifest, networks, states


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
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _bad_folder(f"{folder} without a readable manifest.json") from error
    if not is_known:
        raise _bad_folder(f"a manifest of format {manifest['format']!r}")
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
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    train, infer = (
        onnxruntime.InferenceSession(
            str(folder / name), options, providers=["CPUExecutionProvider"]
        )
        for name in ("train_step.onnx", "infer.onnx")
    )
    return Network(manifest, train, infer)


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
        if not np.isfinite(arrays[name]).all():
            raise _bad_state(file, f"infinite or undefined values in {name}")
    defaults = {"step": 0, "lowest_loss": math.inf, "best_dice": -math.inf}
    counters = {name: np.asarray(arrays.get(name, value)) for name, value in defaults.items()}
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


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A temporary file that becomes ``file`` when it is whole."""
    temporary = file.with_name(f".{os.getpid()}.partial.{file.name}")
    try:
        yield temporary
        temporary.replace(file)
    except OSError as error:
        raise _not_writable(error, file) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _not_writable(error: OSError, file: Path) -> DeviceError:
    return DeviceError(
        "output-not-writable",
        f"{os.strerror(error.errno or errno.ENOSPC)} for {file}",
        "a place where this file can be written",
        "make room or change the permissions, then give the same command again",
        exit_code=5,
    )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One run per folder: the file ``lock`` can be made by one process only."""
    lock, owner = folder / "lock", f"{os.getpid()} {socket.gethostname()}"
    for _ in range(2):
        try:
            descriptor = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            break
        except FileExistsError:
            if not _take_away(lock):
                raise _in_use(folder) from None
        except OSError as error:
            raise _not_writable(error, lock) from error
    else:
        raise _in_use(folder)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(owner)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink()


def _in_use(folder: Path) -> DeviceError:
    fix = f"wait for it, or remove {folder / 'lock'} if it has ended"
    return DeviceError(
        "folder-in-use", f"another run in {folder}", "one run per folder", fix, exit_code=6
    )


def _take_away(lock: Path) -> bool:
    """Remove the lock of a process of this machine that has ended; False if it may be alive."""
    try:
        process, _, host = lock.read_text().partition(" ")
        if host != socket.gethostname() or _is_alive(int(process)):
            return False
        aside = lock.with_name(f"lock.{os.getpid()}")
        lock.rename(aside)  # of two that try it, one succeeds
        aside.unlink()
    except FileNotFoundError:
        pass
    except (OSError, ValueError):
        return False
    return True


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


# Cases


@dataclass(frozen=True)
class Case:
    """A case as the network sees it.

    Attributes:
        name: Of its folder.
        channels: ``(C, X, Y, Z)``, normalised.
        labels: ``(X, Y, Z)``; -1 where unknown.
        roi: ``(X, Y, Z)``, or None where the whole image counts.
    """

    name: str
    channels: Floats
    labels: Labels
    roi: Mask | None


@dataclass(frozen=True)
class Cases:
    """The cases of a folder, read when they are needed.

    Attributes:
        folder: With a folder for each case.
        manifest: Of the network that sees them.
        roi_name: File of the region of interest, without its ending.
    """

    folder: Path
    manifest: Mapping[str, Any]
    roi_name: str

    def read(self, name: str) -> Case:
        """The case of a name, prepared."""
        return read_case(self.folder / name, self.manifest, roi_name=self.roi_name)


def case_names(data: Path) -> list[str]:
    """Folders of cases: those with labels, in the order of their names."""
    if not data.is_dir():
        raise DeviceError("device-case", f"{data}, which is no folder", "one", "correct --data")
    names = sorted(f.name for f in data.iterdir() if f.is_dir() and _volume_file(f, "labels"))
    if not names:
        raise DeviceError(
            "device-case", f"no case in {data}", "folders with labels", "correct --data"
        )
    return names


def read_case(folder: Path, manifest: Mapping[str, Any], *, roi_name: str = ROI) -> Case:
    """Read a case and prepare it as the training cases of the network were prepared."""
    preparation = manifest["preparation"]
    images = [_volume(folder, name, preparation) for name in manifest["channels"]]
    labels = _volume(folder, "labels", preparation)
    roi = None
    if _volume_file(folder, roi_name):
        roi = _volume(folder, roi_name, preparation) != 0
    elif preparation["roi"] == "nonzero":
        roi = with_holes(np.any([image != 0 for image in images], axis=0))
    elif roi_name != NO_ROI and (manifest.get("has_roi", False) or roi_name != ROI):
        reason = ", as all training cases had" if manifest.get("has_roi", False) else ""
        raise DeviceError(
            "device-case",
            f"no file {roi_name} in {folder}",
            f"a region of interest{reason}",
            f"add the file, or name it with --roi; --roi {NO_ROI} takes whole images all the same",
        )
    shapes = {image.shape for image in (*images, labels)} | (
        {roi.shape} if roi is not None else set()
    )
    if len(shapes) > 1:
        raise _bad_case(folder, f"volumes of shapes {', '.join(map(str, sorted(shapes)))}", "one")
    low, high = preparation.get("clip") or (-np.inf, np.inf)
    channels = [
        normalised(image.astype(np.float32).clip(low, high), roi, preparation["z_score"], name)
        for image, name in zip(images, manifest["channels"], strict=True)
    ]
    return Case(folder.name, np.stack(channels), _checked_labels(folder, labels, manifest), roi)


def _checked_labels(folder: Path, labels: NDArray[Any], manifest: Mapping[str, Any]) -> Labels:
    classes = len(manifest["classes"])
    values = np.unique(labels)
    wrong = [v for v in values.tolist() if v != int(v) or not -1 <= v < classes]
    if wrong:
        expected = f"0 to {classes - 1}, -1 where unknown"
        raise _bad_case(folder, f"labels {', '.join(f'{v:g}' for v in wrong[:5])}", expected)
    return labels.astype(np.int16)


def _bad_case(folder: Path, got: str, expected: str) -> DeviceError:
    return DeviceError("device-case", f"{got} in {folder}", expected, "correct or remove the case")


def _volume_file(folder: Path, stem: str) -> Path | None:
    files = (folder / f"{stem}{ending}" for ending in ENDINGS)
    return next((file for file in files if file.is_file()), None)


def _volume(folder: Path, stem: str, preparation: Mapping[str, Any]) -> NDArray[Any]:
    """``(X, Y, Z)`` voxels in the axes of the training cases, on the grid of the case."""
    file = _volume_file(folder, stem)
    if file is None:
        raise _bad_case(folder, f"no {stem}", f"{stem} with one of {', '.join(ENDINGS)}")
    try:
        if file.suffix == ".npy":
            voxels: NDArray[Any] = np.load(file, allow_pickle=False)
        else:
            voxels, affine = read_nifti(file)
            voxels = oriented(voxels, affine, preparation["orientation"])
            _check_spacing(folder, affine, preparation)
    except (OSError, ValueError, EOFError, KeyError, IndexError, zlib.error) as error:
        raise _bad_case(folder, f"{file.name}, which cannot be read", "a whole volume") from error
    if voxels.ndim != 3 or not np.isfinite(voxels).all():
        raise _bad_case(folder, f"{file.name} of shape {voxels.shape}", "three axes, finite values")
    return voxels


def read_nifti(file: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Voxels ``(X, Y, Z)`` and the affine ``(3, 4)`` in mm of a NIfTI-1 file.

    Source: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h.
    """
    content = file.read_bytes()
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    order = "<" if int.from_bytes(content[:4], "little") == 348 else ">"

    def field(kind: str, offset: int, count: int = 1) -> NDArray[Any]:
        return np.frombuffer(content, order + kind, count, offset)

    axes = int(field("i2", 40)[0])
    shape = tuple(int(n) for n in field("i2", 42, axes))
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    dtype = order + NIFTI_TYPES[int(field("i2", 70)[0])]
    begin = int(field("f4", 108)[0])
    voxels = np.frombuffer(content, dtype, math.prod(shape), begin).reshape(shape, order="F")
    slope, shift = field("f4", 112, 2).astype(float)
    if slope not in (0, 1) or shift:
        voxels = voxels * (slope or 1.0) + shift
    return voxels, _affine(field)


def _affine(field: Any) -> NDArray[np.float64]:
    if field("i2", 254)[0] > 0:  # sform
        return np.asarray(field("f4", 280, 12).reshape(3, 4), float)
    sizes = field("f4", 76, 8).astype(float)  # qfac and voxel sizes
    if field("i2", 252)[0] <= 0:
        return np.hstack([np.diag(sizes[1:4]), np.zeros((3, 1))])
    b, c, d, *offset = field("f4", 256, 6).astype(float)
    a = math.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    turn = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    signs = np.array([1, 1, -1 if sizes[0] < 0 else 1])
    return np.hstack([turn * sizes[1:4] * signs, np.array(offset)[:, None]])


def oriented(
    voxels: NDArray[Any], affine: NDArray[np.float64], letters: str | None
) -> NDArray[Any]:
    """Voxels with axes that grow to ``letters``, such as RAS; as they are for None."""
    if letters is None:
        return voxels
    worlds = nearest_axes(affine)
    for axis, letter in enumerate(letters):
        world = next(w for w, sides in enumerate(("LR", "PA", "IS")) if letter in sides)
        old = worlds.index(world)
        voxels, worlds = np.swapaxes(voxels, axis, old), list(worlds)
        worlds[axis], worlds[old] = worlds[old], worlds[axis]
        affine = affine.copy()
        affine[:, [axis, old]] = affine[:, [old, axis]]
        grows = affine[world, axis] > 0
        if grows != (letter in "RAS"):
            voxels = np.flip(voxels, axis)
    return voxels


def nearest_axes(affine: NDArray[np.float64]) -> list[int]:
    """The axis of the patient along which each axis of a volume runs: 0 left, 1 front, 2 top.

    >>> nearest_axes(np.array([[0, 0, -2.0, 9], [1.5, 0, 0, 0], [0, 1, 0, 0]]))
    [1, 2, 0]
    """
    cosines = np.abs(affine[:, :3] / np.linalg.norm(affine[:, :3], axis=0))
    worlds = [-1, -1, -1]
    for _ in range(3):
        world, axis = np.unravel_index(int(np.argmax(cosines)), cosines.shape)
        worlds[int(axis)] = int(world)
        cosines[world], cosines[:, axis] = -1, -1
    return worlds


def _check_spacing(
    folder: Path, affine: NDArray[np.float64], preparation: Mapping[str, Any]
) -> None:
    expected = preparation["resample"]
    if expected is None:
        return
    sizes = np.linalg.norm(affine[:, :3], axis=0)
    if preparation["orientation"] is not None:
        sizes = sizes[[nearest_axes(affine).index(w) for w in _worlds(preparation["orientation"])]]
    if not np.allclose(sizes, expected, rtol=SPACING_TOLERANCE):
        got = " x ".join(f"{mm:.3g}" for mm in sizes)
        needed = " x ".join(f"{mm:g}" for mm in np.broadcast_to(expected, 3))
        raise _bad_case(folder, f"voxels of {got} mm", f"{needed} mm, resampled before")


def _worlds(letters: str) -> list[int]:
    return [next(w for w, s in enumerate(("LR", "PA", "IS")) if x in s) for x in letters]


def with_holes(inside: Mask) -> Mask:
    """The mask and the holes that it encloses: all that is not reached from the border.

    >>> ring = np.ones((3, 3, 3), bool)
    >>> ring[1, 1, 1] = False
    >>> int(with_holes(ring).sum())
    27
    """
    free = np.pad(~inside, 1, constant_values=True)
    reached = np.zeros_like(free)
    reached[0] = True
    count = 0
    while (wider := int(reached.sum())) > count:
        count = wider
        for axis in range(3):
            planes, gates = np.moveaxis(reached, axis, 0), np.moveaxis(free, axis, 0)
            for n in range(1, len(planes)):
                planes[n] |= planes[n - 1] & gates[n]
            for n in range(len(planes) - 2, -1, -1):
                planes[n] |= planes[n + 1] & gates[n]
    return np.asarray(~reached[1:-1, 1:-1, 1:-1])


def normalised(image: Floats, roi: Mask | None, settings: Any, channel: str) -> Floats:
    """The z-score of a channel over the voxels that ``settings`` choose, or the image as it is."""
    if settings == "none" or (
        settings["channels"] is not None and channel not in settings["channels"]
    ):
        return image
    inside = image[roi] if roi is not None and roi.any() else image.ravel()
    values = inside[_counting(inside, image, settings)]
    if values.size == 0 or values.min() == values.max():
        values = inside
    if values.min() == values.max():
        return np.zeros_like(image)
    mean = values.mean(dtype=np.float64)
    deviation = math.sqrt(np.square(values - mean, dtype=np.float64).mean())
    return np.asarray((image - mean) / deviation, np.float32)


def _counting(inside: Floats, image: Floats, settings: Mapping[str, Any]) -> Mask:
    """Voxels that mean and deviation are taken of; every comparison is strict."""
    passes = np.ones(inside.shape, bool)
    if settings["cutoff_percentiles"] is not None:
        low, high = np.percentile(inside, settings["cutoff_percentiles"])
        passes &= (inside > low) & (inside < high)
    if settings["cutoff_deviations"] is not None:
        below, above = settings["cutoff_deviations"]
        mean = inside.mean(dtype=np.float64)
        deviation = math.sqrt(np.square(inside - mean, dtype=np.float64).mean())
        passes &= (inside > mean - below * deviation) & (inside < mean + above * deviation)
    if settings["above_mean"]:
        passes &= (inside > image.mean(dtype=np.float64)) & (inside < image.max())
    return passes


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
        parts = {part: list(stored[part]) for part in PARTS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _bad_split(file, "a file that cannot be read") from error
    if stored["seed"] != seed:
        raise _bad_split(file, f"--seed {seed} and a split with seed {stored['seed']}")
    if sorted(name for part in parts.values() for name in part) != sorted(names):
        raise _bad_split(file, "other cases than those that were split")
    return parts


def _bad_split(file: Path, got: str) -> DeviceError:
    fix = f"go on as the run began, or remove {file} to split anew"
    return DeviceError("device-split", got, "the split of the first run", fix)


# Segments


def segment_inputs(case: Case, start: NDArray[Any], plan: Mapping[str, Any]) -> dict[str, Floats]:
    """``(C, X, Y, Z)`` for each pathway: the voxels that it reads for the segment at ``start``.

    Args:
        case: That is read.
        start: First voxel of the segment along X, Y, Z.
        plan: Of one of the graphs, from the manifest.
    """
    low = np.array(plan["margin"][0])
    blocks = {}
    for pathway in plan["pathways"]:
        step = np.array(pathway["step"])
        first = start + low + pathway["start"]  # counted from the corner of the padded image
        if pathway["restarts"]:
            first = first + np.where(first < 0, -first % step, 0)
        axes = [
            a + s * np.arange(n)
            for a, s, n in zip(first - low, step, pathway["count"], strict=True)
        ]
        blocks[pathway["input"]] = voxels_at(case.channels, axes, plan["mirrored"])
    return blocks


def voxels_at(
    image: Floats, axes: Sequence[NDArray[np.int64]], margin: Sequence[Sequence[int]]
) -> Floats:
    """``(C, X, Y, Z)`` voxels at the places of a grid, also beyond the border of the image.

    As far as ``margin`` voxels before and after the image, it is mirrored; further out, a channel
    has the mean of the eight corners of the image mirrored that far.
    """
    x, y, z = (mirrored(places, n) for places, n in zip(axes, image.shape[1:], strict=True))
    block = image[:, x[:, None, None], y[:, None], z]
    beyond = [
        (places < -low) | (places >= n + high)
        for places, n, low, high in zip(axes, image.shape[1:], *margin, strict=True)
    ]
    if any(b.any() for b in beyond):
        ends = [
            mirrored(np.array([-low, n - 1 + high]), n)
            for n, low, high in zip(image.shape[1:], *margin, strict=True)
        ]
        corners = [image[:, i, j, k] for i, j, k in product(*ends)]
        outside = np.asarray(np.mean(corners, axis=0, dtype=np.float64), np.float32)
        out_x, out_y, out_z = beyond
        block[:, out_x[:, None, None] | out_y[:, None] | out_z] = outside[:, None]
    return block


def mirrored(places: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Voxels of an axis that is mirrored for ever, its ends not repeated.

    >>> mirrored(np.array([-2, -1, 0, 1, 2, 3, 4]), 3)
    array([2, 1, 0, 1, 2, 1, 0])
    """
    if size == 1:
        return np.zeros_like(places)
    inside = places % (2 * (size - 1))
    return np.minimum(inside, 2 * (size - 1) - inside)


def segment_labels(case: Case, start: NDArray[Any], plan: Mapping[str, Any]) -> Labels:
    """``(X, Y, Z)`` labels of what is predicted from the segment at ``start``; -1 outside."""
    first = start + plan["margin"][0]
    axes = [a + np.arange(n) for a, n in zip(first, plan["prediction"], strict=True)]
    shape = case.labels.shape
    x, y, z = (p.clip(0, n - 1) for p, n in zip(axes, shape, strict=True))
    block = case.labels[x[:, None, None], y[:, None], z]
    out_x, out_y, out_z = ((p < 0) | (p >= n) for p, n in zip(axes, shape, strict=True))
    block[out_x[:, None, None] | out_y[:, None] | out_z] = -1
    return np.asarray(block, np.int16)


@dataclass(frozen=True)
class Candidates:
    """Voxels of a case that segments may be centred on, by flat index."""

    foreground: NDArray[np.int64]
    background: NDArray[np.int64]


def candidates(case: Case, plan: Mapping[str, Any]) -> Candidates:
    """Labelled voxels in the region of interest whose prediction lies inside the image."""
    allowed = case.labels >= 0
    if case.roi is not None:
        allowed &= case.roi
    for axis, (n, s, p) in enumerate(
        zip(case.labels.shape, plan["segment"], plan["prediction"], strict=True)
    ):
        start = np.arange(n) - (s - 1) // 2 + (s - p) // 2
        fits = (start >= 0) & (start + p <= n) if p <= n else np.arange(n) == n // 2
        allowed &= fits.reshape([-1 if a == axis else 1 for a in range(3)])
    is_object = case.labels > 0
    return Candidates(np.flatnonzero(allowed & is_object), np.flatnonzero(allowed & ~is_object))


class Sampler:
    """Random segments of cases, half of them centred on foreground.

    Args:
        cases: For training.
        manifest: Of the network.
        seed: Of the segments.
    """

    def __init__(self, cases: Sequence[Case], manifest: Mapping[str, Any], seed: int) -> None:
        self._plan, self._masks, self._seed = manifest["train"], manifest["masks"], seed
        pairs = [(case, candidates(case, self._plan)) for case in cases]
        self._pairs = [p for p in pairs if p[1].foreground.size + p[1].background.size]
        if not self._pairs:
            raise DeviceError(
                "device-case", "no labelled voxel in the first part", "some", "add cases"
            )

    def batch(self, number: int) -> dict[str, NDArray[Any]]:
        """Inputs, labels and masks of a batch, which depend on its number only."""
        samples = [self._sample(number, n) for n in range(self._plan["batch"])]
        arrays: dict[str, NDArray[Any]] = {
            name: np.stack([sample[name] for sample in samples]) for name in samples[0]
        }
        rng = np.random.default_rng([self._seed, MASKS, number])
        for name, mask in self._masks.items():
            arrays[name] = (rng.random(mask["shape"]) < mask["share"]).astype(np.float32)
        return arrays

    def _sample(self, batch: int, number: int) -> dict[str, NDArray[Any]]:
        rng = np.random.default_rng([self._seed, SEGMENTS, batch, number])
        case, voxels = self._pairs[int(rng.integers(len(self._pairs)))]
        preferred = voxels.foreground if rng.random() < 0.5 else voxels.background
        pool = (
            preferred if preferred.size else np.concatenate([voxels.foreground, voxels.background])
        )
        flat = int(pool[int(rng.integers(pool.size))])
        centre = np.array(np.unravel_index(flat, case.labels.shape))
        start = centre - (np.array(self._plan["segment"]) - 1) // 2
        labels = segment_labels(case, start, self._plan).astype(np.int64)
        return {**segment_inputs(case, start, self._plan), "y": labels}


# Steps


@dataclass(frozen=True)
class Rates:
    """Settings of a step."""

    learning_rate: float
    momentum: float
    decay: float


STILL = Rates(learning_rate=0.0, momentum=0.0, decay=0.0)


def training_step(
    network: Network, state: State, batches: Sequence[Mapping[str, NDArray[Any]]], rates: Rates
) -> tuple[float, State]:
    """Loss and new state of a step; several batches are one large one, but for batch norm.

    A step from velocity 0 without momentum and decay leaves the gradient as the new velocity.
    """
    if len(batches) == 1:
        return _run_step(network, state, batches[0], rates)
    learnt = network.manifest["trainable"]
    losses, sums, moving = [], {name: np.zeros_like(state[name]) for name in learnt}, state
    for batch in batches:
        loss, result = _run_step(network, _at_rest(state, moving, learnt), batch, STILL)
        losses.append(loss)
        sums = {name: total + result[f"velocity.{name}"] for name, total in sums.items()}
        moving = result
    new = _at_rest(state, moving, learnt)
    for name, total in sums.items():
        slope = total / np.float32(len(batches)) + np.float32(rates.decay) * state[name]
        velocity = np.float32(rates.momentum) * state[f"velocity.{name}"] + slope
        new |= {
            name: state[name] - np.float32(rates.learning_rate) * velocity,
            f"velocity.{name}": velocity,
        }
    return float(np.mean(losses)), new


def _at_rest(state: State, moving: State, learnt: Sequence[str]) -> State:
    """The statistics of ``moving`` with the weights of ``state``, whose velocities are 0."""
    weights = {name: state[name] for name in learnt}
    return {**moving, **weights, **{f"velocity.{n}": np.zeros_like(w) for n, w in weights.items()}}


def _run_step(
    network: Network, state: State, batch: Mapping[str, NDArray[Any]], rates: Rates
) -> tuple[float, State]:
    settings = {name: np.array(value, np.float32) for name, value in vars(rates).items()}
    feeds = {**state, **batch, **settings}
    names = [entry.name for entry in network.train.get_outputs()]
    results = network.train.run(names, _inputs_of(network.train, feeds))
    outputs = dict(zip(names, results, strict=True))
    changed = {n.removeprefix("new."): value for n, value in outputs.items() if n != "loss"}
    return float(outputs["loss"]), {**state, **changed}


def _inputs_of(session: Any, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Inputs of a graph among ``feeds``, those with a default included."""
    entries = (*session.get_inputs(), *session.get_overridable_initializers())
    return {entry.name: feeds[entry.name] for entry in entries if entry.name in feeds}


# Scores


def segmentation(network: Network, state: State, case: Case) -> Labels:
    """``(X, Y, Z)``: the most probable class of every voxel; background outside the ROI."""
    plan = network.manifest["infer"]
    size, low = np.array(plan["prediction"]), np.array(plan["margin"][0])
    stride = np.maximum(size // plan["phase"], 1) * plan["phase"]
    shape = case.labels.shape
    result = np.zeros(shape, np.int16)
    for corner in product(*(range(0, n, int(s)) for n, s in zip(shape, stride, strict=True))):
        box = tuple(
            slice(a, min(a + int(s), n)) for a, s, n in zip(corner, size, shape, strict=True)
        )
        if case.roi is not None and not case.roi[box].any():
            continue
        inputs = segment_inputs(case, np.array(corner) - low, plan)
        feeds = {**state, **{name: block[None] for name, block in inputs.items()}}
        (probabilities,) = network.infer.run(None, _inputs_of(network.infer, feeds))
        labels = probabilities[0].argmax(0).astype(np.int16)
        result[box] = labels[tuple(slice(0, s.stop - s.start) for s in box)]
    if case.roi is not None:
        result[~case.roi] = 0
    return result


@dataclass(frozen=True)
class Scores:
    """Dice of every foreground class over all voxels of some cases; None where it is undefined."""

    by_class: Mapping[str, float | None]

    @property
    def mean(self) -> float:
        """Of the classes that occur; not a number if none does."""
        values = [value for value in self.by_class.values() if value is not None]
        return float(np.mean(values)) if values else math.nan

    def __str__(self) -> str:
        words = (f"{n} {'-' if v is None else f'{v:.4f}'}" for n, v in self.by_class.items())
        return ", ".join(words)


def scores(network: Network, state: State, cases: Cases, names: Sequence[str]) -> Scores:
    """Scores of the cases of these names, which are read one after the other."""
    classes = len(network.classes)
    counts = np.zeros((3, classes), np.int64)
    for name in names:
        case = cases.read(name)
        labelled = case.labels >= 0
        predicted, true = segmentation(network, state, case)[labelled], case.labels[labelled]
        for row, values in enumerate((predicted, true, true[predicted == true])):
            counts[row] += np.bincount(values, minlength=classes)
    sizes, overlaps = counts[0] + counts[1], counts[2]
    dice = [
        2 * int(n) / int(size) if size else None for n, size in zip(overlaps, sizes, strict=True)
    ]
    return Scores(dict(zip(network.classes[1:], dice[1:], strict=True)))


# The run


@dataclass
class Run:
    """A run in a folder: the state, and what is written of it.

    Attributes:
        folder: That is locked.
        network: That learns.
        state: After the last whole step.
        stored: Step of the last state on the disk.
    """

    folder: Path
    network: Network
    state: State
    stored: int

    @property
    def step(self) -> int:
        """Steps that have been made."""
        return int(self.state["step"])

    def save(self) -> None:
        """Write the state, unless it is there already."""
        if self.step != self.stored:
            write_state(self.folder / f"state_{self.step:06d}.npz", self.state)
            self.stored = self.step

    def advance(self, loss: float, state: State) -> None:
        """Take over the result of a step."""
        lowest = min(loss, float(self.state["lowest_loss"]))
        self.state = state | {"step": np.array(self.step + 1), "lowest_loss": np.array(lowest)}

    def score(self, cases: Cases, names: Sequence[str]) -> float:
        """The mean Dice now, which may be the best so far; the network's state stays as it is."""
        dice = scores(self.network, self.state, cases, names).mean
        if dice > self.state["best_dice"]:
            self.state = self.state | {"best_dice": np.array(dice)}
        return dice


def train(
    run: Run, options: argparse.Namespace, cases: Cases, parts: Mapping[str, Sequence[str]]
) -> None:
    """Make the steps that are left, with scores, states and a table; then score the third part."""
    if run.step < options.steps:
        first = [cases.read(name) for name in parts["first"]]
        sampler = Sampler(first, run.network.manifest, options.seed)
        with Table(run.folder / "progress.csv", run.step) as table:
            for loss in _steps(run, options, sampler):
                dice = math.nan
                if options.eval_every and run.step % options.eval_every == 0:
                    dice = run.score(cases, parts["second"])
                    best = float(run.state["best_dice"])
                    print(f"Dice on the second part = {dice:.6f} max Dice = {best:.6f}", flush=True)
                table.add(run.step, loss, float(run.state["lowest_loss"]), dice)
                if options.save_every and run.step % options.save_every == 0:
                    run.save()
                if options.stop_at is not None and dice > options.stop_at:
                    print(f"stopped: Dice {dice:.6f} is above {options.stop_at:g}", flush=True)
                    break
    run.save()
    result = scores(run.network, run.state, cases, parts["third"])
    print(f"Dice on the third part = {result.mean:.6f} ({result})", flush=True)


def _steps(run: Run, options: argparse.Namespace, sampler: Sampler) -> Iterator[float]:
    """The loss of every step that is left, when it has been made."""
    rates = Rates(options.learning_rate, options.momentum, options.decay)
    weights = _class_weights(options, run.network)
    while run.step < options.steps:
        first = run.step * options.accumulate
        batches = [sampler.batch(first + n) | weights for n in range(options.accumulate)]
        before = run.state
        loss, state = training_step(run.network, run.state, batches, rates)
        _check_finite(loss, state, run)
        run.advance(loss, state)
        print(f"{run.step}: Loss is {loss:.6g} [min={run.state['lowest_loss']:.6g}]", flush=True)
        if options.verbose:
            print_changes(before, run.state)
        yield loss


def _class_weights(options: argparse.Namespace, network: Network) -> dict[str, NDArray[Any]]:
    classes = len(network.classes)
    weights = options.class_weights or [1.0] * classes
    if len(weights) != classes:
        raise DeviceError(
            "device-command",
            f"{len(weights)} --class-weights",
            f"{classes}: {', '.join(network.classes)}",
            "give one for every class",
        )
    return {"class_weights": np.array(weights, np.float32)}


def _check_finite(loss: float, state: State, run: Run) -> None:
    tensors = (v for n, v in state.items() if n not in COUNTERS)
    if math.isfinite(loss) and all(np.isfinite(value).all() for value in tensors):
        return
    raise DeviceError(
        "loss-not-finite",
        f"a loss of {loss} or weights that are not finite after step {run.step + 1}",
        "finite values",
        f"lower --learning-rate; the state of step {run.step} is kept",
        exit_code=4,
    )


def print_changes(before: State, after: State) -> None:
    """Minimum, mean and maximum of every tensor that a step has changed."""
    for name, value in after.items():
        if name not in COUNTERS and not np.array_equal(value, before[name]):
            spread = f"min {value.min():.4g} mean {value.mean():.4g} max {value.max():.4g}"
            print(f"  {name}: {spread}")


class Table:
    """The file of all steps, a row each, written as the steps are made.

    Args:
        file: Rows after ``step`` belong to a run that went another way; they are taken out.
        step: The last one that has been made.
    """

    def __init__(self, file: Path, step: int) -> None:
        rows = file.read_text("utf-8", "replace").splitlines()[1:] if file.exists() else []
        whole = [row for row in rows if re.fullmatch(r"\d+,[^,]*,[^,]*,[^,]*", row)]
        earlier = [row for row in whole if int(row.split(",")[0]) <= step]
        with replacing(file) as temporary:
            temporary.write_text("\n".join([COLUMNS, *earlier]) + "\n", "utf-8")
        self._file = file
        self._stream = file.open("a", encoding="utf-8")

    def add(self, step: int, loss: float, lowest: float, dice: float) -> None:
        """Add the row of a step; the Dice is empty where it was not computed."""
        score = "" if math.isnan(dice) else f"{dice:.9g}"
        try:
            self._stream.write(f"{step},{loss:.9g},{lowest:.9g},{score}\n")
            self._stream.flush()
        except OSError as error:
            raise _not_writable(error, self._file) from error

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._stream.close()


def run_command(options: argparse.Namespace) -> None:
    """Do what the options say.

    Raises:
        DeviceError: Data, folder, state or options are wrong, or a file cannot be written.
    """
    network = open_network(options.folder, threads=options.threads)
    names = case_names(options.data)
    cases = Cases(options.data, network.manifest, options.roi)
    file = latest_state(options.folder) if options.state is None else options.state
    if options.score:
        state = read_state(file, network.manifest)
        result = scores(network, state, cases, names)
        print(f"Dice on all {len(names)} cases = {result.mean:.6f} ({result})")
        return
    with locked(options.folder):
        parts = stored_split(options.folder, names, options.seed)
        state = read_state(file, network.manifest)
        is_here = file.parent.resolve() == options.folder.resolve()
        run = Run(options.folder, network, state, stored=int(state["step"]) if is_here else -1)
        sizes = ", ".join(f"{len(cases)} in the {part}" for part, cases in parts.items())
        print(f"from step {run.step} ({file.name}); cases: {sizes} part", flush=True)
        _set_aside(options.folder, run.step)
        try:
            train(run, options, cases, parts)
        finally:
            run.save()


def _set_aside(folder: Path, step: int) -> None:
    """States after ``step`` belong to a run that went another way, and nothing continues there."""
    for file in sorted(folder.iterdir()):
        match = STATE_NAME.fullmatch(file.name)
        if match and int(match[1]) > step:
            file.replace(folder / f"aside_{file.name}")
            print(f"{file.name} is set aside as aside_{file.name}")
        if re.fullmatch(r"\.\d+\.partial\..*", file.name):
            file.unlink(missing_ok=True)  # of a run that was killed


def main(words: Sequence[str] | None = None) -> int:
    """Train as the words of a command say; the exit code."""
    try:
        run_command(parser().parse_args(words))
    except DeviceError as error:
        print(f"ERROR {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the last whole step is saved", file=sys.stderr)
        return 128 + signal.SIGINT
    except MemoryError:
        print(
            "ERROR [out-of-memory] got too little memory; expected room for the cases of the "
            "first part; fix: use fewer cases, or export with smaller segments",
            file=sys.stderr,
        )
        return 137
    return 0


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(main())
