"""An exported network against torch: the same images, the same scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deepseg.errors import DeepsegError, Problem
from deepseg.exports.image_box import ImageBox
from deepseg.exports.network_graph import IMAGE, inputs_of
from deepseg.exports.onnx_bytes import missing_package
from deepseg.geometry.boxes import Int3, add, mul, text
from deepseg.model.network import Network

TOLERANCE = 1e-4  # of the largest score, or of 1 if that is larger
MORE = ((0, 1, 2), (4, 2, 3))  # steps above the smallest size; X, Y and Z differ
SEED = 20


def raise_if_different(content: bytes, network: Network, box: ImageBox) -> None:
    """Refuse an ONNX file whose scores for random images of two sizes are not those of torch.

    Args:
        content: Of a file whose output is the scores, before softmax.
        network: In evaluation mode, on the CPU.
        box: That the file reads.

    Raises:
        DeepsegError: ``export-differs``; ``onnx-extra-missing``.
    """
    session = inference_session(content)
    rng = np.random.default_rng(SEED)
    for number, size in enumerate(_sizes(box), start=1):
        shape = (number, len(network.config.channels), *size)
        image = rng.standard_normal(shape, dtype=np.float32)
        with torch.inference_mode():
            expected = network(inputs_of(box, torch.from_numpy(image))).numpy()
        (scores,) = session.run(None, {IMAGE: image})
        problem = _difference(scores, expected, size)
        if problem is not None:
            raise DeepsegError(problem)


def inference_session(content: bytes) -> Any:
    """A session of onnxruntime on the CPU that says nothing but errors.

    Raises:
        DeepsegError: ``onnx-extra-missing``; ``export-differs`` for a file that it refuses.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_package("onnxruntime", "to verify the file") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    except Exception as error:  # of classes of its own, without a common one
        raise DeepsegError(
            Problem(
                code="export-differs",
                got=f"a file that onnxruntime does not run: {error}",
                expected="one that it runs",
                fix="report it with the model; nothing was written",
            )
        ) from error


def _sizes(box: ImageBox) -> Iterator[Int3]:
    """Two sizes of the box, of which every axis has another."""
    rule = box.input_sizes
    for steps in MORE:
        yield add(rule.smallest, mul(steps, rule.step))


def _difference(
    scores: NDArray[np.float32], expected: NDArray[np.float32], size: Int3
) -> Problem | None:
    if scores.shape == expected.shape:
        largest = max(1.0, float(np.abs(expected).max()))
        difference = float(np.abs(scores - expected).max()) / largest
        if difference <= TOLERANCE:
            return None
        got = f"scores that differ by {difference:.1e} of the largest one"
    else:
        got = f"scores of shape {scores.shape} instead of {expected.shape}"
    return Problem(
        code="export-differs",
        got=f"{got}, for an image of {text(size)} voxels in onnxruntime",
        expected=f"those of torch, to {TOLERANCE:g}",
        fix="report it with the model; nothing was written",
    )
