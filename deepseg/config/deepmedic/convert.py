"""Converts values of DeepMedic's keys into values of the house's keys.

Each function takes the value of a key of a ``.cfg`` file and returns plain values for the
house's models. What a model can judge by itself is passed on as it is; what cannot be turned is
refused. The tables of keys say which key has which function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from deepseg.config.files.document import short_text
from deepseg.counts import counted
from deepseg.errors import DeepsegError, Problem, did_you_mean

Convert: TypeAlias = Callable[[Any], Any]

MOST_NAMES = 1000
TINIEST_FLOAT32 = 1.17549435e-38
"""Number that DeepMedic adds to the variance in its batch normalisation."""

PADDINGS = {
    **dict.fromkeys(("none", "None", "VALID", "valid"), "none"),
    **dict.fromkeys(("zero", "ZERO", "SAME"), "zero"),
    **dict.fromkeys(("mirror", "MIRROR"), "mirror"),
}
PLANES = ("xy", "yz", "xz")
QUARTERS = ("0", "90", "180", "270")
AFFINE = {"prob": "probability", "max_rot_xyz": "max_rotation", "max_scaling": "max_scaling"}
AFFINE_IGNORED: dict[str, Any] = {
    "seed": None,
    "interp_order_imgs": 1,
    "interp_order_lbls": 0,
    "interp_order_roi": 0,
    "interp_order_wmaps": 1,
    "boundary_mode": "mirror",
    "cval": 0,
}
"""Entries of the affine augmentation that are ignored, with the value that is what happens here."""
CUT_OFFS = {
    "cutoff_percents": "cutoff_percentiles",
    "cutoff_times_std": "cutoff_deviations",
    "cutoff_below_mean": "above_mean",
}


def refused(value: object, *, expected: str, fix: str = "change this value") -> DeepsegError:
    """The error for a value that has no meaning; the caller knows its place."""
    return DeepsegError(Problem("config-value", short_text(value), expected, fix))


def unchanged(value: Any) -> Any:
    """Value of a key that has one meaning and form in both vocabularies."""
    return value


def is_on(value: object) -> bool:
    """Value of a switch; DeepMedic's files also write 0 and 1.

    >>> is_on(1), is_on(False)
    (True, False)
    """
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    raise refused(value, expected="True or False")


def block_if_on(value: object) -> dict[str, Any] | None:
    """Block for other keys to fill, or None if the switch is off."""
    return {} if is_on(value) else None


def chosen(meanings: Mapping[Any, Any]) -> Convert:
    """Function that translates one of a few words or numbers.

    >>> chosen({0: "sgd", 1: "adam"})(1)
    'adam'
    """

    def convert(value: object) -> Any:
        if isinstance(value, int | str) and value in meanings:
            return meanings[value]
        choices = ", ".join(str(choice) for choice in meanings)
        hint = did_you_mean(str(value), [word for word in meanings if isinstance(word, str)])
        raise refused(value, expected=f"one of: {choices}", fix=f"write one of these{hint}")

    return convert


def entry(number: int, of: int) -> Convert:
    """Function that picks one entry of a list of fixed length."""
    return lambda value: _list_of(value, of)[number]


def empty_is_zero(value: object) -> object:
    """Dropout: DeepMedic's empty list means none."""
    return 0.0 if value == [] else value


def none_is_zero(value: object) -> object:
    """Weight of a loss that is left out."""
    return 0.0 if value is None else value


def whole(value: object) -> object:
    """Whole number where DeepMedic takes any number and the house counts.

    >>> whole(5.0)
    5
    """
    return int(value) if isinstance(value, float) and value.is_integer() else value


def at_least_zero(value: object) -> object:
    """DeepMedic's -1 and 0 processes both mean no process of their own."""
    return 0 if value == -1 else value


def class_names(count: object) -> list[str]:
    """Names for classes, which have only numbers in DeepMedic.

    >>> class_names(3)
    ['background', 'class1', 'class2']
    """
    return ["background", *(f"class{n}" for n in range(1, _count(count, least=2)))]


def channel_names(count: object) -> list[str]:
    """Names for channels, which have only numbers in DeepMedic.

    >>> channel_names(2)
    ['channel1', 'channel2']
    """
    return [f"channel{n}" for n in range(1, _count(count, least=1) + 1)]


def paddings(value: object) -> list[str]:
    """Padding of each layer; ``None`` in the list means no padding.

    >>> paddings(["VALID", "SAME", None])
    ['none', 'zero', 'none']
    """
    return ["none" if word is None else chosen(PADDINGS)(word) for word in _list_of(value)]


def factors(value: object) -> object:
    """Factors of each pathway; for a single one DeepMedic needs no list of lists.

    >>> factors([3, 3, 1])
    [[3, 3, 1]]
    """
    return [value] if isinstance(value, list) and value and isinstance(value[0], int) else value


def initialisation(value: object) -> dict[str, Any]:
    """``["normal", deviation]`` or ``["fanIn", scale]``."""
    method, number = _list_of(value, 2)
    if chosen({"normal": 0, "fanIn": 1})(method):
        return {"method": "fan_in", "scale": number}
    return {"method": "normal", "deviation": number}


def batch_norm(steps: object) -> object:
    """DeepMedic's mean over the last steps, or no batch normalisation for 0 and below."""
    if not isinstance(steps, int):
        raise refused(steps, expected="a whole number")
    if steps <= 0:
        return "none"
    return {"statistics": "window", "length": steps, "epsilon": TINIEST_FLOAT32}


def intensity(value: object) -> dict[str, Any] | None:
    """``hist_dist``: shift and scale of intensities, None where both are off."""
    if value is None:
        return None
    entries = _entries_of(value, ("shift", "scale"))
    return {key: gaussian(pair) for key, pair in entries.items() if pair is not None} or None


def gaussian(value: object) -> dict[str, Any]:
    """``{'mu': …, 'std': …}``, or in old files ``[mu, std]``."""
    if isinstance(value, list):
        mean, deviation = _list_of(value, 2)
        return {"mean": mean, "deviation": deviation}
    entries = _entries_of(value, ("mu", "std"))
    return {"mean": entries.get("mu"), "deviation": entries.get("std")}


def reflections(value: object) -> object:
    """Probability of a mirror image per axis."""
    return [0.0, 0.0, 0.0] if value is None else value


def old_reflections(value: object) -> list[float]:
    """Probability of a mirror image per axis, from a switch per axis.

    >>> old_reflections([1, 0, 0])
    [0.5, 0.0, 0.0]
    """
    return [0.5 if is_on(axis) else 0.0 for axis in _list_of(value, 3)]


def quarter_turns(value: object) -> dict[str, Any] | None:
    """``rotate90``: weights of the four angles per plane; None where every plane is off."""
    if value is None:
        return None
    planes = _entries_of(value, PLANES).items()
    weights = {plane: _turns(angles) for plane, angles in planes if angles is not None}
    return {plane: four for plane, four in weights.items() if any(four)} or None


def _turns(angles: object) -> list[Any]:
    if isinstance(angles, dict):
        angles = {str(angle): weight for angle, weight in angles.items()}
    weights = _entries_of(angles, QUARTERS)
    return [weights.get(angle, 0) for angle in QUARTERS]


def affine(value: object) -> dict[str, Any] | None:
    """``augm_img_prms_tr``: random rotation and scaling, off unless a probability is given."""
    inner = _entries_of(value, ("affine",)).get("affine")
    if inner is None:
        return None
    entries = _entries_of(inner, (*AFFINE, *AFFINE_IGNORED))
    return {"probability": 0.0, **_renamed(entries, AFFINE)}


def z_score(value: object) -> object:
    """``norm_zscore_prms``; off where no channel is chosen."""
    entries = _entries_of(value, ("apply_to_all_channels", "apply_per_channel", *CUT_OFFS))
    is_for_all, per_channel = entries.get("apply_to_all_channels"), entries.get("apply_per_channel")
    if is_for_all and per_channel is not None:
        raise DeepsegError(
            Problem(
                "config-value",
                got="apply_to_all_channels True and apply_per_channel not None",
                expected="only one of apply_to_all_channels and apply_per_channel",
                fix="remove one of the two",
            )
        )
    switches = [] if per_channel is None else [is_on(switch) for switch in _list_of(per_channel)]
    if not is_for_all and not any(switches):
        return "none"
    cut_offs = _renamed(entries, CUT_OFFS)
    if is_for_all or all(switches):
        return cut_offs
    channels = [f"channel{number}" for number, switch in enumerate(switches, start=1) if switch]
    return {**cut_offs, "channels": channels}


def _renamed(entries: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """``entries`` that have a value, by their new names."""
    values = {new: entries.get(old) for old, new in names.items()}
    return {name: value for name, value in values.items() if value is not None}


def class_weights(value: object) -> dict[str, Any] | None:
    """``reweight_classes_in_cost``; None for type None."""
    entries = _entries_of(value, ("type", "prms", "schedule"))
    if entries.get("type") is None:
        return None
    weighting = chosen({"freq": "frequency", "per_c": "given"})(entries["type"])
    weights = {"weights": entries.get("prms")} if weighting == "given" else {}
    fade = {} if entries.get("schedule") is None else {"fade": entries["schedule"]}
    return {"type": weighting, **weights, **fade}


def saved_classes(value: object) -> bool | list[int]:
    """Probability maps: all, none, or the numbers of the classes that are switched on."""
    switches = [is_on(switch) for switch in _list_of(value)]
    if all(switches):  # an empty list means all in DeepMedic, too
        return True
    return [label for label, switch in enumerate(switches) if switch] or False


def feature_maps(pathway: str) -> Convert:
    """A list per layer, empty or ``[first, last but one]``, by the layer's address."""

    def convert(value: object) -> dict[str, Any]:
        layers = enumerate(_list_of(value), start=1)
        return {f"{pathway}.{number}": maps for number, maps in layers if maps != []}

    return convert


def addresses(pathway: str) -> Convert:
    """Function that turns layer numbers into addresses.

    >>> addresses("normal")([1, 2])
    ['normal.1', 'normal.2']
    """

    def convert(value: object) -> list[str]:
        return [f"{pathway}.{_count(number, least=1)}" for number in _list_of(value)]

    return convert


def first_fc_kernels(size: object, hidden: int) -> list[Any]:
    """Kernels of the FC layers where only the first is written.

    >>> first_fc_kernels([3, 3, 3], hidden=1)
    [[3, 3, 3], [1, 1, 1]]
    """
    return [size, *[[1, 1, 1]] * hidden]


def first_fc_paddings(hidden: int) -> list[Any]:
    """DeepMedic mirrored the input of the first FC layer by itself."""
    return ["mirror", *[None] * hidden]


def _count(value: object, *, least: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= MOST_NAMES:
        return value
    raise refused(value, expected=f"a whole number from {least} to {MOST_NAMES}")


def _list_of(value: object, length: int | None = None) -> Sequence[Any]:
    if isinstance(value, list) and length in (None, len(value)):
        return value
    raise refused(
        value,
        expected="a list" if length is None else f"a list of {counted(length, 'entry', 'entries')}",
    )


def _entries_of(value: object, names: Sequence[str]) -> dict[str, Any]:
    """``value``, if it is a dict with no other than the known entries."""
    if not isinstance(value, dict):
        raise refused(value, expected=f"a dict with {', '.join(map(repr, names))}")
    return {key: value[key] for key in value if _is_known(key, names)}


def _is_known(key: object, names: Sequence[str]) -> bool:
    if key in names:
        return True
    raise DeepsegError(
        Problem(
            "config-unknown-key",
            got=f"the unknown entry {key!r}",
            expected=f"one of {', '.join(map(repr, names))}",
            fix=f"correct or remove it{did_you_mean(str(key), names)}",
        )
    )
