"""Modules of torch by name: those of known packages, and those that a program has registered.

A settings file names a class of a package in the list; nothing else is ever imported for it.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from deepseg.config.registration import raise_if_unusable
from deepseg.errors import DeepsegError, Problem, did_you_mean, raise_if_any
from deepseg.transfer.by_name import common_prefix

PACKAGES = {
    "monai.networks.nets": "monai",
    "dynamic_network_architectures.architectures": "nnunet",
}
"""Packages whose classes a settings file may name, and the extra that brings them."""

ModuleSource: TypeAlias = nn.Module | Callable[..., nn.Module]

_registered: dict[str, ModuleSource] = {}


def register_module(name: str, module: ModuleSource) -> None:
    """Let model files and `ModelConfig` name a module of this program: ``module: NAME``.

    Its weights go along. The graph of the module is stored in the `.save`, so that the module is
    needed no more afterwards.

    >>> register_module("small", nn.Conv3d(1, 4, 3))
    >>> isinstance(built_module("small", {}).module, nn.Conv3d)
    True

    Args:
        name: A word without dots; a module of this name that was registered before is replaced.
        module: A module, or a class or function that makes one of the keys in ``arguments``.

    Raises:
        DeepsegError: ``module-name`` for a name with dots, or something that is no module.
    """
    raise_if_unusable(
        name,
        module,
        code="module-name",
        expected="a name of letters, digits and underscores, and a module for it",
        fix="choose such a name, and give a torch.nn.Module or what makes one",
    )
    _registered[name] = module


@dataclass(frozen=True)
class BuiltModule:
    """A module and what is known of its weights.

    Attributes:
        has_weights: Its weights are those of a registered module; else they mean nothing.
    """

    module: nn.Module
    has_weights: bool


def built_module(name: str, arguments: Mapping[str, Any]) -> BuiltModule:
    """The module called ``name``.

    Args:
        name: Of a registered module, or of a class in a package of the list.
        arguments: By which it is made; words such as ``torch.nn.Conv3d`` stand for that class.

    Raises:
        DeepsegError: ``module-unknown``, ``module-package-missing`` or ``module-arguments``.
    """
    source = _registered.get(name)
    if source is None:
        return BuiltModule(_built(name, _listed_class(name), arguments), has_weights=False)
    if not isinstance(source, nn.Module):
        return BuiltModule(_built(name, source, arguments), has_weights=True)
    if arguments:
        raise _wrong_arguments(
            f"arguments {', '.join(arguments)} for {name!r}, a module that is there already",
            "no arguments, or a registered class",
        )
    return BuiltModule(source, has_weights=True)


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a module its weights; words that wrappers leave in front of names are taken off.

    Args:
        module: Is changed.
        tensors: Of a file, by name.

    Raises:
        DeepsegError: ``module-weights`` for tensors that are missing, or of another shape.
    """
    state = {name: value for name, value in module.state_dict().items() if _counts(name)}
    prefix = common_prefix(tensors, state)
    stored = {name.removeprefix(prefix): value for name, value in tensors.items()}
    missing = [name for name in state if name not in stored]
    unfitting = [n for n in state if n in stored and stored[n].shape != state[n].shape]
    if missing or unfitting:
        raise DeepsegError(_unfitting(state, stored, missing, unfitting))
    module.load_state_dict({name: stored[name] for name in state}, strict=False)


def _counts(name: str) -> bool:
    """False for counters of batches, which no network needs."""
    return not name.endswith("num_batches_tracked")


def _unfitting(
    state: Mapping[str, Tensor],
    stored: Mapping[str, Tensor],
    missing: list[str],
    unfitting: list[str],
) -> Problem:
    if unfitting:
        name = unfitting[0]
        first = f"{name} of shape {_shape(stored[name])}, here {_shape(state[name])}"
    else:
        unused = [name for name in stored if name not in state]
        first = f"no {missing[0]}{did_you_mean(missing[0], unused)}"
    fits = len(state) - len(missing) - len(unfitting)
    return Problem(
        code="module-weights",
        got=f"{fits} of {len(state)} tensors of the module in the file ({first})",
        expected="all of them, in their shapes",
        fix="give the arguments with which the module was trained, or the file that belongs to it",
    )


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one value"


def _listed_class(name: str) -> type[nn.Module]:
    package = next((entry for entry in PACKAGES if name.startswith(f"{entry}.")), None)
    if package is None:
        raise _unknown(name, [*_registered, *PACKAGES])
    root = _imported(package, PACKAGES[package])
    path, _, leaf = name.rpartition(".")
    below = {entry.name for entry in pkgutil.iter_modules(root.__path__)}
    inner = path.removeprefix(package).lstrip(".")
    if inner and inner not in below:
        raise _unknown(name, [f"{package}.{entry}" for entry in sorted(below)])
    home = _imported(path, PACKAGES[package])
    network = vars(home).get(leaf)
    if not _is_network(network, package):
        names = [key for key, value in vars(home).items() if _is_network(value, package)]
        raise _unknown(name, [f"{path}.{key}" for key in names])
    assert isinstance(network, type)
    return network


def _is_network(value: object, package: str) -> bool:
    """True for a class or function of the package, or of one beside it, that makes modules."""
    if not isinstance(value, type) or not issubclass(value, nn.Module):
        return False
    return value.__module__.split(".")[0] == package.split(".")[0]


def _imported(path: str, extra: str) -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(path)
    except ImportError as error:
        package = path.split(".")[0]
        raise DeepsegError(
            Problem(
                code="module-package-missing",
                got=f"no package {package} that can be imported ({error})",
                expected="the package, to build this module once",
                fix=f"pip install 'deepseg-pathways[{extra}]'",
            )
        ) from error


def _built(name: str, source: Callable[..., Any], arguments: Mapping[str, Any]) -> nn.Module:
    values = {key: _value(value) for key, value in arguments.items()}
    raise_if_any(_argument_problems(name, source, values))
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            module = source(**values)
    except Exception as error:  # of code that is not ours
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0][:200] if lines else type(error).__name__
        raise _wrong_arguments(f"arguments that {name} refuses: {reason}", "others") from error
    if not isinstance(module, nn.Module):
        raise _wrong_arguments(f"{type(module).__name__} of {name}", "a torch.nn.Module")
    return module


def _value(value: Any) -> Any:
    """The argument; a class of torch.nn for its name, also within lists and mappings."""
    match value:
        case str() if value.startswith("torch.nn."):
            entry = vars(nn).get(value.rpartition(".")[2])
            return entry if isinstance(entry, type) and issubclass(entry, nn.Module) else value
        case dict():
            return {key: _value(entry) for key, entry in value.items()}
        case list() | tuple():
            return [_value(entry) for entry in value]
    return value


def _argument_problems(
    name: str, source: Callable[..., Any], values: Mapping[str, Any]
) -> list[Problem]:
    parameters = inspect.signature(source).parameters
    if any(entry.kind is entry.VAR_KEYWORD for entry in parameters.values()):
        return []
    needed = [
        key
        for key, entry in parameters.items()
        if entry.default is entry.empty and entry.kind is entry.POSITIONAL_OR_KEYWORD
    ]
    missing = [key for key in needed if key not in values]
    unknown = [key for key in values if key not in parameters]
    problems = [
        _wrong_arguments(
            f"argument {key!r} of {name}{did_you_mean(key, parameters)}",
            f"among {', '.join(parameters)}",
        ).problems[0]
        for key in unknown
    ]
    if missing:
        got = f"no argument {', '.join(missing)} of {name}"
        problems += _wrong_arguments(got, f"all of {', '.join(needed)}").problems
    return problems


def _wrong_arguments(got: str, expected: str) -> DeepsegError:
    return DeepsegError(
        Problem("module-arguments", got, expected, "correct arguments of this pathway")
    )


def _unknown(name: str, candidates: list[str]) -> DeepsegError:
    return DeepsegError(
        Problem(
            code="module-unknown",
            got=f"module {name!r}",
            expected=f"a class of {' or '.join(PACKAGES)}, or a module that "
            "deepseg.register_module knows",
            fix="correct the name" + did_you_mean(name, candidates),
        )
    )
