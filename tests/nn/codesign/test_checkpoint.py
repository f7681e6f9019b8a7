import dataclasses
import pickle
import random

import pytest

torch = pytest.importorskip("torch")

from tvm_iovt.errors import UsageError  # noqa: E402
from tvm_iovt.nn.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from tvm_iovt.nn.digit_network import digit_network  # noqa: E402
from tvm_iovt.nn.training import TrainingOptions, train  # noqa: E402

OPTIONS = TrainingOptions(epochs=1, batch_size=16)


@pytest.fixture
def path(network, data, tmp_path):
    file = tmp_path / "run.pt"
    train(network(), data, OPTIONS, checkpoint=file)
    return file


def resume(path, network, data, **options):
    return train(
        network(),
        data,
        dataclasses.replace(OPTIONS, **options),
        checkpoint=path,
        resume=True,
    )


def test_round_trip(path, tmp_path):
    saved = load_checkpoint(path)
    assert saved.epoch == 1
    assert saved.settings["batch_size"] == 16
    save_checkpoint(tmp_path / "copy" / "run.pt", saved)
    again = load_checkpoint(tmp_path / "copy" / "run.pt")
    assert again.generators == saved.generators
    assert all(torch.equal(again.model[name], saved.model[name]) for name in saved.model)
    assert not list(tmp_path.glob("copy/.*"))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated(path, network, data, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UsageError, match="damaged or no checkpoint") as caught:
        resume(path, network, data)
    assert str(path) in caught.value.what
    assert "delete the file" in caught.value.do


def test_a_changed_bit_never_changes_a_weight(path):
    content, saved = path.read_bytes(), load_checkpoint(path)
    draw = random.Random(0)
    refused = 0
    for _ in range(300):
        place = draw.randrange(len(content))
        changed = bytearray(content)
        changed[place] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        try:
            found = load_checkpoint(path)
        except UsageError:
            refused += 1
            continue
        assert found.model.keys() == saved.model.keys()
        assert all(torch.equal(found.model[name], saved.model[name]) for name in saved.model)
        assert found.generators == saved.generators
    assert refused > 150


class Harmful:
    def __reduce__(self):
        return print, ("executed",)


def test_foreign_files(path, network, data, capsys):
    for content in (b"", b"PK\x03\x04", b"not a checkpoint", pickle.dumps(Harmful())):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="damaged or no checkpoint"):
            resume(path, network, data)
    torch.save(Harmful(), path)
    with pytest.raises(UsageError, match="damaged or no checkpoint"):
        resume(path, network, data)
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [{"weight": torch.zeros(3)}, [1], {"schema": "other/1"}])
def test_other_torch_files(path, content):
    torch.save(content, path)
    with pytest.raises(UsageError, match="not a checkpoint that this version") as caught:
        load_checkpoint(path)
    assert "tvm-iovt/checkpoint/1" in caught.value.seen


@pytest.mark.parametrize("field", ["model", "generators", "epoch", "torch_generator"])
def test_missing_field(path, field):
    content = torch.load(path, weights_only=True)
    del content[field]
    torch.save(content, path)
    with pytest.raises(UsageError, match="incomplete") as caught:
        load_checkpoint(path)
    assert field in caught.value.seen


def test_damaged_inside(path, network, data):
    saved = load_checkpoint(path)
    save_checkpoint(path, dataclasses.replace(saved, generators={"order": "{}"}))
    with pytest.raises(UsageError, match="cannot be taken up"):
        resume(path, network, data)


@pytest.mark.parametrize(
    ("option", "value"), [("epochs", 2), ("seed", 5), ("peak_learning_rate", 0.5)]
)
def test_other_options(path, network, data, option, value):
    with pytest.raises(UsageError, match="another training run") as caught:
        resume(path, network, data, **{option: value})
    assert f"{option}: {getattr(OPTIONS, option)!r} there, {value!r} now" == caught.value.seen


def test_other_data(path, network, data):
    images = data.images.copy()
    images[0, 0, 0, 0] ^= 1
    with pytest.raises(UsageError, match="another training run") as caught:
        resume(path, network, dataclasses.replace(data, images=images))
    assert "data_sha256" in caught.value.seen


def test_other_model(path, data):
    with pytest.raises(UsageError, match="another model") as caught:
        resume(path, lambda: digit_network(width=6, num_classes=3), data)
    assert "conv.weight has shape (4, 1, 3, 3) there, (6, 1, 3, 3)" in caught.value.seen


def test_missing_file(tmp_path):
    with pytest.raises(UsageError, match="Cannot read the checkpoint"):
        load_checkpoint(tmp_path / "none.pt")


def test_unwritable(path, network, data, tmp_path):
    with pytest.raises(UsageError, match="Cannot write"):
        train(network(), data, OPTIONS, checkpoint=path / "below-a-file.pt")
