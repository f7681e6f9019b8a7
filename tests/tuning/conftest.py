from __future__ import annotations

import numpy as np
import pytest

from tvm_iovt import _tvm, targets
from tvm_iovt.schedules.convolution import Conv2d
from tvm_iovt.types import TargetSpec


@pytest.fixture(scope="session")
def host() -> TargetSpec:
    """This machine."""
    return targets.load("host")


@pytest.fixture(scope="session")
def host_target(host: TargetSpec) -> object:
    """The same, for TVM."""
    return _tvm.tvm_target(host)


@pytest.fixture(scope="session")
def conv() -> Conv2d:
    """A small convolution that Winograd serves."""
    return Conv2d(
        batch=1,
        in_size=(12, 12),
        in_channels=32,
        out_channels=32,
        kernel=(3, 3),
        strides=(1, 1),
        padding=(1, 1, 1, 1),
        dilation=(1, 1),
        groups=1,
    )


@pytest.fixture(scope="session")
def weights(conv: Conv2d) -> np.ndarray:
    """Its weights, OIHW float32."""
    shape = (conv.out_channels, conv.in_channels, *conv.kernel)
    return np.random.default_rng(3).standard_normal(shape, np.float32)
