"""What a pickle of torch describes, read without importing or calling anything that it names.

A pickle is a program that builds objects. Here its steps are followed one by one: containers and
plain values are made, tensors are noted as places in a file, and whatever else it would build
becomes an inert `Foreign` object that only remembers its class and its state.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import IO, Any, TypeAlias

_GARBLED = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)

MARK = object()  # where a group of values begins on the stack

Arguments: TypeAlias = tuple[Any, ...]


class GarbledPickle(ValueError):
    """The pickle ends too early, or is none."""


@dataclass(frozen=True)
class Name:
    """A class or function that the pickle names; it is not looked up.

    Attributes:
        module: Such as ``torch``.
        name: Such as ``FloatStorage``.
    """

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Foreign:
    """An object of a class that is not known here.

    Attributes:
        kind: Its class, or the function that would make it.
        state: What it would be given, such as its attributes.
    """

    kind: str
    state: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredStorage:
    """Values that lie in the file, one after the other.

    Attributes:
        key: Their name in the file.
        kind: Such as ``FloatStorage``.
        count: Number of values.
    """

    key: str
    kind: str
    count: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor whose values lie in the file.

    Attributes:
        storage: Where they lie.
        kind: Name of the type of values: that of the storage, or of torch.
        offset: First value.
        shape: Sizes.
        strides: Values from one entry to the next along each axis.
    """

    storage: StoredStorage
    kind: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def last(self) -> int:
        """The number of values of the storage that it reaches."""
        if 0 in self.shape:
            return self.offset
        steps = zip(self.shape, self.strides, strict=True)
        return self.offset + sum((n - 1) * stride for n, stride in steps) + 1


@dataclass(frozen=True)
class Described:
    """The value that a pickle describes.

    Attributes:
        value: Containers, plain values, `StoredTensor` and `Foreign`.
        storages: All storages that it names, by key.
    """

    value: Any
    storages: dict[str, StoredStorage]


def read_pickle(stream: IO[bytes]) -> Described:
    """The value that the next pickle of ``stream`` describes.

    >>> import io, pickle
    >>> read_pickle(io.BytesIO(pickle.dumps({"epoch": 3, "name": [1.5, None]}))).value
    {'epoch': 3, 'name': [1.5, None]}
    >>> read_pickle(io.BytesIO(b"cos\\nsystem\\n(S'ls'\\ntR.")).value
    Foreign(kind='os.system', state={})

    Raises:
        GarbledPickle: It cannot be followed to its end.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                return Described(machine.take(1)[0], machine.storages)
            machine.step(opcode.name, argument)
    except (*_GARBLED, StopIteration) as error:
        raise GarbledPickle(str(error)) from error
    raise GarbledPickle("no end")


class _Machine:
    """The stack on which a pickle builds its value."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, StoredStorage] = {}

    def step(self, opcode: str, argument: Any) -> None:
        """Follow one step."""
        if opcode in _VALUES:
            self.stack.append(argument)
        elif opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode]())
        elif opcode in _STEPS:
            _STEPS[opcode](self, argument)
        elif opcode not in ("PROTO", "FRAME"):
            raise GarbledPickle(f"step {opcode}")

    def group(self) -> list[Any]:
        """The values after the last mark, which are taken off with it."""
        begin = next(i for i in reversed(range(len(self.stack))) if self.stack[i] is MARK)
        values = self.stack[begin + 1 :]
        del self.stack[begin:]
        return values

    def put(self, argument: Any) -> None:
        """Remember the top of the stack."""
        self.memo[len(self.memo) if argument is None else int(argument)] = self.stack[-1]

    def get(self, argument: Any) -> None:
        """Push what is remembered."""
        self.stack.append(self.memo[int(argument)])

    def take(self, count: int) -> list[Any]:
        """The last values of the stack, which are taken off."""
        if len(self.stack) < count or MARK in self.stack[-count:]:
            raise GarbledPickle("a value is missing")
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def append(self, values: list[Any]) -> None:
        """Put values into the container on top."""
        container = self.stack[-1]
        if isinstance(container, list):
            container += values
        elif isinstance(container, set):
            container |= {value for value in values if _is_plain(value)}

    def set_items(self, values: list[Any]) -> None:
        """Put pairs into the dictionary on top."""
        container = self.stack[-1]
        if isinstance(container, Foreign):
            container = container.state
        if isinstance(container, dict):
            for key, value in zip(values[::2], values[1::2], strict=True):
                if _is_plain(key):
                    container[key] = value

    def build(self) -> None:
        """Give the object on top its state."""
        (state,) = self.take(1)
        subject = self.stack[-1]
        if isinstance(subject, Foreign):
            for part in state if isinstance(state, tuple) else (state,):
                if isinstance(part, dict):
                    subject.state.update(part)

    def call(self, kind: Any, arguments: Any) -> None:
        """Push what a class or function would make."""
        name = str(kind) if isinstance(kind, Name) else "an object"
        rebuilder = _REBUILDERS.get(name)
        values = arguments if isinstance(arguments, tuple) else ()
        self.stack.append(Foreign(name) if rebuilder is None else rebuilder(values))

    def persistent(self, identity: Any) -> None:
        """Push a storage; they are named by tuples outside the pickle itself."""
        match identity:
            case ("storage", Name(name=kind), str() | int() as key, _, int() as count, *rest) if (
                count >= 0 and not any(rest)  # no view of another storage
            ):
                storage = StoredStorage(str(key), kind, count)
                self.storages[storage.key] = storage
                self.stack.append(storage)
            case _:
                raise GarbledPickle("an unknown storage")


def _is_plain(key: Any) -> bool:
    return isinstance(key, (str, int, float, bool, bytes, type(None)))


def _tensor(values: Arguments) -> Any:
    storage, offset, shape, strides, *_ = values
    if not isinstance(storage, StoredStorage):
        return Foreign("torch tensor")
    tensor = StoredTensor(storage, storage.kind, offset, tuple(shape), tuple(strides))
    return _checked(tensor)


def _typed_tensor(values: Arguments) -> Any:
    tensor, kind = _tensor(values[:4]), values[6]
    if isinstance(tensor, StoredTensor) and isinstance(kind, Name):
        return StoredTensor(tensor.storage, kind.name, tensor.offset, tensor.shape, tensor.strides)
    return Foreign("torch tensor")


def _checked(tensor: StoredTensor) -> StoredTensor:
    numbers = (tensor.offset, *tensor.shape, *tensor.strides)
    if len(tensor.shape) != len(tensor.strides) or not all(
        isinstance(n, int) and 0 <= n < 1 << 48 for n in numbers
    ):
        raise GarbledPickle("a tensor of impossible shape")
    if prod(tensor.shape) > max(tensor.storage.count, 1 << 20):
        raise GarbledPickle("a tensor that is larger than its values")
    return tensor


def _parameter(values: Arguments) -> Any:
    return values[0]


def _dictionary(values: Arguments) -> Any:
    pairs = values[0] if values and isinstance(values[0], (list, dict)) else ()
    return dict(pairs)


def _rebuilt(values: Arguments) -> Any:
    """A tensor with further attributes: function, class and arguments, of which a tensor stays."""
    function, _, arguments, *_ = values
    is_tensor = str(function).startswith("torch._utils._rebuild_tensor")
    return _tensor(arguments) if is_tensor else Foreign(str(function))


_REBUILDERS: dict[str, Callable[[Arguments], Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _rebuilt,
    "collections.OrderedDict": _dictionary,
    "collections.defaultdict": lambda _: {},
    "torch.Size": lambda values: tuple(values[0]) if values else (),
}


_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
    "MARK": lambda: MARK,
}


def _global(machine: _Machine, argument: Any) -> None:
    module, _, name = str(argument).partition(" ")
    machine.stack.append(Name(module, name))


def _stack_global(machine: _Machine, _: Any) -> None:
    module, name = machine.take(2)
    machine.stack.append(Name(str(module), str(name)))


def _dict(machine: _Machine, _: Any) -> None:
    values = machine.group()
    machine.stack.append({})
    machine.set_items(values)


def _instance(machine: _Machine, argument: Any) -> None:
    arguments = tuple(machine.group())
    module, _, name = str(argument).partition(" ")
    machine.call(Name(module, name), arguments)


def _object(machine: _Machine, _: Any) -> None:
    kind, *arguments = machine.group()
    machine.call(kind, tuple(arguments))


def _new(machine: _Machine, count: int) -> None:
    kind, arguments, *_ = machine.take(count)
    machine.call(kind, arguments)


def _tuple(machine: _Machine, count: int) -> None:
    machine.stack.append(tuple(machine.take(count)))


_STEPS: dict[str, Callable[[_Machine, Any], Any]] = {
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": lambda machine, _: _new(machine, 2),
    "NEWOBJ": lambda machine, _: _new(machine, 2),
    "NEWOBJ_EX": lambda machine, _: _new(machine, 3),
    "INST": _instance,
    "OBJ": _object,
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.persistent(machine.take(1)[0]),
    "APPEND": lambda machine, _: machine.append(machine.take(1)),
    "APPENDS": lambda machine, _: machine.append(machine.group()),
    "ADDITEMS": lambda machine, _: machine.append(machine.group()),
    "SETITEM": lambda machine, _: machine.set_items(machine.take(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.group()),
    "DICT": _dict,
    "LIST": lambda machine, _: machine.stack.append(machine.group()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.group())),
    "FROZENSET": lambda machine, _: machine.stack.append(tuple(machine.group())),
    "TUPLE1": lambda machine, _: _tuple(machine, 1),
    "TUPLE2": lambda machine, _: _tuple(machine, 2),
    "TUPLE3": lambda machine, _: _tuple(machine, 3),
    "POP": lambda machine, _: machine.stack.pop(),
    "POP_MARK": lambda machine, _: machine.group(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "MEMOIZE": lambda machine, _: machine.put(None),
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
}
