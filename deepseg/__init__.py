"""deepseg: segmentation of 3D medical scans with multi-pathway CNNs, made for transfer learning."""
