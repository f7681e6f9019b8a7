import math

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from tvm_iovt.errors import NumericsError, UsageError  # noqa: E402
from tvm_iovt.nn.scales import ScaleOptions, branch_scales, train_scales  # noqa: E402
from tvm_iovt.nn.training import evaluate  # noqa: E402

OPTIONS = ScaleOptions(epochs=5, batch_size=32)


def with_useless_branch(model):
    """With an identity branch in `blocks.1` that contributes nothing."""
    norm = model.blocks[1].branches["identity"].norm
    with torch.no_grad():
        norm.weight.zero_()
        norm.bias.zero_()
    return model


def test_l1_drives_a_useless_branch_down(trained, data):
    key = ("blocks.1", "identity")
    options = ScaleOptions(epochs=20, batch_size=16, l1=0.1)
    penalised = train_scales(with_useless_branch(trained()), data, options)
    free = train_scales(
        with_useless_branch(trained()), data, ScaleOptions(epochs=20, batch_size=16, l1=0)
    )
    assert free[key] == 1.0
    assert abs(penalised[key]) < 0.1
    assert max(abs(value) for value in penalised.values()) > 0.5


def test_first_step_is_that_of_the_formula(trained, data):
    model, other = trained(), trained()
    options = ScaleOptions(epochs=1, batch_size=len(data), learning_rate=0.1, l1=0.01)
    found = train_scales(model, data, options)
    for block in other.blocks:
        block.enable_scales()
    from tvm_iovt.nn.image_batches import image_tensor

    logits = other.eval()(image_tensor(data.images, other))
    nn.functional.cross_entropy(logits, torch.from_numpy(data.labels)).backward()
    for index, block in enumerate(other.blocks):
        for name, scale in block.scales.items():
            expected = 1 - 0.1 * (float(scale.grad) + 0.01)
            assert found[f"blocks.{index}", name] == pytest.approx(expected, abs=1e-6)


def test_everything_else_is_unchanged_bit_for_bit(trained, data):
    model = trained().train()
    model.classify.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_scales(model, data, OPTIONS)
    after = model.state_dict()
    scales = {name for name in after if ".scales." in name}
    assert set(after) - scales == set(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert any(float(after[name]) != 1 for name in scales)
    assert all(m.training for m in model.modules())
    assert not model.classify.weight.requires_grad
    assert model.classify.bias.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_only_kept_branches_are_trained(trained, data):
    model = trained()
    model.blocks[1].keep(["3x3", "1x1"])
    found = train_scales(model, data, OPTIONS)
    assert ("blocks.1", "identity") not in found
    assert ("blocks.1", "1x1") in found
    assert model.blocks[1].scales["identity"].item() == 1
    assert found == branch_scales(model)


def test_accuracy_survives_and_result_repeats(trained, data, unseen):
    models = [trained(), trained()]
    before = evaluate(models[0], unseen)
    found = [train_scales(model, data, OPTIONS) for model in models]
    assert found[0] == found[1]
    assert evaluate(models[0], unseen) >= before - 0.05


def test_progress(trained, data):
    seen = []
    train_scales(trained(), data, OPTIONS, progress=lambda epoch, loss: seen.append((epoch, loss)))
    assert [epoch for epoch, _ in seen] == [1, 2, 3, 4, 5]
    assert seen[-1][1] <= seen[0][1]


def test_scales_before_training_are_1(trained):
    assert set(branch_scales(trained()).values()) == {1.0}


def test_nan(trained, data):
    model = trained()
    with torch.no_grad():
        model.classify.bias.fill_(math.nan)
    with pytest.raises(NumericsError, match="branch factors"):
        train_scales(model, data, OPTIONS)
    assert set(branch_scales(model).values()) == {1.0}
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"seed": -1},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"momentum": 1.0},
        {"l1": -1.0},
        {"l1": math.inf},
    ],
)
def test_wrong_options(wrong):
    with pytest.raises(UsageError):
        ScaleOptions(**wrong)


def test_no_block(data):
    for use in (branch_scales, lambda model: train_scales(model, data, OPTIONS)):
        with pytest.raises(UsageError, match="no multi-branch block"):
            use(nn.Linear(2, 2))
