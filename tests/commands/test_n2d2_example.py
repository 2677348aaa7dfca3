"""The example of N2D2 on the page about networks of others: its files and commands run."""

import re
import shlex

import numpy as np
import pytest
import torch
from onnx import helper

from deepseg.model.checkpoint import read_checkpoint
from tests.commands.conftest import CHECKOUT
from tests.onnx_models import model, write

PAGE = (CHECKOUT / "documentation" / "networks.md").read_text("utf-8")
EXAMPLE = PAGE[PAGE.index("## ONNX: the example of N2D2") : PAGE.index("**Windows.**")]
ROWS = (CHECKOUT / "documentation" / "from_others.md").read_text("utf-8")
COMMANDS = re.findall(r"^python run\.py (.+)$", EXAMPLE, re.MULTILINE)
FILES = dict(re.findall(r"^```yaml \w+\n# (\S+)\n(.*?)^```$", EXAMPLE, re.MULTILINE | re.DOTALL))


def mobilenet(file):
    """Convolutions, batch normalisation and an average, called as in MobileNet v1."""
    rng = np.random.default_rng(0)

    def convolution(name, source, inputs, outputs, size):
        weights[f"{name}_W"] = rng.normal(size=(outputs, inputs, *[size] * 3)).astype(np.float32)
        weights[f"{name}_B"] = rng.normal(size=outputs).astype(np.float32)
        reads = [source, f"{name}_W", f"{name}_B"]
        return helper.make_node("Conv", reads, [f"{name}:0"], name=name, pads=[size // 2] * 6)

    weights: dict[str, np.ndarray] = {
        f"norm_{part}": np.ones(4, np.float32) for part in ("scale", "shift", "mean", "var")
    }
    norm = [f"norm_{part}" for part in ("scale", "shift", "mean", "var")]
    pool = "MobilenetV1/Logits/AvgPool_1a/AvgPool:0"
    nodes = [
        convolution("Conv__248", "image", 1, 4, 3),
        helper.make_node("BatchNormalization", ["Conv__248:0", *norm], ["norm:0"], name="norm"),
        helper.make_node("Relu", ["norm:0"], ["relu:0"], name="relu"),
        convolution("Conv__250", "relu:0", 4, 5, 3),
        helper.make_node("AveragePool", ["Conv__250:0"], [pool], name="pool", kernel_shape=[1] * 3),
        convolution("Conv__252", pool, 5, 7, 1),
        helper.make_node(
            "Softmax", ["Conv__252:0"], ["MobilenetV1/Predictions/Softmax:0"], name="soft", axis=1
        ),
    ]
    shapes = {"image": ["n", 1, "x", "y", "z"]}
    write(file, model(nodes, shapes, ["MobilenetV1/Predictions/Softmax:0"], weights=weights))


def test_every_step_of_the_example_runs_as_it_stands(place, command):
    mobilenet(place / "net.onnx")
    for name, content in FILES.items():
        place.write(name, content)
    assert list(FILES) == ["model.yaml", "head.yaml", "tuned.yaml", "test.yaml"]
    assert len(COMMANDS) == 9
    for line in COMMANDS:
        result = command(*shlex.split(line, comments=True))
        assert (result.returncode, result.errors) == (0, []), line
    sessions = ("head", "tuned", "tuned-scratch")
    files = [f"runs/{name}/models/last.save" for name in sessions]
    start, head, tuned, scratch = (read_checkpoint(f).weights for f in ("A.save", *files))
    backbone = [name for name in start if name.startswith("imported1.")]
    assert len(backbone) == 8
    assert all(torch.equal(start[name], head[name]) for name in backbone)
    moved = {name for name in backbone if not torch.equal(start[name], tuned[name])}
    assert moved == {"imported1.Conv__250_W", "imported1.Conv__250_B"}
    assert not torch.equal(start["fc.1.conv.weight"], head["fc.1.conv.weight"])
    assert all(not torch.equal(tuned[n], scratch[n]) for n in backbone if "norm_" not in n)


@pytest.mark.parametrize("number", range(1, 22))
def test_every_row_of_n2d2_has_a_test_or_a_reason(number):
    (row,) = re.findall(rf"^\| N{number} .*\|(.*)\|$", ROWS, re.MULTILINE)
    tests = re.findall(r"`(tests/[\w/.]+)`", row)
    assert tests
    assert all((CHECKOUT / path).exists() for path in tests)
