"""Sessions with freezing in steps, rates of their own, a pull to the start: from outside."""

import json

import pytest
import torch

from deepseg.model.checkpoint import read_checkpoint

SETTINGS = """\
freeze:
- {layers: [normal.1-2], until_epoch: 2}
- {stop_gradient: sub1.2}
optimiser:
  name: adam
  weight_decay: 0.1
  by_type: {BatchNorm: {weight_decay: 0}}
  by_layer: {head: {learning_rate: 0.1}}
schedule: {type: predefined, epochs: [0]}
loss: {l2_sp: 0.5}
tensorboard: true
"""
WARM_UP = """\
schedule: {type: constant}
steps: {warm_up: 2, accumulate: 2, clip_norm: 1}
"""
GROUPS = ["BatchNorm", "BatchNorm + head", "default", "head"]


@pytest.fixture
def tuning(place, model):
    """Fine-tuning of M.save in three epochs; gives the command."""
    text = (place / "train.yaml").read_text().replace("name: training", "name: tuned")
    text = text.replace("\nepochs: 2", "\nepochs: 3").replace("model: model.yaml", "model: M.save")
    place.write("tune.yaml", text + SETTINGS)
    return ("-train", "tune.yaml", "-resetOptimizer")


def saved(place, name="tuned"):
    return read_checkpoint(place / f"runs/{name}/models/last.save")


def records(place):
    lines = (place / "runs/tuned/metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines][1:]


def test_the_log_says_what_is_frozen_when_it_learns_and_at_which_rates(command, place, tuning):
    result = command(*tuning)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert "frozen: normal.1, normal.2, sub1.1" in lines
    assert any(
        line.endswith("; epoch 0 of 3; learning rate 0.001 (head 0.1, BatchNorm + head 0.1)")
        for line in lines
    )
    thaw = lines.index("learn from now on: normal.1, normal.2")
    epochs = [
        next(i for i, x in enumerate(lines) if x.startswith(f"epoch {n} of 3, ")) for n in (2, 3)
    ]
    assert epochs[0] < thaw < epochs[1]
    assert "learning rate 0.0005 (head 0.05, BatchNorm + head 0.05)," in lines[epochs[1]]


def test_only_what_may_learn_changes(command, place, tuning):
    assert command(*tuning).returncode == 0
    before, after = read_checkpoint(place / "M.save").weights, saved(place).weights
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]) == name.startswith("sub1.1."), name
    steps = saved(place).training["optimizer"]["steps"]
    assert {n for n in steps if n.startswith("sub1.1.")} == set()
    assert {steps[n] for n in steps if n.startswith("normal.")} == {2}  # of the third epoch
    assert {steps[n] for n in steps if not n.startswith("normal.")} == {6}


def test_rates_of_all_groups_are_in_records_event_files_and_show(command, place, tuning):
    assert command(*tuning).returncode == 0
    rates = [record["learning_rates"] for record in records(place)]
    assert [sorted(item) for item in rates] == [GROUPS] * 3
    assert [item["head"] for item in rates] == pytest.approx([0.1, 0.05, 0.05])
    assert [item["default"] for item in rates] == [1e-3, 5e-4, 5e-4]
    events = b"".join(p.read_bytes() for p in (place / "runs/tuned/tensorboard").iterdir())
    assert b"learning_rates/head" in events
    shown = command("-show", "runs/tuned/models/last.save").stdout
    assert "BatchNorm 0.0005" in " ".join(shown.split())


def test_it_goes_on_to_the_same_weights_without_the_file_it_began_with(
    command, place, tuning, same_weights
):
    assert command(*tuning).returncode == 0
    place.edit("tune.yaml", "name: tuned", "name: twice")
    place.edit("tune.yaml", "\nepochs: 3", "\nepochs: 1")
    assert command(*tuning).returncode == 0
    (place / "M.save").unlink()
    for epochs in (2, 3):  # the second time with layers that begin to learn
        place.edit("tune.yaml", f"\nepochs: {epochs - 1}", f"\nepochs: {epochs}")
        assert command("-train", "tune.yaml").returncode == 0
    same_weights(place / "runs/tuned/models/last.save", place / "runs/twice/models/last.save")
    first, second = (
        saved(place, name).training["optimizer"]["state"] for name in ("tuned", "twice")
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[n][kind], second[n][kind]) for n in first for kind in first[n])


def distance(place, name):
    start = read_checkpoint(place / "M.save").weights
    end = saved(place, name).weights
    kernels = [name for name in start if ".conv." in name]
    return sum(float((end[n] - start[n]).square().sum()) for n in kernels)


def test_a_stronger_pull_stays_nearer_to_the_start(command, place, tuning):
    place.edit("tune.yaml", "weight_decay: 0.1", "weight_decay: 0")
    assert command(*tuning).returncode == 0
    place.edit("tune.yaml", "loss: {l2_sp: 0.5}", "loss: {l2_sp: 1000}")
    place.edit("tune.yaml", "name: tuned", "name: held")
    assert command(*tuning).returncode == 0
    assert distance(place, "held") < 0.8 * distance(place, "tuned")


def test_a_pull_that_comes_later_is_refused(command, refused, place, tuning):
    place.edit("tune.yaml", "loss: {l2_sp: 0.5}", "loss: {l2: 0}")
    place.edit("tune.yaml", "\nepochs: 3", "\nepochs: 1")
    assert command(*tuning).returncode == 0
    place.edit("tune.yaml", "loss: {l2: 0}", "loss: {l2_sp: 0.5}")
    place.edit("tune.yaml", "\nepochs: 1", "\nepochs: 2")
    assert refused("-train", "tune.yaml", session="tuned") == [
        "[start-unknown] tune.yaml: got loss.l2_sp in a session that began without it; expected "
        "the weights with which the session began, which it did not keep; fix: remove loss.l2_sp, "
        "or begin a session of another name"
    ]


def test_rules_that_match_nothing_are_told_together(refused, place, tuning):
    place.edit("tune.yaml", "stop_gradient: sub1.2", "stop_gradient: sup1.2")
    place.edit("tune.yaml", "{head:", "{haed:")
    place.edit("tune.yaml", "layers: [normal.1-2]", "layers: [normal.3]")
    expected = "expected layers of normal.1-2, sub1.1-2, fc.1; fix: name layers as "
    form = "pathway.number or pathway.first-last"
    assert refused(*tuning, session="tuned") == [
        f"[layer-unknown] tune.yaml: got 'normal.3'; {expected}{form}; did you mean 'normal.2'?",
        f"[layer-unknown] tune.yaml: got 'sup1.2'; {expected}{form}; did you mean 'sub1.2'?",
        f"[layer-unknown] tune.yaml: got 'haed'; {expected}{form}; did you mean 'head'?",
    ]


def test_a_new_head_is_not_pulled_and_the_rest_of_a_filled_model_is(command, place, model):
    assert (
        command("-newModel", "model.yaml", "-pretrained", model, "-out", "B.save").returncode == 0
    )
    place.write("tune.yaml", (place / "train.yaml").read_text() + "loss: {l2_sp: 0.5}\n")
    result = command("-train", "tune.yaml", "-model", "B.save")
    pulled = "pulled towards the start by l2_sp: normal.1.conv.weight, normal.2.conv.weight, "
    assert f"{pulled}sub1.1.conv.weight, sub1.2.conv.weight\n" in result.stdout
    parts = read_checkpoint(place / "runs/training/models/last.save").training["anchors"]
    source = read_checkpoint(place / model).weights
    assert all(torch.equal(anchor, source[name]) for name, anchor in parts.items())


def test_a_random_start_is_no_place_to_stay_near(command, place):
    place.write("tune.yaml", (place / "train.yaml").read_text() + "loss: {l2_sp: 0.5}\n")
    result = command("-train", "tune.yaml")
    assert "pulled towards the start by l2_sp: nothing\n" in result.stdout
    assert command("-train", "tune.yaml").returncode == 0


def test_the_rate_warms_up_over_the_sub_epochs(command, place):
    text = (place / "train.yaml").read_text().replace("subepochs: 1", "subepochs: 2")
    place.write("tune.yaml", text.replace("\nepochs: 2", "\nepochs: 3") + WARM_UP)
    result = command("-train", "tune.yaml")
    assert "epoch 0 of 3; learning rate 0.0002\n" in result.stdout
    lines = (place / "runs/training/metrics.jsonl").read_text().splitlines()
    # shares of 1, 2, then 3 and 4 fifths; the record has that of the last sub-epoch
    rates = [json.loads(line)["learning_rate"] for line in lines]
    assert rates == pytest.approx([0.4e-3, 0.8e-3, 1e-3])


def test_the_average_is_saved_and_a_session_with_it_goes_on_exactly(
    command, place, model, same_weights
):
    plain = (place / "train.yaml").read_text()
    place.write("train.yaml", plain + "steps: {average: 0.5}\n")
    assert command("-train", "train.yaml").returncode == 0
    saved_ = read_checkpoint(place / "runs/training/models/last.save")
    raw = read_checkpoint(place / model).weights  # of the same session without an average
    assert all(torch.equal(raw[n], t) for n, t in saved_.training["weights"].items())
    assert not torch.equal(raw["fc.1.conv.weight"], saved_.weights["fc.1.conv.weight"])
    assert saved_.training["averaged"] == 4

    text = (place / "train.yaml").read_text().replace("name: training", "name: twice")
    for epochs in (1, 2):
        place.write("twice.yaml", text.replace("\nepochs: 2", f"\nepochs: {epochs}"))
        assert command("-train", "twice.yaml").returncode == 0
    models = [place / f"runs/{name}/models/last.save" for name in ("training", "twice")]
    same_weights(*models)


def test_norms_of_frozen_layers_learn_from_the_epoch_that_says_so(command, place, model):
    blocks = "{layers: [normal.2], until_epoch: 1}, {layers: [normal.2], batch_norm: train}"
    text = (place / "train.yaml").read_text().replace("model: model.yaml", "model: M.save")
    place.write("tune.yaml", text + f"freeze: [{blocks}]\nschedule: {{type: constant}}\n")
    place.edit("tune.yaml", "name: training", "name: tuned")
    assert command("-train", "tune.yaml", "-resetOptimizer").returncode == 0
    before, after = read_checkpoint(place / "M.save").weights, saved(place).weights
    changed = {
        n for n in after if n.startswith("normal.2.") and not torch.equal(after[n], before[n])
    }
    assert {"normal.2.norm.weight", "normal.2.norm.bias"} <= changed
    assert "normal.2.conv.weight" not in changed
