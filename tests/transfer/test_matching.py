"""Which layer feeds which: what cannot be matched is refused with what there is instead."""

import pytest
import yaml

from deepseg.config.model import ModelConfig
from deepseg.errors import DeepsegError
from deepseg.model.layout import layout
from deepseg.transfer.matching import match_layers, ranges
from deepseg.transfer.rules import TransferRules

MODEL = """\
channels: [FLAIR]
classes: [background, lesion]
normal: {feature_maps: [3, 4, 5]}
subsampled: {factors: [3, 5]}
fc: {feature_maps: [7, 8]}
segments: {train: 25}
"""


def plan(**changes):
    return layout(ModelConfig.model_validate(yaml.safe_load(MODEL) | changes))


def subsampled(*factors, **changes):
    return plan(subsampled={"factors": list(factors)} if factors else None, **changes)


def found(source, target, **rules):
    return match_layers(source, target, TransferRules(**rules))


def fed(matching):
    return {
        match.target.address: match.source.address
        for match in matching.layers
        if match.source is not None
    }


def refusal(source, target, **rules) -> list[str]:
    with pytest.raises(DeepsegError) as error:
        found(source, target, **rules)
    return str(error.value).splitlines()


# ---- Layers ----


@pytest.mark.parametrize(
    ("words", "layers"),
    [
        (("3",), ["normal.3", "sub1.3", "sub2.3"]),
        (("2-4",), ["normal.2", "normal.3", "sub1.2", "sub1.3", "sub2.2", "sub2.3", "fc.1"]),
        (("5-99",), ["fc.2", "fc.3"]),
        (("4", "normal.1", "head"), ["normal.1", "fc.1", "fc.3"]),
        (("sub*.2-3",), ["sub1.2", "sub1.3", "sub2.2", "sub2.3"]),
    ],
)
def test_layers_are_named_by_depth_by_address_and_by_ranges(words, layers):
    assert fed(found(plan(), plan(), layers=words)) == {layer: layer for layer in layers}


def test_all_is_all_also_beside_other_words():
    every = {layer.address: layer.address for layer in plan()}
    assert fed(found(plan(), plan(), layers=("all",))) == every
    assert fed(found(plan(), plan(), layers=("fc.1", "all"))) == every


def test_a_layer_of_the_head_alone_stays_new_by_default():
    matching = found(plan(), plan())
    assert matching.layers[-1].reason == "new classification layer"
    assert set(fed(matching)) == {layer.address for layer in plan()} - {"fc.3"}


@pytest.mark.parametrize(
    ("words", "problems"),
    [
        pytest.param(
            ("7",),
            [
                "[layer-unknown] got -layers 7; expected depths of the older model, 1 to 6; fix: "
                "look "
                "at its depths with -show"
            ],
            id="beyond the deepest",
        ),
        pytest.param(
            ("0", "4-3"),
            [
                f"[layer-unknown] got -layers {word}; expected depths of the older model, 1 to 6; "
                "fix: look at its depths with -show"
                for word in ("0", "4-3")
            ],
            id="before the first, and backwards",
        ),
        pytest.param(
            ("1", "nomral.2", "sub3.1", "8"),
            [
                "[layer-unknown] got 'nomral.2'; expected layers of normal.1-3, sub1.1-3, "
                "sub2.1-3, "
                "fc.1-3; fix: name layers as pathway.number or pathway.first-last; did you mean "
                "'normal.2'?",
                "[layer-unknown] got 'sub3.1'; expected layers of normal.1-3, sub1.1-3, sub2.1-3, "
                "fc.1-3; fix: name layers as pathway.number or pathway.first-last; did you mean "
                "'sub2.1'?",
                "[layer-unknown] got -layers 8; expected depths of the older model, 1 to 6; fix: "
                "look "
                "at its depths with -show",
            ],
            id="all that are unknown",
        ),
        pytest.param(
            ("",),
            [
                "[layer-unknown] got ''; expected layers of normal.1-3, sub1.1-3, sub2.1-3, "
                "fc.1-3; "
                "fix: name layers as pathway.number or pathway.first-last"
            ],
            id="an empty word",
        ),
    ],
)
def test_layers_that_the_older_model_does_not_have_are_refused(words, problems):
    assert refusal(plan(), plan(), layers=words) == problems


def test_every_word_must_lead_to_a_layer_of_the_new_model():
    target = subsampled(3, normal={"feature_maps": [3, 4]})
    words = ("1", "normal.3", "2", "sub2.1", "head")
    assert refusal(plan(), target, layers=words) == [
        f"[layer-without-target] got -layers {word}, which feeds no layer of the new model; "
        "expected layers that the new model has too, in the same pathway; fix: leave it out, or "
        "say with -pathways where it goes"
        for word in ("normal.3", "sub2.1")
    ]


# ---- Pathways ----


@pytest.mark.parametrize(
    ("asked", "problems"),
    [
        pytest.param(
            {"sub4": "sub1"},
            [
                "[pathway-unknown] got -pathways with 'sub4'; expected new model: normal, sub1, "
                "sub2, "
                "sub3; fix: write new=older, such as sub2=sub1; did you mean 'sub3'?"
            ],
            id="in the new model",
        ),
        pytest.param(
            {"sub3": "sub3", "fc": "noraml"},
            [
                "[pathway-unknown] got -pathways with 'fc'; expected new model: normal, sub1, "
                "sub2, "
                "sub3; fix: write new=older, such as sub2=sub1",
                "[pathway-unknown] got -pathways with 'sub3'; expected older model: normal, sub1, "
                "sub2; fix: write new=older, such as sub2=sub1; did you mean 'sub2'?",
                "[pathway-unknown] got -pathways with 'noraml'; expected older model: normal, "
                "sub1, "
                "sub2; fix: write new=older, such as sub2=sub1; did you mean 'normal'?",
            ],
            id="in both",
        ),
    ],
)
def test_pathways_that_a_model_does_not_have_are_refused(asked, problems):
    assert refusal(plan(), subsampled(3, 5, 7), pathways=asked) == problems


def test_further_pathways_are_fed_from_the_last_one_but_its_block_goes_to_one_only():
    matching = found(plan(), subsampled(3, 5, 7, 9))
    assert matching.pathways == {
        "normal": "normal",
        "sub1": "sub1",
        "sub2": "sub2",
        "sub3": "sub2",
        "sub4": "sub2",
    }
    assert matching.blocks == {
        "normal": "normal",
        "sub1": "sub1",
        "sub2": "sub2",
        "sub3": None,
        "sub4": None,
    }


def test_without_subsampled_pathways_in_the_source_all_are_fed_from_the_normal_one():
    matching = found(subsampled(), plan())
    assert matching.pathways == {"normal": "normal", "sub1": "normal", "sub2": "normal"}
    assert matching.blocks == {"normal": "normal", "sub1": None, "sub2": None}
    assert fed(matching)["sub2.3"] == "normal.3"


def test_a_pathway_that_was_asked_for_has_the_block_before_the_one_of_its_name():
    matching = found(plan(), plan(), pathways={"sub2": "normal", "normal": "sub2"})
    assert matching.pathways == {"normal": "sub2", "sub1": "sub1", "sub2": "normal"}
    assert matching.blocks == matching.pathways
    matching = found(plan(), plan(), pathways={"sub1": "normal", "sub2": "normal"})
    assert matching.blocks == {"normal": None, "sub1": "normal", "sub2": None}


@pytest.mark.parametrize("factors", [(), (3,), (3, 5, 7), (3, 5, 7, 9)])
@pytest.mark.parametrize("asked", [{}, {"normal": "sub1"}, {"normal": "sub2"}])
def test_no_block_is_given_twice_and_none_without_its_pathway(factors, asked):
    matching = found(plan(), subsampled(*factors), pathways=asked)
    sources = [old for old in matching.blocks.values() if old is not None]
    assert len(set(sources)) == len(sources)
    assert all(matching.pathways[block] == old for block, old in matching.blocks.items() if old)


# ---- Resolution ----


def test_a_finer_pathway_is_fed_by_nothing_and_the_others_by_those_of_their_resolution():
    source, target = subsampled(3), subsampled(2, 6)
    rules = TransferRules(spacing_mm=(2, 2, 2), layers=("1-4",))
    matching = match_layers(source, target, rules, (4, 4, 4))
    assert matching.pathways == {"normal": None, "sub1": "normal", "sub2": "sub1"}
    assert matching.blocks == matching.pathways
    assert {match.reason for match in matching.layers[:3]} == {
        "no pathway of the source sees at this resolution"
    }


def test_a_hundredth_is_the_same_resolution_and_more_is_another():
    target = subsampled(2)
    rules = TransferRules(spacing_mm=(1.0, 1.0, 1.0), layers=("1",))
    assert match_layers(subsampled(), target, rules, (2.015, 2.0, 2.0)).pathways["sub1"] == "normal"
    with pytest.raises(DeepsegError):
        match_layers(subsampled(), target, rules, (2.03, 2.0, 2.0))


def test_a_source_that_does_not_know_its_spacing_cannot_be_matched_by_it():
    with pytest.raises(DeepsegError) as error:
        match_layers(plan(), plan(), TransferRules(spacing_mm=(2, 2, 2)), None)
    assert str(error.value) == (
        "[spacing-unknown] got an older model that has not been trained, or does not say at which "
        "spacing; expected -spacing with a model that knows its own; fix: name the pathways "
        "instead, such as -pathways sub1=normal"
    )


# ---- Rules without effect ----


def test_rules_about_layers_that_are_not_taken_over_are_refused():
    wishes = {"channels": {"FLAIR": "zero"}, "classes": {"lesion": "lesion"}}
    assert refusal(plan(), plan(), layers=("2",), **wishes) == [
        "[transfer-rules] got -channels, but a first layer is not taken over; expected -channels "
        "with rules that take a first layer; fix: leave -channels out, or change -layers",
        "[transfer-rules] got -classes, but the classification layer is not taken over; expected "
        "-classes with rules that take the classification layer; fix: leave -classes out, or "
        "change -layers",
    ]


def test_a_transfer_of_nothing_is_refused_with_the_first_reason():
    target = plan(normal={"feature_maps": [9, 4, 5]})
    assert refusal(plan(), target, depth="first-common") == [
        "[nothing-taken] got no layer to take over (stopped here: feature maps 3 in the source, 9 "
        "in the model); expected at least one; fix: choose other layers, or another older model"
    ]


def test_rules_that_exclude_each_other_are_refused():
    for rules, got, expected in [
        (
            {"width": "net2net", "depth": "first-common"},
            "-depth first-common with -width net2net",
            "one of the two",
        ),
        (
            {"width": "net2net", "layers": ("1", "2")},
            "-layers 1 2 with -width net2net",
            "all layers, without which the function cannot be kept",
        ),
        (
            {"depth": "identity", "layers": ("fc.1",)},
            "-layers fc.1 with -depth identity",
            "all layers, without which the function cannot be kept",
        ),
    ]:
        with pytest.raises(DeepsegError) as error:
            TransferRules(**rules)
        assert str(error.value) == (
            f"[transfer-rules] got {got}; expected {expected}; fix: leave one of the options out"
        )


# ---- Words ----


@pytest.mark.parametrize(
    ("addresses", "words"),
    [
        ([], []),
        (["fc.1"], ["fc.1"]),
        (["normal.1", "normal.2", "normal.3"], ["normal.1-3"]),
        (["normal.2", "normal.4", "sub1.5"], ["normal.2", "normal.4", "sub1.5"]),
        (["normal.9", "normal.10", "sub1.1", "sub1.2"], ["normal.9-10", "sub1.1-2"]),
    ],
)
def test_neighbours_stand_together(addresses, words):
    assert ranges(addresses) == words
