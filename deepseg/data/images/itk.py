"""MetaImage and NRRD, read with SimpleITK.

SimpleITK does not notice a wrong checksum in a MetaImage; it is compared here.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK

from deepseg.data.images.file_stamps import named_files
from deepseg.data.images.grid import Grid, invertible, three_dimensional
from deepseg.data.images.integrity import damage_named, damaged, has_suffix, refuse_pipe
from deepseg.data.images.itk_fields import itk_fields, voxel_place
from deepseg.data.images.nifti import header_from_affine
from deepseg.data.images.raw_voxels import RawVoxels, dtype_problem
from deepseg.errors import DeepsegError, Problem
from deepseg.geometry.boxes import text

sitk: Any = SimpleITK  # not annotated

_BYTES: dict[int, int] = {
    getattr(sitk, f"sitk{kind}{name}"): size
    for kind in ("", "Vector")
    for name, size in {
        **{f"{sign}Int{8 * size}": size for sign in ("", "U") for size in (1, 2, 4, 8)},
        "Float32": 4,
        "Float64": 8,
    }.items()
}


@contextlib.contextmanager
def _itk_damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        expected = "a whole image"
        raise DeepsegError(damaged(path, "a damaged or incomplete image", expected)) from error


def itk_header(path: Path) -> Any:
    """A reader that has read the header of ``path`` and no voxel."""
    for file in named_files(path):
        refuse_pipe(file)
    _refuse_missing_voxels(path)
    itk_fields(path)  # refuses encodings of which SimpleITK would say that they are damage
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with _itk_damage_named(path):
        reader.ReadImageInformation()
    _refuse_short(path, reader)
    return reader


def _refuse_missing_voxels(path: Path) -> None:
    """Refuse a header whose file of voxels, which it names, is not there."""
    files = (file for file in named_files(path) if file.name.upper() != "LOCAL")
    missing = [file for file in files if not file.exists()]
    if missing:
        raise DeepsegError(
            Problem(
                code="file-missing",
                got=f"a header that names {missing[0].name} for its voxels, which is not there",
                expected="both files in their places",
                fix="copy that file too, or correct its name in the header",
                where=str(path),
            )
        )


def _refuse_short(path: Path, reader: Any) -> None:
    """Refuse voxels that are not packed and fewer than the header says, before they are read."""
    place = voxel_place(path)
    if place is None:
        return
    count = prod(reader.GetSize()) * reader.GetNumberOfComponents()
    needed = count * _BYTES.get(reader.GetPixelIDValue(), 0)
    file, begin = place
    present = file.stat().st_size - begin
    if present < needed:
        expected = f"{needed} bytes: {text(tuple(reader.GetSize()[:3]))} voxels"
        raise DeepsegError(
            damaged(file, f"{present} bytes of voxels", expected, code="image-truncated")
        )


def itk_image(path: Path, index: int | None) -> Any:
    """The image in ``path``, with its axes and checksum judged before its voxels are read."""
    reader = itk_header(path)
    three_dimensional(path, reader.GetSize(), index)
    if has_suffix(path, ".mha", ".mhd"):
        _refuse_damaged_metaimage(path)
    with _itk_damage_named(path):
        return reader.Execute()


def _refuse_damaged_metaimage(path: Path) -> None:
    """Unpack a compressed MetaImage once: SimpleITK ignores a wrong checksum in it."""
    fields: dict[str, str] = {}
    with damage_named(path), path.open("rb") as stream:
        while "ElementDataFile" not in fields and (line := stream.readline()):
            key, _, value = line.decode("latin-1").partition("=")
            fields[key.strip()] = value.strip()
        begin = stream.tell()
    if fields.get("CompressedData", "").lower() != "true":
        return
    name = fields["ElementDataFile"]
    data_file, begin = (path, begin) if name == "LOCAL" else (path.with_name(name), 0)
    with damage_named(data_file), data_file.open("rb") as stream:
        stream.seek(begin)
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # zlib or gzip, as the data says
        while chunk := stream.read(1 << 20):
            unpacker.decompress(chunk)
        if not unpacker.eof:
            raise EOFError(f"{stream.tell() - begin} bytes packed")


def itk_voxels(path: Path, image: Any, index: int | None) -> RawVoxels:
    """The stored values of ``image``, or of volume ``index`` of a 4D one."""
    if image.GetNumberOfComponentsPerPixel() > 1 or "complex" in image.GetPixelIDTypeAsString():
        raise DeepsegError(dtype_problem(path, image.GetPixelIDTypeAsString()))
    grid = itk_grid(path, image, index)
    fields = itk_fields(path)
    volumes = sitk.GetArrayFromImage(image).T.reshape(*grid.geometry.shape, -1)
    return RawVoxels(volumes[..., index or 0], fields.slope, fields.offset, grid)


def itk_grid(path: Path, image: Any, index: int | None) -> Grid:
    """The grid of an image or of a reader; SimpleITK counts to the left, the back and the head."""
    shape = three_dimensional(path, image.GetSize(), index)
    axes = min(len(image.GetSize()), 3)
    direction = np.reshape(image.GetDirection(), (len(image.GetSize()),) * 2)
    affine = np.eye(4)
    affine[:axes, :axes] = (direction * image.GetSpacing())[:axes, :axes]
    affine[:axes, 3] = image.GetOrigin()[:axes]
    fields = itk_fields(path)
    affine[:3] *= fields.mm
    geometry = invertible(path, shape, np.diag([-1, -1, 1, 1]) @ affine)
    return Grid(geometry, header_from_affine(geometry.affine), fields.warnings)
