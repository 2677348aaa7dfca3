"""Models with all that belongs to them: files of every version, provenance, origin, cohort."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import deepseg
from deepseg.config.cases import Preparation, ZScore
from deepseg.errors import DeepsegError
from deepseg.geometry.boxes import Box
from deepseg.model.checkpoint import (
    Checkpoint,
    Origin,
    TrainingCohort,
    model_in,
    new_checkpoint,
    read_checkpoint,
)
from deepseg.model.provenance import FilledFrom, Provenance, TrainedBy
from deepseg.storage.save_file import read_save, write_save
from tests.networks import small_config

FILES = Path(__file__).parent / "files"  # written by these versions, and never again
PRESENT, WITHOUT_COHORT = FILES / "0.1.0.save", FILES / "0.1.0-without-cohort.save"
PREPARATION = Preparation(z_score=ZScore(channels=("FLAIR",)), resample=(1.0, 1.5, 2.0))
COHORT = TrainingCohort(
    spacing_mm=(1.0, 1.5, 2.0),
    orientations=("LPS", "RAS"),
    has_roi=True,
    missing_channels=("T1",),
    foreground_share=0.125,
)
PROVENANCE = Provenance(
    seed=5,
    filled_from=FilledFrom(
        file="older.save",
        sha256="0" * 64,
        rules={"layers": ["1"]},
        tensors="2 of 29",
        layers=(("normal.1", "normal.1", "3/3", "2/2", ""),),
    ),
    trained_by=(TrainedBy("lesions", 3),),
)


@pytest.mark.parametrize("file", [PRESENT, WITHOUT_COHORT])
def test_a_file_of_every_version_predicts_as_it_did(file):
    network = deepseg.load(file).network().eval()
    segments = [
        torch.linspace(-1, 1, 2 * points.count[0] * points.count[1] * points.count[2]).view(
            1, 2, *points.count
        )
        for points in network.geometry.lattices(Box((0, 0, 0), (7, 8, 9)))
    ]
    with torch.no_grad():
        logits = network(segments)
    assert logits.shape == (1, 2, 3, 4, 5)
    assert logits[0, :, 0, 1, 2].tolist() == pytest.approx([-0.134520844, 0.107350044], abs=1e-6)
    assert float(logits.sum()) == pytest.approx(-1.40430009, abs=1e-5)


@pytest.mark.parametrize(
    ("file", "cohort"),
    [(PRESENT, COHORT), (WITHOUT_COHORT, TrainingCohort(spacing_mm=(1.0, 1.5, 2.0)))],
)
def test_a_file_of_every_version_tells_where_it_comes_from(file, cohort):
    checkpoint = deepseg.load(file)
    assert checkpoint.provenance == PROVENANCE
    assert checkpoint.preparation == PREPARATION
    assert checkpoint.cohort == cohort
    assert checkpoint.spacing_mm == (1.0, 1.5, 2.0)
    assert checkpoint.training is None
    assert checkpoint.origin == Origin(file, "weights")


def test_a_version_that_knows_words_only_reads_the_same_in_a_new_file():
    new, old = read_save(PRESENT), read_save(WITHOUT_COHORT)
    assert new.provenance == old.provenance
    assert new.spacing_mm == old.spacing_mm


def test_what_is_written_comes_back(tmp_path):
    checkpoint = replace(
        new_checkpoint(small_config(), seed=3),
        preparation=PREPARATION,
        cohort=COHORT,
        provenance=PROVENANCE,
        training={"epoch": 2},
    )
    result = read_checkpoint(checkpoint.write(tmp_path / "a.save"))
    assert all(torch.equal(result.weights[n], t) for n, t in checkpoint.weights.items())
    assert result.config.channels == checkpoint.config.channels
    rest = {"weights": {}, "origin": Origin(), "config": None}
    assert replace(result, **rest) == replace(checkpoint, **rest)


def test_fields_of_later_versions_are_ignored(tmp_path):
    save = new_checkpoint(small_config(), seed=3).to_save()
    later = {"lineage": {**save.lineage, "colour": "red"}, "cohort": {"scanner": "A"}}
    result = read_checkpoint(write_save(tmp_path / "a.save", replace(save, **later)))
    assert result.provenance == Provenance(seed=3)
    assert result.cohort == TrainingCohort()


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("preparation", {"z_score": "twice"}, "Input should be"),
        ("cohort", {"spacing_mm": [1.0, 1.0]}, "Field required"),
        ("lineage", {"seed": "three"}, "Input should be a valid integer"),
    ],
)
def test_records_that_are_not_understood_are_refused(tmp_path, field, value, reason):
    save = replace(new_checkpoint(small_config(), seed=3).to_save(), **{field: value})
    with pytest.raises(DeepsegError) as refusal:
        read_checkpoint(write_save(tmp_path / "a.save", save))
    (problem,) = refusal.value.problems
    assert problem.code == "model-settings"
    assert problem.got.startswith(f"settings that this deepseg does not understand: {reason}")
    assert problem.where == str(tmp_path / "a.save")


OLDER = FilledFrom("A.save")


@pytest.mark.parametrize(
    ("provenance", "is_random"),
    [
        pytest.param(Provenance(seed=0), True, id="as initialised"),
        pytest.param(Provenance(seed=0).trained("a", epochs=0), False, id="in its first epoch"),
        pytest.param(Provenance(seed=0, filled_from=OLDER), False, id="filled"),
        pytest.param(
            Provenance(seed=0, filled_from=replace(OLDER, is_random=True)), True,
            id="filled from one that is random",
        ),
        pytest.param(
            Provenance(0, replace(OLDER, is_random=True)).trained("a", epochs=1), False,
            id="trained after that",
        ),
        pytest.param(Provenance(), False, id="unknown"),
    ],
)  # fmt: skip
def test_weights_are_random_until_something_has_learnt(provenance, is_random):
    checkpoint = Checkpoint(small_config(), {}, provenance=provenance)
    assert checkpoint.is_random == is_random
    assert Provenance.from_record(provenance.record()) == provenance


def test_a_session_that_goes_on_is_one_session():
    provenance = Provenance(seed=1).trained("a", epochs=2).trained("b", epochs=1)
    assert provenance.trained("b", epochs=4).trained_by == (TrainedBy("a", 2), TrainedBy("b", 4))


@pytest.mark.parametrize("provenance", [Provenance(), Provenance(seed=3), PROVENANCE])
def test_words_say_all_that_is_in_the_fields(provenance):
    assert Provenance.from_words(provenance.words()) == provenance


@pytest.mark.parametrize("names", [["best", "last"], ["last"]])
def test_a_folder_of_a_session_means_its_best_model_or_its_last(tmp_path, names):
    (tmp_path / "models").mkdir()
    for name in names:
        (tmp_path / f"models/{name}.save").touch()
    assert model_in(tmp_path) == tmp_path / f"models/{names[0]}.save"
    assert model_in(tmp_path / "models") == tmp_path / f"models/{names[0]}.save"
