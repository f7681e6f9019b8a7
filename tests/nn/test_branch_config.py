import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_iovt.errors import UsageError
from tvm_iovt.nn.branch_config import FUSION_MODES, BranchConfig, mode_config

BLOCKS = {
    "stem": ("3x3", "1x1"),
    "stage1.0": ("3x3", "1x1"),
    "stage1.1": ("3x3", "1x1", "identity"),
}

NAMES = st.text("abc.013x_", min_size=1, max_size=8)


@given(
    st.dictionaries(
        NAMES, st.lists(NAMES, min_size=1, max_size=4, unique=True), min_size=1, max_size=5
    )
)
def test_json_round_trip(kept):
    config = BranchConfig(kept=tuple((block, tuple(names)) for block, names in kept.items()))
    again = BranchConfig.from_json(json.loads(json.dumps(config.to_json())))
    assert again == config
    assert hash(again) == hash(config)
    assert [block for block, _ in again.kept] == list(kept)


def test_order_of_blocks_distinguishes():
    one = BranchConfig(kept=(("a", ("x",)), ("b", ("x",))))
    assert one != BranchConfig(kept=(("b", ("x",)), ("a", ("x",))))


def test_text_joins_equal_neighbours():
    config = BranchConfig(
        kept=(("a", ("3x3", "1x1")), ("b", ("3x3",)), ("c", ("3x3",)), ("d", ("3x3", "1x1")))
    )
    assert str(config) == "3x3+1x1, 3x3 *2, 3x3+1x1"


def test_kept_in():
    config = mode_config(BLOCKS, "full")
    assert config.kept_in("stage1.1") == ("3x3", "1x1", "identity")
    with pytest.raises(UsageError, match="no block stage9"):
        config.kept_in("stage9")


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("none", [("3x3",), ("3x3",), ("3x3",)]),
        ("3x3_1x1", [("3x3", "1x1")] * 3),
        ("3x3_identity", [("3x3",), ("3x3",), ("3x3", "identity")]),
        ("full", list(BLOCKS.values())),
    ],
)
def test_fusion_modes(mode, expected):
    assert mode in FUSION_MODES
    config = mode_config(BLOCKS, mode)
    assert [branches for _, branches in config.kept] == expected
    assert [block for block, _ in config.kept] == list(BLOCKS)


def test_unknown_mode():
    with pytest.raises(UsageError, match="Unknown fusion mode") as info:
        mode_config(BLOCKS, "all")
    assert "3x3_identity" in info.value.do


@pytest.mark.parametrize("branches", [("1x1", "identity"), ("3x3", "1x1_avg"), ()])
def test_mode_of_another_family(branches):
    with pytest.raises(UsageError, match="defined for 3x3, 1x1 and identity"):
        mode_config({"a": branches}, "full")


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ((), "at least one block"),
        ((("a", ()),), "keeps no branch"),
        ((("a", ("x", "x")),), "keeps a branch twice"),
        ((("a", ("x",)), ("a", ("y",))), "names a block twice"),
    ],
)
def test_impossible_configurations(kept, message):
    with pytest.raises(UsageError, match=message):
        BranchConfig(kept=kept)


GOOD = {"schema": "tvm-iovt/branch-config/1", "kept": {"a": ["x"]}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "not a branch configuration"),
        ([], "not a branch configuration"),
        ({"kept": {"a": ["x"]}}, "not a branch configuration"),
        ({**GOOD, "schema": "tvm-iovt/branch-config/2"}, "not a branch configuration"),
        ({"schema": GOOD["schema"]}, "no object"),
        ({**GOOD, "kept": [["a", ["x"]]]}, "no object"),
        ({**GOOD, "kept": {"a": "x"}}, "no list of names"),
        ({**GOOD, "kept": {"a": [1]}}, "no list of names"),
        ({**GOOD, "kept": {}}, "at least one block"),
        ({**GOOD, "kept": {"a": []}}, "keeps no branch"),
        ({**GOOD, "more": 1}, "unknown fields"),
    ],
)
def test_broken_json(data, message):
    with pytest.raises(UsageError, match=message):
        BranchConfig.from_json(data)
