"""Training in bfloat16, by an option or by the file."""

import pytest
import torch

from deepseg.model import devices, kernels
from deepseg.model.checkpoint import read_checkpoint
from deepseg.training.trainer import Trainer

needs_instructions = pytest.mark.skipif(
    not kernels.has_instructions(torch.bfloat16, torch.device("cpu")),
    reason="this processor has no instructions for bfloat16",
)


def weights(place):
    return read_checkpoint(place / "runs/training/models/last.save").weights


def test_the_option_and_the_file_give_the_same_weights_near_those_of_float32(command, place):
    assert command("-train", "train.yaml").returncode == 0
    exact = weights(place)
    result = []
    for changed, options in (("", ("-precision", "bfloat16")), ("precision: bfloat16\n", ())):
        (place / "runs/training").rename(place / f"runs/before{len(result)}")
        place.edit("train.yaml", "epochs: 2\n", f"epochs: 2\n{changed}")
        assert command("-train", "train.yaml", *options).returncode == 0
        result.append(weights(place))
    by_option, by_file = result
    for name, weight in exact.items():
        assert by_option[name].dtype == weight.dtype
        assert torch.equal(by_option[name], by_file[name])
        torch.testing.assert_close(by_option[name], weight, rtol=0.1, atol=0.05)
    assert not torch.equal(by_option["normal.1.conv.weight"], exact["normal.1.conv.weight"])


@needs_instructions
def test_a_session_that_goes_on_in_another_precision_says_so(command, place):
    assert command("-train", "train.yaml").returncode == 0
    place.edit("train.yaml", "\nepochs: 2", "\nepochs: 3")
    assert command("-train", "train.yaml", "-precision", "bfloat16").warnings == [
        "WARNING epochs changed since the last epoch: 2 → 3",
        "WARNING precision changed since the last epoch: float32 → bfloat16",
    ]


def test_a_processor_without_such_instructions_is_named(command, place, monkeypatch):
    monkeypatch.setattr(devices, "has_instructions", lambda *_: False)
    result = command("-train", "train.yaml", "-precision", "bfloat16")
    assert result.warnings == [
        "WARNING bfloat16 is slower than float32 here: there are no instructions for it"
    ]


@pytest.mark.parametrize(("precision", "rounded"), [("float32", False), ("tf32", True)])
def test_products_on_gpus_are_rounded_only_where_tf32_is_asked_for(
    place, command, monkeypatch, precision, rounded
):
    calls = {"train": set(), "validate": set()}
    for name in calls:
        original = getattr(Trainer, name)

        def looking(*words, name=name, original=original, **keys):
            calls[name].add(
                (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
            )
            return original(*words, **keys)

        monkeypatch.setattr(Trainer, name, looking)
    assert command("-train", "train.yaml", "-precision", precision).returncode == 0
    assert calls == {"train": {(rounded, rounded)}, "validate": {(False, False)}}
