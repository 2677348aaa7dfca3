"""DICOM series: from a folder of slices to one volume, or the reason why there is none."""
