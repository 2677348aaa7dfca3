"""Figures without a window and without global state: their making, their colours, their file.

The one place that knows matplotlib is optional. The content of figures is not known here.
"""

from __future__ import annotations

import logging
import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deepseg.errors import DeepsegError, Problem
from deepseg.storage.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 100
VECTOR_FORMS = ("pdf", "svg")
INK, GRID = "#333333", "#dddddd"

# Colours that differ for colour-blind eyes too: B. Wong, "Points of view: Color blindness",
# Nature Methods 8, 2011, doi:10.1038/nmeth.1618. His yellow is darker here, to show on white.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#b8a800")


def new_figure(width: int, height: int, *, background: str) -> Figure:
    """An empty figure of ``width`` x ``height`` pixels.

    Raises:
        DeepsegError: ``plot-extra-missing``, if matplotlib is not installed.
    """
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it has several lines to say of a folder that is read-only
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as failure:
        raise _extra_missing(failure) from failure
    finally:
        logger.setLevel(level)
    size = (width / DOTS_PER_INCH, height / DOTS_PER_INCH)
    figure = Figure(figsize=size, dpi=DOTS_PER_INCH, facecolor=background)
    FigureCanvasAgg(figure)
    return figure


def encoded_image(pixels: npt.NDArray[Any], *, quality: int | None = None) -> bytes:
    """The bytes of an image file of grey values from 0 to 255.

    Args:
        pixels: ``(height, width)``.
        quality: Of a WebP file, up to 100; None for a PNG file, which loses nothing.

    Raises:
        DeepsegError: ``plot-extra-missing``.
    """
    try:
        from PIL import Image  # comes with matplotlib
    except ImportError as failure:
        raise _extra_missing(failure) from failure
    image, written = Image.fromarray(pixels.astype(np.uint8)), BytesIO()
    if quality is None:
        image.save(written, format="PNG", optimize=True)
    else:
        image.save(written, format="WEBP", quality=quality)
    return written.getvalue()


def is_possible() -> bool:
    """True where figures can be drawn: matplotlib is installed."""
    try:
        new_figure(1, 1, background="white")
    except DeepsegError:
        return False
    return True


def save_figure(figure: Figure, file: Path) -> None:
    """Write ``figure`` as a PNG file of 256 colours, which makes it several times smaller.

    An older file stays whole until the new one takes its place.
    """
    from PIL import Image  # comes with matplotlib

    drawn = BytesIO()
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes, once an epoch: not worth a line.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(drawn, format="png", dpi=DOTS_PER_INCH)
    pixels = Image.open(drawn).convert("RGB")
    small = pixels.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    with replacing(file) as unfinished:
        small.save(unfinished, format="PNG", optimize=True)


def save_vectors(figure: Figure, file: Path) -> None:
    """Write ``figure`` as PDF or SVG, as the name of the file ends; equal figures, equal files.

    An older file stays whole until the new one takes its place.
    """
    from matplotlib import rc_context

    form = file.suffix.removeprefix(".")
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    drawn = BytesIO()
    with warnings.catch_warnings(), rc_context({"svg.hashsalt": "deepseg", "pdf.fonttype": 42}):
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(drawn, format=form, metadata=undated[form])
    with replacing(file) as unfinished:
        unfinished.write_bytes(drawn.getvalue())


def svg(figure: Figure) -> str:
    """``figure`` as an element of an HTML page, in the page's own font and colour of ink."""
    import matplotlib

    drawn = BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "deepseg"}):
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    text = drawn.getvalue().decode("utf-8")
    inks = {INK: "currentColor", GRID: "rgba(128, 128, 128, 0.35)"}
    for colour, on_page in inks.items():
        text = text.replace(colour, on_page)
    return text[text.index("<svg") :]


def _extra_missing(failure: ImportError) -> DeepsegError:
    return DeepsegError(
        Problem(
            code="plot-extra-missing",
            got=f"no usable matplotlib ({failure})",
            expected="matplotlib, which draws curves and pictures",
            fix="pip install 'deepseg-pathways[plot]'",
        )
    )


def escaped(name: str) -> str:
    r"""``name`` as matplotlib must get it, to which ``$`` and a first ``_`` mean something.

    >>> print(escaped("a$b"))
    a\$b
    """
    shown = name.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def shortened(text: str, letters: int) -> str:
    """``text`` with its middle left out if it has more than ``letters`` letters.

    >>> shortened("necrotic core", 9), shortened("core", 9)
    ('nec...ore', 'core')
    """
    if len(text) <= letters:
        return text
    ends = max(letters - 3, 2)
    return f"{text[: ends - ends // 2]}...{text[len(text) - ends // 2 :]}"
