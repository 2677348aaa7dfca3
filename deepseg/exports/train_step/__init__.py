"""One step of training as an ordinary ONNX graph, and the folder that runs it on a device."""
