"""Parameters of torch modules as operators in float64."""

from __future__ import annotations

from typing import Any

import numpy as np

from tvm_iovt.fusion.convolution import Array, Convolution, InexactError, batch_norm, compose
from tvm_iovt.nn.torch_import import torch


def normalised(operator: Convolution, norm: Any) -> Convolution:
    """The operator followed by a batch norm (`None` for none), with its running statistics.

    Raises:
        InexactError: The norm has no running statistics, a parameter that is not finite, or a
            variance plus epsilon of zero.
    """
    if norm is None:
        return operator
    if norm.running_mean is None or norm.running_var is None:
        raise InexactError("the batch norm has no running statistics")
    mean = float64(norm.running_mean, "the mean of the batch norm")
    by = batch_norm(
        np.ones_like(mean) if norm.weight is None else float64(norm.weight, "its weight"),
        np.zeros_like(mean) if norm.bias is None else float64(norm.bias, "its bias"),
        mean,
        float64(norm.running_var, "the variance of the batch norm"),
        norm.eps,
    )
    return compose(operator, by)


def float64(tensor: Any, what: str) -> Array:
    """A tensor as a float64 array.

    Raises:
        InexactError: A value is not finite; `what` names the tensor in the message.
    """
    array: Array = tensor.detach().to("cpu", torch.float64).numpy()
    if not np.isfinite(array).all():
        raise InexactError(f"{what} has NaN or infinite values")
    return array
