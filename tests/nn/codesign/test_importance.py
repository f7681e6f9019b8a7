import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from tvm_iovt.errors import UsageError  # noqa: E402
from tvm_iovt.nn.blocks import RepVGGBlock  # noqa: E402
from tvm_iovt.nn.importance import rank_branches  # noqa: E402


def set_scale(block, **scales):
    block.enable_scales()
    with torch.no_grad():
        for name, value in scales.items():
            block.scales[{"k3": "3x3", "k1": "1x1", "id": "identity"}[name]].fill_(value)


def test_formula_and_order():
    block = RepVGGBlock(4, 4, groups=2)
    set_scale(block, k3=-3.0, k1=0.2, id=0.001)
    ranked = rank_branches(nn.Sequential(block), (1, 4, 6, 5))
    flops = {"3x3": 2 * 4 * 4 * 9 * 30 // 2, "1x1": 2 * 4 * 4 * 30 // 2, "identity": 2 * 4 * 30}
    assert {one.branch: one.flops for one in ranked} == flops
    assert [one.branch for one in ranked] == ["identity", "1x1", "3x3"]
    for one, scale in zip(ranked, (0.001, 0.2, 3.0), strict=True):
        assert abs(one.scale) == pytest.approx(scale)
        assert one.importance == pytest.approx(scale / (flops[one.branch] / 1e9))
    assert {one.block for one in ranked} == {"0"}


def test_sizes_behind_strides_count():
    model = nn.Sequential(RepVGGBlock(4, 4, stride=2), RepVGGBlock(4, 4))
    flops = {(o.block, o.branch): o.flops for o in rank_branches(model, (1, 4, 9, 9))}
    assert flops["0", "1x1"] == flops["1", "1x1"] == 2 * 4 * 4 * 25


def test_equal_branches_keep_the_order_of_the_network():
    model = nn.Sequential(*(RepVGGBlock(4, 4) for _ in range(3)))
    ranked = rank_branches(model, (1, 4, 6, 6))
    assert [(o.branch, o.block) for o in ranked] == [
        (branch, block) for branch in ("3x3", "1x1", "identity") for block in "012"
    ]


def test_dropped_branches_are_not_ranked():
    block = RepVGGBlock(4, 4)
    block.keep(["1x1"])
    (only,) = rank_branches(nn.Sequential(block), (1, 4, 6, 6))
    assert only.branch == "1x1"


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = RepVGGBlock(4, 4), RepVGGBlock(4, 4)

    def forward(self, x):
        return self.used(x)


def test_block_that_is_not_called():
    with pytest.raises(UsageError, match="does not call its block unused"):
        rank_branches(Unused(), (1, 4, 6, 6))
