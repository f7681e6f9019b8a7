"""Variants of a network in one library: they compute the same, and their kernels are told apart."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import te, tirx

from tests.tuning.search_cases import conv_function, host
from tests.tuning.test_tasks import IMAGE, WEIGHT, network
from tvm_iovt.errors import NumericsError
from tvm_iovt.schedules.convolution import Conv2d, conv2d_packed
from tvm_iovt.schedules.cpu import schedule_functions
from tvm_iovt.schedules.tiles import Tile
from tvm_iovt.tuning.network_ranking import Comparison, VariantNetwork, comparison
from tvm_iovt.tuning.network_variants import entry, kernel_of, with_variants

NAMES = ("first", "second")


@pytest.fixture(scope="module")
def scheduled():
    """Two different functions of one image."""
    spec, _ = host()
    mod = network(first=(conv_function(), 2), second=(bounded(), 1))
    return schedule_functions(mod, spec.cpu)[0]


def bounded():
    """The convolution of `conv_function` with a bound from above instead of below."""
    image, weight = te.placeholder(IMAGE), te.placeholder(WEIGHT)
    conv = Conv2d(
        batch=1,
        in_size=(12, 12),
        in_channels=16,
        out_channels=40,
        kernel=(3, 3),
        strides=(1, 1),
        padding=(1, 1, 1, 1),
        dilation=(1, 1),
        groups=1,
    )
    result = conv2d_packed(image, weight, conv, Tile(rows=1, cols=12, vectors=1, lanes=16))
    one = tirx.const(1, "float32")
    return te.create_prim_func(
        [image, weight, te.compute(result.shape, lambda *i: tirx.min(result(*i), one))]
    )


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, np.float32) * 0.1 for shape in (IMAGE, WEIGHT)]


def variants(scheduled, count):
    """Variants that are the same kernels under other names."""
    return [{}, *({name: scheduled[name] for name in NAMES} for _ in range(count - 1))]


def test_variants_share_what_is_equal(scheduled):
    module = with_variants(scheduled, variants(scheduled, 3))
    names = sorted(str(var.name_hint) for var in module.functions)
    assert [entry(i) in names for i in range(3)] == [True] * 3
    kernels = [name for name in names if not name.startswith("main")]
    assert {kernel_of(name) for name in kernels} == set(NAMES)
    assert len(kernels) == 4  # the shared ones, and one other of each


def test_equal_variants_agree_and_every_kernel_has_a_time(scheduled, inputs):
    spec, _ = host()
    built = VariantNetwork(scheduled, variants(scheduled, 2), spec, inputs)
    assert built.check() == ()
    times = built.kernels(0.05)
    assert all(set(NAMES) <= set(found) for found in times)
    assert all(found[name].median_s > 0 for found in times for name in NAMES)
    # `first` is called twice as often. What else the machine does can only add to a time.
    runs = [times[0], *(built.kernels(0.02)[0] for _ in range(4))]
    assert min(t["first"].median_s for t in runs) > min(t["second"].median_s for t in runs)
    compared = built.compare(0, 1, 0.05)
    assert 0 < compared.ratio < 100


def test_a_variant_that_computes_something_else_is_found(scheduled, inputs):
    spec, _ = host()
    swapped = {"first": scheduled["second"]}
    built = VariantNetwork(scheduled, [{}, swapped, {}], spec, inputs)
    assert built.check() == (1,)


def test_a_network_without_numbers_is_an_error(scheduled, inputs):
    spec, _ = host()
    infinite = [np.full(IMAGE, np.inf, np.float32), np.abs(inputs[1])]
    built = VariantNetwork(scheduled, [{}], spec, infinite)
    with pytest.raises(NumericsError, match="NaN or infinity"):
        built.check()


def test_only_what_is_beyond_the_noise_is_a_gain():
    def compared(ratio, noise):
        return Comparison(before_s=1.0, after_s=ratio, ratio=ratio, noise=noise)

    assert compared(0.95, 0.01).is_gain
    assert not compared(0.95, 0.06).is_gain
    assert not compared(0.999, 0.0).is_gain
    assert not compared(1.0, 0.0).is_gain


def test_pairs_cancel_what_changes_slowly():
    drift = [1.0 + 0.02 * i for i in range(50)]
    compared = comparison(drift, [0.9 * d for d in drift])
    assert compared.ratio == pytest.approx(0.9)
    assert compared.noise < 1e-6
