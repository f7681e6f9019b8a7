"""Networks with known accuracy to try things on.

`digits` ships with the package; the ImageNet classifiers are made from weights inside pip packages:

    from pathlib import Path
    from tvm_iovt import zoo

    zoo.export("digits", Path("digits.onnx"))

Each file carries its preprocessing and class names in its metadata (`tvm_iovt.images`).
"""

from tvm_iovt.zoo.catalogue import ENTRIES, Entry, find
from tvm_iovt.zoo.export import ExportedModel, export

__all__ = ["ENTRIES", "Entry", "ExportedModel", "export", "find"]
