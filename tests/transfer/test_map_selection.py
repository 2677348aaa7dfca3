"""Which maps become which: by hand, and by laws that hold for any sizes."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseg.errors import DeepsegError
from deepseg.transfer.map_selection import (
    MapBlock,
    MapSelection,
    channels,
    classes,
    joined,
    overlap,
    repeated,
)

sizes = st.integers(1, 12)
maps = st.lists(st.one_of(st.none(), st.integers(0, 5)), min_size=1, max_size=12)
rows = st.one_of(st.none(), st.dictionaries(st.integers(0, 9), st.floats(0.1, 3), max_size=3))
selections = st.builds(lambda found: MapSelection(tuple(found)), st.lists(rows, max_size=10))


def refusal(function, *arguments) -> str:
    with pytest.raises(DeepsegError) as result:
        function(*arguments)
    return str(result.value)


# ---- Maps ----


@given(size=sizes, source_size=sizes)
def test_maps_that_both_have_are_taken_one_by_one(size, source_size):
    selection = overlap(size, source_size)
    assert len(selection.maps) == size
    assert selection.filled == list(range(min(size, source_size)))
    assert all(selection.maps[index] == {index: 1.0} for index in selection.filled)
    assert selection.copied == min(size, source_size)


def test_a_source_of_another_size_is_worth_a_note():
    assert overlap(7, 4).notes == ("4 maps in the source",)
    assert overlap(4, 7, "kernels").notes == ("7 kernels in the source",)
    assert overlap(4, 4).notes == ()


@given(copies=maps)
def test_the_shares_of_every_source_map_add_up_to_one(copies):
    shares = Counter()
    for row in repeated(copies).maps:
        shares.update(row)
    assert shares.keys() == {index for index in copies if index is not None}
    assert all(share == pytest.approx(1) for share in shares.values())


@given(copies=maps)
def test_no_two_copies_have_the_same_share(copies):
    result = [tuple(row.items()) for row in repeated(copies).maps if row]
    assert len(set(result)) == len(result)


def test_repeated_inputs_share_in_growing_parts():
    selection = repeated([0, 1, 1, None, 1, 2])
    assert selection.maps == ({0: 1}, {1: 2 / 12}, {1: 4 / 12}, {}, {1: 6 / 12}, {2: 1})
    assert selection.notes == ("2 inputs are repeated", "1 input starts at zero")
    assert repeated([0, 2, 1]).notes == ()


@given(selection=selections)
def test_what_belongs_to_a_map_is_carried_as_a_mean_and_not_to_zeros(selection):
    carried = selection.carried().maps
    for row, carried_row in zip(selection.maps, carried, strict=True):
        assert (carried_row is None) == (not row)
        if row:
            assert carried_row.keys() == row.keys()
            assert sum(carried_row.values()) == pytest.approx(1)
            (first, factor), *rest = row.items()
            assert all(
                carried_row[i] / carried_row[first] == pytest.approx(f / factor) for i, f in rest
            )


def test_a_share_of_a_kernel_goes_with_the_whole_norm():
    assert repeated([0, 0, None]).carried().maps == ({0: 1}, {0: 1}, None)


def test_blocks_stand_one_behind_the_other_and_each_begins_where_its_own_does():
    selection = joined(
        [
            MapBlock("normal", 3, overlap(3, 2), 4),
            MapBlock("sub1", 2, None),
            MapBlock("sub2", 2, MapSelection(({1: 0.5, 2: 0.5}, {}), ("mixed",)), 10),
        ]
    )
    assert selection.maps == ({4: 1}, {5: 1}, None, None, None, {11: 0.5, 12: 0.5}, {})
    assert selection.notes == (
        "normal: 2 maps in the source",
        "inputs from sub1 are new",
        "sub2: mixed",
    )


@given(parts=st.lists(st.tuples(sizes, sizes), min_size=1, max_size=4))
def test_joined_blocks_have_all_maps_and_take_none_twice(parts):
    begins = [sum(old for _, old in parts[:index]) for index in range(len(parts))]
    selection = joined(
        [
            MapBlock(f"sub{index}", size, overlap(size, old), begin)
            for index, ((size, old), begin) in enumerate(zip(parts, begins, strict=True))
        ]
    )
    assert len(selection.maps) == sum(size for size, _ in parts)
    used = [index for row in selection.maps if row for index in row]
    assert len(set(used)) == len(used) == sum(min(pair) for pair in parts)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([{0: 1.0}], ["0 from 0"], id="one map"),
        pytest.param([{4: 1.0}, {5: 1.0}, {6: 1.0}], ["0-2 from 4-6"], id="neighbours"),
        pytest.param([{0: 1.0}, {0: 1.0}], ["0 from 0", "1 from 0"], id="one map twice"),
        pytest.param([{1: 1.0}, {0: 1.0}], ["0 from 1", "1 from 0"], id="backwards"),
        pytest.param([None, None, {}, {}, None], ["0-1 new", "2-3 zero", "4 new"], id="no source"),
        pytest.param([{2: 1.0}, None, {4: 1.0}], ["0 from 2", "1 new", "2 from 4"], id="a gap"),
        pytest.param([{0: 0.5}, {1: 0.5}], ["0-1 from 0-1 x 0.5"], id="shares"),
        pytest.param([{0: 1.0}, {1: 0.5}], ["0 from 0", "1 from 1 x 0.5"], id="other shares"),
        pytest.param(
            [{0: 1 / 3, 1: 2 / 3}, {1: 1 / 3, 2: 2 / 3}],
            ["0 from 0 x 0.3333 + 1 x 0.6667", "1 from 1 x 0.3333 + 2 x 0.6667"],
            id="sums",
        ),
    ],
)
def test_rows_in_words(found, words):
    assert MapSelection(tuple(found)).spans() == words


@given(selection=selections)
def test_the_words_speak_of_every_map_once(selection):
    spoken = []
    for span in selection.spans():
        first, _, last = span.split()[0].partition("-")
        spoken += range(int(first), int(last or first) + 1)
    assert spoken == list(range(len(selection.maps)))


# ---- Channels ----


def test_channels_are_matched_by_name_wherever_they_are():
    selection = channels(["T1c", "DWI", "FLAIR"], ["FLAIR", "T1c"], {})
    assert selection.maps == ({1: 1}, {}, {0: 1})
    assert selection.notes == ("DWI is not in the source and starts at zero",)


@pytest.mark.parametrize(
    ("wish", "row", "note"),
    [
        ("zero", {}, ("T2 starts at zero", "channels left behind: T2, PD")),
        ("random", None, ("T2 is new", "channels left behind: T2, PD")),
        ("mean", {0: 1 / 3, 1: 1 / 3, 2: 1 / 3}, ("T2 is the mean of all",)),
        ("copy:PD", {2: 1}, ("T2 is a copy of PD", "channels left behind: T2")),
        ("PD", {2: 1}, ("T2 is a copy of PD", "channels left behind: T2")),
    ],
)
def test_a_channel_begins_as_asked(wish, row, note):
    selection = channels(["T2", "T1"], ["T2", "T1", "PD"], {"T2": wish})
    assert selection.maps == (row, {1: 1})
    assert selection.notes == note


def test_upper_and_lower_case_are_one_where_only_one_name_fits():
    assert channels(["flair", "t1C"], ["T1c", "FLAIR"], {}).maps == ({1: 1}, {0: 1})
    assert channels(["T1C", "flair"], ["T1c", "t1c", "FLAIR"], {}).maps == ({}, {2: 1})
    assert channels(["t1c", "flair"], ["T1c", "t1c", "FLAIR"], {}).maps == ({1: 1}, {2: 1})


@pytest.mark.parametrize(
    ("own", "source", "row", "note"),
    [
        pytest.param(
            ["T1", "FLAIR"],
            ["channel1", "channel2"],
            ({0: 1}, {1: 1}),
            ("channels by position: T1, FLAIR from channel1, channel2",),
            id="an old cfg file",
        ),
        pytest.param(
            ["channel1", "channel2", "channel3"],
            ["T1", "FLAIR"],
            ({0: 1}, {1: 1}, {}),
            (
                "channels by position: channel1, channel2, channel3 from T1, FLAIR",
                "channel3 is not in the source and starts at zero",
            ),
            id="a new cfg file",
        ),
        pytest.param(
            ["channel1", "channel2"],
            ["channel1", "channel2"],
            ({0: 1}, {1: 1}),
            (),
            id="both",
        ),
        pytest.param(
            ["channel1", "channel2"],
            ["channel1"],
            ({0: 1}, {}),
            ("channel2 is not in the source and starts at zero",),
            id="both, with one more",
        ),
    ],
)
def test_channels_without_names_of_their_own_are_matched_by_position(own, source, row, note):
    selection = channels(own, source, {})
    assert selection.maps == row
    assert selection.notes == note


def test_what_is_asked_goes_before_positions_which_hold_for_the_others():
    selection = channels(["T1", "FLAIR"], ["channel1", "channel2"], {"T1": "channel2"})
    assert selection.maps == ({1: 1}, {1: 1})
    assert selection.notes == (
        "channels by position: T1, FLAIR from channel1, channel2",
        "T1 is a copy of channel2",
        "channels left behind: channel1",
    )


@pytest.mark.parametrize(
    ("names", "wishes", "rows", "notes"),
    [
        pytest.param(
            ["T1"], {}, ({0: 1},), ("T1 takes over the kernels of image",), id="one channel"
        ),
        pytest.param(
            ["FLAIR", "T1", "T2", "PD"],
            {},
            ({0: 0.25}, {0: 0.25}, {0: 0.25}, {0: 0.25}),
            ("FLAIR, T1, T2, PD share the kernels of image: 1/4 each",),
            id="four channels",
        ),
        pytest.param(
            ["channel1", "channel2"],
            {},
            ({0: 0.5}, {0: 0.5}),
            ("channel1, channel2 share the kernels of image: 1/2 each",),
            id="a cfg file",
        ),
        pytest.param(
            ["T1", "FLAIR", "T2"],
            {"FLAIR": "random"},
            ({0: 0.5}, None, {0: 0.5}),
            ("FLAIR is new", "T1, T2 share the kernels of image: 1/2 each"),
            id="one of them is new",
        ),
        pytest.param(
            ["image", "T1"],
            {},
            ({0: 1}, {}),
            ("T1 is not in the source and starts at zero",),
            id="the name is in both",
        ),
    ],
)
def test_all_channels_share_the_kernels_of_a_model_of_any_contrast(names, wishes, rows, notes):
    selection = channels(names, ["image"], wishes)
    assert selection.maps == rows
    assert selection.notes == notes


def test_channels_share_the_mean_of_several_where_asked():
    wishes = {"T1": "share", "T2": "share"}
    selection = channels(["T1", "T2", "PD"], ["PD", "FLAIR"], wishes)
    assert selection.maps == ({0: 0.25, 1: 0.25}, {0: 0.25, 1: 0.25}, {0: 1})
    assert selection.notes == ("T1, T2 share the mean of the kernels of PD, FLAIR: 1/2 each",)


def test_models_without_a_common_channel_need_a_word():
    assert refusal(channels, ["CT", "PET"], ["FLAIR", "T1c"], {}) == (
        "[channels-unmatched] got channels CT, PET, none of them in the older model; expected at "
        "least one of its channels FLAIR, T1c; fix: say which feeds which, such as -channels "
        "CT=FLAIR"
    )
    assert channels(["CT", "PET"], ["FLAIR", "T1c"], {"PET": "T1c"}).maps == ({}, {1: 1})


def test_all_channels_that_nobody_knows_are_named_with_the_nearest_ones():
    wishes = {"FLIAR": "zero", "T1c": "copy:FLARE", "DWI": "nil"}
    assert refusal(channels, ["FLAIR", "T1c", "DWI"], ["FLAIR", "T2"], wishes).splitlines() == [
        "[channel-unknown] got -channels FLIAR=zero; expected one of FLAIR, T1c, DWI; fix: write "
        "new=older with a channel of the new model; did you mean 'FLAIR'?",
        "[channel-unknown] got -channels T1c=copy:FLARE; expected one of FLAIR, T2, zero, mean, "
        "random, share; fix: name a channel of the older model; did you mean 'FLAIR'?",
        "[channel-unknown] got -channels DWI=nil; expected one of FLAIR, T2, zero, mean, random, "
        "share; fix: name a channel of the older model",
    ]


# ---- Classes ----


def test_classes_are_matched_by_name_and_others_stay_new():
    selection = classes(["background", "core", "LESION"], ["background", "lesion"], {})
    assert selection.maps == ({0: 1}, None, {1: 1})
    assert selection.notes == ("class core is new",)


def test_the_background_comes_from_the_background_under_any_name():
    assert classes(["air", "lesion"], ["background", "lesion"], {}).maps == ({0: 1}, {1: 1})


def test_a_class_can_be_fed_by_any_other():
    selection = classes(
        ["background", "oedema", "core"], ["background", "lesion"], {"oedema": "lesion"}
    )
    assert selection.maps == ({0: 1}, {1: 1}, None)
    assert selection.notes == ("class oedema is a copy of lesion", "class core is new")


def test_classes_without_names_of_their_own_are_matched_by_position():
    selection = classes(["background", "core", "rim"], ["background", "class1"], {})
    assert selection.maps == ({0: 1}, {1: 1}, None)
    assert selection.notes == (
        "classes by position: background, core, rim from background, class1",
        "class rim is new",
    )
    assert classes(["background", "class1"], ["background", "class1"], {}).notes == ()


def test_all_classes_that_nobody_knows_are_named_with_the_nearest_ones():
    wishes = {"oedem": "lesion", "core": "lesoin", "rim": "copy:lesion"}
    result = refusal(
        classes, ["background", "oedema", "core", "rim"], ["background", "lesion"], wishes
    )
    assert result.splitlines() == [
        "[class-unknown] got -classes oedem=lesion; expected one of background, oedema, core, rim; "
        "fix: write new=older with a class of the new model; did you mean 'oedema'?",
        "[class-unknown] got -classes core=lesoin; expected one of background, lesion, new; fix: "
        "name a class of the older model; did you mean 'lesion'?",
        "[class-unknown] got -classes rim=copy:lesion; expected one of background, lesion, new; "
        "fix: name a class of the older model; did you mean 'lesion'?",
    ]
