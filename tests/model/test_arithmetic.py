"""float32 is IEEE float32 while a network computes; afterwards torch's settings are as before."""

import os

import pytest
import torch

from deepseg.errors import DeepsegError
from deepseg.inference.predictor import Predictor
from deepseg.model.arithmetic import arithmetic
from deepseg.model.checkpoint import Checkpoint
from tests.networks import trained_network


def flags():
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture(params=[True, False])
def before(request):
    """Torch's settings, as their owner has them."""
    remaining = flags()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = request.param
    yield (request.param, request.param)
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = remaining


@pytest.mark.parametrize(
    ("precision", "rounded"), [("float32", False), ("tf32", True), ("bfloat16", False)]
)
def test_products_are_rounded_where_that_is_asked_for(before, precision, rounded):
    with arithmetic(precision):
        assert flags() == (rounded, rounded)
    assert flags() == before
    with pytest.raises(ZeroDivisionError), arithmetic(precision):
        raise ZeroDivisionError
    assert flags() == before


def repeatability():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.deterministic,
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )


@pytest.mark.parametrize("workspace", [None, ":16:8"])
def test_repeatable_steps_use_one_order_of_sums_and_memory_of_their_own(monkeypatch, workspace):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if workspace is not None:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", workspace)
    with arithmetic("float32", is_repeatable=True):
        assert repeatability() == (True, True, workspace or ":4096:8")
    assert repeatability() == (False, False, workspace)


def test_a_step_without_an_order_is_refused_in_one_line():
    with pytest.raises(DeepsegError) as refusal, arithmetic("float32", is_repeatable=True):
        raise RuntimeError(
            "max_pool3d_with_indices_backward_cuda does not have a deterministic implementation, "
            "but you set 'torch.use_deterministic_algorithms(True)'."
        )
    assert str(refusal.value) == (
        "[deterministic-impossible] got max_pool3d_with_indices_backward_cuda, which CUDA computes "
        "in no fixed order; expected steps that have one, with deterministic: true; fix: leave out "
        "deterministic, or the layer that needs this"
    )


@pytest.mark.parametrize(("precision", "rounded"), [("float32", False), ("tf32", True)])
def test_a_predictor_computes_as_its_settings_say(before, monkeypatch, precision, rounded):
    network = trained_network()
    calls = []
    hooked = Predictor._prediction
    monkeypatch.setattr(
        Predictor, "_prediction", lambda *words: calls.append(flags()) or hooked(*words)
    )
    predictor = Predictor(
        Checkpoint(network.config, network.state_dict()),
        {"precision": precision},
        preparation={"z_score": "none"},
    )
    predictor.segment(torch.zeros(2, 9, 10, 11).numpy(), spacing_mm=1)
    assert calls == [(rounded, rounded)]
    assert flags() == before
