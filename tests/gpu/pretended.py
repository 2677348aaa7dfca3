"""A device that stands for a GPU: its tensors keep their values in the memory of the processor.

torch has a slot for devices of other makers (PrivateUse1), which is filled from Python here:
modules, autograd, optimisers and threads take ``pretended:0`` for an accelerator, and every
operation that it is asked for comes by. So the path that GPUs take is computed with true values
where there is none, and it shows

* tensors of two devices in one operation, and arrays asked of a tensor on the device: errors, as
  CUDA has them;
* launches: kernels that CUDA starts at least;
* waits: places where the host waits until the device has computed (``.item()``, ``.cpu()``, …);
* uploads: copies from the host.

Streams, pinned memory, and what single kernels of CUDA support are not seen. The functions of torch
that register the device are private ones of torch 2.13.
"""

from __future__ import annotations

import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import return_and_correct_aliasing

NAME = "pretended"
aten = torch.ops.aten

BETWEEN_DEVICES = {aten._to_copy.default, aten.copy_.default, aten.set_.source_Tensor}
WAITING = {
    aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default,
    aten.equal.default, aten.is_nonzero.default, aten.bincount.default, aten._unique2.default,
}  # fmt: skip
WITHOUT_KERNEL = {
    aten.detach.default, aten.alias.default, aten.lift_fresh.default, aten.empty.memory_format,
    aten.empty_like.default, aten.empty_strided.default, aten.new_empty.default,
    aten.new_empty_strided.default, aten._local_scalar_dense.default,
}  # fmt: skip
TENSORS_PER_LAUNCH = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}  # by lists, as in MultiTensorApply.cuh
CHUNK, CHUNKS_PER_LAUNCH = 1 << 16, 320


class DeviceMismatch(RuntimeError):
    """Tensors of two devices in one operation."""


@dataclass
class Record:
    """Everything that the device was asked for.

    Attributes:
        launches: Of kernels, by operation.
        waits: Operation and place of every wait.
        uploads: Operation and place of every copy from the host, and whether it can overlap.
        multiply_adds: Of convolutions and products.
        bytes: Read and written by all operations.
    """

    launches: Counter[str] = field(default_factory=Counter)
    waits: list[tuple[str, str]] = field(default_factory=list)
    uploads: list[tuple[str, str, bool]] = field(default_factory=list)
    multiply_adds: float = 0.0
    bytes: float = 0.0

    @property
    def launched(self) -> int:
        """Launches of all operations."""
        return sum(self.launches.values())

    def text(self, operations: int = 8) -> str:
        """The record in a line, and the operations that launch most, for messages of tests."""
        most = ", ".join(f"{name} {count}" for name, count in self.launches.most_common(operations))
        waits = ", ".join(f"{name} in {place}" for name, place in self.waits[:operations])
        return f"{self.launched} launches ({most}); {len(self.waits)} waits ({waits})"


@dataclass
class _State:
    """Settings of the device.

    Attributes:
        record: The one that is open.
        host: ``cpu``, or ``meta`` for shapes without values.
        unknown: Types of values that the device has not.
        largest: Bytes of the largest tensor for which it has memory; None for any.
    """

    record: Record = field(default_factory=Record)
    host: str = "cpu"
    unknown: frozenset[torch.dtype] = frozenset()
    largest: int | None = None


_state = _State()
_lock = threading.Lock()


@contextmanager
def recorded() -> Iterator[Record]:
    """A record of all that the device is asked for while it is open."""
    before, _state.record = _state.record, Record()
    try:
        yield _state.record
    finally:
        _state.record = before


@contextmanager
def shapes_only() -> Iterator[None]:
    """While open, new tensors of the device have shapes but no values; what is read back is 1."""
    _state.host = "meta"
    try:
        yield
    finally:
        _state.host = "cpu"


@contextmanager
def without(*types: torch.dtype) -> Iterator[None]:
    """While open, the device has no values of these types."""
    _state.unknown = frozenset(types)
    try:
        yield
    finally:
        _state.unknown = frozenset()


@contextmanager
def with_memory(largest: int) -> Iterator[None]:
    """While open, tensors of more than so many bytes find no memory."""
    _state.largest = largest
    try:
        yield
    finally:
        _state.largest = None


class OnDevice(Tensor):
    """A tensor of the device.

    Attributes:
        host: Its values, or its shape alone.
    """

    host: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, host: Tensor) -> OnDevice:
        tensor = Tensor._make_wrapper_subclass(
            cls, host.shape, strides=host.stride(), storage_offset=host.storage_offset(),
            dtype=host.dtype, layout=host.layout, device=torch.device(NAME, 0),
        )  # fmt: skip
        tensor.host = host
        return tensor

    def __repr__(self) -> str:
        return f"OnDevice({self.host!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            with torch.no_grad():
                copied: Tensor = OnDevice(self.host.clone(memory_format=torch.preserve_format))
            if isinstance(self, torch.nn.Parameter) or getattr(self, "_is_param", False):
                copied = torch.nn.Parameter(copied, self.requires_grad)
            memo[id(self)] = copied.requires_grad_(self.requires_grad)
        return memo[id(self)]

    def numpy(self, *_words: Any, **_options: Any) -> Any:
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class _Backend(ModuleType):
    """The functions that torch asks of every device: there is one, which draws as the host does."""

    def __init__(self) -> None:
        super().__init__(f"torch.{NAME}")
        self.is_available = self.is_initialized = lambda: True
        self.device_count, self.current_device = lambda: 1, lambda: 0
        self._is_in_bad_fork = lambda: False
        self.manual_seed_all = lambda _seed: None
        self.get_rng_state = lambda _device=None: torch.zeros(0, dtype=torch.uint8)
        self.set_rng_state = lambda _state, _device=None: None
        self.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]


def set_up() -> torch.device:
    """Register the device, once in a process; return it."""
    if not hasattr(torch, NAME):
        backend_registration._setup_privateuseone_for_python_backend(NAME, _Backend())
        library = torch.library.Library("aten", "IMPL")
        for name, function in {
            "empty.memory_format": _empty,
            "empty_strided": _empty_strided,
            "arange.start_step": _arange,
            "_copy_from": lambda source, target, wait=False: _computed(
                aten.copy_.default, (target, source, wait), {}
            ),
        }.items():
            library.impl(name, function, "PrivateUse1")
        set_up.library = library  # type: ignore[attr-defined]  # lives as long as the process
    return torch.device(NAME, 0)


def _empty(size: Any, *, dtype: Any = None, memory_format: Any = None, **_options: Any) -> Tensor:
    layout = memory_format or torch.contiguous_format
    return _made(torch.empty(size, dtype=dtype, device=_state.host, memory_format=layout))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_options: Any) -> Tensor:
    return _made(torch.empty_strided(size, stride, dtype=dtype, device=_state.host))


def _arange(start: Any, end: Any, step: Any = 1, *, dtype: Any = None, **_options: Any) -> Tensor:
    with _lock:
        _state.record.launches["arange"] += 1
    return _made(torch.arange(start, end, step, dtype=dtype, device=_state.host))


def _made(host: Tensor) -> OnDevice:
    if host.dtype in _state.unknown:
        raise TypeError(f"no {host.dtype} on this device, in {_place()}")
    if _state.largest is not None and host.nbytes > _state.largest:
        raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {host.nbytes} bytes")
    return OnDevice(host)


def _place() -> str:
    """The innermost line of the package that led here."""
    for frame in reversed(traceback.extract_stack()):
        if "/deepseg/" in frame.filename:
            return f"{frame.filename.rpartition('/deepseg/')[2]}:{frame.lineno} {frame.name}"
    return "torch"


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The result of an operation on the device, with all that CUDA would say to it."""
    tensors = [*_tensors(args), *_tensors(kwargs.values())]
    actual = [t for t in tensors if isinstance(t, OnDevice)]
    foreign = [t for t in tensors if not isinstance(t, OnDevice) and t.dim() > 0]
    if actual and foreign and func not in BETWEEN_DEVICES:
        raise DeviceMismatch(
            f"{func} of {NAME}:0 and {foreign[0].device} {tuple(foreign[0].shape)}, in {_place()}"
        )
    target = kwargs.get("device")
    leaves = target is not None and torch.device(target).type != NAME
    host_args = [_mapped(_host, value) for value in args]
    host_kwargs = {key: _mapped(_host, value) for key, value in kwargs.items()}
    host_kwargs.pop("pin_memory", None)
    if target is not None:
        host_kwargs["device"] = torch.device(_state.host)
    if func is aten._local_scalar_dense.default and host_args[0].is_meta:
        result: Any = True if host_args[0].dtype == torch.bool else 1
    else:
        result = OF_CUDA.get(func, func)(*host_args, **host_kwargs)
    _note(func, args, kwargs, host_args, result, leaves=leaves)
    if leaves:
        return torch.ones(result.shape, dtype=result.dtype) if result.is_meta else result
    if func is aten.copy_.default and not isinstance(args[0], OnDevice):
        return args[0]
    # A view of an ordinary tensor is an ordinary one in inference mode too.
    is_ordinary = _is_view(func) and actual and not actual[0].is_inference()
    infers = torch.is_inference_mode_enabled()
    make = OnDevice if _is_view(func) or _writes(func) else _made
    with torch.inference_mode(False) if infers and is_ordinary else nullcontext():
        result = _mapped(lambda t: make(t) if isinstance(t, Tensor) else t, result)
    if not _is_view(func) and not _writes(func):
        return result
    return return_and_correct_aliasing(func, args, kwargs, result)


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)([_mapped(function, entry) for entry in value])
    return function(value)


def _host(value: Any) -> Any:
    if isinstance(value, OnDevice):
        return value.host
    if _state.host == "meta" and isinstance(value, Tensor) and value.dim() > 0:
        return value.to("meta")
    return value


def _note(
    func: Any, args: Any, kwargs: dict[str, Any], host_args: Any, result: Any, *, leaves: bool
) -> None:
    name = _name(func)
    waits, uploads, launches = func in WAITING or leaves, False, 0
    if func in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default):
        waits |= any(i is not None and i.dtype == torch.bool for i in args[1])
    if func is aten.copy_.default:
        waits |= isinstance(args[1], OnDevice) and not isinstance(args[0], OnDevice)
        uploads = isinstance(args[0], OnDevice) and not isinstance(args[1], OnDevice)
    if func is aten._to_copy.default:
        uploads = not isinstance(args[0], OnDevice)
    if not uploads and not leaves:
        launches = _launches(func, host_args)
    with _lock:
        record = _state.record
        if launches:
            record.launches[name] += launches
            record.bytes += _bytes(host_args) + _bytes(result)
            record.multiply_adds += _multiply_adds(func, host_args, result)
        if waits:
            record.waits.append((name, _place()))
        if uploads:
            overlaps = bool(kwargs.get("non_blocking") or (len(args) > 2 and args[2] is True))
            record.uploads.append((name, _place(), overlaps))


def _launches(func: Any, args: Any) -> int:
    """Kernels that CUDA starts for an operation, at least."""
    name = _name(func)
    if func in WITHOUT_KERNEL or _is_view(func):
        return 0
    if "_foreach_" in name:
        lists = [a for a in args if isinstance(a, (list, tuple)) and isinstance(a[0], Tensor)]
        depth = len(lists) + (not func._schema.name.endswith("_"))
        chunks = sum(-(-t.numel() // CHUNK) for t in lists[0])
        return max(
            -(-len(lists[0]) // TENSORS_PER_LAUNCH[min(5, depth)]), -(-chunks // CHUNKS_PER_LAUNCH)
        )
    if func is aten.convolution_backward.default:
        return sum(map(bool, args[-1]))
    if func in (aten.native_batch_norm.default, aten.native_batch_norm_backward.default):
        return 2 if "backward" in name or args[5] else 1
    if func in (aten.slice_backward.default, aten.select_backward.default):
        return 2  # zeros, and a copy into them
    return 1


@cache
def _name(func: Any) -> str:
    return str(func).removeprefix("aten.").removesuffix(".default")


@cache
def _is_view(func: Any) -> bool:
    returns = func._schema.returns
    return any(r.alias_info is not None and not r.alias_info.is_write for r in returns)


@cache
def _writes(func: Any) -> bool:
    return any(r.alias_info is not None and r.alias_info.is_write for r in func._schema.returns)


def _bytes(values: Any) -> int:
    values = [values] if isinstance(values, Tensor) else values
    return sum(t.nbytes for t in _tensors(values if isinstance(values, (list, tuple)) else ()))


def _multiply_adds(func: Any, args: Any, result: Any) -> float:
    if func in (aten.convolution.default, aten.conv3d.default):
        return float(result.numel() * args[1][0].numel())
    if func is aten.convolution_backward.default:
        return float(args[0].numel() * args[2][0].numel() * sum(map(bool, args[-1][:2])))
    if func in (aten.mm.default, aten.addmm.default):
        a, b = args[-2:]
        return float(a.shape[0] * a.shape[1] * b.shape[1])
    return 0.0


# Kernels of CUDA that the processor lacks: those of torch's SyncBatchNorm.


def _per_map(x: Tensor) -> tuple[tuple[int, ...], list[int]]:
    """Axes to sum over, and the shape in which values of each map meet ``x``."""
    axes = tuple(axis for axis in range(x.ndim) if axis != 1)
    return axes, [1, -1, *[1] * (x.ndim - 2)]


def _batch_norm_stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    axes, _ = _per_map(x)
    dtype = torch.promote_types(x.dtype, torch.float32)
    variance, mean = torch.var_mean(x.to(dtype), axes, correction=0)
    return mean, (variance + eps).rsqrt()


def _gathered_stats(
    _x: Tensor, means: Tensor, invstds: Tensor, running_mean: Tensor | None,
    running_var: Tensor | None, momentum: float, eps: float, counts: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    assert running_mean is None
    assert running_var is None
    shares = (counts / counts.sum()).view(-1, 1)
    mean = (shares * means).sum(0)
    variance = (shares * (invstds**-2 - eps + (means - mean) ** 2)).sum(0)
    return mean, (variance + eps).rsqrt()


def _normalised(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, invstd: Tensor, _eps: float
) -> Tensor:
    _, shape = _per_map(x)
    y = (x.to(mean.dtype) - mean.view(shape)) * (invstd * weight).view(shape) + bias.view(shape)
    return y.to(x.dtype)


def _backward_reduce(
    g: Tensor, x: Tensor, mean: Tensor, invstd: Tensor, weight: Tensor, *_needed: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    axes, shape = _per_map(x)
    g = g.to(mean.dtype)
    sums = g.sum(axes)
    products = (g * (x.to(mean.dtype) - mean.view(shape))).sum(axes)
    return sums, products, (products * invstd).to(weight.dtype), sums.to(weight.dtype)


def _backward_elements(
    g: Tensor, x: Tensor, mean: Tensor, invstd: Tensor, weight: Tensor,
    sums: Tensor, products: Tensor, counts: Tensor,
) -> Tensor:  # fmt: skip
    _, shape = _per_map(x)
    count = counts.sum()
    centred = x.to(mean.dtype) - mean.view(shape)
    pull = centred * (products / count * invstd**2).view(shape) + (sums / count).view(shape)
    return ((g.to(mean.dtype) - pull) * (invstd * weight).view(shape)).to(x.dtype)


OF_CUDA: dict[Any, Callable[..., Any]] = {
    aten.batch_norm_stats.default: _batch_norm_stats,
    aten.batch_norm_gather_stats_with_counts.default: _gathered_stats,
    aten.batch_norm_elemt.default: _normalised,
    aten.batch_norm_backward_reduce.default: _backward_reduce,
    aten.batch_norm_backward_elemt.default: _backward_elements,
}


# At once: torch counts the devices that there are when it differentiates for the first time.
DEVICE = set_up()
