from __future__ import annotations

import numpy as np
import pytest

from tvm_iovt.schedules.dot_product import pack_dot_weights


@pytest.mark.parametrize(("channels", "outputs", "groups"), [(6, 20, 1), (5, 16, 1), (6, 40, 2)])
def test_packed_weights_hold_every_weight_once(channels, outputs, groups, rng) -> None:
    w = rng.integers(-128, 128, (outputs, channels // groups, 3, 2)).astype(np.int8)
    packed = pack_dot_weights(w, groups, 16, 4)
    per_group = outputs // groups
    panels = -(-per_group // 16)
    assert packed.shape == (groups * panels, 3, 2, -(-channels // groups // 4), 16, 4)
    for o in (0, per_group - 1, outputs - 1):
        group, own = divmod(o, per_group)
        column = packed[group * panels + own // 16, :, :, :, own % 16]
        runs = column.reshape(3, 2, -1)
        np.testing.assert_array_equal(runs[..., : channels // groups], w[o].transpose(1, 2, 0))
        assert not runs[..., channels // groups :].any()
    assert packed.astype(int).sum() == w.astype(int).sum()
