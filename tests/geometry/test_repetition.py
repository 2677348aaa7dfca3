"""How taps fall on repeated voxels, by hand."""

from deepseg.geometry.repetition import Run, TapGroup, groups


def test_three_taps_on_voxels_repeated_three_times_fall_in_three_ways():
    result = groups(3, 9, factor=3, size=30, kernel=3, border="zero")
    assert result == [
        TapGroup((-1, 0, 0), (Run(first=0, coarse=1, count=2),)),
        TapGroup((0, 0, 0), (Run(first=1, coarse=1, count=2),)),
        TapGroup((0, 0, 1), (Run(first=2, coarse=1, count=2),)),
    ]
    assert [group.taps for group in result] == [2, 1, 2]


def test_phases_whose_taps_fall_alike_share_a_group():
    result = groups(5, 10, factor=5, size=30, kernel=3, border="mirror")
    assert [len(group.runs) for group in result] == [1, 3, 1]


def test_a_mirrored_end_repeats_its_voxel():
    # In front of voxel 0 it stands again, and behind voxel 7, the second of coarse voxel 2.
    assert groups(0, 8, factor=3, size=8, kernel=3, border="mirror") == [
        TapGroup((0, 0, 0), (Run(0, 0, 1), Run(1, 0, 3))),
        TapGroup((0, 0, 1), (Run(2, 0, 2),)),
        TapGroup((-1, 0, 0), (Run(3, 1, 2),)),
    ]


def test_beyond_a_border_of_zeros_there_is_nothing_to_see():
    result = groups(0, 4, factor=2, size=4, kernel=3, border="zero")
    assert [group.offsets for group in result] == [
        (None, 0, 0),
        (0, 0, 1),
        (-1, 0, 0),
        (0, 0, None),
    ]
    assert (result[0].first_offset, result[0].taps) == (0, 1)


def test_without_a_border_the_first_tap_stands_at_the_output_voxel():
    result = groups(1, 3, factor=2, size=9, kernel=3, border="none")
    assert result == [TapGroup((0, 1, 1), (Run(0, 0, 1),)), TapGroup((0, 0, 1), (Run(1, 1, 1),))]
    assert [group.coarse for group in result] == [range(1), range(1, 2)]


def test_a_break_between_voxels_of_one_phase_parts_them():
    # 5 taps, 10 voxels repeated twice: near both ends voxels see other ones than in the middle,
    # and with zeros in front of the border voxel 0 is no companion of voxels 2, 4 and 6.
    result = groups(0, 10, factor=2, size=10, kernel=5, border="zero")
    assert [(group.offsets, group.runs) for group in result if group.runs[0].first % 2 == 0] == [
        ((None, None, 0, 0, 1), (Run(0, 0, 1),)),
        ((-1, -1, 0, 0, 1), (Run(2, 1, 3),)),
        ((-1, -1, 0, 0, None), (Run(8, 4, 1),)),
    ]
