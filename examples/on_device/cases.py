"""Writes the brains of this example: two for the hospital, five for each of three devices.

Each device has a scanner of its own: the first shows bright tissue brighter, the second darker, and
the third has thick slices. Brains that are held out come from all three.
"""

from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

from deepseg.data.phantom import CHANNELS, mni_brain, write_cases

DATA = Path(__file__).parent / "data"
POWERS = {1: {"T1": 0.7, "FLAIR": 0.5}, 2: {"T1": 1.4, "FLAIR": 1.8}}  # of the intensities
SLICE = 1.2  # deviation of the blur of thick slices, in voxels along Z


def scan(site: int, folder: Path) -> None:
    """Change the images of a folder of cases to what the scanner of a site shows."""
    for channel in CHANNELS:
        for file in sorted(folder.glob(f"case*/{channel}.nii.gz")):
            image = nibabel.load(file)
            voxels = np.asarray(image.dataobj, np.float32)
            if site in POWERS:
                seen = voxels.max() * (voxels / voxels.max()) ** POWERS[site][channel]
            else:
                seen = ndimage.gaussian_filter1d(voxels, SLICE, axis=2) * (voxels > 0)
            nibabel.save(nibabel.Nifti1Image(np.rint(seen).astype(np.uint16), image.affine), file)


if __name__ == "__main__":
    brain = mni_brain()
    write_cases(DATA / "hospital", {"train": 2}, seed=1, brain=brain)
    for number in (1, 2, 3):
        write_cases(DATA / f"site{number}", {"all": 5}, seed=10 + number, brain=brain)
        scan(number, DATA / f"site{number}")
        more = DATA / f"more{number}"
        write_cases(more, {"all": 1}, seed=20 + number, brain=brain)
        scan(number, more)
        (DATA / "held_out").mkdir(exist_ok=True)
        (more / "case01").rename(DATA / "held_out" / f"site{number}")
