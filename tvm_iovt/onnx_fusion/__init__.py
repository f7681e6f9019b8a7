"""The fusion rules on ONNX models: a folded network goes back into an ONNX file."""
