"""float32 is IEEE float32 while a network computes; afterwards torch's settings are as before."""

import pytest
import torch

from deepseg.inference.predictor import Predictor
from deepseg.model.arithmetic import arithmetic
from deepseg.model.checkpoint import Checkpoint
from tests.networks import trained_network


def flags():
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture(params=[True, False])
def before(request):
    """Torch's settings, as their owner has them."""
    kept = flags()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = request.param
    yield (request.param, request.param)
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = kept


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


@pytest.mark.parametrize(("precision", "rounded"), [("float32", False), ("tf32", True)])
def test_a_predictor_computes_as_its_settings_say(before, monkeypatch, precision, rounded):
    network = trained_network()
    seen = []
    hooked = Predictor._prediction
    monkeypatch.setattr(
        Predictor, "_prediction", lambda *words: seen.append(flags()) or hooked(*words)
    )
    predictor = Predictor(
        Checkpoint(network.config, network.state_dict()),
        {"precision": precision},
        preparation={"z_score": "none"},
    )
    predictor.segment(torch.zeros(2, 9, 10, 11).numpy(), spacing_mm=1)
    assert seen == [(rounded, rounded)]
    assert flags() == before
