"""The state of a process that belongs to its owner, and not to a library that he calls."""

import ctypes
import os
import random
import signal
import threading
from pathlib import Path

import numpy as np
import torch

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE, signal.SIGHUP)
# Variables that pytest sets, and packages at their first import: torch, TensorBoard's writer, and
# what nilearn brings.
OF_OTHERS = (
    "PYTEST_CURRENT_TEST",
    "TORCHINDUCTOR_CACHE_DIR",
    "CRC32C_SW_MODE",
    "KMP_INIT_AT_FORK",
    "KMP_DUPLICATE_LIB_OK",
)
BLOCK = 1 << 24  # bytes, as large as a feature map


def process_state():
    """What a test can look at in microseconds, by name."""
    environment = {name: text for name, text in os.environ.items() if name not in OF_OTHERS}
    return {
        "Python's generator": random.getstate(),
        "numpy's generator": _numpy_state(),
        "torch's generator": torch.get_rng_state().numpy().tobytes(),
        "torch's threads": torch.get_num_threads(),
        "torch's threads in new threads": in_new_thread(torch.get_num_threads),
        "torch's default type": torch.get_default_dtype(),
        "TF32 in convolutions": torch.backends.cudnn.allow_tf32,
        "TF32 in products": torch.backends.cuda.matmul.allow_tf32,
        "gradients": torch.is_grad_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        **{f"handler of {number.name}": signal.getsignal(number) for number in SIGNALS},
        "environment": environment,
    }


def changed(before, after):
    """Names of what is not as it was."""
    return [name for name, value in before.items() if after[name] != value]


def in_new_thread(function):
    """The result of ``function`` in a thread that is begun for it."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def mapped_files(folder):
    """Files below ``folder`` that this process has in its memory."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    paths = {line.split(maxsplit=5)[5] for line in lines if line.count("/")}
    return sorted(path for path in paths if path.startswith(str(folder)))


def open_files(folder):
    """Files below ``folder`` that this process has open."""
    targets = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            targets.append(str(descriptor.readlink()))
        except OSError:  # the one that lists them
            continue
    return sorted(target for target in targets if target.startswith(str(folder)))


class _AllocatorStatistics(ctypes.Structure):
    """``struct mallinfo2`` of the C library, of which the number of mapped blocks is read."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks")),
        ("rest", ctypes.c_size_t * 6),
    ]


def large_blocks_are_mapped():
    """True if the C library still gives large blocks maps of their own, as it does by default."""
    library = ctypes.CDLL(None)
    library.mallinfo2.restype = _AllocatorStatistics
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    before = library.mallinfo2().hblks
    block = library.malloc(4 * BLOCK)
    after = library.mallinfo2().hblks
    library.free(block)
    return after == before + 1


def _numpy_state():
    name, keys, *rest = np.random.get_state()
    return (name, keys.tobytes(), *rest)
