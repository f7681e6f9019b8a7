import dataclasses
import itertools
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from tvm_iovt.errors import NumericsError, UsageError  # noqa: E402
from tvm_iovt.nn.branch_config import BranchConfig  # noqa: E402
from tvm_iovt.nn.branch_costs import branch_costs  # noqa: E402
from tvm_iovt.nn.branch_space import branch_space  # noqa: E402
from tvm_iovt.nn.deploy import apply_branch_config, branch_config  # noqa: E402
from tvm_iovt.nn.image_batches import image_tensor  # noqa: E402
from tvm_iovt.nn.recalibration import recalibrate  # noqa: E402
from tvm_iovt.nn.supernet import Sandwich  # noqa: E402
from tvm_iovt.nn.training import TrainingOptions, evaluate, train  # noqa: E402


def sandwich(model, random_configs=2, required=()):
    space = branch_space(model, required=required)
    smallest = space.smallest(branch_costs(model, (1, 1, 8, 8)))
    return Sandwich(space=space, smallest=smallest, random_configs=random_configs)


@pytest.fixture
def batch(data, network):
    return image_tensor(data.images[:16], network()), torch.from_numpy(data.labels[:16])


def test_a_step_takes_full_smallest_and_random(network, batch):
    model = network()
    objective, seen = sandwich(model, 3), []
    before = BranchConfig(kept=tuple((n, ("1x1",)) for n, _ in objective.smallest.kept))
    apply_branch_config(model, before)
    model.register_forward_pre_hook(lambda module, _: seen.append(branch_config(module)))
    generator = np.random.default_rng(0)
    objective.backward(model, *batch, generator)
    assert seen[:2] == [objective.space.full(), objective.smallest]
    assert len(seen) == 5
    assert all(config in objective.space for config in seen)
    assert branch_config(model) == before
    first = seen[2:]
    objective.backward(model, *batch, generator)
    assert seen[7:] != first


def test_loss_and_gradients_are_means(network, batch):
    model, other = network(), network()
    objective = sandwich(model, 0)
    loss = objective.backward(model, *batch, np.random.default_rng(0))
    images, labels = batch
    losses = []
    for config in (objective.space.full(), objective.smallest):
        apply_branch_config(other, config)
        losses.append(nn.functional.cross_entropy(other(images), labels))
    (sum(losses) / 2).backward()
    assert loss == pytest.approx(sum(one.item() for one in losses) / 2, rel=1e-6)
    for name, parameter in other.named_parameters():
        torch.testing.assert_close(model.get_parameter(name).grad, parameter.grad)


def test_configuration_is_put_back_after_an_error(network, batch):
    model = network()
    objective = sandwich(model)
    images, labels = batch
    with pytest.raises(RuntimeError):
        objective.backward(model, images[:, :, :, :0], labels, np.random.default_rng(0))
    assert branch_config(model) == objective.space.full()


@pytest.fixture(scope="module")
def both(data):
    """The same network trained as a supernet and on its own."""
    from tvm_iovt.nn.digit_network import digit_network
    from tvm_iovt.nn.training import seeded_model

    options = TrainingOptions(epochs=10, batch_size=16, shift_pixels=0)
    models = []
    for shared in (True, False):
        model = seeded_model(lambda: digit_network(width=6, num_classes=3), 0)
        objective = sandwich(model, required=("3x3",)) if shared else None
        train(model, data, options, objective=objective)
        models.append(model)
    return models


def test_every_sampled_configuration_works_without_retraining(both, data, unseen):
    shared, alone = both
    space = branch_space(shared, required=("3x3",))
    accuracies = {True: [], False: []}
    for config in (space.full(), next(iter(space)), *space.sample(6, 0)):
        for model, is_shared in ((shared, True), (alone, False)):
            apply_branch_config(model, config)
            recalibrate(model, data, batch_size=32)
            accuracies[is_shared].append(evaluate(model, unseen))
    assert min(accuracies[True]) > 0.9
    assert min(accuracies[True]) > min(accuracies[False])


def test_not_a_number_in_one_configuration_is_seen(network, data):
    model = network()
    with torch.no_grad():
        model.blocks[1].branches["identity"].norm.bias.fill_(math.nan)
    objective = dataclasses.replace(sandwich(model), random_configs=0)
    with pytest.raises(NumericsError, match="loss is not finite"):
        train(model, data, TrainingOptions(epochs=1, batch_size=16), objective=objective)


def test_settings_tell_spaces_apart(network):
    model = network()
    variants = [sandwich(model), sandwich(model, 1), sandwich(model, required=("identity",))]
    for one, other in itertools.combinations(variants, 2):
        assert one.settings() != other.settings()
    assert sandwich(model).settings() == sandwich(network()).settings()


def test_wrong_arguments(network):
    good = sandwich(network(), required=("3x3",))
    foreign = BranchConfig(kept=tuple((name, ("1x1",)) for name, _ in good.smallest.kept))
    with pytest.raises(UsageError, match="not in the space"):
        dataclasses.replace(good, smallest=foreign)
    with pytest.raises(UsageError, match="random_configs"):
        dataclasses.replace(good, random_configs=-1)
