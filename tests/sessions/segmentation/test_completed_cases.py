"""Records of finished cases: what makes a case count as done, and what not."""

import json
import sys
from dataclasses import replace

import pytest

from deepseg.config.cases import Preparation
from deepseg.config.testing import Inference, TestConfig
from deepseg.data.cases.case import Case
from deepseg.inference import metric_registry
from deepseg.sessions.segmentation.completed_cases import (
    RESULT_INFERENCE,
    RESULT_SETTINGS,
    Cleared,
    CompletedCases,
    ModelFingerprint,
    case_key,
)
from deepseg.storage.content_stamp import PART, WHOLE, content_stamp

RECORD = {"files": ["predictions/a.nii.gz"], "without_picture": False, "scores": None}


@pytest.fixture
def records(tmp_path):
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions/a.nii.gz").write_text("voxels")
    finished = CompletedCases(tmp_path)
    finished.keep("a", "key", RECORD)
    return finished


def test_a_record_is_given_back_while_its_key_is_the_same(records, tmp_path):
    stamps = {"predictions/a.nii.gz": content_stamp(tmp_path / "predictions/a.nii.gz")}
    assert records.record("a", "key") == {"key": "key", **RECORD, "stamps": stamps}
    assert records.record("a", "another key") is None
    assert records.record("b", "key") is None


def test_a_record_does_not_count_without_its_files(records, tmp_path):
    (tmp_path / "predictions/a.nii.gz").unlink()
    assert records.record("a", "key") is None


def test_a_record_that_is_no_json_does_not_count(records, tmp_path):
    (tmp_path / "cases/a.json").write_text('{"key": "key", "fil')
    assert records.record("a", "key") is None


def test_a_record_without_a_picture_counts_as_long_as_none_can_be_drawn(records, monkeypatch):
    records.keep("a", "key", {**RECORD, "without_picture": True})
    assert records.record("a", "key") is None
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    assert records.record("a", "key")["files"] == RECORD["files"]


def test_what_is_noted_of_a_case_is_deleted_with_its_record_and_nothing_else(records, tmp_path):
    (tmp_path / "predictions/b.nii.gz").write_text("voxels")
    records.keep("b", "key", {"files": ["predictions/b.nii.gz", "predictions/b.png"]})
    (tmp_path / "predictions/b.txt").write_text("not noted")
    assert [records.clear(name) for name in "bbc"] == [Cleared(1), Cleared(), Cleared()]
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"cases/a.json", "predictions/a.nii.gz", "predictions/b.txt"}


@pytest.mark.parametrize("content", ["voxelS", "vox", "voxels and more"])
def test_a_result_that_was_changed_is_set_aside_and_does_not_count(records, tmp_path, content):
    result = tmp_path / "predictions/a.nii.gz"
    result.write_text(content)
    assert records.record("a", "key") is None
    assert records.clear("a") == Cleared(0, (tmp_path / "set_aside/a.nii.gz",))
    assert not result.exists()
    result.write_text("the next one")
    assert records.begin("a", [result]) == (tmp_path / "set_aside-2/a.nii.gz",)
    assert (tmp_path / "set_aside/a.nii.gz").read_text() == content
    assert (tmp_path / "set_aside-2/a.nii.gz").read_text() == "the next one"


def test_what_this_session_was_writing_when_it_was_killed_is_no_file_of_the_user(records, tmp_path):
    half = tmp_path / "predictions/b.nii.gz"
    assert records.begin("b", [half]) == ()
    half.write_text("half of it")
    assert records.begin("b", [half]) == ()
    assert records.clear("b") == Cleared(1)


def test_a_result_as_it_was_written_is_written_over(records, tmp_path):
    result = tmp_path / "predictions/a.nii.gz"
    assert records.begin("a", [result]) == ()
    assert result.read_text() == "voxels"


def test_a_stamp_of_a_large_file_changes_with_its_ends_and_its_size(tmp_path):
    file = tmp_path / "large"
    content = bytearray(WHOLE + 3 * PART)
    stamps = set()
    for place in (0, len(content) // 2, len(content) - 1):
        content[place] = 1
        file.write_bytes(content)
        stamps.add(content_stamp(file))
    file.write_bytes(bytes(len(content) + 1))
    assert len(stamps | {content_stamp(file)}) == 4


@pytest.mark.parametrize(
    "files",
    [
        pytest.param(["../letter.txt"], id="beside the session"),
        pytest.param(["predictions/../../letter.txt"], id="by a detour"),
        pytest.param(["{folder}/letter.txt"], id="by its whole path"),
        pytest.param("../letter.txt", id="no list"),
        pytest.param([["../letter.txt"]], id="a list inside"),
        pytest.param([""], id="the folder itself"),
    ],
)
def test_no_record_makes_anything_outside_the_session_be_deleted(tmp_path, files):
    letter = tmp_path / "letter.txt"
    letter.write_text("dear")
    session = tmp_path / "session"
    paths = [f.format(folder=tmp_path) if isinstance(f, str) else f for f in files]
    completed = CompletedCases(session)
    record = {"key": "key", **RECORD, "files": files if isinstance(files, str) else paths}
    (session / "cases").mkdir(parents=True)
    (session / "cases/a.json").write_text(json.dumps(record))
    assert completed.record("a", "key") is None
    assert completed.clear("a") == Cleared()
    assert letter.read_text() == "dear"
    assert not (session / "cases/a.json").exists()


@pytest.mark.parametrize("text", ["[]", "3", "null", '{"files": 3}', "[" * 100_000])
def test_a_record_of_another_form_does_not_count(records, tmp_path, text):
    (tmp_path / "cases/a.json").write_text(text)
    assert records.record("a", "key") is None
    assert records.clear("a") == Cleared()


@pytest.fixture
def case(tmp_path):
    image = tmp_path / "a.nii.gz"
    image.write_text("voxels")
    return Case("a", (image,), None, None, (), (), False, "cases.csv:2")


def config(**changes):
    cases = {"table": "cases.csv"}
    return TestConfig.model_validate({"output": "runs", "cases": cases, **changes})


def key(case, own=None, models=None):
    settings = config() if own is None else own
    return case_key(
        case, settings, models or [ModelFingerprint("sha", Preparation(), None, None)], ["T1"]
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "another"},
        {"output": "elsewhere"},
        {"model": "other.save"},  # its weights count, not its name
        {"cases": {"table": "other.csv"}},
        {"keep_going": True},
        {"batch_size": 3},
        {"tile": 33},  # counts with a model that answers tile by tile
        {"preparation": {"z_score": "none"}},  # counts with a model that has none of its own
        {"inference": {"memory": "2 GB"}},
        {"inference": {"tiling": "global"}},
    ],
)
def test_settings_without_effect_on_a_case_do_not_count(case, changes):
    assert key(case, config(**changes)) == key(case)


@pytest.mark.parametrize(
    "changes",
    [
        {"inference": {"mirror": ["x"]}},
        {"inference": {"precision": "bfloat16"}},
        {"postprocess": {"a": {"min_ml": 1}}},
        {"save": {"probabilities": True}},
        {"groups": {"both": [1, 2]}},
    ],
)
def test_settings_with_an_effect_count(case, changes):
    assert key(case, config(**changes)) != key(case)


def test_a_registered_metric_counts_with_its_source(case, monkeypatch):
    monkeypatch.setattr(metric_registry, "_registered", {})
    metric_registry.register_metric("error", lambda *_: 0)
    first = key(case, config(metrics=["error"]))
    metric_registry.register_metric("error", lambda *_: 1)
    assert len({key(case), first, key(case, config(metrics=["error"]))}) == 3


def test_every_setting_is_known_to_count_or_not():
    """A new one is to be thought about."""
    without = {"name", "output", "model", "cases", "keep_going", "batch_size", "report"}
    in_models = {"tile", "preparation", "inference"}
    by_source = {"metrics"}
    assert set(TestConfig.model_fields) == RESULT_SETTINGS | without | in_models | by_source
    assert set(Inference.model_fields) == RESULT_INFERENCE | {"memory", "tiling", "accept"}


def test_weights_preparation_tile_and_number_of_models_count(case):
    model = ModelFingerprint("sha", Preparation(), None, None)
    keys = [
        key(case, models=models)
        for models in (
            [model],
            [replace(model, sha256="other")],
            [replace(model, preparation=Preparation(z_score="none"))],
            [replace(model, tile=(9, 9, 9))],
            [replace(model, feature_tile=(9, 9, 9))],
            [replace(model, tile=(9, 9, 9), feature_tile=(9, 9, 9))],
            [model, replace(model, sha256="other")],
        )
    ]
    assert len(set(keys)) == 7


def test_files_and_label_map_of_the_case_count(case):
    before = key(case)
    assert key(replace(case, label_map=((4, 1),))) != before
    case.channels[0].write_text("other voxels")
    assert key(case) != before
