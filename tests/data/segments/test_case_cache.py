"""Cases that a process has open: as little memory for many as for a few, and the same segments."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from deepseg.config.blocks.augmentation import Augmentation
from deepseg.config.blocks.sampling import Sampling
from deepseg.data.segments import case_cache as opened
from deepseg.data.segments.segment_dataset import SegmentDataset, SegmentRules
from deepseg.geometry.context import NetworkGeometry, PathwayGeometry
from deepseg.storage.atomic import write_json

SHAPE = (80, 90, 100)
CASE_BYTES = 80 * 90 * 100 * (4 + 1)  # channels and labels
VISION = NetworkGeometry(
    (PathwayGeometry((1, 1, 1), (4, 4, 4)), PathwayGeometry((5, 5, 5), (4, 4, 4))),
    (0, 0, 0),
    "centred",
)


def case_in(folder: Path, number: int, shape=SHAPE) -> Path:
    folder = folder / f"case{number}"
    folder.mkdir()
    rng = np.random.default_rng(number)
    np.save(folder / "channels.npy", rng.random((1, *shape), np.float32))
    np.save(folder / "labels.npy", np.ones(shape, np.uint8))
    record = {"name": f"case{number}", "shape": shape, "affine": np.eye(4).tolist()}
    write_json(folder / "case.json", record)
    return folder


@pytest.fixture
def folders(tmp_path):
    return [case_in(tmp_path, number) for number in range(20)]


def source(folders) -> SegmentDataset:
    return SegmentDataset(
        folders,
        SegmentRules(
            sampling=Sampling(type="uniform"), classes=("background", "lesion"), geometry=VISION,
            size=(37, 38, 39), segments=400, cases=50,
            augmentation=Augmentation.model_validate({"reflect": (0.5, 0.5, 0.5)}),
            seed=0, is_training=True,
        ),
    )  # fmt: skip


def in_memory(folder: Path) -> dict[str, int]:
    """Bytes of every mapped file in ``folder`` that count as this process's memory."""
    found, name = {}, None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            path = line.split(maxsplit=5)[5:]
            name = path[0] if path and path[0].startswith(f"{folder}/") else None
        elif name is not None and line.startswith("Rss:"):
            found[name] = found.get(name, 0) + int(line.split()[1]) * 1024
    return found


def taken(folders, count) -> int:
    cut = source(folders[:count])
    for index in range(400):
        cut[0, index]
    return sum(in_memory(folders[0].parent).values())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_many_cases_take_no_more_memory_than_a_few(folders, monkeypatch):
    monkeypatch.setattr(opened, "MOST_IN_MEMORY", 5 * CASE_BYTES)
    few, many = taken(folders, 5), taken(folders, 20)
    assert few > 3 * CASE_BYTES  # it is measured at all
    assert many < 1.3 * few  # without forgetting, four times as much
    monkeypatch.setattr(opened, "MOST_IN_MEMORY", 20 * CASE_BYTES)
    assert taken(folders, 20) > 3 * few


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_case_larger_than_all_that_is_allowed_is_the_only_one_in_memory(folders, monkeypatch):
    monkeypatch.setattr(opened, "MOST_IN_MEMORY", 1)
    cut = source(folders[:4])
    name = [cut[0, index][1] for index in range(100)][-1]
    files = in_memory(folders[0].parent)
    assert {Path(file).parent.name for file, size in files.items() if size} == {name}


def test_what_was_forgotten_is_read_again(folders, monkeypatch):
    cut = source(folders[:4])
    kept = [cut[0, index] for index in range(40)]
    monkeypatch.setattr(opened, "MOST_IN_MEMORY", 1)
    for index, (segment, name) in enumerate(kept):
        again, other_name = cut[0, index]
        assert name == other_name
        assert np.array_equal(segment.labels, again.labels)
        assert all(map(np.array_equal, segment.inputs, again.inputs))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_more_than_so_many_cases_are_mapped(tmp_path):
    cut = source([case_in(tmp_path, number, (9, 10, 11)) for number in range(70)])
    names = {cut[0, index][1] for index in range(400)}
    assert len(names) == 50
    names |= {cut[1, index][1] for index in range(400)}
    assert len(names) > opened.MOST_OPEN
    mapped = {Path(file).parent.name for file in in_memory(tmp_path)}
    assert len(mapped) == opened.MOST_OPEN
