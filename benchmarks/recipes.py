"""Training recipes at equal core seconds: two-fold cross-validation on four real cases.

    python benchmarks/recipes.py --out FOLDER [RECIPE …] [--core-seconds 690] [--seeds 3]
    python benchmarks/recipes.py --out FOLDER --table

Every recipe but the first is one change to the first, DeepMedic's mid-size settings. Each learns
from two patients and is tested on the other two, then the other way round, for each seed. A
training may take so many seconds of one core, sampling and start included: the time of its steps is
measured first, and the number of segments follows. Runs are processes of one thread, two at a time;
those whose scores lie in FOLDER are not repeated, so that the command can be stopped and continued.

MONAI's networks (``pip install monai``) learn in a loop of their own from patches of 64 voxels, two
thirds of them around foreground, with DiceCE, AdamW and a cosine until these core seconds are over.

The data are the example cases that come with DeepMedic, as for `brats2015.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import yaml
from numpy.typing import NDArray

import deepseg

DATA = Path(os.environ.get("DEEPSEG_DATA", "../shared/data")) / "brats2015"
CLASSES = ("background", "necrosis", "oedema", "non_enhancing", "enhancing")
GROUPS = {"whole": [1, 2, 3, 4]}
FOLDS = (("train", "validation"), ("validation", "train"))
FILES = {
    "channel_FLAIR": "Flair_subtrMeanDivStd.nii.gz",
    "channel_T1c": "T1c_subtrMeanDivStd.nii.gz",
    "labels": "OTMultiClass.nii.gz",
    "roi": "brainmask.nii.gz",
}
EPOCHS = 20
CALIBRATION = (40, 160)  # segments, in whose times fixed and proportional parts differ

MODEL: Mapping[str, Any] = {
    "channels": ["FLAIR", "T1c"],
    "classes": list(CLASSES),
    "normal": {"feature_maps": [8, 8, 12, 12, 16, 16], "residuals": [4, 6]},
    "subsampled": {"factors": [3]},
    "fc": {
        "feature_maps": [48],
        "kernels": [3, 1],
        "padding": ["mirror", "none"],
        "dropout": [0, 0.3],
    },
    "segments": {"train": 25, "inference": 45},
}
TRAIN: Mapping[str, Any] = {
    "output": ".",
    "training": {
        "cases": {"table": "train.csv"},
        "sampling": {"type": "per_class"},
        "batch_size": 10,
        "augmentation": {
            "intensity": {
                "shift": {"mean": 0, "deviation": 0.05},
                "scale": {"mean": 1, "deviation": 0.01},
            },
            "reflect": [0.5, 0, 0],
        },
    },
    "preparation": {"z_score": "none"},
    "epochs": EPOCHS,
    "subepochs": 1,
    "optimiser": {
        "name": "rmsprop",
        "learning_rate": 0.001,
        "momentum": 0.6,
        "normalised_momentum": True,
    },
    "schedule": {"type": "predefined", "epochs": [EPOCHS // 2, 2 * EPOCHS // 3]},
    "workers": 0,
    "report": False,
}


@dataclass(frozen=True)
class Recipe:
    """Changes to `MODEL`, `TRAIN` and the test file, by keys with dots."""

    model: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    test: Mapping[str, Any] = field(default_factory=dict)


ADAMW = {"optimiser": {"name": "adamw", "learning_rate": 0.003}, "schedule": {"type": "cosine"}}
AUGMENTATION = "training.augmentation"
RECIPES: Mapping[str, Recipe] = {
    "deepmedic": Recipe(),
    "rmsprop_poly": Recipe(train={"schedule": {"type": "poly", "wait": 0}}),
    "adamw_cosine": Recipe(train={**ADAMW, "steps.warm_up": 1}),
    "sgd_poly": Recipe(
        train={
            "optimiser": {"name": "sgd", "learning_rate": 0.01, "momentum": 0.99},
            "schedule": {"type": "poly", "wait": 0},
        }
    ),
    "dice_and_cross_entropy": Recipe(train={"loss.dice": 1}),
    "focal": Recipe(train={"loss.focal": 1, "loss.cross_entropy": 0}),
    "average": Recipe(train={"steps.average": 0.99}),
    "affine": Recipe(train={f"{AUGMENTATION}.affine": {"max_rotation": [15, 15, 15]}}),
    "elastic": Recipe(train={f"{AUGMENTATION}.elastic": {}}),
    "gamma": Recipe(train={f"{AUGMENTATION}.gamma": {}}),
    "noise": Recipe(train={f"{AUGMENTATION}.noise": {}}),
    "low_resolution": Recipe(train={f"{AUGMENTATION}.low_resolution": {}}),
    "strong_intensity": Recipe(
        train={
            f"{AUGMENTATION}.intensity": {
                "shift": {"mean": 0, "deviation": 0.1},
                "scale": {"mean": 1, "deviation": 0.2},
            }
        }
    ),
    "no_augmentation": Recipe(train={AUGMENTATION: {}}),
    "half_foreground": Recipe(train={"training.sampling": {"type": "foreground_background"}}),
    "small_segments": Recipe(model={"segments.train": 19}, train={"training.batch_size": 24}),
    "large_segments": Recipe(model={"segments.train": 37}, train={"training.batch_size": 3}),
    "small_batch": Recipe(train={"training.batch_size": 4}),
    "three_pathways": Recipe(model={"subsampled.factors": [3, 5]}),
    "one_pathway": Recipe(model={"subsampled": None}),
    "narrow": Recipe(model={"normal.feature_maps": [4, 4, 6, 6, 8, 8]}),
    "wide": Recipe(model={"normal.feature_maps": [16, 16, 24, 24, 32, 32]}),
    "bfloat16": Recipe(train={"precision": "bfloat16"}),
    "mirrored_test": Recipe(test={"inference.mirror": ["x"]}),
}
PEERS = ("monai_unet", "monai_dynunet")


@dataclass(frozen=True)
class Run:
    """One training and its test.

    Attributes:
        recipe: Its name.
        fold: Which pair of patients it learns from, 0 or 1.
        seed: Of weights and segments.
        core_seconds: That the training may take.
    """

    recipe: str
    fold: int
    seed: int
    core_seconds: float

    @property
    def name(self) -> str:
        """A name for files."""
        return f"{self.recipe}-fold{self.fold}-seed{self.seed}"


def with_changes(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested ``settings`` after ``changes``; None leaves a key out.

    >>> with_changes({"loss": {"dice": 1}, "epochs": 3}, {"loss.iou": 2, "epochs": None})
    {'loss': {'dice': 1, 'iou': 2}}
    """
    copy: dict[str, Any] = json.loads(json.dumps(settings))
    for key, value in changes.items():
        *path, last = key.split(".")
        block = copy
        for name in path:
            block = block.setdefault(name, {})
        if value is None:
            block.pop(last)
        else:
            block[last] = value
    return copy


def cases(data: Path, part: str) -> list[Path]:
    """The folders of two patients."""
    return sorted((data / part).iterdir())


def write_table(file: Path, folders: Iterable[Path]) -> None:
    """A table of cases for deepseg."""
    rows = [
        [folder.name, *(str(folder.resolve() / f) for f in FILES.values())] for folder in folders
    ]
    file.write_text("".join(",".join(row) + "\n" for row in [["case", *FILES], *rows]))


def mean_scores(by_case: Mapping[str, Mapping[str, float | None]]) -> dict[str, float]:
    """Mean Dice over cases: whole tumour, each class, and the mean of the classes."""
    means = {
        name: statistics.fmean(scores[name] or 0 for scores in by_case.values())
        for name in ("whole", *CLASSES[1:])
    }
    return means | {"classes": statistics.fmean(means[name] for name in CLASSES[1:])}


# deepseg


def run_deepseg(run: Run, folder: Path, data: Path) -> dict[str, Any]:
    """Train and test a recipe."""
    recipe = RECIPES[run.recipe]
    learnt, tested = FOLDS[run.fold]
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "train.csv", cases(data, learnt))
    write_table(folder / "test.csv", cases(data, tested))
    model = folder / "model.yaml"
    model.write_text(yaml.safe_dump(with_changes(MODEL, recipe.model)))
    train = with_changes(TRAIN, recipe.train) | {"seed": run.seed}
    batch = train["training"]["batch_size"]

    def seconds_of(name: str, epochs: int, segments: int) -> tuple[float, Path]:
        settings = train | {"name": name, "epochs": epochs}
        settings = with_changes(settings, {"training.segments_per_subepoch": segments})
        if epochs == 1:
            settings["schedule"] = {"type": "constant"}
        file = folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(settings))
        started = time.process_time()
        new = deepseg.new_model(model, out=folder / f"{name}.save", seed=run.seed)
        trained = deepseg.train(file, model=new)
        return time.process_time() - started, Path(trained)

    few, many = (-(-count // batch) * batch for count in CALIBRATION)
    first, second = seconds_of("few", 1, few)[0], seconds_of("many", 1, many)[0]
    per_segment = max(second - first, 0.1 * second) / (many - few)
    fixed = max(second - many * per_segment, 0)
    segments = int((run.core_seconds - fixed) / per_segment / EPOCHS / batch) * batch
    seconds, trained = seconds_of("train", EPOCHS, max(segments, batch))
    test = {
        "name": "test",
        "output": ".",
        "cases": {"table": "test.csv"},
        "groups": GROUPS,
        "save": {"segmentation": False, "pictures": False},
    }
    (folder / "test.yaml").write_text(yaml.safe_dump(with_changes(test, recipe.test)))
    results = deepseg.segment(folder / "test.yaml", model=trained)
    scores = json.loads((Path(results) / "cases.json").read_text())["cases"]
    by_case = {
        name: {score: case["scores"][score]["dice"] for score in ("whole", *CLASSES[1:])}
        for name, case in scores.items()
    }
    return {"core_seconds": seconds, "segments": max(segments, batch) * EPOCHS, "cases": by_case}


# MONAI


def cropped(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]:
    """``(2, X, Y, Z)`` channels, ``(X, Y, Z)`` labels and brain of a case, cropped to the brain."""
    channels, labels, brain = (
        [np.asarray(nibabel.load(folder / FILES[key]).dataobj) for key in keys]
        for keys in (["channel_FLAIR", "channel_T1c"], ["labels"], ["roi"])
    )
    inside = brain[0] > 0
    box = tuple(slice(axis.min(), axis.max() + 1) for axis in np.nonzero(inside))
    return (
        np.stack(channels)[(slice(None), *box)].astype(np.float32),
        labels[0][box].astype(np.int64),
        inside[box],
    )


def patches(
    learnt: Sequence[tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]],
    rng: np.random.Generator,
    *,
    edge: int = 64,
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Endless patches: two thirds around foreground, half mirrored, intensities moved."""
    centres = [(np.argwhere(labels > 0), np.argwhere(brain)) for _, labels, brain in learnt]
    while True:
        case = int(rng.integers(len(learnt)))
        image, labels, _ = learnt[case]
        places = centres[case][0 if rng.random() < 2 / 3 else 1]
        centre = places[rng.integers(len(places))]
        start = [
            int(np.clip(c - edge // 2, 0, n - edge))
            for c, n in zip(centre, labels.shape, strict=True)
        ]
        box = tuple(slice(s, s + edge) for s in start)
        patch, truth = image[(slice(None), *box)], labels[box]
        if rng.random() < 0.5:
            patch, truth = patch[:, ::-1], truth[::-1]
        shift, scale = rng.normal(0, 0.05, (2, 1, 1, 1)), rng.normal(1, 0.01, (2, 1, 1, 1))
        yield ((patch + shift) * scale).astype(np.float32), truth.copy()


def run_monai(run: Run, data: Path) -> dict[str, Any]:
    """Train a network of MONAI until the core seconds are over, and test it."""
    import torch
    from monai.inferers import sliding_window_inference
    from monai.losses import DiceCELoss
    from monai.networks.nets import DynUNet, UNet

    torch.manual_seed(run.seed)
    torch.set_num_threads(1)
    if run.recipe == "monai_unet":
        network = UNet(3, 2, len(CLASSES), (16, 32, 64, 128), (2, 2, 2), num_res_units=2)
    else:
        network = DynUNet(
            3, 2, len(CLASSES), [3] * 4, [1, 2, 2, 2], [2] * 3, filters=[16, 32, 64, 128]
        )
    learnt, tested = FOLDS[run.fold]
    started = time.process_time()
    source = patches([cropped(f) for f in cases(data, learnt)], np.random.default_rng(run.seed))
    criterion = DiceCELoss(to_onehot_y=True, softmax=True)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2)
    count = 0
    while (share := (time.process_time() - started) / run.core_seconds) < 1:
        optimiser.param_groups[0]["lr"] = 1e-3 * (1 + np.cos(np.pi * share)) / 2
        images, truths = zip(*(next(source) for _ in range(2)), strict=True)
        scores = network(torch.from_numpy(np.stack(images)))
        loss = criterion(scores, torch.from_numpy(np.stack(truths))[:, None])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        count += 2
    seconds = time.process_time() - started
    network.eval()
    by_case = {}
    for folder in cases(data, tested):
        image, labels, brain = cropped(folder)
        with torch.inference_mode():
            scores = sliding_window_inference(
                torch.from_numpy(image)[None], (64, 64, 64), 2, network, mode="gaussian"
            )
        predicted = scores[0].argmax(0).numpy() * brain
        by_case[folder.name] = dice(predicted, labels)
    return {"core_seconds": seconds, "segments": count, "cases": by_case}


def dice(predicted: NDArray[np.int64], truth: NDArray[np.int64]) -> dict[str, float]:
    """Dice of the whole tumour and of each class.

    >>> scores = dice(np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2]))
    >>> round(scores["whole"], 2), round(scores["necrosis"], 2)
    (1.0, 0.67)
    """

    def overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
        return float(2 * (a & b).sum() / max(a.sum() + b.sum(), 1))

    classes = {name: overlap(predicted == n, truth == n) for n, name in enumerate(CLASSES) if n}
    return {"whole": overlap(predicted > 0, truth > 0)} | classes


# All runs


def start(run: Run, folder: Path, data: Path) -> None:
    """Do a run in a process of one thread, and keep its scores."""
    file = folder / f"{run.name}.json"
    if file.exists():
        return
    command = [sys.executable, __file__, run.recipe, "--out", str(folder), "--data", str(data)]
    command += ["--only", str(run.fold), str(run.seed), "--core-seconds", str(run.core_seconds)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    log = folder / f"{run.name}.log"
    with log.open("w") as output:
        code = subprocess.run(
            command, stdout=output, stderr=output, env=os.environ | threads, check=False
        ).returncode
    if code:
        print(f"{run.name} ended with {code}: see {log}")
        return
    scores = mean_scores(json.loads(file.read_text())["cases"])
    print(f"{run.name}: whole {scores['whole']:.3f}, classes {scores['classes']:.3f}", flush=True)


def do(run: Run, folder: Path, data: Path) -> None:
    """Do a run in this process."""
    is_peer = run.recipe in PEERS
    result = run_monai(run, data) if is_peer else run_deepseg(run, folder / run.name, data)
    file = folder / f"{run.name}.json"
    file.with_suffix(".part").write_text(
        json.dumps(vars(run) | result | {"budget": run.core_seconds})
    )
    file.with_suffix(".part").replace(file)


def table(folder: Path) -> str:
    """A markdown table of all scores in ``folder``, the best mean of the classes first.

    A seed counts once, with the mean over its folds; the deviation is that between seeds.
    """
    by_recipe: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for file in sorted(folder.glob("*.json")):
        result = json.loads(file.read_text())
        by_recipe.setdefault(result["recipe"], {}).setdefault(result["seed"], []).append(result)
    rows = []
    for recipe, seeds in by_recipe.items():
        whole_seeds = [runs for runs in seeds.values() if len(runs) == len(FOLDS)]
        if not whole_seeds:
            continue
        scores = [
            mean_scores({c: s for run in runs for c, s in run["cases"].items()})
            for runs in whole_seeds
        ]
        runs = [run for seed in whole_seeds for run in seed]
        cells = [
            _with_deviation([score[name] for score in scores])
            for name in ("whole", "classes", *CLASSES[1:])
        ]
        segments = statistics.fmean(run["segments"] for run in runs)
        core_seconds = statistics.fmean(run["core_seconds"] for run in runs)
        order = statistics.fmean(score["classes"] for score in scores)
        cells += [f"{segments:.0f}", f"{core_seconds:.0f}", str(len(scores))]
        rows.append((order, f"| {recipe} | {' | '.join(cells)} |"))
    heads = ["recipe", "whole", "classes", *CLASSES[1:], "segments", "core seconds", "seeds"]
    lines = [" | ".join(heads), "|".join(["---"] * len(heads))]
    rows.sort(reverse=True)
    return "\n".join([*(f"| {line} |" for line in lines), *(row for _, row in rows)])


def _with_deviation(values: Sequence[float]) -> str:
    mean = f"{statistics.fmean(values):.3f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.3f}"


def main() -> None:
    """Do the runs that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="default: all, and MONAI's")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--core-seconds", type=float, default=690)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="print the table of what there is")
    parser.add_argument("--only", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.recipes or [*RECIPES, *PEERS]
    unknown = sorted({*names} - {*RECIPES, *PEERS})
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join([*RECIPES, *PEERS])}")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.only:
        do(Run(names[0], *options.only, options.core_seconds), options.out, options.data)
        return
    if not options.table:
        runs = [
            Run(name, fold, seed, options.core_seconds)
            for seed in range(options.seeds)
            for name in names
            for fold in range(len(FOLDS))
        ]
        seconds = len(runs) * options.core_seconds / 2
        print(f"{len(runs)} runs: about {seconds / 3600:.1f} hours on two cores, tests not counted")
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda run: start(run, options.out, options.data), runs))
    print(table(options.out))


if __name__ == "__main__":
    main()
