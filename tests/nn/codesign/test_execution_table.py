import itertools

import pytest

from tvm_iovt.errors import UsageError
from tvm_iovt.nn.execution_table import (
    BRANCHES,
    EXECUTION_CONFIGS,
    execution_config,
    legal_gammas,
    legality_mask,
)

# Survivors and the gammas that run exactly them.
LEGAL = {
    ("3x3",): (0,),
    ("1x1",): (1,),
    ("identity",): (2,),
    ("3x3", "1x1"): (3, 4),
    ("3x3", "identity"): (5, 6),
    ("1x1", "identity"): (7, 8),
    ("3x3", "1x1", "identity"): (9, 10, 11, 12, 13),
}


@pytest.mark.parametrize("kept", LEGAL)
def test_mask(kept):
    assert legal_gammas(kept) == legal_gammas(kept[::-1]) == LEGAL[kept]
    assert legality_mask(kept) == tuple(gamma in LEGAL[kept] for gamma in range(14))


def test_without_identity_no_configuration_has_one():
    for size in (1, 2):
        for kept in itertools.combinations(("3x3", "1x1"), size):
            for gamma in legal_gammas(kept):
                assert "identity" not in execution_config(gamma).branches


def test_every_partition_of_every_set_occurs_once():
    assert [c.gamma for c in EXECUTION_CONFIGS] == list(range(14))
    partitions = {frozenset(frozenset(g) for g in c.groups) for c in EXECUTION_CONFIGS}
    assert len(partitions) == 14  # 3 sets of one, 3 of two with 2 partitions, 1 of three with 5
    for config in EXECUTION_CONFIGS:
        names = [name for group in config.groups for name in group]
        assert sorted(names) == sorted(config.branches)
        assert set(names) <= set(BRANCHES)


def test_text():
    assert str(execution_config(10)) == "(3x3+1x1) | identity"
    assert str(execution_config(9)) == "3x3 | 1x1 | identity"
    assert str(execution_config(2)) == "identity"


@pytest.mark.parametrize("kept", [(), ("5x5",), ("3x3", "1x3"), ("3x3_0",)])
def test_other_branches(kept):
    with pytest.raises(UsageError, match="3x3, 1x1 and identity branches only"):
        legal_gammas(kept)


@pytest.mark.parametrize("gamma", [-1, 14])
def test_unknown_gamma(gamma):
    with pytest.raises(UsageError, match="no such execution configuration"):
        execution_config(gamma)
