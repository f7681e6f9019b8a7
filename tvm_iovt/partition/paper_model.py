"""The published formulas of an IoVT co-design (arXiv 2411.00838, first version), for comparison.

One number, the share `x` of the network that the first device runs, is chosen:

    compute share C = k x            traffic share M = p x
    I1 = (C / M) I0                  I2 = ((1 - C) / (1 - M)) I0
    T1 = x N / (u1 I1 b1)            T2 = (1 - x) N / (u2 I2 b2)            T3 = Ne / bs
    J  = T1 + T2 + T3 + weight (x A1 + (1 - x) A2)                          subject to
    I1 >= P1 / b1 and I2 >= P2 / b2  (each part on the compute side of its device's ridge)

with `N` FLOPs, `I0` the network's arithmetic intensity, peaks `P`, bandwidths `b`, utilisations
`u`, `Ne` transmitted bytes, `bs` of the link, and losses of accuracy `A`.

What is wrong with them is reproduced here on purpose, and is not so anywhere else in this package:

- There is no roof. `T = N / (u I b)` is the bandwidth slope alone, and the constraint asks for the
  region where it promises more than the peak.
- `I1 = (k / p) I0` does not depend on the share.
- `T1` uses the share `x`, not the share of computation `k x` that was defined for it.
- The transmitted bytes do not depend on where the cut is, and count even where nothing is cut.
- With `k = p` all of `J` is linear in `x`: its optimum is an end, one device does everything.
- The modes of branch fusion have no influence on the times, so the best mode is that of the least
  loss, whatever the share: `A1` and `A2` are constants here.
- The constraint is not enforced by the published grid search; that is the default here.
- Gradient descent takes 100 steps of 0.01 times the slope: for times in seconds it stays near its
  start, 0.5, wherever the optimum is.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from tvm_iovt.errors import IovtError

GRID = 101
ITERATIONS = 100
LEARNING_RATE = 0.01
START = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperModel:
    """The formulas' constants; pairs are of the first and the second device.

    A link of infinite rate stands for devices that share a memory.

    Raises:
        IovtError: A rate or factor is not positive, or an amount is negative.
    """

    flops: float
    intensity: float
    peaks_flops: tuple[float, float]
    bandwidths: tuple[float, float]
    link_bytes_per_s: float
    transmitted_bytes: float
    utilisation: tuple[float, float] = (1.0, 1.0)
    k: float = 1.0
    p: float = 1.0
    accuracy_losses: tuple[float, float] = (0.0, 0.0)
    accuracy_weight: float = 0.0

    def __post_init__(self) -> None:
        pairs = (self.peaks_flops, self.bandwidths, self.utilisation)
        positive = (self.flops, self.intensity, self.k, self.p)
        values = (*positive, *itertools.chain.from_iterable(pairs))
        if (
            any(len(pair) != 2 for pair in (*pairs, self.accuracy_losses))
            or not all(0 < value < math.inf for value in values)
            or not self.link_bytes_per_s > 0
            or not self.transmitted_bytes >= 0
        ):
            raise IovtError(
                "The published formulas need two devices and positive numbers",
                seen=f"peaks {self.peaks_flops}, bandwidths {self.bandwidths}, utilisation "
                f"{self.utilisation}, link {self.link_bytes_per_s}, {self.flops} FLOPs, intensity "
                f"{self.intensity}, k {self.k}, p {self.p}",
            )

    @property
    def largest_share(self) -> float:
        """Where `x`, `k x` and `p x` are shares: at most 1."""
        return min(1.0, 1 / self.k, 1 / self.p)

    def first_s(self, share: float) -> float:
        """T1."""
        intensity = self.k / self.p * self.intensity
        return share * self.flops / (self.utilisation[0] * intensity * self.bandwidths[0])

    def second_s(self, share: float) -> float:
        """T2, and its limit where the second device gets no computation or no traffic."""
        rate = self.utilisation[1] * self.intensity * self.bandwidths[1]
        if self.k == self.p:
            return (1 - share) * self.flops / rate
        rest, computed, moved = 1 - share, 1 - self.k * share, 1 - self.p * share
        if self.k == 1:
            return max(moved, 0.0) * self.flops / rate  # rest / computed is 1, also at the end
        if computed <= 0:
            return math.inf
        return rest * max(moved, 0.0) / computed * self.flops / rate

    @property
    def transfer_s(self) -> float:
        """T3."""
        return self.transmitted_bytes / self.link_bytes_per_s

    def latency_s(self, share: float) -> float:
        """T."""
        return self.first_s(share) + self.second_s(share) + self.transfer_s

    def cost(self, share: float) -> float:
        """J."""
        first, second = self.accuracy_losses
        loss = share * first + (1 - share) * second
        return self.latency_s(share) + self.accuracy_weight * loss

    def within_ridges(self, share: float) -> bool:
        """The constraint; a device without work meets it."""
        first, second = (
            peak / bandwidth
            for peak, bandwidth in zip(self.peaks_flops, self.bandwidths, strict=True)
        )
        computed, moved = 1 - self.k * share, 1 - self.p * share
        first_ok = share == 0 or self.k / self.p * self.intensity >= first
        if self.k == self.p:
            return first_ok and (share == 1 or self.intensity >= second)
        return first_ok and (computed <= 0 or computed * self.intensity >= second * moved)


def grid_share(model: PaperModel, *, points: int = GRID, enforce_ridges: bool = False) -> float:
    """The best share of an even grid; the least of equals.

    With `enforce_ridges` only shares that meet the constraint count, unless none does.
    """
    shares = [model.largest_share * i / (points - 1) for i in range(points)]
    if enforce_ridges:
        shares = [share for share in shares if model.within_ridges(share)] or shares
    return min(shares, key=model.cost)


def gradient_share(
    model: PaperModel, *, iterations: int = ITERATIONS, learning_rate: float = LEARNING_RATE
) -> float:
    """The best share that gradient descent from the middle has seen; slopes by differences."""
    largest = model.largest_share
    share = best = min(START, largest)
    step = 1e-6 * largest
    for _ in range(iterations):
        low, high = max(share - step, 0.0), min(share + step, largest)
        slope = (model.cost(high) - model.cost(low)) / (high - low)
        if not math.isfinite(slope):
            break
        share = min(max(share - learning_rate * slope, 0.0), largest)
        best = min(best, share, key=model.cost)
    return best
