"""Files that tell other programs the names and colours of labels, as text not yet written."""

from __future__ import annotations

import json
from collections.abc import Sequence

from deepseg.config.blocks.saved_results import LabelFormat
from deepseg.report.overlay import colour
from deepseg.version import VERSION

NAMES: dict[LabelFormat, tuple[str, ...]] = {
    "itksnap": ("itksnap_labels.txt",),
    "slicer": ("slicer_labels.ctbl",),
    "bids": ("dseg.tsv", "dseg.json"),
}


def label_files(classes: Sequence[str], formats: Sequence[LabelFormat]) -> dict[str, str]:
    """The text of every file by its name, with the colours of pictures and pages.

    >>> files = label_files(["background", "lesion"], ["bids"])
    >>> print(files["dseg.tsv"].replace("\\t", " "), end="")
    index name color
    0 background #000000
    1 lesion #e6550d

    Args:
        classes: Name of every label, the background (label 0) first.
        formats: Those that are wanted.
    """
    texts = {
        "itksnap_labels.txt": itksnap_labels(classes),
        "slicer_labels.ctbl": slicer_colours(classes),
        "dseg.tsv": bids_labels(classes),
        "dseg.json": bids_sidecar(),
    }
    return {name: texts[name] for form in dict.fromkeys(formats) for name in NAMES[form]}


def itksnap_labels(classes: Sequence[str]) -> str:
    """A label description of ITK-SNAP: index, colour, opacity, two switches, name.

    >>> print(itksnap_labels(["background", "lesion"]).splitlines()[-1])
        1   230   85   13        1  1  1    "lesion"
    """
    head = (
        "################################################\n"
        "# ITK-SnAP Label Description File\n"
        "# File format:\n"
        "# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL\n"
        "################################################\n"
        '    0     0    0    0        0  0  0    "Clear Label"\n'
    )
    lines = []
    for label, name in list(enumerate(classes))[1:]:
        red, green, blue = colour(label)
        text = name.replace('"', "'")
        lines.append(f'{label:5d} {red:5d}{green:5d}{blue:5d}        1  1  1    "{text}"\n')
    return head + "".join(lines)


def slicer_colours(classes: Sequence[str]) -> str:
    """A colour table of 3D Slicer: index, name without spaces, colour, opacity.

    >>> print(slicer_colours(["background", "core of it"]).splitlines()[-1])
    1 core_of_it 230 85 13 255
    """
    lines = ["# Color table file", f"# {len(classes)} values"]
    for label, name in enumerate(classes):
        red, green, blue = colour(label) if label else (0, 0, 0)
        opacity = 255 if label else 0
        lines.append(f"{label} {'_'.join(name.split())} {red} {green} {blue} {opacity}")
    return "\n".join(lines) + "\n"


def bids_labels(classes: Sequence[str]) -> str:
    """A lookup table of BIDS derivatives, ``dseg.tsv``: index, name, colour."""
    rows = ["index\tname\tcolor"]
    for label, name in enumerate(classes):
        red, green, blue = colour(label) if label else (0, 0, 0)
        rows.append(f"{label}\t{name}\t#{red:02x}{green:02x}{blue:02x}")
    return "\n".join(rows) + "\n"


def bids_sidecar() -> str:
    """A sidecar of BIDS derivatives, ``dseg.json``: labels are the work of a program."""
    record = {
        "Description": "Discrete segmentation; dseg.tsv names the labels.",
        "Manual": False,
        "GeneratedBy": [{"Name": "deepseg", "Version": VERSION}],
    }
    return json.dumps(record, indent=2) + "\n"
