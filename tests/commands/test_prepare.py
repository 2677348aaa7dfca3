"""``-prepare``: cases made ready beforehand, by one process or many, killed or not."""

import json
import re
from collections import namedtuple

import nibabel
import numpy as np
import pytest

from deepseg.commands import prepare as preparing

FOLDER = "HERE/runs/training/cache"


@pytest.fixture
def cached(place):
    """Time of change of every file of prepared cases."""

    def times():
        cache = place / "runs/training/cache"
        return {
            str(file.relative_to(cache)): file.stat().st_mtime_ns
            for file in cache.rglob("*.*")
            if not file.name.startswith("lock")
        }

    return times


def test_training_uses_what_was_prepared_and_learns_the_same(
    place, command, cached, trained, same_weights
):
    result = command("-prepare", "train.yaml")
    assert (result.returncode, result.stderr) == (0, "")
    before = cached()
    assert sum(name.endswith("case.json") for name in before) == 3
    assert sum(name.endswith("-ends.npy") for name in before) == 3
    assert sum(name.startswith("facts/") for name in before) == 3
    result = command("-train", "train.yaml")
    assert result.returncode == 0
    assert "checking" not in result.stdout
    assert cached() == before
    model = "runs/training/models/last.save"
    same_weights(place / model, trained / model)


def test_number_size_and_time_are_told_beforehand(command):
    lines = command("-prepare", "train.yaml").stdout.splitlines()
    voxels = 24 * 22 * 20
    size = f"{3 * voxels * (2 * 4 + 1 + 1 + 4) / 1e6:.3g} MB"
    assert re.fullmatch(
        rf"3 of 3 cases to prepare: up to {size} in {FOLDER}, where [\d.]+ GB are free", lines[3]
    )
    assert re.fullmatch(r"about [\d.]+ s for the other 2", lines[4])
    assert lines[-1] == f"3 cases are prepared in {FOLDER}; next: -train train.yaml"


def test_the_size_that_is_told_is_that_on_the_disk(place, command):
    command("-prepare", "train.yaml")
    arrays = (place / "runs/training/cache").rglob("*.npy")
    chosen = sum(file.stat().st_size for file in arrays if not file.name.endswith("-ends.npy"))
    message = 3 * 24 * 22 * 20 * 14
    assert 0.6 * message < chosen <= message + 3 * 5 * 128  # only voxels of the ROI are candidates


def test_a_case_that_was_cut_short_is_done_again_and_no_other(place, command, cached):
    command("-prepare", "train.yaml")
    before = cached()
    (b,) = (place / "runs/training/cache").glob("b-*")
    (b / "channels.npy").write_bytes((b / "channels.npy").read_bytes()[:-5])
    lines = command("-prepare", "train.yaml").stdout.splitlines()
    assert any(line.startswith("1 of 3 cases to prepare: ") for line in lines)
    after = cached()
    changed = {name for name in before if before[name] != after[name]}
    assert {name.split("-")[0] for name in changed} == {"b"}
    assert before.keys() == after.keys()
    result = command("-prepare", "train.yaml")
    assert "to prepare" not in result.stdout


def test_parts_prepare_cases_of_their_own_with_the_axes_of_most(place, command, cached):
    turned = nibabel.load(place / "data/b/T1.nii.gz").affine @ np.diag([1, -1, 1, 1])
    for name in ("T1", "FLAIR", "labels", "roi"):
        place.store(f"b/{name}.nii.gz", place.array(f"b/{name}.nii.gz"), turned)
    rows = (place / "data/train.csv").read_text() + "".join(
        (place / f"data/{part}.csv").read_text().splitlines()[1] + "\n"
        for part in ("validation", "test")
    )
    place.write("data/train.csv", rows)  # a, b, c, d
    place.edit("train.yaml", "validation:\n  cases:\n    table: data/validation.csv\n", "")
    text = (place / "train.yaml").read_text()
    place.write("train.yaml", re.sub(r"  samples:.*every: 2\n", "", text, flags=re.DOTALL))
    assert command("-prepare", "train.yaml", "-part", "2/4").returncode == 0
    assert [name[0] for name in cached() if name.endswith("case.json")] == ["b"]
    for part in ("1/4", "3/4", "4/4"):
        assert command("-prepare", "train.yaml", "-part", part).returncode == 0
    before = cached()
    assert command("-train", "train.yaml").returncode == 0
    assert cached() == before


def test_cases_that_are_wrong_are_told_at_the_end_and_the_others_are_prepared(
    place, command, cached
):
    (place / "data/a/FLAIR.nii.gz").unlink()
    place.store("c/labels.nii.gz", place.array("c/labels.nii.gz") + 7)
    result = command("-prepare", "train.yaml")
    assert result.returncode == 2
    codes = [line.split()[1] for line in result.errors]
    assert codes == ["[file-missing]", "[label-values]"]
    assert [name[0] for name in cached() if name.endswith("case.json")] == ["b"]


def test_processes_of_one_machine_share_the_cases(command, monkeypatch):
    calls = []
    monkeypatch.setattr(preparing, "run_parts", lambda *words: calls.append(words[:2]))
    result = command("-prepare", "train.yaml", "-devices", "4", "-model", "model.yaml")
    assert result.returncode == 0
    ((parts, watched),) = calls
    assert parts.words == ("-prepare", "train.yaml", "-model", "model.yaml")
    assert (parts.count, parts.device, watched.total) == (4, "cpu", 3)
    assert watched.done() == 3  # which were left to this process


def test_a_disk_that_will_be_full_is_warned_of(command, monkeypatch):
    usage = namedtuple("usage", "free")(1000)
    monkeypatch.setattr(preparing.shutil, "disk_usage", lambda _: usage)
    (line,) = command("-prepare", "train.yaml").warnings
    assert line == f"WARNING the disk of {FOLDER} may become full: name another cache"


def test_a_cache_that_was_copied_is_compared_once_and_then_trusted(place, command):
    command("-prepare", "train.yaml")
    (a,) = (place / "runs/training/cache").glob("a-*")
    record = json.loads((a / "case.json").read_text())
    (a / "case.json").write_text(json.dumps({**record, "stamps": {}}))
    command("-prepare", "train.yaml")
    assert json.loads((a / "case.json").read_text()) == record
