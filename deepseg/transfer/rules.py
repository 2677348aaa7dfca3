"""What a user asks for when an older model fills a new one: which weights go where, and how.

The rules are names only; `matching` and `wiring` find out what they mean for two given models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

from deepseg.errors import DeepsegError, Problem

Width: TypeAlias = Literal["overlap", "net2net"]
Kernels: TypeAlias = Literal["same", "centre"]
Depth: TypeAlias = Literal["by-name", "first-common", "identity"]

_OPTIONS = {"spacing_mm": "-spacing", "min_match": "-minMatch"}  # whose names differ


@dataclass(frozen=True)
class TransferRules:
    """How an older model, the source, fills a new one, the target.

    Attributes:
        layers: Of the source: depths such as ``5``, addresses and ranges such as ``normal.1-3``,
            ``head``, or ``all``; None for all but the classification layer.
        pathways: Source pathway of a target pathway: ``{"sub2": "sub1"}``. By default the one of
            the same name, and for further ones the last parallel pathway of the source.
        spacing_mm: Voxel size that the target is made for; pathways then correspond where they see
            at the same resolution in mm.
        width: ``overlap`` copies the maps that both have; ``net2net`` repeats those of the source
            so that the function is kept.
        kernels: ``same`` demands kernels of one shape; ``centre`` puts smaller ones into the
            middle of larger ones.
        depth: ``by-name`` demands a source layer for every target layer; ``first-common`` goes
            along each pathway until something differs; ``identity`` fills further layers so that
            the function is kept.
        channels: What feeds a target channel: a source channel, ``copy:`` and a source channel,
            ``zero``, ``mean`` or ``random``. By default the channel of the same name, else zero.
        classes: Source class of a target class. By default the class of the same name.
        min_match: Share of the target's tensors that a file without addresses must fill.
    """

    layers: tuple[str, ...] | None = None
    pathways: Mapping[str, str] = field(default_factory=dict)
    spacing_mm: tuple[float, float, float] | None = None
    width: Width = "overlap"
    kernels: Kernels = "same"
    depth: Depth = "by-name"
    channels: Mapping[str, str] = field(default_factory=dict)
    classes: Mapping[str, str] = field(default_factory=dict)
    min_match: float = 0.5

    def __post_init__(self) -> None:
        if not self.keeps_function:
            return
        if self.depth == "first-common":
            raise _conflict("-depth first-common with -width net2net", "one of the two")
        if self.layers not in (None, ("all",)):
            option = "-width net2net" if self.width == "net2net" else "-depth identity"
            raise _conflict(
                f"-layers {' '.join(self.layers or ())} with {option}",
                "all layers, without which the function cannot be kept",
            )

    @property
    def keeps_function(self) -> bool:
        """Whether the target has to compute what the source computes."""
        return self.width == "net2net" or self.depth == "identity"

    def chosen(self) -> dict[str, Any]:
        """The rules that are not the default, for people and for files."""
        default = TransferRules()
        return {
            one.name: _plain(vars(self)[one.name])
            for one in fields(self)
            if vars(self)[one.name] != vars(default)[one.name]
        }


def in_options(chosen: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rules as they are typed: option and words, such as ``-pathways`` and ``sub2=sub1``."""
    return [(_OPTIONS.get(name, f"-{name}"), _typed(value)) for name, value in chosen.items()]


def _typed(value: Any) -> str:
    match value:
        case Mapping():
            return " ".join(f"{new}={old}" for new, old in value.items())
        case list():
            return " ".join(_typed(one) for one in value)
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def _conflict(got: str, expected: str) -> DeepsegError:
    fix = "leave one of the options out"
    return DeepsegError(Problem("transfer-rules", got, expected, fix))
