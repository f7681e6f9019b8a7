"""Training a factor for each branch, with everything else frozen: how much each one matters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_iovt.datasets.labelled_images import LabelledImages
from tvm_iovt.errors import NumericsError, UsageError
from tvm_iovt.nn.branch_costs import BranchKey
from tvm_iovt.nn.deploy import multi_branch_blocks
from tvm_iovt.nn.image_batches import image_tensor
from tvm_iovt.nn.torch_import import nn, torch


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleOptions:
    """How to train the factors.

    The defaults are those of the code that the authors of the IoVT co-design (arXiv 2411.00838)
    published later (github.com/word-ky/codesign).

    Attributes:
        epochs: Passes over the images.
        batch_size: Images of one step; the last batch of an epoch may be shorter.
        learning_rate: Of SGD, constant.
        momentum: Of SGD.
        l1: Weight of the sum of the factors' absolute values in the loss.
        seed: Of the order of the images.

    Raises:
        UsageError: A number is out of range.
    """

    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 0.01
    momentum: float = 0.9
    l1: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or self.seed < 0:
            raise UsageError(
                "epochs and batch_size must be at least 1, the seed not negative",
                seen=f"{self.epochs}, {self.batch_size}, {self.seed}",
            )
        if not (0 < self.learning_rate < math.inf and 0 <= self.momentum < 1):
            raise UsageError(
                "The learning rate must be positive, the momentum in [0, 1)",
                seen=f"{self.learning_rate}, {self.momentum}",
            )
        if not 0 <= self.l1 < math.inf:
            raise UsageError(
                "The weight of the absolute values must not be negative", seen=str(self.l1)
            )


def train_scales(
    model: Any,
    data: LabelledImages,
    options: ScaleOptions,
    *,
    progress: Callable[[int, float], None] = lambda epoch, loss: None,
) -> dict[BranchKey, float]:
    """Trains `MultiBranch.scales` of the kept branches in place.

    Minimises `cross entropy + l1 * sum(|scale|)`. Batch norms use their running statistics, and no
    other parameter or buffer changes. Blocks without factors get factors of 1 first.

    Args:
        model: A classifier with multi-branch blocks; mode and `requires_grad` are put back.
        data: The images, taken unshifted.
        options: See `ScaleOptions`.
        progress: Called with each epoch, from 1, and its mean loss.

    Returns:
        The factor of every kept branch.

    Raises:
        UsageError: The model has no multi-branch block.
        NumericsError: The loss is not finite; the factors are those of the step before.
    """
    blocks = multi_branch_blocks(model)
    if not blocks:
        raise UsageError("The model has no multi-branch block")
    for block in blocks.values():
        block.enable_scales()
    factors = [block.scales[name] for block in blocks.values() for name in block.kept]
    generator = np.random.default_rng(options.seed)
    optimizer = torch.optim.SGD(factors, options.learning_rate, options.momentum)
    with _only_trainable(model, factors):
        for epoch in range(options.epochs):
            order, total = generator.permutation(len(data)), 0.0
            for start in range(0, len(data), options.batch_size):
                chosen = order[start : start + options.batch_size]
                images = image_tensor(data.images[chosen], model)
                labels = torch.from_numpy(data.labels[chosen]).to(images.device)
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(images), labels)
                loss = loss + options.l1 * torch.stack(factors).abs().sum()
                if not torch.isfinite(loss):
                    raise NumericsError(
                        "The loss of the branch factors is not finite",
                        seen=f"{loss.item()} in epoch {epoch + 1}",
                        do="lower the learning rate, and check the model for NaN",
                    )
                loss.backward()
                optimizer.step()
                total += loss.item() * len(chosen)
            progress(epoch + 1, total / len(data))
    return branch_scales(model)


def branch_scales(model: Any) -> dict[BranchKey, float]:
    """The factor of every kept branch, 1 where there is none.

    Raises:
        UsageError: The model has no multi-branch block.
    """
    blocks = multi_branch_blocks(model)
    if not blocks:
        raise UsageError("The model has no multi-branch block")
    return {
        (name, branch): 1.0
        if block.scales is None or branch not in block.scales
        else float(block.scales[branch].detach())
        for name, block in blocks.items()
        for branch in block.kept
    }


@contextmanager
def _only_trainable(model: Any, parameters: list[Any]) -> Iterator[None]:
    """Evaluation mode, in which only these parameters get gradients; both are put back."""
    modes = {module: module.training for module in model.modules()}
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.eval()
    model.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, required in before.items():
            parameter.requires_grad_(required)
        for parameter in parameters:
            parameter.grad = None
        for module, training in modes.items():
            module.training = training
