#!/usr/bin/env bash
# The whole study: brains, the older model, four ways to learn from two cases, the figure and the text.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python}

[ -e data/lesions/validation.csv ] || "$python" cases.py

# Task A: grey and white matter, twelve cases, one contrast.
"$python" ../../run.py -train tissue.yaml

# A new model with the weights of A: FLAIR by its name, T1 from zero, a new classification layer.
[ -e runs/models/lesions.pretrained.save ] ||
	"$python" ../../run.py -newModel lesions_model.yaml -pretrained runs/tissue-training

# Task B: two cases. From scratch, transferred, frozen and thawed, three seeds each.
"$python" ../../run.py -compare transferred.yaml frozen.yaml thawed.yaml -fromScratch -seeds 0 1 2

# study.png and study.md, from what the comparison has written.
"$python" study.py
