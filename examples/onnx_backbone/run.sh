#!/usr/bin/env bash
# Puts a classifier for tissue on the encoder of deepbet, and trains it in four ways.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python}

[ -e deepbet.onnx ] || "$python" convert.py
[ -e data/validation.csv ] || "$python" cases.py

# Inside: names of all nodes, where the network may be cut.
"$python" ../../run.py -show deepbet.onnx > deepbet.txt

# Head only, last block, everything, and everything from scratch.
"$python" ../../run.py -compare head.yaml last_block.yaml everything.yaml -seeds 0
"$python" ../../run.py -compare everything.yaml -fromScratch -seeds 0
"$python" ../../run.py -compare runs/head-seed0 runs/last-block-seed0 runs/everything-seed0 \
	runs/everything-scratch-seed0 -out runs/comparison
