#!/usr/bin/env bash
# Pretrains on tissue, transfers to lesions, and compares with training from scratch.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python}

[ -e data/lesions/validation.csv ] || "$python" cases.py

# Task A: grey and white matter, twelve cases, one contrast.
"$python" ../../run.py -train tissue.yaml

# A new model with the weights of A: FLAIR by its name, T1 from zero, a new classification layer.
[ -e runs/models/lesions.pretrained.save ] ||
	"$python" ../../run.py -newModel lesions_model.yaml -pretrained runs/tissue-training

# Task B: two cases. Scratch, transferred and frozen, three seeds each.
"$python" ../../run.py -compare transferred.yaml frozen.yaml -fromScratch -seeds 0 1 2
