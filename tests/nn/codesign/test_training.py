import dataclasses
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from tvm_iovt.datasets.labelled_images import LabelledImages  # noqa: E402
from tvm_iovt.errors import NumericsError, UsageError  # noqa: E402
from tvm_iovt.nn.branch_costs import branch_costs  # noqa: E402
from tvm_iovt.nn.branch_space import branch_space  # noqa: E402
from tvm_iovt.nn.supernet import Sandwich  # noqa: E402
from tvm_iovt.nn.training import (  # noqa: E402
    CrossEntropy,
    TrainingOptions,
    evaluate,
    seeded_model,
    train,
)

OPTIONS = TrainingOptions(epochs=3, batch_size=16, shift_pixels=1)


class KilledError(Exception):
    pass


def kill_in(epoch: int, step: int):
    def progress(now):
        if (now.epoch, now.step) == (epoch, step):
            raise KilledError

    return progress


def same(one, other) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def sandwich(model):
    space = branch_space(model)
    return Sandwich(space=space, smallest=space.smallest(branch_costs(model, (1, 1, 8, 8))))


class Dropping(nn.Module):
    """Draws from torch's own generator in each step."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3))

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize("kind", ["plain", "supernet", "dropout"])
@pytest.mark.parametrize(("epoch", "step"), [(1, 4), (2, 1), (2, 10), (3, 7)])
def test_resumed_run_equals_an_uninterrupted_one(kind, epoch, step, network, data, tmp_path):
    builders = {
        "plain": network,
        "supernet": lambda: network().to(memory_format=torch.channels_last),
        "dropout": lambda: seeded_model(Dropping, 0),
    }
    build = builders[kind]
    objective = sandwich(network()) if kind == "supernet" else CrossEntropy()
    whole = build()
    losses = train(whole, data, OPTIONS, objective=objective)

    path = tmp_path / "run.pt"
    with pytest.raises(KilledError):
        train(
            build(),
            data,
            OPTIONS,
            objective=objective,
            checkpoint=path,
            resume=True,
            progress=kill_in(epoch, step),
        )
    assert path.exists() == (epoch > 1)
    torch.rand(5)  # what the process does in between must not matter
    again = build()
    with torch.no_grad():
        for parameter in again.parameters() if epoch > 1 else ():
            parameter.zero_()
    found = train(again, data, OPTIONS, objective=objective, checkpoint=path, resume=True)
    assert same(again, whole)
    assert found == losses


def test_finished_run_is_only_loaded(network, data, tmp_path):
    path = tmp_path / "run.pt"
    model, other = network(), network()
    losses = train(model, data, OPTIONS, checkpoint=path)
    steps = []
    found = train(other, data, OPTIONS, checkpoint=path, resume=True, progress=steps.append)
    assert found == losses
    assert same(other, model)
    assert not steps
    assert not other.training


def test_without_resume_the_checkpoint_is_replaced(network, data, tmp_path):
    path = tmp_path / "run.pt"
    path.write_bytes(b"whatever was here")
    train(network(), data, OPTIONS, checkpoint=path)
    train(network(), data, OPTIONS, checkpoint=path, resume=True)


def test_seed_decides(network, data):
    models = []
    for seed in (0, 0, 1):
        models.append(network())
        train(models[-1], data, dataclasses.replace(OPTIONS, epochs=1, seed=seed))
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


def test_global_generator_is_left_alone(data):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train(seeded_model(Dropping, 0), data, dataclasses.replace(OPTIONS, epochs=1))
    assert torch.equal(torch.rand(3), expected)


def test_learns_and_reports(network, data, unseen):
    model, seen = network(), []
    options = TrainingOptions(epochs=8, batch_size=16, shift_pixels=0)
    losses = train(model, data, options, progress=seen.append)
    assert len(losses) == 8
    assert losses[-1] < 0.5 * losses[0]
    assert evaluate(model, unseen) > 0.9
    assert [(p.epoch, p.step) for p in seen] == [(e, s) for e in range(1, 9) for s in range(1, 11)]
    assert seen[0].steps == 10
    assert all(p.images_per_s > 0 and p.eta_s >= 0 for p in seen)
    assert seen[-1].eta_s == 0
    assert seen[0].eta_s > 0


def test_accuracy_is_counted_in_evaluation_mode(unseen):
    model = nn.Sequential(nn.Dropout(0.9), nn.Flatten(), nn.Linear(64, 3))
    with torch.no_grad():
        model[2].weight.zero_()
        model[2].bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    model.train()
    assert evaluate(model, unseen) == (unseen.labels == 1).mean()
    assert model.training


def test_accuracy_of_nan_is_an_error(unseen):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with torch.no_grad():
        model[1].bias.fill_(math.nan)
    with pytest.raises(NumericsError, match="NaN"):
        evaluate(model, unseen)


def test_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(network, data, tmp_path):
    path = tmp_path / "run.pt"
    good = network()
    with pytest.raises(KilledError):
        train(good, data, OPTIONS, checkpoint=path, progress=kill_in(2, 1))
    stored = path.read_bytes()

    class Poisoned(CrossEntropy):
        calls = 0

        def backward(self, model, images, labels, generator):
            Poisoned.calls += 1
            return super().backward(
                model, images * (math.nan if self.calls > 2 else 1), labels, generator
            )

    model = network()
    with pytest.raises(NumericsError) as caught:
        train(model, data, OPTIONS, objective=Poisoned(), checkpoint=path, resume=True)
    assert "nan in epoch 2, step 3" in caught.value.seen
    assert f"{path} holds the state after epoch 1" in caught.value.seen
    assert "learning rate" in caught.value.do
    assert path.read_bytes() == stored
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_fewer_images_than_a_batch(network, data):
    few = dataclasses.replace(data, images=data.images[:5], labels=data.labels[:5])
    with pytest.raises(UsageError, match="fewer training images") as caught:
        train(network(), few, OPTIONS)
    assert "5 images, batches of 16" in caught.value.seen


def test_no_images():
    with pytest.raises(UsageError, match="no images"):
        LabelledImages(
            images=np.zeros((0, 8, 8, 1), np.uint8), labels=np.zeros(0, np.int64), classes=("a",)
        )


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"shift_pixels": -1},
        {"seed": -1},
        {"peak_learning_rate": math.nan},
        {"peak_learning_rate": 0.0},
        {"weight_decay": -0.1},
    ],
)
def test_options_out_of_range(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong)).split("_")[-1]):
        TrainingOptions(**{"epochs": 1, **wrong})


def test_resume_needs_a_file_name(network, data):
    with pytest.raises(UsageError, match="checkpoint"):
        train(network(), data, OPTIONS, resume=True)
