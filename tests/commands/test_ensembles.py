"""Several models in one command: the mean of their answers, and what they must have in common."""

import nibabel
import numpy as np
import pytest

MAPS = "  pictures: false\n  probabilities: true\n"


@pytest.fixture
def models(command, place):
    """Two random models that know nothing, A.save and B.save."""
    place.edit("test.yaml", "  pictures: false\n", MAPS)
    place.write("test.yaml", (place / "test.yaml").read_text() + "preparation: {}\n")
    for seed, name in enumerate("AB"):
        new = command("-newModel", "model.yaml", "-out", f"{name}.save", "-seed", str(seed))
        assert new.returncode == 0


def volume(place, kind):
    file = place / f"runs/results/predictions/d_{kind}.nii.gz"
    return np.asarray(nibabel.load(file).dataobj)


def probabilities(command, place, *options):
    result = command("-test", "test.yaml", *options)
    assert result.returncode == 0, result.stderr
    return np.stack([volume(place, f"ProbMapClass{label}") for label in range(3)])


def test_the_probabilities_of_two_models_are_the_mean_of_those_of_each(command, place, models):
    first, second = (probabilities(command, place, "-model", f"{n}.save") for n in "AB")
    both = probabilities(command, place, "-model", "A.save", "B.save")
    np.testing.assert_allclose(both, (first + second) / 2, atol=1e-6)
    assert np.abs(first - second).max() > 0.01
    roi = place.array("d/roi.nii.gz") > 0
    assert np.array_equal(volume(place, "Segm"), np.where(roi, both.argmax(0), 0))


def test_the_test_file_may_name_them_and_the_command_line_wins(command, place, models):
    typed = probabilities(command, place, "-model", "A.save", "B.save")
    place.edit("test.yaml", "output: runs", "output: runs\nmodel: [A.save, B.save]")
    assert np.array_equal(probabilities(command, place), typed)
    single = probabilities(command, place, "-model", "B.save")
    assert not np.allclose(single, typed, atol=1e-3)


def test_a_model_file_beside_several_saves_only_describes_them(command, place, models):
    place.edit("test.yaml", "output: runs", "output: runs\nmodel: [A.save, B.save]")
    both = probabilities(command, place)
    assert np.array_equal(probabilities(command, place, "-model", "model.yaml"), both)


def test_the_check_knows_several_models_too(command, place, models):
    place.edit("test.yaml", "output: runs", "output: runs\nmodel: [A.save, B.save]")
    assert command("-check", "test.yaml").returncode == 0
    place.edit("model.yaml", "[T1, FLAIR]", "[T1, T2]")
    assert command("-newModel", "model.yaml", "-out", "C.save").returncode == 0
    place.edit("test.yaml", "B.save", "C.save")
    (line,) = command("-check", "test.yaml").errors
    assert line.startswith("ERROR [models-differ] HERE/C.save: got channels T1, T2; ")


def test_models_of_other_channels_and_classes_are_refused(command, refused, place, models):
    place.edit("model.yaml", "[T1, FLAIR]", "[FLAIR, T1]")
    place.edit("model.yaml", "rim, core]", "rim]")
    assert command("-newModel", "model.yaml", "-out", "C.save").returncode == 0
    result = refused("-test", "test.yaml", "-model", "A.save", "C.save", session="results")
    assert result == [
        "[models-differ] C.save: got channels FLAIR, T1; expected T1, FLAIR, as in A.save; "
        "fix: average models of the same task only",
        "[models-differ] C.save: got classes background, rim; expected background, rim, core, as "
        "in A.save; fix: average models of the same task only",
    ]


def test_entropy_and_variance_are_written(command, place, models):
    place.edit("test.yaml", MAPS, MAPS + "  uncertainty: [entropy, variance]\n")
    mean = probabilities(command, place, "-model", "A.save", "B.save")
    roi = place.array("d/roi.nii.gz") > 0
    safe = np.where(mean > 0, mean, 1).astype(float)
    entropy = -(safe * np.log(safe)).sum(0) / np.log(3)
    np.testing.assert_allclose(volume(place, "entropy"), entropy, atol=1e-5)
    variance = volume(place, "variance")
    assert variance.shape == roi.shape
    assert not variance[~roi].any()
    assert variance[roi].max() > 1e-5


def test_mirror_images_are_answers_between_which_there_is_variance(command, place, models):
    place.edit("test.yaml", MAPS, MAPS + "  uncertainty: [variance]\n")
    place.write("test.yaml", (place / "test.yaml").read_text() + "inference: {mirror: [x]}\n")
    probabilities(command, place, "-model", "A.save")
    assert volume(place, "variance").max() > 1e-5


def test_the_variance_of_one_answer_is_refused(refused, place, models):
    place.edit("test.yaml", MAPS, MAPS + "  uncertainty: [entropy, variance]\n")
    assert refused("-test", "test.yaml", "-model", "A.save", session="results") == [
        "[variance-of-one] test.yaml: got save.uncertainty with variance, and one answer per "
        "case; expected several answers, between which there can be variance; fix: give several "
        "models or inference.mirror, or ask for entropy only"
    ]


def test_a_validation_has_one_answer_per_case_too(refused, place):
    place.edit("train.yaml", "every: 2", "every: 2\n    save: {uncertainty: [variance]}")
    assert refused("-train", "train.yaml", session="training") == [
        "[variance-of-one] train.yaml: got validation.volumes.save.uncertainty with variance, and "
        "one answer per case; expected several answers, between which there can be variance; "
        "fix: ask for entropy only"
    ]


OVERLAP = "inference:\n  overlap: 0.5\n"


def test_tiles_that_a_test_file_asks_for_overlap(command, place, models):
    text = (place / "test.yaml").read_text()
    place.write("test.yaml", f"{text}{OVERLAP}  tiling: deepmedic\n")
    result = command("-test", "test.yaml", "-model", "A.save")
    assert (result.returncode, result.errors) == (0, [])


def test_tiles_of_a_model_that_learnt_so_overlap_without_being_asked_for(command, place, models):
    place.write("model.yaml", (place / "model.yaml").read_text() + "context_alignment: deepmedic\n")
    assert command("-newModel", "model.yaml", "-out", "C.save").returncode == 0
    place.write("test.yaml", (place / "test.yaml").read_text() + OVERLAP)
    result = command("-test", "test.yaml", "-model", "C.save")
    assert (result.returncode, result.errors) == (0, [])


def test_overlap_is_refused_for_a_model_without_tiles(refused, place, models):
    place.write("test.yaml", (place / "test.yaml").read_text() + OVERLAP)
    assert refused("-test", "test.yaml", "-model", "A.save", session="results") == [
        "[overlap-without-tiles] test.yaml: got overlap 0.5 with A.save, for which nothing depends "
        "on tiles; expected overlap with tiling: deepmedic only; fix: add tiling: deepmedic, or "
        "remove overlap"
    ]


def test_overlap_is_refused_on_one_grid(command, place, models):
    text = (place / "test.yaml").read_text()
    place.write("test.yaml", f"{text}{OVERLAP}  tiling: global\n")
    result = command("-test", "test.yaml", "-model", "A.save")
    line = text.count("\n") + 1
    assert (result.returncode, result.errors) == (
        2,
        [
            f"ERROR [overlap-without-tiles] test.yaml:{line} inference: got overlap 0.5 with "
            "tiling: global, where nothing depends on tiles; expected overlap with tiling: "
            "deepmedic only; fix: write tiling: deepmedic, or remove overlap"
        ],
    )


def test_components_are_cleaned_by_the_names_of_classes(command, place, models):
    plain = probabilities(command, place, "-model", "A.save").argmax(0)
    place.write(
        "test.yaml",
        (place / "test.yaml").read_text() + "postprocess: {rim: {min_ml: 9999}}\n",
    )
    probabilities(command, place, "-model", "A.save")
    result, roi = volume(place, "Segm"), place.array("d/roi.nii.gz") > 0
    assert (plain[roi] == 1).any()
    assert np.array_equal(result, np.where(roi & (plain != 1), plain, 0))


def test_rules_for_classes_that_the_model_does_not_have_are_refused(refused, place, models):
    text = (place / "test.yaml").read_text()
    rules = "postprocess: {rime: {fill_holes: true}, background: {keep: largest}}\n"
    place.write("test.yaml", text + rules)
    assert refused("-test", "test.yaml", "-model", "A.save", session="results") == [
        "[class-unknown] test.yaml: got 'rime' in postprocess; expected classes of the model: "
        "rim, core; fix: correct the name; did you mean 'rim'?",
        "[class-unknown] test.yaml: got 'background' in postprocess; expected classes of the "
        "model: rim, core; fix: correct the name",
    ]
