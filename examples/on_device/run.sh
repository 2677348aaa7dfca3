#!/usr/bin/env bash
# Trains a little, exports, trains on three devices, averages, and brings the weights back.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python}
score() { "$python" runs/export/device_train.py "$1" --data data/held_out --roi brain --score "${@:2}"; }

[ -e data/held_out/site3 ] || "$python" cases.py
rm -rf runs

# The hospital's model, and the folder that leaves it.
"$python" ../../run.py -newModel model.yaml -out runs/M.save
"$python" ../../run.py -train train.yaml -model runs/M.save
"$python" ../../run.py -export runs/hospital train-step -train all -batch 4 -segment 21 -out runs/export

# Three devices, four rounds of twenty steps.
"$python" federated.py

# Before, after, and after the state was written and read again.
echo "before:   $(score runs/export)"
echo "after:    $(score runs/device1)"
cp runs/device1/state_000080.npz runs/average.npz
echo "reloaded: $(score runs/export --state runs/average.npz)"

# Back into a model of deepseg.
"$python" ../../run.py -newModel model.yaml -pretrained runs/device1 -out runs/back.save
