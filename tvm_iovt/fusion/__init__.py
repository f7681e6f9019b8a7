"""Fusion of linear operators: the algebra, and the rules that say what becomes one.

Works on any graph format that implements `linear_graph.LinearGraph`: Relax modules in
`relay_passes`, ONNX models in `tvm_iovt.onnx_fusion`.
"""
