"""Settings that follow from facts: one rule for each, in the order of `RULES`.

A rule looks at the facts, at what the user asks for, and at the choices made before it; it gives a
value and the fact from which the value follows, or None where the default is right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from deepseg.config.model import ModelConfig
from deepseg.counts import counted
from deepseg.errors import DeepsegError, Problem
from deepseg.geometry.boxes import text
from deepseg.model.layout import layout
from deepseg.sessions.compatibility import mirrored_sides
from deepseg.sessions.planning.facts import StudyFacts
from deepseg.sessions.planning.speed import Speed
from deepseg.sessions.tables import training_megabytes

Values: TypeAlias = Mapping[str, Any]
Choose: TypeAlias = "Callable[[StudyFacts, Request, Values], tuple[Any, str] | None]"

ALIKE = 1.1  # spacings that differ by less count as one
FLAT = 2.0  # times the finest axis: slices are thick
EMPTY_SHARE = 0.2  # of the voxels are 0: worth leaving out
FEW_CASES = 20
FOLDS = 5  # of a cross-validation
RARE = 0.01  # share of voxels, below which cross-entropy alone finds too few of them
MEMORY_SHARE = 0.5  # of the memory is for a step
BATCHES = (12, 10, 8, 6, 4, 3, 2, 1)
FACTORS = (3, 5, 7)
VALIDATION_SHARE = 0.15  # of the time
RESERVE = 0.05  # of the time, for what was not measured
FEWEST_STEPS = 60
STEPS_OF_AN_EPOCH = 60
MOST_EPOCHS = 60


@dataclass(frozen=True)
class Request:
    """The limits that the user sets, and the machine that there is.

    Attributes:
        minutes: For training, validation included.
        memory_bytes: That training may take.
        cores: That compute.
        is_gpu: A GPU computes.
        speed: Of the chosen network on this machine; None before it is measured.
    """

    minutes: float
    memory_bytes: int
    cores: int
    is_gpu: bool = False
    speed: Speed | None = None


@dataclass(frozen=True)
class Choice:
    """The value of a setting, and the fact that it follows from."""

    key: str
    value: Any
    fact: str


@dataclass(frozen=True)
class Rule:
    """The way in which one setting is chosen.

    Attributes:
        key: The file and the setting in it, such as ``model.normal.feature_maps``.
        choose: Gives the value and the fact.
    """

    key: str
    choose: Choose


@dataclass(frozen=True)
class NetworkSize:
    """Layers of the pathways.

    Attributes:
        core_minutes: Of training, from which on it pays.
        normal: Feature maps of the layers of each parallel pathway.
        residuals: Layers with a shortcut.
        fc: Feature maps of the hidden layers behind the pathways.
        segment: Voxels of a training segment beyond the receptive field.
        learning_rate: At the start.
    """

    core_minutes: float
    normal: tuple[int, ...]
    residuals: tuple[int, ...]
    fc: tuple[int, ...]
    segment: int
    learning_rate: float


SIZES = (
    NetworkSize(0, (8, 12, 16, 20), (), (32,), 16, 2e-3),
    NetworkSize(30, (20, 20, 30, 30, 40, 40), (4, 6), (100,), 16, 1e-3),
    NetworkSize(240, (30, 30, 40, 40, 40, 40, 50, 50), (4, 6, 8), (150, 150), 20, 1e-3),
)


def choices(facts: StudyFacts, request: Request) -> list[Choice]:
    """All choices, in the order of `RULES`; those about time only if the speed is known.

    Raises:
        DeepsegError: ``plan-minutes``, ``plan-memory``.
    """
    selected: list[Choice] = []
    rules = RULES if request.speed is None else (*RULES, *TIMED_RULES)
    for rule in rules:
        chosen = rule.choose(facts, request, {choice.key: choice.value for choice in selected})
        if chosen is not None:
            selected.append(Choice(rule.key, *chosen))
    return selected


def network_size(request: Request) -> NetworkSize:
    """The largest network for which there is time.

    >>> network_size(Request(minutes=3, memory_bytes=0, cores=2)).normal
    (8, 12, 16, 20)
    """
    if request.is_gpu:
        return SIZES[-1]
    core_minutes = request.minutes * request.cores
    return [size for size in SIZES if size.core_minutes <= core_minutes][-1]


def _channels(facts: StudyFacts, _: Request, __: Values) -> tuple[Any, str]:
    return list(facts.channels), f"the images of all {len(facts.cases)} cases"


def _classes(facts: StudyFacts, _: Request, __: Values) -> tuple[Any, str]:
    names = [
        facts.class_names.get(label, "background" if label == 0 else f"class{number}")
        for number, label in enumerate(facts.labels)
    ]
    if len(names) == 1:
        raise DeepsegError(_no_foreground(facts))
    values = ", ".join(map(str, facts.labels))
    origin = "" if facts.class_names else "; their names are not known: write better ones here"
    return names, f"labels {values} in the files{origin}"


def _label_map(facts: StudyFacts, _: Request, __: Values) -> tuple[Any, str] | None:
    moved = {label: number for number, label in enumerate(facts.labels) if label != number}
    if not moved:
        return None
    return moved, f"labels {', '.join(map(str, facts.labels))} in the files, not one after another"


def _clip(facts: StudyFacts, _: Request, __: Values) -> tuple[Any, str] | None:
    if not facts.is_ct:
        return None
    low, high = (10 * round(end / 10) for end in facts.foreground_range)
    return (
        [low, max(high, low + 10)],
        "CT values; 99 % of the foreground lies between these",
    )


def _z_score(facts: StudyFacts, _: Request, __: Values) -> tuple[Any, str]:
    if facts.is_normalised:
        return "none", "images with mean 0 and deviation 1 already"
    first = facts.cases[0].intensity[0]
    return {}, f"intensities from {first.minimum:.4g} to {first.maximum:.4g} in the first case"


def _roi(facts: StudyFacts, _: Request, __: Values) -> tuple[Any, str] | None:
    masks = sum(case.has_roi for case in facts.cases)
    if masks == len(facts.cases) or facts.zero_share < EMPTY_SHARE:
        return None
    return "nonzero", f"at least {facts.zero_share:.0%} of every case are 0 in all images"


def _resample(facts: StudyFacts, _: Request, __: Values) -> tuple[Any, str] | None:
    if facts.spacing_spread < ALIKE:
        return None
    return (
        [float(f"{mm:.3g}") for mm in facts.spacing_mm],
        f"voxel sizes differ by a factor of {facts.spacing_spread:.2g}; this is their median",
    )


def _feature_maps(_: StudyFacts, request: Request, __: Values) -> tuple[Any, str]:
    return list(network_size(request).normal), _time_text(request)


def _residuals(_: StudyFacts, request: Request, __: Values) -> tuple[Any, str] | None:
    residuals = network_size(request).residuals
    return (
        (list(residuals), "more than four layers learn better with shortcuts")
        if (residuals)
        else None
    )


def _fc(_: StudyFacts, request: Request, __: Values) -> tuple[Any, str]:
    return list(network_size(request).fc), _time_text(request)


def _dropout(facts: StudyFacts, request: Request, __: Values) -> tuple[Any, str]:
    hidden = len(network_size(request).fc)
    share = 0.5 if len(facts.cases) < FEW_CASES and hidden > 1 else 0.3
    return [0, *[share] * hidden], f"{len(facts.cases)} cases to learn from"


def _kernels(facts: StudyFacts, request: Request, __: Values) -> tuple[Any, str] | None:
    """Flat kernels until the seen volume is about as long on all axes."""
    if facts.anisotropy < FLAT:
        return None
    layers = len(network_size(request).normal)
    flat = [1 if axis == facts.coarse_axis else 3 for axis in range(3)]
    count = min(layers - 1, round(layers * (1 - 1 / facts.anisotropy)))
    return [flat] * count + [3] * (layers - count), _flat_text(facts)


def _factors(facts: StudyFacts, request: Request, _: Values) -> tuple[Any, str]:
    """The first factors with which a pathway sees the largest object with its surroundings."""
    layers = len(network_size(request).normal)
    target = max(1.5 * facts.object_mm, facts.body_mm / 3)
    fine = min(facts.spacing_mm)
    factor = next((f for f in FACTORS if (2 * layers + 1) * f * fine >= target), FACTORS[-1])
    chosen = [3] if factor == 3 or len(network_size(request).normal) < 5 else [3, factor]
    flat = facts.anisotropy >= FLAT
    along = [max(1, round(f / facts.anisotropy)) for f in chosen]
    triples = [
        [a if axis == facts.coarse_axis else f for axis in range(3)]
        for f, a in zip(chosen, along, strict=True)
    ]
    fact = (
        f"objects of {facts.object_mm:.0f} mm in a body of {facts.body_mm:.0f} mm; sees "
        f"{(2 * layers + 1) * chosen[-1] * fine:.0f} mm"
    )
    return triples if flat else chosen, fact


def _segment(facts: StudyFacts, request: Request, values: Values) -> tuple[Any, str]:
    size = network_size(request)
    smallest = model_config({**values, "model.segments.train": 999}).smallest_segment
    segment = [n + size.segment if n > 1 else 1 for n in smallest]
    if facts.anisotropy >= FLAT:
        axis = facts.coarse_axis
        segment[axis] = smallest[axis] + max(2, round(size.segment / facts.anisotropy))
    return _cube(segment), f"the receptive field is {text(smallest)}, and some voxels around it"


def _inference(_: StudyFacts, __: Request, values: Values) -> tuple[Any, str]:
    segment = values["model.segments.train"]
    larger = [n + 20 for n in segment] if isinstance(segment, list) else segment + 20
    return larger, "no gradients are kept: larger tiles fit"


def _batch_size(_: StudyFacts, request: Request, values: Values) -> tuple[Any, str]:
    plan = layout(model_config(values))
    per_segment = training_megabytes(plan, plan_segment(values)) * 1e6
    room = request.memory_bytes * MEMORY_SHARE
    fitting = [batch for batch in BATCHES if batch * per_segment <= room]
    if not fitting:
        raise DeepsegError(_no_memory(per_segment, request))
    fact = (
        f"{fitting[0] * per_segment / 1e6:.0f} MB for a step, of "
        f"{request.memory_bytes / 1e9:.2g} GB of memory"
    )
    return fitting[0], fact


def _sampling(facts: StudyFacts, _: Request, __: Values) -> tuple[Any, str]:
    shares = [f"{share:.2%}" for share in list(facts.class_shares.values())[1:]]
    fact = f"the classes are {', '.join(shares)} of the voxels"
    if len(facts.labels) == 2:
        return "foreground_background", f"one class, {shares[0]} of the voxels"
    return "per_class", fact


def _dice_weight(facts: StudyFacts, _: Request, __: Values) -> tuple[Any, str] | None:
    rarest = min(list(facts.class_shares.values())[1:])
    if rarest >= RARE:
        return None
    return 1, f"the rarest class is {rarest:.2%} of the voxels: overlap counts too"


def _intensity(facts: StudyFacts, _: Request, __: Values) -> tuple[Any, str]:
    few = len(facts.cases) < FEW_CASES
    shift, scale = (0.1, 0.05) if few else (0.05, 0.01)
    settings = {
        "shift": {"mean": 0, "deviation": shift},
        "scale": {"mean": 1, "deviation": scale},
    }
    return settings, f"{len(facts.cases)} cases"


def _reflect(facts: StudyFacts, _: Request, values: Values) -> tuple[Any, str] | None:
    orientation = facts.orientation
    axis = next(i for i, letter in enumerate(orientation) if letter in "LR")
    shares = [0.5 if i == axis else 0 for i in range(3)]
    classes = values["model.classes"]
    if any(mirrored_sides(shares, "", classes, orientation)):
        return None
    if facts.sided_labels:
        return None
    return shares, f"left and right are along {'xyz'[axis]} ({orientation}); no class is a side"


def _learning_rate(_: StudyFacts, request: Request, __: Values) -> tuple[Any, str]:
    rate = network_size(request).learning_rate
    return {"name": "rmsprop", "learning_rate": rate}, "the size of the network"


def _schedule(_: StudyFacts, __: Request, values: Values) -> tuple[Any, str]:
    wait = 1 if values["train.epochs"] > 3 else 0
    return {"type": "poly", "wait": wait}, "the time is known in advance: the rate ends at 0"


def _segments_per_subepoch(facts: StudyFacts, request: Request, values: Values) -> tuple[Any, str]:
    timing = _timing(facts, request)
    steps = timing.steps_per_epoch // 2
    return steps * values["train.training.batch_size"], f"{2 * steps} steps of an epoch"


def _epochs(facts: StudyFacts, request: Request, _: Values) -> tuple[Any, str]:
    assert request.speed is not None
    fact = f"{request.minutes:g} minutes; a step takes {request.speed.step_s:.3g} s here"
    return _timing(facts, request).epochs, fact


def _subepochs(_: StudyFacts, __: Request, ___: Values) -> tuple[Any, str]:
    return 2, "other cases are drawn in the middle of an epoch"


def _volume_validation(facts: StudyFacts, request: Request, _: Values) -> tuple[Any, str]:
    assert request.speed is not None
    timing = _timing(facts, request)
    fact = (
        f"a case takes {request.speed.case_s:.2g} s; validation gets at most "
        f"{VALIDATION_SHARE:.0%} of the time"
    )
    return {"every": timing.interval}, fact


@dataclass(frozen=True)
class Timing:
    """The course of a training.

    Attributes:
        epochs: In all.
        steps_per_epoch: Batches of an epoch, an even number.
        interval: Epochs from one validation to the next.
        seconds: That all of it takes.
    """

    epochs: int
    steps_per_epoch: int
    interval: int
    seconds: float


def _timing(facts: StudyFacts, request: Request) -> Timing:
    """The epochs that fit into the minutes.

    Raises:
        DeepsegError: ``plan-minutes``.
    """
    speed = request.speed
    assert speed is not None
    training_cases, validation_cases = split_counts(len(facts.cases))[:2]
    fixed = speed.start_s + speed.prepare_s * (training_cases + validation_cases)
    room = request.minutes * 60 * (1 - RESERVE) - fixed
    round_s = max(validation_cases * speed.case_s, 1e-3)
    rounds = max(1, int(room * VALIDATION_SHARE / round_s))
    steps = int((room - min(rounds, MOST_EPOCHS) * round_s) / speed.step_s)
    epochs = min(MOST_EPOCHS, max(1, steps // STEPS_OF_AN_EPOCH))
    rounds = min(rounds, epochs)
    interval = -(-epochs // rounds)
    rounds = -(-epochs // interval)
    epoch_s = epochs * speed.epoch_s
    steps = int((room - rounds * round_s - epoch_s) / speed.step_s)
    per_epoch = steps // epochs // 2 * 2
    if steps < FEWEST_STEPS or per_epoch < 2:
        needed = fixed + round_s + FEWEST_STEPS * speed.step_s + speed.epoch_s
        raise DeepsegError(_no_time(request, max(steps, 0), needed / 60 / (1 - RESERVE)))
    seconds = fixed + rounds * round_s + epochs * (per_epoch * speed.step_s + speed.epoch_s)
    return Timing(epochs, per_epoch, interval, seconds)


def expected_seconds(facts: StudyFacts, request: Request) -> float:
    """Time that the planned training takes."""
    return _timing(facts, request).seconds


def split_counts(cases: int) -> tuple[int, int, int]:
    """Cases to train, validate and test on: a fifth for each of the latter two, at least one.

    >>> split_counts(3), split_counts(12), split_counts(100)
    ((1, 1, 1), (8, 2, 2), (60, 20, 20))
    """
    aside = max(1, cases // 5)
    return cases - 2 * aside, aside, aside


RULES = (
    Rule("model.channels", _channels),
    Rule("model.classes", _classes),
    Rule("model.normal.feature_maps", _feature_maps),
    Rule("model.normal.kernels", _kernels),
    Rule("model.normal.residuals", _residuals),
    Rule("model.subsampled.factors", _factors),
    Rule("model.fc.feature_maps", _fc),
    Rule("model.fc.dropout", _dropout),
    Rule("model.segments.train", _segment),
    Rule("model.segments.inference", _inference),
    Rule("train.training.cases.label_map", _label_map),
    Rule("train.training.sampling.type", _sampling),
    Rule("train.training.batch_size", _batch_size),
    Rule("train.training.augmentation.intensity", _intensity),
    Rule("train.training.augmentation.reflect", _reflect),
    Rule("train.preparation.clip", _clip),
    Rule("train.preparation.z_score", _z_score),
    Rule("train.preparation.roi", _roi),
    Rule("train.preparation.resample", _resample),
    Rule("train.loss.dice", _dice_weight),
    Rule("train.optimiser", _learning_rate),
)
TIMED_RULES = (
    Rule("train.training.segments_per_subepoch", _segments_per_subepoch),
    Rule("train.validation.volumes", _volume_validation),
    Rule("train.epochs", _epochs),
    Rule("train.subepochs", _subepochs),
    Rule("train.schedule", _schedule),
)


def model_config(values: Values) -> ModelConfig:
    """The network that the choices describe so far."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        file, *path = key.split(".")
        if file == "model":
            block = nested
            for name in path[:-1]:
                block = block.setdefault(name, {})
            block[path[-1]] = value
    return ModelConfig.model_validate(nested)


def plan_segment(values: Values) -> tuple[int, int, int]:
    """The training segment of the chosen network."""
    return model_config(values).segment_sizes["train"]


def hints(facts: StudyFacts) -> list[str]:
    """Advice that is no setting."""
    lines = []
    if len(facts.cases) < FEW_CASES:
        lines.append(
            f"{len(facts.cases)} cases are few: fill the model from one that was trained on "
            "similar images, -newModel model.yaml -pretrained OLDER.save"
        )
        folds = min(FOLDS, split_counts(len(facts.cases))[0])
        if folds > 1:
            lines.append(
                f"with folds: {folds} in train.yaml, each training case is scored by a model that "
                f"has not learnt from it, in {folds} times the minutes"
            )
    if facts.sided_labels:
        numbers = ", ".join(map(str, facts.sided_labels))
        lines.append(f"no mirror images: label {numbers} is on the same side in every case")
    if facts.unlabelled:
        lines.append(
            counted(
                len(facts.unlabelled),
                "case without labels is left out",
                "cases without labels are left out",
            )
            + ": "
            + ", ".join(facts.unlabelled[:5])
            + (" …" if len(facts.unlabelled) > 5 else "")
        )
    return lines


def _time_text(request: Request) -> str:
    place = "a GPU" if request.is_gpu else f"{request.cores} core{'s' * (request.cores > 1)}"
    return f"{request.minutes:g} minutes on {place}"


def _flat_text(facts: StudyFacts) -> str:
    return (
        f"voxels of {' x '.join(f'{mm:.3g}' for mm in facts.spacing_mm)} mm: the coarse axis is "
        "seen by later layers"
    )


def _cube(size: Sequence[int]) -> int | list[int]:
    return size[0] if len(set(size)) == 1 else list(size)


def _no_foreground(facts: StudyFacts) -> Problem:
    return Problem(
        code="plan-labels",
        got=f"labels that are 0 everywhere in all {len(facts.cases)} cases",
        expected="a label above 0 for each class",
        fix="give the segmentations, not empty masks",
    )


def _no_memory(per_segment: float, request: Request) -> Problem:
    return Problem(
        code="plan-memory",
        got=f"{request.memory_bytes / 1e9:.2g} GB of memory",
        expected=f"{per_segment / MEMORY_SHARE / 1e9:.2g} GB for one segment of a step",
        fix="give more with -memory, or fewer -minutes for a smaller network",
    )


def _no_time(request: Request, steps: int, needed: float) -> Problem:
    return Problem(
        code="plan-minutes",
        got=f"{request.minutes:g} minutes, in which this machine takes {steps} steps",
        expected=f"at least {FEWEST_STEPS} steps, for which {needed:.2g} minutes are needed",
        fix=f"give -minutes {max(1, round(needed * 1.2 + 0.5))}",
    )
