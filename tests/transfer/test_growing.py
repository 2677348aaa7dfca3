"""Wider, deeper and with more pathways: the same function, or a refusal that says why not."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from deepseg.config.model import ModelConfig
from deepseg.data.images.volumes import Geometry
from deepseg.data.preparation import PreparedCase
from deepseg.errors import DeepsegError
from deepseg.inference.tilewise import predict
from deepseg.model.network import Network
from deepseg.transfer.make_plan import make_plan
from deepseg.transfer.plan import applied
from deepseg.transfer.rules import TransferRules
from deepseg.transfer.source import Source

SMALL = """\
channels: [FLAIR, T1c]
classes: [background, lesion]
normal: {feature_maps: [3, 4, 4, 5], residuals: [3], padding: [none, mirror, none, none]}
subsampled: {factors: [3], residuals: []}
fc: {feature_maps: [7], kernels: [3, 1], padding: [mirror, none], dropout: [0, 0.5]}
segments: {train: 13}
"""
DEEPER = """\
channels: [FLAIR, T1c]
classes: [background, lesion]
normal:
  feature_maps: [3, 4, 4, 5, 5, 5, 5]
  residuals: [3, 6]
  padding: [none, mirror, none, none, zero, mirror, zero]
subsampled: {factors: [3], residuals: []}
fc:
  feature_maps: [7, 7]
  kernels: [3, 1, 1]
  padding: [mirror, none, none]
  dropout: [0, 0.3, 0.5]
segments: {train: 13}
"""
ALL = ("all",)


@dataclass
class Grown:
    """A small network and what it became."""

    small: Network
    large: Network

    @torch.no_grad()
    def difference(self, inputs: list[torch.Tensor], larger: list[torch.Tensor]) -> float:
        old = self.small(inputs)
        new = self.large(larger)[:, : old.shape[1]]
        assert old.abs().max() > 0.1
        return float((old - new).abs().max())


def network(settings: ModelConfig, weights: dict[str, torch.Tensor]) -> Network:
    built = Network(settings, rng=torch.Generator())
    built.load_state_dict(weights)
    return built.eval()


def random_weights(settings: ModelConfig, seed: int) -> dict[str, torch.Tensor]:
    """As if trained: norms, statistics and slopes are no longer those of the beginning."""
    rng = torch.Generator().manual_seed(seed)
    result = {}
    for name, tensor in Network(settings, rng=rng).state_dict().items():
        noise = torch.randn(tensor.shape, generator=rng)
        if name.endswith("_var"):
            noise = noise.abs() + 0.5
        result[name] = tensor if "conv" in name else noise.to(tensor.dtype)
    return result


def grown(text: str, small: str = SMALL, **rules) -> Grown:
    """What the network of ``small`` becomes in that of ``text``."""
    old, new = (ModelConfig.model_validate(yaml.safe_load(item)) for item in (small, text))
    source = Source("A.save", "deepseg model", random_weights(old, 1), "0" * 64, old)
    start = random_weights(new, 2)
    plan = make_plan(source, new, start, TransferRules(layers=ALL, **rules))
    return Grown(network(old, source.tensors), network(new, applied(plan, start)))


def images(settings: ModelConfig, *sizes: int) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(5)
    return [torch.randn(2, len(settings.channels), n, n + 1, n, generator=rng) for n in sizes]


WIDER = SMALL.replace("[3, 4, 4, 5]", "[5, 6, 6, 11]").replace("[7]", "[17]")


def test_a_wider_network_computes_the_same():
    pair = grown(WIDER, width="net2net")
    inputs = images(pair.small.config, 13, 11)
    assert pair.difference(inputs, inputs) < 1e-5


def test_copies_do_not_learn_alike():
    kernel = grown(WIDER, width="net2net").large.state_dict()["normal.2.conv.weight"]
    assert torch.allclose(kernel[:, 3] / kernel[:, 0], torch.tensor(2.0))  # input 3 repeats input 0


def test_a_new_channel_changes_nothing_at_first():
    pair = grown(WIDER.replace("[FLAIR, T1c]", "[T1c, DWI, FLAIR]"), width="net2net")
    inputs = images(pair.large.config, 13, 11)
    assert pair.difference([image[:, [2, 0]] for image in inputs], inputs) < 1e-5


def test_a_new_pathway_changes_nothing_at_first():
    pair = grown(SMALL.replace("factors: [3]", "factors: [3, 5]"), width="net2net")
    inputs = images(pair.small.config, 13, 11)
    assert pair.difference(inputs, [*inputs, *images(pair.small.config, 10)]) < 1e-5


def test_a_deeper_network_computes_the_same():
    pair = grown(DEEPER, depth="identity")
    inputs = images(pair.small.config, 13, 11)
    assert pair.difference(inputs, inputs) < 1e-5


def test_unpadded_further_layers_see_further_and_say_the_same():
    small = SMALL.replace("padding: [none, mirror, none, none]", "kernels: [3, 1, [3, 1, 3], 3]")
    small = small.replace("[mirror, none]", "none").replace("[3, 1], pad", "[1, 1], pad")
    deeper = small.replace("[3, 4, 4, 5]", "[3, 4, 4, 5, 5]").replace("3], 3]", "3], 3, 3]")
    pair = grown(deeper, small, depth="identity")
    assert pair.large.layout.shrink != pair.small.layout.shrink
    shape = (41, 45, 38)
    channels = np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32)
    case = PreparedCase("case", channels, None, None, None, Geometry(shape, np.eye(4)))
    old, new = (
        predict(item, case, tile=(99, 99, 99), batch_size=1).probabilities
        for item in (pair.small, pair.large)
    )
    # Beyond the mirrored margin, which differs, voxels have one value; it reaches 14 voxels inside.
    inside = (slice(None), *[slice(14, -14)] * 3)
    assert np.ptp(old[inside]) > 0.1
    np.testing.assert_allclose(new[inside], old[inside], atol=1e-5)


def test_wider_and_deeper_and_flat_kernels_and_biases_together():
    small = SMALL.replace("residuals: [3],", "low_rank: [3],").replace(
        "residuals: []", "low_rank: []"
    )
    small += "batch_norm: none\n"
    large = small.replace("[3, 4, 4, 5]", "[4, 7, 9, 6, 8]").replace(
        "[none, mirror, none, none]", "[none, mirror, none, none, zero]"
    )
    large = large.replace("low_rank: [3]", "low_rank: [3, 5]")
    pair = grown(large, small, depth="identity", width="net2net")
    inputs = images(pair.small.config, 13, 11)
    assert pair.difference(inputs, inputs) < 1e-5


def test_other_dropout_before_a_layer_changes_nothing():
    pair = grown(SMALL.replace("dropout: [0, 0.5]", "dropout: [0.2, 0.3]"), width="net2net")
    inputs = images(pair.small.config, 13, 11)
    assert pair.difference(inputs, inputs) < 1e-5


def test_larger_kernels_with_the_old_in_their_middle_compute_the_same():
    small = SMALL.replace("[none, mirror, none, none]", "mirror")
    large = small.replace("residuals: [3]", "residuals: [3], kernels: [3, 5, 3, [3, 7, 3]]")
    pair = grown(large, small, width="net2net", kernels="centre")
    inputs = images(pair.small.config, 13, 5)
    assert pair.difference(inputs, inputs) < 1e-5


@pytest.mark.parametrize(
    ("text", "rules", "problem"),
    [
        pytest.param(
            SMALL.replace("[3, 4, 4, 5]", "[3, 4, 4, 4]"), {"width": "net2net"},
            "normal.4 with 4 feature maps, in which 1 of the source's have no place; expected room "
            "for all 5; fix: give the layer more feature maps", id="narrower",
        ),
        pytest.param(
            SMALL.replace("[3, 4, 4, 5]", "[3, 4, 3, 5]"), {"width": "net2net"},
            "sub1.3 with 3 feature maps, in which 1 of the source's have no place; expected room "
            "for all 4; fix: give the layer more feature maps", id="narrower in another pathway",
        ),
        pytest.param(
            SMALL.replace("[3, 4, 4, 5]", "[3, 4, 4, 6]"), {"depth": "identity"},
            "normal.4 with 6 feature maps, 5 in the source; expected as many, or -width net2net; "
            "fix: add -width net2net", id="wider without net2net",
        ),
        pytest.param(
            SMALL.replace("fc: {", "activation: relu\nfc: {"), {"width": "net2net"},
            "activation is prelu in the older model and relu in the new one; expected the same in "
            "both; fix: write the older model's value, which -show tells, under this key of the "
            "new file", id="activation",
        ),
        pytest.param(
            SMALL.replace("residuals: [3], ", ""), {"width": "net2net"},
            "normal.3 with residual off; expected on, as in the source; fix: give normal.3 the "
            "residual of the source", id="without the residual",
        ),
        pytest.param(
            SMALL.replace("subsampled: {factors: [3], residuals: []}\n", ""), {"width": "net2net"},
            "no pathway for sub1 of the source; expected a pathway of the new model for each of "
            "the source; fix: add a pathway, or say with -pathways where it goes", id="a pathway",
        ),
        pytest.param(
            SMALL.replace("[3, 4, 4, 5]", "[3, 4, 4, 5, 5]")
            .replace("none, none], ", "none, none, zero], ")
            .replace("none, none]}", "none, none, zero], kernels: [3, 3, 3, 3, [3, 2, 3]]}"),
            {"depth": "identity"},
            "normal.5 with a kernel of 3 x 2 x 3; expected odd sizes in layers that only pass "
            "their input on; fix: choose the next odd size", id="an even kernel that passes on",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused(text, rules, problem):
    with pytest.raises(DeepsegError) as refusal:
        grown(text, **rules)
    assert f"[function-not-kept] got {problem}" in str(refusal.value).splitlines()


def test_a_residual_that_would_reach_other_maps_is_refused():
    small = SMALL.replace("[3, 4, 4, 5]", "[4, 4, 4, 5]")
    with pytest.raises(DeepsegError) as refusal:
        grown(small.replace("[4, 4, 4, 5]", "[4, 4, 6, 5]"), small, width="net2net")
    assert str(refusal.value) == (
        "[function-not-kept] got normal.3 with a residual that would add other maps than in the "
        "source; expected widths at which every map keeps its own earlier input; fix: widen all "
        "layers by one factor, leave the residual out, or drop the option"
    )


@pytest.mark.parametrize(
    ("text", "rules", "problem"),
    [
        pytest.param(
            SMALL.replace("[3, 4, 4, 5]", "[3, 4, 4]").replace(", none, none]", ", none]"),
            {"width": "net2net"},
            "no layers for normal.4, sub1.4 of the source; expected at least as many layers as in "
            "the source; fix: add layers to the new model",
            id="fewer layers",
        ),
        pytest.param(
            SMALL.replace("factors: [3]", "factors: [[3, 5, 3]]"),
            {"width": "net2net"},
            "sub1 with factor 3 x 5 x 3; expected 3 x 3 x 3, as sub1 of the source; fix: give the "
            "pathway this factor, or -spacing if the voxels have another size",
            id="another factor",
        ),
        pytest.param(
            SMALL.replace("[FLAIR, T1c]", "[FLAIR, DWI]"),
            {"width": "net2net"},
            "other channels (DWI is not in the source and starts at zero; channels left behind: "
            "T1c); expected each channel of the source once, and zero for new ones; fix: give the "
            "new model all channels of the source, and no -channels",
            id="a channel less",
        ),
        pytest.param(
            SMALL.replace("[FLAIR, T1c]", "[FLAIR, T1c, DWI]"),
            {"width": "net2net", "channels": {"DWI": "copy:T1c"}},
            "other channels (DWI is a copy of T1c); expected each channel of the source once, and "
            "zero for new ones; fix: give the new model all channels of the source, and no "
            "-channels",
            id="a channel twice",
        ),
    ],
)
def test_a_model_that_lacks_something_of_the_source_is_refused(text, rules, problem):
    with pytest.raises(DeepsegError) as refusal:
        grown(text, **rules)
    assert f"[function-not-kept] got {problem}" in str(refusal.value).splitlines()


def test_a_residual_that_would_bring_in_a_new_pathway_is_refused():
    small = SMALL.replace("fc: {feature_maps: [7]", "fc: {feature_maps: [12], residuals: [2]")
    small = small.replace("[background, lesion]", "[a, b, c, d, e, f, g, h, i, j, k, l]")
    with pytest.raises(DeepsegError) as refusal:
        grown(small.replace("factors: [3]", "factors: [3, 5]"), small, width="net2net")
    assert "[function-not-kept]" in str(refusal.value)


chains = st.lists(st.integers(2, 5), min_size=1, max_size=4)
networks = st.builds(
    lambda maps, sub, fc, fc_residuals, residuals, low_rank, channels: {
        "channels": ["T1", "T2", "PD"][:channels],
        "classes": ["background", "lesion"],
        "normal": {
            "feature_maps": maps,
            "kernels": 1,
            "residuals": sorted({n for n in residuals if n <= len(maps)}),
            "low_rank": sorted({n for n in low_rank if n <= len(maps) and maps[n - 1] >= 3}),
        },
        **({"subsampled": {"factors": sub, "residuals": [], "low_rank": []}} if sub else {}),
        "fc": {
            "feature_maps": fc,
            "kernels": 1,
            "residuals": sorted({n for n in fc_residuals if n <= len(fc) + 1}),
        },
        "segments": {"train": 9},
    },
    maps=chains,
    sub=st.sampled_from([[], [3], [3, 5], [5]]),
    fc=st.lists(st.integers(2, 4), max_size=2),
    fc_residuals=st.sets(st.integers(2, 3)),
    residuals=st.sets(st.integers(2, 4)),
    low_rank=st.sets(st.integers(1, 4), max_size=1),
    channels=st.integers(1, 3),
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.filter_too_much])
@given(old=networks, new=networks, rules=st.sampled_from(["width", "depth", "both"]))
def test_any_network_grown_into_any_other_keeps_its_function_or_is_refused(old, new, rules):
    asked = {
        "width": {"width": "net2net"},
        "depth": {"depth": "identity"},
        "both": {"width": "net2net", "depth": "identity"},
    }[rules]
    try:
        pair = grown(yaml.safe_dump(new), yaml.safe_dump(old), **asked)
    except DeepsegError:
        event("refused")
        return
    event("kept")
    few, many = len(old["channels"]), len(new["channels"])
    rng = torch.Generator().manual_seed(3)
    inputs = [torch.randn(1, many, 9, 9, 9, generator=rng)]
    for pathway in pair.large.layout.pathways[1:]:
        n = -(-9 // pathway.geometry.factor[0])
        inputs.append(torch.randn(1, many, n, n, n, generator=rng))
    larger = [x.clone() for x in inputs]
    smaller = [x[:, :few] for x in inputs[: len(pair.small.layout.pathways)]]
    with torch.no_grad():
        difference = (pair.small(smaller) - pair.large(larger)).abs().max()
    assert float(difference) < 1e-3


@pytest.mark.parametrize(
    ("rules", "got", "expected"),
    [
        (
            {"depth": "first-common", "width": "net2net"},
            "-depth first-common with -width net2net",
            "one of the two",
        ),
        (
            {"layers": ("1", "2"), "width": "net2net"},
            "-layers 1 2 with -width net2net",
            "all layers, without which the function cannot be kept",
        ),
        (
            {"layers": ("fc.1",), "depth": "identity"},
            "-layers fc.1 with -depth identity",
            "all layers, without which the function cannot be kept",
        ),
    ],
)
def test_rules_that_exclude_each_other_are_refused(rules, got, expected):
    with pytest.raises(DeepsegError) as refusal:
        TransferRules(**rules)
    assert str(refusal.value) == (
        f"[transfer-rules] got {got}; expected {expected}; fix: leave one of the options out"
    )
