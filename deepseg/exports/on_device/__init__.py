"""The program of an exported folder, which needs numpy and onnxruntime and nothing of deepseg."""
