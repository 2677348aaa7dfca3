"""A stored loss curve: whatever is rearranged, the same session learns the same.

The values were written on 2026-11-30 with torch 2.13.0, before the package was rearranged. On one
machine they come back bit for bit; processors differ in the last digits of their sums.
"""

import json

import pytest

MODEL = """\
name: small
output: runs
channels: [T1, FLAIR]
classes: [background, rim, core]
normal:
  feature_maps: [4, 5, 6]
  residuals: [3]
subsampled:
  factors: [3]
fc:
  feature_maps: [8]
  kernels: [3, 1]
  padding: [mirror, none]
  dropout: [0.0, 0.3]
segments:
  train: 13
  inference: 15
"""

CHANGES = """\
optimiser: {name: rmsprop, momentum: 0.6, nesterov: true}
loss: {cross_entropy: 1.0, dice: 0.5, l2: 1.0e-4}
schedule: {type: poly}
"""

AUGMENTATION = """\
  augmentation:
    reflect: [0.5, 0.0, 0.0]
    intensity: {shift: {mean: 0.0, deviation: 0.1}}
"""

LOSSES = {
    "float32": [1.3265999555587769, 0.9642084836959839, 1.1138866543769836, 0.8845787048339844],
    "bfloat16": [1.3262137472629547, 0.9641481041908264, 1.1138003170490265, 0.8843161463737488],
}


@pytest.mark.parametrize("precision", sorted(LOSSES))
def test_a_session_learns_as_it_did_when_the_curve_was_stored(place, begin, precision):
    place.write("model.yaml", MODEL)
    place.edit("train.yaml", "  batch_size: 4\n", f"  batch_size: 4\n{AUGMENTATION}")
    place.edit("train.yaml", "subepochs: 1\n", f"subepochs: 2\n{CHANGES}precision: {precision}\n")
    assert begin("-train", "train.yaml", "-quiet") == 0
    lines = (place / "runs/training/metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    # Of training, then of the held-out segments, epoch after epoch.
    losses = [r[part]["loss"] for r in records for part in ("training", "validation_samples")]
    tolerance = 1e-5 if precision == "float32" else 1e-2
    assert losses == pytest.approx(LOSSES[precision], rel=tolerance)
