import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tvm_iovt.errors import UsageError  # noqa: E402
from tvm_iovt.nn.blocks import QARepVGGBlock  # noqa: E402
from tvm_iovt.nn.deploy import deploy, multi_branch_blocks  # noqa: E402
from tvm_iovt.nn.detections import cell_centres, decode  # noqa: E402
from tvm_iovt.nn.networks import small_detector  # noqa: E402


@pytest.fixture
def x():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def test_output_has_scores_and_distances_of_each_cell(x):
    model = small_detector(4, width=4).eval()
    with torch.no_grad():
        output = model(x)
    assert output.shape == (2, len(cell_centres((64, 96))), 8)
    scores, distances = output[..., :4], output[..., 4:]
    assert ((scores > 0) & (scores < 1)).all()
    assert (distances > 0).all()
    # Before training, almost everything is background.
    assert scores.mean() < 0.1
    assert len(decode(output[0].numpy(), (64, 96), score_threshold=0.5).boxes) == 0


def test_logits_are_those_of_the_scores(x):
    model = small_detector(4, width=4).eval()
    with torch.no_grad():
        logits, distances = model.logits_and_distances(x)
        torch.testing.assert_close(model(x), torch.cat([logits.sigmoid(), distances], 2))


def test_cells_lie_where_the_centres_say(randomise):
    # A bright spot changes the cells of each level that are near it most.
    model = randomise(small_detector(1, width=4).double())
    dark = torch.zeros(1, 3, 256, 256, dtype=torch.float64)
    spot = dark.clone()
    spot[:, :, 180:188, 60:68] = 5.0
    with torch.no_grad():
        change = (model(spot) - model(dark)).abs().sum(2)[0].numpy()
    centres = cell_centres((256, 256))
    for begin, end, stride in ((0, 1024, 8), (1024, 1280, 16)):
        best = centres[begin + change[begin:end].argmax()]
        assert np.abs(best - (64, 184)).max() <= 4 * stride


def test_deployed_detector(x, randomise):
    model = randomise(small_detector(3, width=4, block=QARepVGGBlock).double())
    deployed = deploy(model)
    assert not multi_branch_blocks(deployed)
    with torch.no_grad():
        expected, found = model(x.double()), deployed(x.double())
    assert (found - expected).abs().max() <= 1e-10 * expected.abs().max()


def test_heads_are_not_shared_and_depthwise():
    model = small_detector(3, width=4)
    heads = [head.depthwise for head in model.heads]
    assert len(set(map(id, heads))) == 3
    assert all(head.groups == head.in_channels == 16 for head in heads)


def test_image_of_another_size():
    with pytest.raises(UsageError, match="multiples of 32"):
        small_detector(3, width=4)(torch.zeros(1, 3, 64, 80))


def test_coarse_maps_reach_every_finer_level(x, randomise):
    model = randomise(small_detector(3, width=4))
    with torch.no_grad():
        before = model(x)
        model.lateral[2].branches["1x1"].norm.bias.add_(3.0)
        changed = (model(x) != before).any(2)
    counts = (96, 24, 6)
    assert all(part.any() for part in changed.split(counts, 1))


@pytest.mark.parametrize("options", [{"num_classes": 0}, {"num_classes": 3, "width": 0}])
def test_nothing_to_detect(options):
    with pytest.raises(UsageError, match="at least one class"):
        small_detector(**options)
