"""Graphs of ONNX operators, with the way back of their gradients."""
