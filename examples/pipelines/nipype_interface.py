"""A Nipype interface to ``deepseg -segment``.

segment = Node(Segment(model="M.save"), name="segment")
segment.inputs.images = {"T1": "T1.nii.gz", "FLAIR": "FLAIR.nii.gz"}
"""

import subprocess
from pathlib import Path

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)


class SegmentInputSpec(BaseInterfaceInputSpec):
    model = File(exists=True, mandatory=True, desc="a .save")
    images = traits.Dict(traits.Str, File(exists=True), mandatory=True, desc="by channel")
    roi = traits.Str("", usedefault=True, desc="a mask, or nonzero")
    device = traits.Str("cpu", usedefault=True, desc="cpu, cuda, cudaN, auto")


class SegmentOutputSpec(TraitedSpec):
    segmentation = File(desc="labels on the grid of the first image")
    label_names = File(desc="dseg.tsv: index, name and colour of every label")


class Segment(SimpleInterface):
    """Segments the images of one patient."""

    input_spec = SegmentInputSpec
    output_spec = SegmentOutputSpec

    def _run_interface(self, runtime):
        images = self.inputs.images
        words = [f"{name}={file}" for name, file in images.items()]
        if self.inputs.roi:
            words.append(f"roi={self.inputs.roi}")
        out = Path(runtime.cwd) / "segmentation"
        command = ["deepseg", "-segment", self.inputs.model, *words]
        subprocess.run([*command, "-out", str(out), "-dev", self.inputs.device], check=True)
        (segmentation,) = out.glob("*_Segm.nii.gz")
        self._results["segmentation"] = str(segmentation)
        self._results["label_names"] = str(out / "dseg.tsv")
        return runtime
