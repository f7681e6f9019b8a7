"""New running statistics for batch norms, after branches were dropped or weights shared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tvm_iovt.datasets.labelled_images import LabelledImages
from tvm_iovt.errors import UsageError
from tvm_iovt.nn.image_batches import image_tensor
from tvm_iovt.nn.multi_branch import MultiBranch
from tvm_iovt.nn.torch_import import nn, torch


def recalibrate(
    model: Any, data: LabelledImages, *, batches: int = 16, batch_size: int = 256, seed: int = 0
) -> None:
    """Estimates the running statistics of the batch norms that take part, in place.

    They become the plain averages of the batches' means and (unbiased) variances, as after the
    training of a supernet (arXiv 1903.05134, section 3.3). Weights and modes stay as they are, and
    so do the norms of dropped branches.

    Args:
        model: The network, with the branches that it is going to keep.
        data: Unshifted images are drawn from it, each at most once.
        batches: Number of batches; fewer if the images do not suffice.
        batch_size: Images in a batch, at least 2; all of them if there are fewer.
        seed: Of the choice of images.

    Raises:
        UsageError: A number is out of range, or there is a single image.
    """
    size = min(batch_size, len(data))
    if batches < 1 or size < 2:
        raise UsageError(
            "Batch norms need at least one batch of two images",
            seen=f"{batches} batches of {size} images",
        )
    order = np.random.default_rng(seed).permutation(len(data))
    norms = [norm for norm in _norms(model) if norm.track_running_stats]
    modes = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    try:
        # Only the norms: dropout and the like would falsify what they see.
        model.eval()
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None  # makes torch average over all batches alike
        with torch.no_grad():
            for batch in range(min(batches, len(data) // size)):
                chosen = order[batch * size : (batch + 1) * size]
                model(image_tensor(data.images[chosen], model))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes.items():
            module.training = training


def _norms(module: Any) -> Iterator[Any]:
    """The batch norms of a module, but for those in dropped branches."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        yield module
    elif isinstance(module, MultiBranch):
        for name in module.kept:
            yield from _norms(module.branches[name])
        if module.post_norm is not None:
            yield from _norms(module.post_norm)
        yield from _norms(module.activation)
    else:
        for child in module.children():
            yield from _norms(child)
