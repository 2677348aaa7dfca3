"""Segments cut per second and core, with and without augmentation.

    python benchmarks/sampling.py [--data FOLDER] [--model FILE] [--segments 300] [--rounds 5]

One process, one thread, which does what a sampling worker does: draw, move, cut, join in batches of
10. Seconds are those of the processor; the settings are measured in turn, and the fastest round of
each counts, so that what else runs on the machine matters little. FOLDER holds ``train/`` with a
folder per case, as for `brats2015.py`; the cases are prepared before the clock starts.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from deepseg.config.blocks.augmentation import Augmentation
from deepseg.config.blocks.sampling import Sampling
from deepseg.config.cases import Preparation
from deepseg.config.load import load
from deepseg.config.model import ModelConfig
from deepseg.data.case_cache import prepared_folder
from deepseg.data.cases.case import Case
from deepseg.data.segments.loader import collate
from deepseg.data.segments.segment_dataset import SegmentDataset, SegmentRules
from deepseg.model.layout import layout

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("DEEPSEG_DATA", ROOT / "../shared/data")) / "brats2015"
MODEL = ROOT / "configs/model/deepmedic.yaml"
BATCH = 10

INTENSITY = {"shift": {"mean": 0, "deviation": 0.05}, "scale": {"mean": 1, "deviation": 0.01}}
REFLECT = (0.5, 0.5, 0.5)
TURNS = {"xy": (1, 1, 1, 1), "yz": (1, 1, 1, 1), "xz": (1, 1, 1, 1)}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "intensity": {"intensity": INTENSITY},
    "reflect": {"reflect": REFLECT},
    "rotate90": {"rotate90": TURNS},
    "intensity, reflect, rotate90": {
        "intensity": INTENSITY,
        "reflect": REFLECT,
        "rotate90": TURNS,
    },
    "affine": {"affine": {"probability": 1}},
    "elastic": {"elastic": {"probability": 1}},
    "affine, elastic": {"affine": {"probability": 1}, "elastic": {"probability": 1}},
    "all of them": {
        "intensity": INTENSITY,
        "reflect": REFLECT,
        "rotate90": TURNS,
        "affine": {"probability": 1},
        "elastic": {"probability": 1},
    },
}


def case_in(folder: Path) -> Case:
    """The case whose files lie in ``folder``."""
    return Case(
        name=folder.name,
        channels=(
            folder / "Flair_subtrMeanDivStd.nii.gz",
            folder / "T1c_subtrMeanDivStd.nii.gz",
        ),
        labels=folder / "OTMultiClass.nii.gz",
        roi=folder / "brainmask.nii.gz",
        weight_maps=(),
        label_map=(),
        trust_arrays=False,
        where=str(folder),
    )


def source(
    folders: list[Path], config: ModelConfig, augmentation: Mapping[str, Any], count: int
) -> SegmentDataset:
    """Segments of the default size, equally often around every class, ``count`` per sub-epoch."""
    return SegmentDataset(
        folders,
        SegmentRules(
            sampling=Sampling(),
            classes=config.classes,
            geometry=layout(config).geometry(config.context_alignment),
            size=config.segment_sizes["train"],
            segments=count,
            cases=min(50, len(folders)),
            augmentation=Augmentation.model_validate(augmentation),
            seed=0,
            is_training=True,
        ),
    )


def per_second(segments: SegmentDataset, subepoch: int) -> float:
    """Segments per second of the processor, over one sub-epoch."""
    count = segments.rules.segments
    started = time.process_time()
    for first in range(0, count, BATCH):
        collate([segments[subepoch, index] for index in range(first, min(first + BATCH, count))])
    return count / (time.process_time() - started)


def main() -> None:
    """Print a table in markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--segments", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = load(ModelConfig, options.model).config
    with tempfile.TemporaryDirectory(prefix="deepseg-sampling-") as cache:
        folders = [
            prepared_folder(
                case_in(folder), Preparation(z_score="none"), config.channels, Path(cache)
            )
            for folder in sorted((options.data / "train").iterdir())
        ]
        sources = {
            title: source(folders, config, augmentation, options.segments)
            for title, augmentation in SETTINGS.items()
        }
        rates: dict[str, list[float]] = {title: [] for title in SETTINGS}
        for number in range(options.rounds + 1):
            for title, segments in sources.items():
                rate = per_second(segments, number)
                if number:  # the first round reads the files
                    rates[title].append(rate)
    print(
        f"{platform.processor() or platform.machine()}, one thread, torch {torch.__version__}; "
        f"{config.name}, segments of {config.segment_sizes['train']}, "
        f"{len(config.channels)} channels, best of {options.rounds} rounds of {options.segments}\n"
    )
    print("| Augmentation | segments per second and core | slowest round |")
    print("|---|---|---|")
    for title, speeds in rates.items():
        print(f"| {title} | {max(speeds):,.0f} | {min(speeds):,.0f} |")


if __name__ == "__main__":
    main()
