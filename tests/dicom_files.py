"""DICOM files as scanners write them, right and wrong: a small writer for tests.

Explicit types, little endian, 16 bits per voxel. Positions are in millimetres to the left, the
back and the head. A tag is written as ``{(0x0028, 0x1053): ("DS", "0.5")}``.
"""

import struct

import numpy as np

CT, MR, ENHANCED_MR = (f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("2", "4", "4.1"))
RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
SYNTAXES = {
    "implicit": "1.2.840.10008.1.2",
    "explicit": "1.2.840.10008.1.2.1",
    "big": "1.2.840.10008.1.2.2",
    "rle": "1.2.840.10008.1.2.5",
}
_LONG_TYPES = ("OB", "OW", "SQ")


def write_file(path, tags, *, sop_class, uid="1.2.3.4", syntax="1.2.840.10008.1.2.1"):
    """A DICOM file with these tags."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = _content(
        {
            (2, 1): ("OB", b"\0\1"),
            (2, 2): ("UI", sop_class),
            (2, 3): ("UI", uid),
            (2, 0x10): ("UI", syntax),
            (2, 0x12): ("UI", "1.2.3.4.5"),
        }
    )
    length = _content({(2, 0): ("UL", len(meta))})
    tags = {(8, 0x16): ("UI", sop_class), (8, 0x18): ("UI", uid), **tags}
    path.write_bytes(bytes(128) + b"DICM" + length + meta + _content(tags, syntax))
    return path


def write_series(folder, stored, *, spacing=(2.0, 3.0, 4.0), name="s", first=1, **settings):
    """One file for each slice of ``stored``, ``(X, Y, Z)`` whole numbers; gives the folder.

    Args:
        spacing: Voxel sides; the last one is also the thickness in the header.
        name: Beginning of the names of files.
        first: Number of the first slice.
        settings: ``positions`` of all slices, the ``step`` from slice to slice, ``row`` and
            ``column`` directions, ``slopes`` and ``intercepts`` of all slices, ``signed``, the
            ``series`` UID, and ``tags`` of all files, None for those left out.
    """
    step = settings.get("step", (0, 0, spacing[2]))
    count = stored.shape[2]
    positions = settings.get("positions", [np.multiply(step, k) for k in range(count)])
    directions = (*settings.get("row", (1, 0, 0)), *settings.get("column", (0, 1, 0)))
    series = settings.get("series", "1.2.3.10")
    signed = settings.get("signed", True)
    for k in range(count):
        tags = {
            (0x08, 0x60): ("CS", "CT"),
            (0x10, 0x20): ("LO", "anna"),
            (0x18, 0x50): ("DS", spacing[2]),
            (0x20, 0x0D): ("UI", "1.2.3.1"),
            (0x20, 0x0E): ("UI", series),
            (0x20, 0x11): ("IS", 7),
            (0x20, 0x13): ("IS", first + k),
            (0x20, 0x32): ("DS", positions[k]),
            (0x20, 0x37): ("DS", directions),
            (0x28, 0x30): ("DS", (spacing[1], spacing[0])),
            (0x28, 0x1052): ("DS", settings.get("intercepts", [0] * count)[k]),
            (0x28, 0x1053): ("DS", settings.get("slopes", [1] * count)[k]),
            **_pixels(stored[:, :, k], signed),
            **settings.get("tags", {}),
        }
        tags = {tag: element for tag, element in tags.items() if element is not None}
        write_file(folder / f"{name}{k:03}.dcm", tags, sop_class=CT, uid=f"{series}.{first + k}")
    return folder


def write_frames(path, stored, positions, **settings):
    """One enhanced file with a frame for each slice of ``stored``, each at its own position.

    Args:
        path: The file.
        stored: ``(X, Y, N)`` whole numbers.
        positions: Of all frames.
        settings: ``slopes`` and ``intercepts`` of all frames, ``directions`` of single ones by
            their number, ``frame_tags`` with tags of every frame, ``signed``, ``tags`` of the file,
            and ``syntax``: ``explicit``, ``implicit``, ``big`` or ``rle``.
    """
    count = stored.shape[2]
    measures = {(0x18, 0x50): ("DS", 4), (0x28, 0x30): ("DS", (3, 2))}
    shared = {
        (0x20, 0x9116): ("SQ", [{(0x20, 0x37): ("DS", (1, 0, 0, 0, 1, 0))}]),
        (0x28, 0x9110): ("SQ", [measures]),
    }
    frames = [{(0x20, 0x9113): ("SQ", [{(0x20, 0x32): ("DS", place)}])} for place in positions]
    slopes, intercepts = settings.get("slopes"), settings.get("intercepts", [0] * count)
    for number, frame in enumerate(frames):
        if slopes is not None:
            scale = {(0x28, 0x1052): ("DS", intercepts[number])}
            scale[0x28, 0x1053] = ("DS", slopes[number])
            frame[0x28, 0x9145] = ("SQ", [scale])
        if number in settings.get("directions", {}):
            direction = {(0x20, 0x37): ("DS", settings["directions"][number])}
            frame[0x20, 0x9116] = ("SQ", [direction])
        if "frame_tags" in settings:
            frame[0x20, 0x9111] = ("SQ", [settings["frame_tags"][number]])
    tags = {
        (0x08, 0x60): ("CS", "MR"),
        (0x20, 0x0D): ("UI", "1.2.3.1"),
        (0x20, 0x0E): ("UI", "1.2.3.10"),
        (0x28, 0x08): ("IS", stored.shape[2]),
        (0x5200, 0x9229): ("SQ", [shared]),
        (0x5200, 0x9230): ("SQ", frames),
        **_pixels(stored, signed=settings.get("signed", False)),
        **settings.get("tags", {}),
    }
    tags = {tag: element for tag, element in tags.items() if element is not None}
    syntax = settings.get("syntax", "explicit")
    if syntax == "rle":
        tags[0x7FE0, 0x10] = ("OB", [_run_lengths(stored[:, :, k]) for k in range(count)])
    if syntax == "big":
        tags[0x7FE0, 0x10] = ("OW", stored.astype(">u2").tobytes(order="F"))
    return write_file(path, tags, sop_class=ENHANCED_MR, syntax=SYNTAXES[syntax])


def _run_lengths(slice_):
    """A slice of 16 bits in run-length encoding, without any run."""
    values = slice_.astype(">u2").tobytes(order="F")
    planes = []
    for plane in (values[::2], values[1::2]):
        parts = [plane[k : k + 128] for k in range(0, len(plane), 128)]
        packed = b"".join(bytes([len(part) - 1]) + part for part in parts)
        planes.append(packed + b"\x80" * (len(packed) % 2))
    offsets = (2, 64, 64 + len(planes[0]), *[0] * 13)
    return struct.pack("<16I", *offsets) + b"".join(planes)


def _pixels(stored, signed):
    x, y, *_ = stored.shape
    content = stored.astype("<i2" if signed else "<u2").tobytes(order="F")
    return {
        (0x28, 0x02): ("US", 1),
        (0x28, 0x04): ("CS", "MONOCHROME2"),
        (0x28, 0x10): ("US", y),
        (0x28, 0x11): ("US", x),
        (0x28, 0x100): ("US", 16),
        (0x28, 0x101): ("US", 16),
        (0x28, 0x102): ("US", 15),
        (0x28, 0x103): ("US", int(signed)),
        (0x7FE0, 0x10): ("OW", content),
    }


def _content(tags, syntax=SYNTAXES["explicit"]):
    return b"".join(_element(*tag, *element, syntax) for tag, element in sorted(tags.items()))


def _element(group, number, value_type, value, syntax):
    order = ">" if syntax == SYNTAXES["big"] else "<"
    head = struct.pack(f"{order}HH", group, number)
    if (group, number) == (0x7FE0, 0x10) and isinstance(value, list):  # compressed frames
        fragments = b"".join(_item(frame, order) for frame in [b"", *value])
        end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
        return head + value_type.encode() + struct.pack("<HI", 0, 0xFFFFFFFF) + fragments + end
    content = _encoded(value_type, value, syntax)
    if syntax == SYNTAXES["implicit"]:
        return head + struct.pack("<I", len(content)) + content
    if value_type in _LONG_TYPES:
        size = struct.pack(f"{order}HI", 0, len(content))
    else:
        size = struct.pack(f"{order}H", len(content))
    return head + value_type.encode() + size + content


def _item(content, order):
    return struct.pack(f"{order}HHI", 0xFFFE, 0xE000, len(content)) + content


def _encoded(value_type, value, syntax):
    order = ">" if syntax == SYNTAXES["big"] else "<"
    if value_type == "US":
        return struct.pack(f"{order}H", value)
    if value_type == "UL":
        return struct.pack(f"{order}I", value)
    if value_type == "FD":
        return struct.pack(f"{order}d", value)
    if value_type == "SQ":
        return b"".join(_item(_content(tags, syntax), order) for tags in value)
    if isinstance(value, bytes):
        return value
    values = [value] if isinstance(value, str | int | float) else list(value)
    text = "\\".join(v if isinstance(v, str) else f"{v:.8g}" for v in values)
    padding = "\0" if value_type == "UI" else " "
    return (text + padding * (len(text) % 2)).encode()
