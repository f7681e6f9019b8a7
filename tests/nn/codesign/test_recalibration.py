import dataclasses

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from tvm_iovt.errors import UsageError  # noqa: E402
from tvm_iovt.nn.blocks import QARepVGGBlock  # noqa: E402
from tvm_iovt.nn.branch_config import BranchConfig  # noqa: E402
from tvm_iovt.nn.deploy import apply_branch_config, branch_config  # noqa: E402
from tvm_iovt.nn.digit_network import digit_network  # noqa: E402
from tvm_iovt.nn.image_batches import image_tensor  # noqa: E402
from tvm_iovt.nn.recalibration import recalibrate  # noqa: E402
from tvm_iovt.nn.training import evaluate  # noqa: E402


def norms(model):
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}


def spoil(model):
    for norm in norms(model).values():
        norm.running_mean.fill_(3.0)
        norm.running_var.fill_(50.0)


def test_restores_spoiled_statistics(trained, data, unseen):
    model = trained()
    good = evaluate(model, unseen)
    spoil(model)
    bad = evaluate(model, unseen)
    recalibrate(model, data, batch_size=32)
    assert bad < 0.6 < 0.9 < good
    assert evaluate(model, unseen) >= good - 0.02


def test_statistics_are_averages_over_the_batches(trained, data):
    model = trained()
    seen = []
    norm = model.blocks[0].branches["1x1"].norm
    norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].double()))
    spoil(model)
    recalibrate(model, data, batches=3, batch_size=50)
    assert len(seen) == 3
    means = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    variances = torch.stack([x.var((0, 2, 3), unbiased=True) for x in seen]).mean(0)
    torch.testing.assert_close(norm.running_mean.double(), means, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norm.running_var.double(), variances, rtol=1e-5, atol=1e-6)


def test_whole_data_as_one_batch(trained, data):
    model, expected = trained(), None
    recalibrate(model, data, batches=1, batch_size=10_000)
    images = image_tensor(data.images, model)
    with torch.no_grad():
        expected = model.blocks[0].branches["3x3"].conv(images).mean((0, 2, 3))
    found = model.blocks[0].branches["3x3"].norm.running_mean
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_weights_modes_and_dropped_branches_stay(trained, data):
    model = trained()
    apply_branch_config(
        model, BranchConfig(kept=tuple((name, ("3x3",)) for name, _ in branch_config(model).kept))
    )
    model.train()
    model.blocks[1].eval()
    model.blocks[0].branches["3x3"].norm.momentum = 0.37
    modes = [m.training for m in model.modules()]
    momenta = [norm.momentum for norm in norms(model).values()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recalibrate(model, data, batch_size=32)
    changed = {name for name, value in model.state_dict().items() if (value != before[name]).any()}
    assert changed == {
        f"blocks.{i}.branches.3x3.norm.{what}"
        for i in range(5)
        for what in ("running_mean", "running_var", "num_batches_tracked")
    }
    assert [m.training for m in model.modules()] == modes
    assert [norm.momentum for norm in norms(model).values()] == momenta


def test_norm_behind_the_sum_takes_part(data):
    model = digit_network(QARepVGGBlock, width=4, num_classes=3)
    spoil(model)
    recalibrate(model, data, batch_size=32)
    assert (model.blocks[0].post_norm.running_mean != 3).all()


def test_dropout_stays_off_and_order_depends_on_the_seed(trained, data):
    results = []
    for seed in (0, 0, 1):
        model = nn.Sequential(nn.Dropout(0.5), trained())
        recalibrate(model, data, batches=2, batch_size=32, seed=seed)
        results.append(model[1].blocks[3].branches["1x1"].norm.running_mean)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_modes_are_put_back_after_an_error(trained, data):
    model = trained().train()
    wide = dataclasses.replace(data, images=data.images.repeat(3, axis=3))
    with pytest.raises(RuntimeError):
        recalibrate(model, wide)
    assert all(m.training for m in model.modules())
    assert all(norm.momentum == 0.1 for norm in norms(model).values())


@pytest.mark.parametrize(("batches", "size"), [(0, 8), (1, 1), (1, 0)])
def test_wrong_numbers(trained, data, batches, size):
    with pytest.raises(UsageError, match="at least one batch of two"):
        recalibrate(trained(), data, batches=batches, batch_size=size)
