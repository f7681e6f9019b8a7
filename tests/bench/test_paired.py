from __future__ import annotations

import pytest
from paired import Block, geometric_mean, latency, ratio


def block(wall_s: float, cpu_s: float | None = None, other_cores: float = 0.0) -> Block:
    return Block(wall_s=wall_s, cpu_s=wall_s if cpu_s is None else cpu_s, other_cores=other_cores)


def blocks(*walls: float, other_cores: float = 0.0) -> dict[int, Block]:
    return {i: block(wall_s, other_cores=other_cores) for i, wall_s in enumerate(walls)}


def test_several_threads_count_wall_time_of_clean_blocks() -> None:
    found = blocks(1.0, 2.0, 3.0) | {3: block(90.0, other_cores=1.0)}
    assert latency(found, threads=2).median_s == 2.0
    assert latency(found, threads=2).clean == 3
    assert latency(found, threads=2).blocks == 4
    assert not latency(found, threads=2).is_noisy


def test_without_enough_clean_blocks_the_quietest_quarter_is_called_a_guess() -> None:
    found = {i: block(float(i), other_cores=0.5 + i) for i in range(16)}
    assert latency(found, threads=2).median_s == 1.5  # of blocks 0 to 3
    assert latency(found, threads=2).is_noisy


def test_one_thread_counts_cpu_time_and_needs_no_quiet_machine() -> None:
    found = {i: block(50.0, cpu_s=float(i), other_cores=2.0) for i in range(5)}
    assert latency(found, threads=1).median_s == 2.0
    assert not latency(found, threads=1).is_noisy


def test_few_blocks_that_are_all_clean_are_no_guess() -> None:
    assert not latency(blocks(1.0, 2.0), threads=2).is_noisy


def test_a_ratio_pairs_blocks_of_one_round() -> None:
    # The machine slows down by ten during the run; every single pair is at 0.5.
    ours, theirs = blocks(1.0, 2.0, 10.0), blocks(2.0, 4.0, 20.0)
    found = ratio(ours, theirs, threads=2)
    assert (found.median, found.p10, found.p90, found.pairs) == (0.5, 0.5, 0.5, 3)


def test_rounds_that_one_of_them_missed_are_left_out() -> None:
    ours, theirs = blocks(1.0, 1.0, 1.0, 1.0), blocks(2.0, 4.0, 5.0)
    assert ratio(ours, theirs, threads=1).pairs == 3


def test_a_pair_is_as_clean_as_its_worse_block() -> None:
    ours = blocks(1.0, 1.0, 1.0, 1.0)
    theirs = blocks(2.0, 2.0, 2.0) | {3: block(100.0, other_cores=1.0)}
    found = ratio(ours, theirs, threads=2)
    assert (found.pairs, found.median, found.is_noisy) == (3, 0.5, False)


def test_the_band_leaves_out_a_tenth_on_each_side() -> None:
    ours = blocks(*(float(i) for i in range(1, 21)))
    found = ratio(ours, blocks(*[1.0] * 20), threads=1)
    assert (found.p10, found.median, found.p90) == (3.0, 10.5, 18.0)


def test_geometric_mean_of_a_number_and_its_inverse_is_one() -> None:
    assert geometric_mean([4.0, 0.25]) == pytest.approx(1.0)
    assert geometric_mean([0.5, 0.5, 4.0]) == pytest.approx(1.0)
