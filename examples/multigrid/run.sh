#!/usr/bin/env bash
# Trains at 8 mm, then at 4 mm, then at 2 mm, each model from the one before.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python}

[ -e data/validation.csv ] || "$python" cases.py

"$python" ../../run.py -train coarse.yaml

# At 4 mm, the pathway with factor 2 sees at 8 mm and takes over the coarse model's normal pathway.
[ -e runs/models/middle.pretrained.save ] ||
	"$python" ../../run.py -newModel middle_model.yaml -pretrained runs/coarse -spacing 4 -layers all
"$python" ../../run.py -train middle.yaml

# At 2 mm, the pathways with factors 2 and 4 see at 4 and 8 mm, as those of the middle model.
[ -e runs/models/fine.pretrained.save ] ||
	"$python" ../../run.py -newModel fine_model.yaml -pretrained runs/middle -spacing 2 -layers all
"$python" ../../run.py -compare fine.yaml -fromScratch
