"""The page of an exported folder, for whoever trains there."""

from __future__ import annotations

from deepseg.exports.train_step.manifest import StepSettings
from deepseg.geometry.boxes import text
from deepseg.model.checkpoint import Checkpoint

PAGE = """\
# {name}: training on a device

Needs Python with numpy and onnxruntime (`pip install numpy onnxruntime`), and nothing else.

    python device_train.py . --data CASES --steps 200 --eval-every 20 --stop-at 0.90

`CASES` is a folder with a folder per case: {channels}, `labels` and perhaps `roi`, each as `.npy`,
`.nii` or `.nii.gz`. Labels: {classes}; -1 where unknown.

| File | |
|---|---|
| `train_step.onnx` | one step: {batch} segments of {segment} voxels → loss, new weights |
| `infer.onnx` | one segment → probabilities, with the weights that it is given |
| `state.npz` | weights, velocities and statistics at the beginning |
| `manifest.json` | names, shapes, geometry, preparation, SHA-256 of every file |
| `device_train.py`, `on_device/` | the program; `--help` lists its options |

Layers that learn: {layers}. All others are written into the graphs.
A run adds `split.json`, `progress.csv` and `state_000020.npz`, `state_000040.npz`, …; the same
command continues at the latest of them, bit for bit.

Back into a model of deepseg: `run.py -newModel MODEL.yaml -pretrained THIS_FOLDER`.
"""


def readme(model: Checkpoint, settings: StepSettings) -> str:
    """The page.

    Args:
        model: That was exported.
        settings: As the user chose them.
    """
    config = model.config
    return PAGE.format(
        name=config.name,
        channels=", ".join(f"`{channel}`" for channel in config.channels),
        classes=", ".join(f"{number} {name}" for number, name in enumerate(config.classes)),
        batch=settings.batch,
        segment=text(settings.segment),
        layers=", ".join(settings.layers),
    )
