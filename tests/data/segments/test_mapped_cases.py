"""Cases that a process has mapped: as little memory for many as for a few, the same segments."""

import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from deepseg.config.blocks.augmentation import Augmentation
from deepseg.config.blocks.sampling import Sampling
from deepseg.data.segments.loader import SegmentLoader
from deepseg.data.segments.mapped_cases import DEFAULT_LIMITS, MappingLimits
from deepseg.data.segments.segment_dataset import SegmentDataset, SegmentRules
from deepseg.geometry.context import NetworkGeometry, PathwayGeometry
from deepseg.storage.atomic import write_json

SHAPE = (80, 90, 100)
CASE_BYTES = 80 * 90 * 100 * (4 + 1)  # channels and labels
GEOMETRY = NetworkGeometry(
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


RULES = SegmentRules(
    sampling=Sampling(type="uniform"),
    classes=("background", "lesion"),
    geometry=GEOMETRY,
    size=(37, 38, 39),
    segments=400,
    cases=50,
    augmentation=Augmentation.model_validate({"reflect": (0.5, 0.5, 0.5)}),
    seed=0,
    is_training=True,
)


def dataset(folders, **limits) -> SegmentDataset:
    return SegmentDataset(folders, RULES, limits=MappingLimits(**limits))


def in_memory(folder: Path) -> dict[str, int]:
    """Bytes of every mapped file in ``folder`` that count as this process's memory."""
    result, name = {}, None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            path = line.split(maxsplit=5)[5:]
            name = path[0] if path and path[0].startswith(f"{folder}/") else None
        elif name is not None and line.startswith("Rss:"):
            result[name] = result.get(name, 0) + int(line.split()[1]) * 1024
    return result


def bytes_after_a_subepoch(folders, **limits) -> int:
    with dataset(folders, **limits) as segments:
        for index in range(400):
            segments[0, index]
        return sum(in_memory(folders[0].parent).values())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_many_cases_take_no_more_memory_than_a_few(folders):
    few = bytes_after_a_subepoch(folders[:5], memory_bytes=5 * CASE_BYTES)
    many = bytes_after_a_subepoch(folders, memory_bytes=5 * CASE_BYTES)
    assert few > 3 * CASE_BYTES  # it is measured at all
    assert many < 1.3 * few  # without forgetting, four times as much
    assert bytes_after_a_subepoch(folders, memory_bytes=20 * CASE_BYTES) > 3 * few


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_case_larger_than_the_limit_is_the_only_one_in_memory(folders):
    segments = dataset(folders[:4], memory_bytes=1)
    name = [segments[0, index][1] for index in range(100)][-1]
    files = in_memory(folders[0].parent)
    assert {Path(file).parent.name for file, size in files.items() if size} == {name}


def same(sample, other) -> bool:
    (segment, name), (other_segment, other_name) = sample, other
    return (
        name == other_name
        and np.array_equal(segment.labels, other_segment.labels)
        and all(map(np.array_equal, segment.inputs, other_segment.inputs))
    )


def test_forgotten_voxels_are_read_again(folders):
    plain, forgetful = dataset(folders[:4]), dataset(folders[:4], memory_bytes=1)
    assert all(same(plain[0, index], forgetful[0, index]) for index in range(40))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_more_cases_are_mapped_than_the_limit(tmp_path):
    folders = [case_in(tmp_path, number, (9, 10, 11)) for number in range(70)]
    segments = SegmentDataset(folders, RULES)
    names = {segments[0, index][1] for index in range(400)}
    assert len(names) == 50
    names |= {segments[1, index][1] for index in range(400)}
    assert len(names) > DEFAULT_LIMITS.cases
    mapped = {Path(file).parent.name for file in in_memory(tmp_path)}
    assert len(mapped) == DEFAULT_LIMITS.cases


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_dataset_lets_go_of_all_files_and_maps_them_again(folders):
    with dataset(folders[:3]) as segments:
        before = [segments[0, index] for index in range(20)]
        assert in_memory(folders[0].parent) != {}
    assert in_memory(folders[0].parent) == {}
    assert all(same(sample, segments[0, index]) for index, sample in enumerate(before))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_loader_lets_go_of_all_files_whoever_cuts(folders):
    segments = dataset(folders[:3])
    for workers in (0, 1):
        with SegmentLoader(segments, batch_size=40, workers=workers, first=0) as loader:
            assert len(list(loader.subepoch())) == 10
        assert in_memory(folders[0].parent) == {}


def test_a_copy_for_another_process_begins_with_no_case(folders):
    segments = dataset(folders[:3], cases=2)
    message = pickle.dumps(segments)
    assert len(message) < 10_000  # a mapped array would be pickled whole
    copy = pickle.loads(message)
    assert copy.counts == segments.counts
    assert all(same(segments[0, index], copy[0, index]) for index in range(20))
