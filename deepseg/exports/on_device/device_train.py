"""Trains a segmentation network on a device; needs numpy and onnxruntime, and nothing else.

This file lies in a folder that deepseg has exported. One step of training is one run of
``train_step.onnx``: segments, labels and the state go in, the loss and the new state come out. All
that is to know about the network is in ``manifest.json``; nothing here depends on a certain one.

Every random number depends on the seed, the step and the number of the segment only: a run that is
interrupted and continued is the run that was not.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from deepseg.exports.on_device.cases import Cases, case_names
from deepseg.exports.on_device.command_line import parser
from deepseg.exports.on_device.errors import DeviceError
from deepseg.exports.on_device.files import locked
from deepseg.exports.on_device.networks import open_network
from deepseg.exports.on_device.runs import Run, train
from deepseg.exports.on_device.scores import scores
from deepseg.exports.on_device.splits import stored_split
from deepseg.exports.on_device.states import latest_state, read_state, set_aside


def run_command(options: argparse.Namespace) -> None:
    """Do what the options say.

    Raises:
        DeviceError: Data, folder, state or options are wrong, or a file cannot be written.
    """
    network = open_network(options.folder, threads=options.threads)
    names = case_names(options.data)
    cases = Cases(options.data, network.manifest, options.roi)
    file = latest_state(options.folder) if options.state is None else options.state
    if options.score:
        state = read_state(file, network.manifest)
        result = scores(network, state, cases, names)
        print(f"Dice on all {len(names)} cases = {result.mean:.6f} ({result})")
        return
    with locked(options.folder):
        parts = stored_split(options.folder, names, options.seed)
        state = read_state(file, network.manifest)
        is_here = file.parent.resolve() == options.folder.resolve()
        run = Run(options.folder, network, state, stored=int(state["step"]) if is_here else -1)
        sizes = ", ".join(f"{len(cases)} in the {part}" for part, cases in parts.items())
        print(f"from step {run.step} ({file.name}); cases: {sizes} part", flush=True)
        set_aside(options.folder, run.step)
        try:
            train(run, options, cases, parts)
        finally:
            run.save()


def main(words: Sequence[str] | None = None) -> int:
    """Train as the words of a command say; the exit code."""
    try:
        run_command(parser(Path(__file__).parent).parse_args(words))
    except DeviceError as error:
        print(f"ERROR {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the last whole step is saved", file=sys.stderr)
        return 128 + signal.SIGINT
    except MemoryError:
        print(
            "ERROR [out-of-memory] got too little memory; expected room for the cases of the "
            "first part; fix: use fewer cases, or export with smaller segments",
            file=sys.stderr,
        )
        return 137
    return 0


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(main())
