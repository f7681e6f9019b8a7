"""Training one set of weights for all branch configurations of a network.

After it, every configuration can be evaluated without further training, once its batch norms are
recalibrated (see `recalibration`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_iovt.errors import UsageError
from tvm_iovt.nn.branch_config import BranchConfig
from tvm_iovt.nn.branch_space import BranchSpace
from tvm_iovt.nn.deploy import apply_branch_config, branch_config
from tvm_iovt.nn.torch_import import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandwich:
    """The sandwich rule: a step takes the full, the smallest and a few random configurations.

    From universally slimmable networks (arXiv 1903.05134), as BigNAS (2003.11142) uses it; both
    distil from the full network, here all take the labels. The loss is the mean of their cross
    entropies. Between steps the model keeps the branches that it kept before.

    Attributes:
        space: The configurations.
        smallest: The least of them, see `BranchSpace.smallest`.
        random_configs: How many are drawn in each step, at least 0.

    Raises:
        UsageError: The smallest is not in the space, or the number is negative.
    """

    space: BranchSpace
    smallest: BranchConfig
    random_configs: int = 2

    def __post_init__(self) -> None:
        if self.smallest not in self.space:
            raise UsageError(
                "The smallest configuration is not in the space", seen=str(self.smallest)
            )
        if self.random_configs < 0:
            raise UsageError("random_configs must not be negative", seen=str(self.random_configs))

    def settings(self) -> Mapping[str, Any]:
        """See `training.Objective`."""
        choices = json.dumps(self.space.choices).encode()
        return {
            "objective": "sandwich",
            "random_configs": self.random_configs,
            "smallest": str(self.smallest),
            "space_sha256": hashlib.sha256(choices).hexdigest(),
        }

    def backward(
        self, model: Any, images: Any, labels: Any, generator: np.random.Generator
    ) -> float:
        """See `training.Objective`."""
        drawn = [self.space.draw(generator) for _ in range(self.random_configs)]
        configs = [self.space.full(), self.smallest, *drawn]
        before, total = branch_config(model), 0.0
        try:
            for config in configs:
                apply_branch_config(model, config)
                loss = nn.functional.cross_entropy(model(images), labels) / len(configs)
                loss.backward()
                total += float(loss.detach())
        finally:
            apply_branch_config(model, before)
        return total
