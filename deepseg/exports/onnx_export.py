"""``onnx``: a network as one file that inference runtimes run, verified against torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deepseg.exports.destination import destination, make_folder, raise_if_there
from deepseg.exports.folding import folded_for_inference
from deepseg.exports.image_box import ImageBox
from deepseg.exports.network_graph import IMAGE, LOGITS, PROBABILITIES, network_graph
from deepseg.exports.onnx_bytes import onnx_bytes
from deepseg.exports.options import ExportOptions
from deepseg.exports.pipeline import FILE, METADATA, pipeline_record
from deepseg.exports.preparation_graph import finishing_bytes, preparation_bytes
from deepseg.exports.verification import raise_if_different
from deepseg.model.checkpoint import Checkpoint
from deepseg.storage.atomic import write_bytes, write_json
from deepseg.transfer.source import DESCRIPTION

PREPARING, FINISHING = "preparation_network", "finishing_network"  # keys of pipeline.json
PREPARATION_FILES = {PREPARING: "prepare.onnx", FINISHING: "finish.onnx"}


def export_onnx(model: Checkpoint, out: Path | None, options: ExportOptions) -> Sequence[Path]:
    """Write a network with its metadata, ``pipeline.json`` and the way to and from it beside it.

    Args:
        model: That is exported.
        out: File, folder, or None for a file beside the model.
        options: ``trainable`` and ``segment``.

    Returns:
        The files, the network first.

    Raises:
        DeepsegError: ``file-exists``, ``onnx-extra-missing``, ``export-too-large``,
            ``export-differs``, or a wrong size of segments.
        OutputNotWritable: ``output-not-writable``.
    """
    assert model.origin.file is not None
    file = destination(out, model.origin.file, suffix=".onnx")
    pipeline_file = file.with_name(FILE)
    raise_if_there([file, *(file.with_name(name) for name in (*PREPARATION_FILES.values(), FILE))])
    network = model.network().eval()
    exported = network_graph(network)
    graph = exported.graph
    if not options.trainable:
        graph = folded_for_inference(graph)
    record = pipeline_record(model, exported.box, options.segment)
    classes = len(model.config.classes)
    scores = replace(graph, outputs=(LOGITS,))
    raise_if_different(
        onnx_bytes(scores, output_maps={LOGITS: classes}, metadata={}), network, exported.box
    )
    content = onnx_bytes(
        graph,
        output_maps={PROBABILITIES: classes},
        metadata={METADATA: json.dumps(record), DESCRIPTION: model.description()},
    )
    network_record = {
        "file": file.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "opset": graph.opset,
        "trainable": options.trainable,
        "input": IMAGE,
        "output": PROBABILITIES,
    }
    contents = {file: content}
    graphs: dict[str, dict[str, str] | None] = dict.fromkeys(PREPARATION_FILES)
    for key, data in _preparation(model, exported.box).items():
        contents[file.with_name(PREPARATION_FILES[key])] = data
        digest = hashlib.sha256(data).hexdigest()
        graphs[key] = {"file": PREPARATION_FILES[key], "sha256": digest}
    make_folder(file)
    written = [pipeline_file]
    write_json(pipeline_file, {**record, **graphs, "network": network_record})
    try:
        for name, data in contents.items():
            write_bytes(name, data)
            written.append(name)
    except BaseException:
        for name in written:
            name.unlink()  # one without the others is of no use
        raise
    return *contents, pipeline_file


def _preparation(model: Checkpoint, box: ImageBox) -> dict[str, bytes]:
    """Files that prepare a case and bring its probabilities back, by key of ``pipeline.json``."""
    preparation = model.preparation
    if preparation is None:
        return {}
    channels = model.config.channels
    return {
        PREPARING: preparation_bytes(preparation, channels, box, model.geometry),
        FINISHING: finishing_bytes(preparation),
    }
