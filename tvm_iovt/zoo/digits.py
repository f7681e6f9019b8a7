"""A digit classifier of multi-branch blocks in training form.

The blocks are those of RepVGG (doi 10.1109/CVPR46437.2021.01352).
Each block adds the batch-normalised results of a 3x3 convolution, a 1x1 convolution and, where the
shape allows, its own input. The exported graph keeps every branch and every BatchNormalization, so
that merging them is visible work for the compiler.
"""

from __future__ import annotations

from tvm_iovt.nn.digit_network import DigitNetwork

CLASSES = 10
INPUT_SHAPE = (1, 1, 28, 28)


class DigitClassifier(DigitNetwork):
    """`[N, 1, 28, 28]` to `[N, 10]` logits: five blocks, global average pooling, a linear layer."""

    def __init__(self) -> None:
        super().__init__(width=16, num_classes=CLASSES)
