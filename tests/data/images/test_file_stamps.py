"""Files of an image on the disk: all that belong to it, and nothing else."""

import gzip
import os

import numpy as np
import pytest
import SimpleITK

from deepseg.data.images.file_stamps import file_stamp, further_files


@pytest.mark.parametrize(
    ("named", "others"),
    [
        ("a.hdr", ["a.img"]),
        ("a.img", ["a.hdr"]),
        ("a.hdr.gz", ["a.img.gz"]),
        ("A.IMG", ["A.HDR"]),
        ("a.nii.gz", []),
    ],
)
def test_a_pair_consists_of_both_files(tmp_path, named, others):
    for name in [named, *others, "b.img", "b.hdr"]:
        (tmp_path / name).write_bytes(b"0")
    assert [file.name for file in further_files(tmp_path / named)] == others


def test_a_partner_that_is_missing_does_not_count(tmp_path):
    (tmp_path / "a.hdr").write_bytes(b"0")
    assert further_files(tmp_path / "a.hdr") == []


@pytest.mark.parametrize(
    ("named", "other"), [("a.mhd", "a.raw"), ("a.nhdr", "a.raw"), ("a.nhdr", "a.raw.gz")]
)
def test_what_simpleitk_writes_beside_a_header_belongs_to_it(tmp_path, named, other):
    image = SimpleITK.GetImageFromArray(np.zeros((3, 4, 5), np.int16))
    SimpleITK.WriteImage(image, str(tmp_path / named), useCompression=other.endswith("gz"))
    assert [file.name for file in further_files(tmp_path / named)] == [other]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.mhd", "NDims = 3\nElementDataFile = LIST\nslices/1.raw\nslices/2.raw\n"),
        ("a.mhd", "NDims = 3\nElementDataFile = slices/%d.raw 1 2 1\n"),
        ("a.nhdr", "NRRD0004\ndimension: 3\ndata file: LIST\nslices/1.raw\nslices/2.raw\n"),
        ("a.nhdr", "NRRD0004\ndimension: 3\ndata file: slices/%01d.raw 1 2 1\n"),
        ("a.nhdr", "NRRD0004\r\ndatafile:slices/%i.raw 1 2 1 2\r\n"),
        ("a.mhd", "ElementDataFile=LIST 2\nslices/1.raw\nslices/2.raw"),
        ("a.mhd", "ElementDataFile = HERE/slices/%u.raw 1 2 1\n"),
        ("a.mhd", "ElementDataFile = slices/%03d.raw\n"),
        ("a.nrrd", "NRRD0004\ndatafile: slices/1.raw\ndata file: slices/2.raw\n\n\x00\x80"),
    ],
)
def test_slices_in_files_of_their_own_belong_to_it(tmp_path, name, text):
    (tmp_path / "slices").mkdir()
    for number in (1, 2):
        (tmp_path / f"slices/{number}.raw").write_bytes(b"0")
    (tmp_path / "slices/1.raw.txt").write_bytes(b"0")
    (tmp_path / name).write_text(text.replace("HERE", str(tmp_path)), "latin-1")
    assert [file.name for file in further_files(tmp_path / name)] == ["1.raw", "2.raw"]


@pytest.mark.parametrize(
    "text",
    [
        "ElementDataFile = Kopf ä/of 1 %d.raw 3 4 1",
        "ElementDataFile = Kopf ä/of 1 3.raw",
        "ElementDataFile = LIST\nKopf ä/of 1 3.raw",
    ],
)
def test_names_may_have_spaces_and_letters_of_any_language(tmp_path, text):
    (tmp_path / "Kopf ä").mkdir()
    (tmp_path / "Kopf ä/of 1 3.raw").write_bytes(b"0")
    (tmp_path / "a.mhd").write_text(text, "utf-8")
    assert [file.name for file in further_files(tmp_path / "a.mhd")] == ["of 1 3.raw"]


@pytest.mark.parametrize(
    "place",
    ["%d**x", "**/%d", "[%d", "a\0b", "%d\0", "%d/%d", "/%d", "9" * 5000, "LOCAL", "LIST", ".", ""],
)
def test_a_place_that_is_no_name_is_no_file_and_no_fault(tmp_path, place):
    (tmp_path / "1x").write_bytes(b"0")
    text = f"NDims = 3\n%d**x\n1x\nComment = 1x\nElementDataFile = {place}\n\0\x80\n"
    (tmp_path / "a.mha").write_bytes(text.encode("latin-1") + bytes(range(256)))
    assert further_files(tmp_path / "a.mha") == []


def test_a_metaimage_in_one_file_has_no_further_files(tmp_path):
    image = SimpleITK.GetImageFromArray(np.random.default_rng(0).random((30, 40, 50)))
    SimpleITK.WriteImage(image, str(tmp_path / "a.mha"))
    assert further_files(tmp_path / "a.mha") == []


def test_a_stamp_changes_with_every_file(tmp_path):
    for name in ("a.hdr", "a.img"):
        (tmp_path / name).write_bytes(b"0")
    before = file_stamp(tmp_path / "a.hdr")
    (tmp_path / "a.img").write_bytes(b"00")
    assert file_stamp(tmp_path / "a.hdr") != before
    names, dates = before[::3], before[1::3]
    assert names == [str(tmp_path / "a.hdr"), str(tmp_path / "a.img")]
    assert dates[0] == (tmp_path / "a.hdr").stat().st_mtime_ns


def replaced(path, content):
    """Stamps of a file before and after it is replaced by one of the same size and date."""
    before, state = file_stamp(path), path.stat()
    assert len(content) == state.st_size
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    return before, file_stamp(path)


@pytest.mark.parametrize("place", [0, 5_000, 99_999])
def test_a_stamp_changes_with_one_byte_of_a_file_of_the_same_size_and_date(tmp_path, place):
    content = bytearray(100_000)
    (tmp_path / "a.nii").write_bytes(content)
    content[place] = 1
    before, after = replaced(tmp_path / "a.nii", bytes(content))
    assert before != after
    assert before[:2] == after[:2]
    assert replaced(tmp_path / "a.nii", bytes(content))[0] == after


def test_a_stamp_changes_with_a_voxel_in_the_middle_of_a_large_gzip_file(tmp_path):
    content = bytearray(np.random.default_rng(0).bytes(1 << 20))
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content, 0, mtime=0))
    content[1 << 19] ^= 1
    before, after = replaced(tmp_path / "a.nii.gz", gzip.compress(content, 0, mtime=0))
    assert before != after


def test_a_stamp_changes_with_other_voxels_of_a_file_that_is_not_read_whole(tmp_path):
    content = bytearray(17 << 20)
    (tmp_path / "a.nii").write_bytes(content)
    content[9 << 20 : 10 << 20] = bytes([1]) * (1 << 20)
    before, after = replaced(tmp_path / "a.nii", bytes(content))
    assert before != after


def test_a_stamp_of_a_series_changes_with_one_slice(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.dcm").write_bytes(b"slice 1")
    before = file_stamp(tmp_path)
    replaced(tmp_path / "1.dcm", b"slice 2")
    assert file_stamp(tmp_path) != before
