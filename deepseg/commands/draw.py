"""``-show MODEL -out FILE.svg``: the network as a picture."""

from __future__ import annotations

from pathlib import Path

from deepseg.builtin import builtin_file
from deepseg.config.files.kind_of_file import kind_of_file
from deepseg.errors import DeepsegError, Problem
from deepseg.model.checkpoint import Checkpoint, read_checkpoint
from deepseg.model.layout import layout
from deepseg.report.console import Console
from deepseg.report.network_drawing import network_svg
from deepseg.sessions.model_files import described
from deepseg.sessions.reports.model_sections import layer_origins
from deepseg.storage.atomic import write_text
from deepseg.storage.free_name import raise_if_taken

PAGE = '<?xml version="1.0" encoding="UTF-8"?>\n'


def draw(file: Path | str, out: Path | str, *, quiet: bool = False) -> Path:
    """Draw the pathways and layers of a network; colours say where weights come from.

    Args:
        file: A `.save`, the folder of a session, or a model file.
        out: The SVG file to write.
        quiet: Print warnings and errors only.

    Returns:
        The file written.

    Raises:
        DeepsegError: ``no-network`` for a file of another kind, ``output-ending``, ``file-exists``,
            or what is wrong with the model.
    """
    file, target, console = Path(file), Path(out), Console(quiet=quiet)
    if target.suffix.lower() != ".svg":
        raise DeepsegError(
            Problem(
                "output-ending",
                got=f"the ending {target.suffix!r}",
                expected=".svg, in which the network is drawn",
                fix="end the name after -out with .svg",
                where=str(target),
            )
        )
    raise_if_taken([target])
    model = _model(file, console)
    plan, classes = layout(model.config), model.config.classes
    write_text(target, PAGE + network_svg(plan, classes, origins=layer_origins(model)) + "\n")
    console.say(f"network drawn in {target}")
    return target


def _model(file: Path, console: Console) -> Checkpoint:
    file = builtin_file(file)
    if file.is_dir() or file.suffix == ".save":
        return read_checkpoint(file)
    if file.suffix in (".yaml", ".yml", ".cfg") and kind_of_file(file) == "model":
        return described(file, console.warn).new(seed=0)
    raise DeepsegError(
        Problem(
            "no-network",
            got="a file without the pathways of a network",
            expected="a .save, the folder of a session, or a model file",
            fix="give one of these, or leave -out away",
            where=str(file),
        )
    )
