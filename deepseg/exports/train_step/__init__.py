"""One step of training as an ordinary ONNX graph, and the folder that makes it on a device."""
