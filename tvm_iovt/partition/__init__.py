"""Exact planners: from the costs of a network's units to the stages that it is cut into.

Everything here is pure Python and NumPy: planning imports neither TVM nor torch.
"""
