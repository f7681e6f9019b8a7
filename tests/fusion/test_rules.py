from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from tvm_iovt.fusion import convolution as algebra
from tvm_iovt.fusion.convolution import Convolution, InexactError, Pair
from tvm_iovt.fusion.linear_graph import Blocked, LinearOperator, Term, ancestors, walk
from tvm_iovt.fusion.rules import Fusion, Refusal, fold_affine, fuse_sequence, fuse_sum


class Graph:
    """A graph of names, in the order in which they are made; `x` is its input of 8 channels."""

    canonical = frozenset({("shift", "conv2d"), ("shift", "dense")})

    def __init__(self, hw: Pair | None = (8, 8), *, results: tuple[str, ...] = ()) -> None:
        self.nodes: dict[str, LinearOperator | Blocked | tuple[Term, ...]] = {}
        self.blocked_sums: dict[str, Blocked] = {}
        self.hw: dict[str, Pair | None] = {"x": hw}
        self.results = results
        self.random = np.random.default_rng(0)

    # Building.

    def conv(
        self,
        name: str,
        operand: str,
        size: int = 3,
        *,
        channels: int = 8,
        outputs: int = 8,
        groups: int = 1,
        stride: int = 1,
        padding: int | None = None,
        bias: bool = False,
        weight: str = "",
        kind: str = "conv2d",
    ) -> str:
        around = (size - 1) // 2 if padding is None else padding
        operator = Convolution(
            kernel=self.random.standard_normal((outputs, channels // groups, size, size)),
            bias=self.random.standard_normal((outputs, 1, 1)) * bias,
            strides=(stride, stride),
            padding=(around,) * 4,
            groups=groups,
        )
        return self.linear(kind, name, operand, operator, weight or f"weight of {name}")

    def scale(self, name: str, operand: str, kind: str = "batch_norm", channels: int = 8) -> str:
        factor, shift = self.random.standard_normal((2, channels))
        if kind == "shift":
            factor = np.ones(channels)
        return self.linear(kind, name, operand, algebra.scale(factor, shift))

    def average(self, name: str, operand: str, size: int = 3, channels: int = 8) -> str:
        around = ((size - 1) // 2,) * 4
        pool = algebra.average_pool(channels, (size, size), (1, 1), around)
        return self.linear("avg_pool2d", name, operand, pool)

    def linear(self, kind, name, operand, operator: Convolution, weight=None) -> str:
        before = self.hw[operand]
        self.hw[name] = None if before is None else operator.result_hw(before)
        self.nodes[name] = LinearOperator(
            kind=kind,
            name=name,
            operand=operand,
            result=name,
            node=None,
            convolution=lambda: operator,
            weight=weight,
        )
        return name

    def inexact(self, name: str, operand: str, reason: str, kind: str = "conv2d") -> str:
        self.conv(name, operand, 1)

        def raises() -> Convolution:
            raise InexactError(reason)

        node = self.nodes[name]
        self.nodes[name] = LinearOperator(
            kind=kind, name=name, operand=operand, result=name, node=None, convolution=raises,
            weight=node.weight,
        )  # fmt: skip
        return name

    def other(self, name: str, *operands: str, reason: str = "", kind: str = "") -> str:
        self.hw[name] = self.hw[operands[0]]
        self.nodes[name] = Blocked(
            reason=reason or f"{name} lies between", name=name, kind=kind, operands=operands
        )
        return name

    def sum(self, name: str, *terms: str) -> str:
        """`a`, or `-a` for a term that is subtracted."""
        signed = tuple(Term(t.removeprefix("-"), -1 if t.startswith("-") else 1) for t in terms)
        self.hw[name] = self.hw[signed[0].value]
        self.nodes[name] = signed
        return name

    # The protocol.

    def operator(self, value):
        found = self.nodes.get(value)
        if found is None:
            return Blocked(reason="it is an input of the graph")
        if isinstance(found, tuple):
            operands = tuple(term.value for term in found)
            return Blocked(reason="a sum lies between", name=value, operands=operands)
        return found

    def terms(self, value):
        if value in self.blocked_sums:
            return self.blocked_sums[value]
        found = self.nodes.get(value)
        return found if isinstance(found, tuple) else None

    def reader(self, value) -> str | None:
        readers = [n for n, node in self.nodes.items() if value in self._reads(node)]
        return readers[0] if len(readers) == self.uses(value) == 1 else None

    def name(self, value) -> str:
        return value

    def uses(self, value) -> int:
        read = sum(self._reads(node).count(value) for node in self.nodes.values())
        return read + self.results.count(value)

    def weight_uses(self, weight) -> int:
        operators = (n for n in self.nodes.values() if isinstance(n, LinearOperator))
        return sum(operator.weight == weight for operator in operators)

    def image_hw(self, value):
        return self.hw[value]

    def element_bytes(self, value) -> int:
        return 4

    @staticmethod
    def _reads(node) -> list[str]:
        if isinstance(node, tuple):
            return [term.value for term in node]
        return list(node.operands) if isinstance(node, Blocked) else [node.operand]

    # As an oracle.

    def run(self, value: str, x: np.ndarray) -> np.ndarray:
        if value == "x":
            return x
        node = self.nodes[value]
        if isinstance(node, tuple):
            return sum(term.sign * self.run(term.value, x) for term in node)
        if isinstance(node, Blocked):
            return np.maximum(self.run(node.operands[0], x), 0)
        return algebra.apply(node.convolution(), self.run(node.operand, x))


def assert_exact(graph: Graph, value: str, fusion: Fusion) -> None:
    hw = graph.hw["x"]
    assert hw is not None
    x = np.random.default_rng(5).standard_normal((2, 8, *hw))
    found = algebra.apply(fusion.convolution, graph.run(fusion.source, x))
    for term in fusion.rest:
        found = found + term.sign * graph.run(term.value, x)
    np.testing.assert_allclose(found, graph.run(value, x), rtol=0, atol=1e-9)


def work(flops: int, _nbytes: int) -> float:
    return flops * 1e-9


def roofline(flops: int, nbytes: int) -> float:
    return max(flops / 1e10, nbytes / 1e10) + 1e-7


def traffic(_flops: int, nbytes: int) -> float:
    return nbytes * 1e-9


def sum_of(graph: Graph, value: str, time=None) -> tuple[Fusion | None, list[Refusal]]:
    found = fuse_sum(graph, value, time)
    fusions = [one for one in found if isinstance(one, Fusion)]
    assert len(fusions) <= 1
    if fusions:
        assert_exact(graph, value, fusions[0])
    return (fusions or [None])[0], [one for one in found if isinstance(one, Refusal)]


# Chains.


def test_a_chain_ends_where_another_operator_reads() -> None:
    graph = Graph()
    graph.conv("a", "x", 1)
    graph.scale("b", "a")
    graph.conv("c", "b", 1)
    assert [o.name for o in walk(graph, "c").operators] == ["c", "b", "a"]
    graph.other("relu", "a")
    chain = walk(graph, "c")
    assert [o.name for o in chain.operators] == ["c", "b"]
    assert "another consumer" in chain.blocked.reason
    assert [chain.source(depth) for depth in range(3)] == ["c", "b", "a"]


def test_ancestors_carry_the_first_obstacle() -> None:
    graph = Graph()
    graph.conv("a", "x", 1)
    graph.other("relu", "a")
    graph.other("pool", "relu")
    graph.conv("b", "pool", 1)
    assert list(ancestors(graph, "b", 9)) == [
        ("pool", ""),
        ("relu", "pool lies between"),
        ("a", "pool lies between"),
        ("x", "pool lies between"),
    ]
    assert len(list(ancestors(graph, "b", 2))) == 2


# Affine operators.


def fold(graph: Graph, value: str, time=None) -> Fusion | Refusal | None:
    found = fold_affine(graph, value, time)
    if isinstance(found, Fusion):
        assert_exact(graph, value, found)
    return found


@pytest.mark.parametrize("kinds", [("batch_norm",), ("scale",), ("shift", "batch_norm", "scale")])
def test_what_follows_a_conv_is_folded_into_it(kinds) -> None:
    graph = Graph()
    value = graph.conv("conv", "x")
    for i, kind in enumerate(kinds):
        value = graph.scale(f"affine{i}", value, kind)
    found = fold(graph, value, roofline)
    assert isinstance(found, Fusion)
    assert found.carrier.name == "conv"
    assert found.source == "x"
    assert {o.name for o in found.operators} >= {"conv", value}


def test_a_conv_with_its_bias_is_left_as_it_is() -> None:
    graph = Graph()
    graph.conv("conv", "x")
    assert fold(graph, graph.scale("bias", "conv", "shift")) is None
    assert fold(graph, "conv") is None


def test_affine_operators_with_nothing_to_fold_into() -> None:
    graph = Graph()
    graph.other("relu", "x")
    norm, pooled = graph.scale("norm", "relu"), graph.average("pool", "x")
    found = fold(graph, norm)
    assert isinstance(found, Refusal)
    assert (found.subject, found.reason) == ("norm", "relu lies between")
    behind = fold(graph, graph.scale("behind", pooled))
    assert isinstance(behind, Refusal)
    assert "avg_pool2d" in behind.reason
    # A scale of its own is nothing that anyone waits for.
    assert fold(graph, graph.scale("factor", "relu", "scale")) is None


def test_a_chain_is_folded_once_from_its_end() -> None:
    graph = Graph()
    graph.conv("conv", "x")
    graph.scale("norm", "conv")
    graph.scale("factor", "norm", "scale")
    assert fold(graph, "norm") is None
    found = fold(graph, "factor")
    assert isinstance(found, Fusion)
    assert found.subject == "norm, factor"


def test_a_batch_norm_that_is_no_constant_scale_says_why() -> None:
    graph = Graph()
    graph.conv("conv", "x")
    graph.other("norm", "conv", reason="the batch norm is in training mode", kind="batch_norm")
    found = fold(graph, "norm")
    assert found == Refusal(subject="norm", reason="the batch norm is in training mode")


def test_what_precedes_a_conv_is_folded_into_it() -> None:
    graph = Graph()
    graph.scale("norm", "x")
    found = fold(graph, graph.conv("conv", "norm", padding=0))
    assert isinstance(found, Fusion)
    assert not found.convolution.has_bias_map


def test_a_bias_map_is_weighed() -> None:
    graph = Graph()
    graph.other("relu", "x")
    graph.scale("norm", "relu")
    graph.conv("conv", "norm", outputs=64)
    exact = fold(graph, "conv")
    assert isinstance(exact, Fusion)
    assert exact.convolution.has_bias_map
    assert "along the border" in exact.reason
    costly = fold(graph, "conv", traffic)
    assert isinstance(costly, Refusal)
    assert "costs more than it saves" in costly.reason


def test_a_batch_norm_of_the_input_costs_a_pass() -> None:
    graph = Graph((32, 32))
    graph.scale("norm", "x")
    assert isinstance(fold(graph, graph.conv("conv", "norm"), traffic), Fusion)


def test_what_follows_a_transposed_conv_is_composed_on_its_own() -> None:
    graph = Graph()
    graph.inexact("transposed", "x", "no normal form", "conv2d_transpose")
    graph.scale("bias", "transposed", "shift")
    found = fold_affine(graph, graph.scale("norm", "bias"), None)
    assert isinstance(found, Fusion)
    assert found.carrier.name == "transposed"
    x = np.random.default_rng(0).standard_normal((1, 8, 3, 3))
    expected = x
    for name in ("bias", "norm"):
        expected = algebra.apply(graph.nodes[name].convolution(), expected)
    np.testing.assert_allclose(algebra.apply(found.convolution, x), expected, atol=1e-12)


def test_nothing_is_folded_into_a_transposed_conv_from_in_front() -> None:
    graph = Graph()
    graph.scale("norm", "x")
    graph.inexact("transposed", "norm", "no normal form", "conv2d_transpose")
    found = fold_affine(graph, "transposed", None)
    assert isinstance(found, Refusal)
    assert "transposed" in found.reason


@pytest.mark.parametrize("rule", [fold_affine, fuse_sequence])
def test_what_has_no_normal_form_says_why(rule) -> None:
    graph = Graph()
    graph.inexact("first", "x", "its constants hold NaN or infinity")
    value = graph.scale("norm", "first") if rule is fold_affine else graph.conv("c", "first", 1)
    found = rule(graph, value, None)
    assert isinstance(found, Refusal)
    assert "NaN" in found.reason


# Sequences.


def in_sequence(graph: Graph, value: str, time=None) -> Fusion | Refusal | None:
    found = fuse_sequence(graph, value, time)
    if isinstance(found, Fusion):
        assert_exact(graph, value, found)
    return found


def test_two_convs_with_affine_operators_between() -> None:
    graph = Graph()
    graph.conv("a", "x", 1)
    graph.scale("n", "a")
    graph.scale("s", "n", "shift")
    found = in_sequence(graph, graph.conv("b", "s", padding=0))
    assert isinstance(found, Fusion)
    assert [o.name for o in found.operators] == ["b", "s", "n", "a"]
    assert (found.subject, found.source, found.carrier.name) == ("a, b", "x", "b")


def test_the_conv_carries_what_is_none() -> None:
    graph = Graph()
    graph.conv("conv", "x", 1)
    found = in_sequence(graph, graph.average("pool", "conv"))
    assert isinstance(found, Fusion)
    assert found.carrier.name == "conv"


def test_cropped_convs_get_no_negative_padding() -> None:
    graph = Graph()
    graph.conv("conv", "x")
    graph.linear("crop", "crop", "conv", algebra.pad(8, (-2, 0, -1, -3)))
    found = in_sequence(graph, "crop")
    assert isinstance(found, Fusion)
    assert min(found.convolution.padding) >= 0


@pytest.mark.parametrize(
    ("kinds", "fuses"),
    [
        (("conv2d", "conv2d"), True),
        (("dense", "dense"), True),
        (("pad", "pad"), False),
        (("avg_pool2d", "avg_pool2d"), False),
        (("conv2d", "dense"), False),
        (("conv2d", "conv2d_transpose"), False),
        (("pad", "conv2d"), True),
    ],
)
def test_kinds_that_go_together(kinds, fuses) -> None:
    graph = Graph()
    graph.conv("a", "x", 1, kind=kinds[0])
    found = in_sequence(graph, graph.conv("b", "a", 1, kind=kinds[1]))
    assert isinstance(found, Fusion) is fuses


def test_a_second_reader_of_the_first_conv_is_a_near_miss() -> None:
    graph = Graph(results=("a",))
    graph.conv("a", "x", 1)
    found = in_sequence(graph, graph.conv("b", "a", 1))
    assert isinstance(found, Refusal)
    assert "another consumer" in found.reason
    graph = Graph()
    graph.conv("a", "x", 1)
    graph.other("relu", "a")
    assert in_sequence(graph, graph.conv("b", "relu", 1)) is None


def test_sequences_are_weighed() -> None:
    graph = Graph()
    graph.conv("depthwise", "x", groups=8)
    separable = graph.conv("pointwise", "depthwise", 1)
    assert isinstance(in_sequence(graph, separable), Fusion)
    refused = in_sequence(graph, separable, work)
    assert isinstance(refused, Refusal)
    assert "costs more than it saves" in refused.reason
    assert "us fused" in refused.reason
    graph = Graph()
    graph.conv("expand", "x", 1, outputs=64)
    assert isinstance(in_sequence(graph, graph.conv("b", "expand", 1, channels=64), work), Fusion)


# Sums.


def rep_vgg(graph: Graph, source: str = "x") -> list[str]:
    graph.conv("c3", source)
    graph.conv("c1", source, 1)
    return [graph.scale("n3", "c3"), graph.scale("n1", "c1"), graph.scale("n0", source)]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_order_of_the_terms_does_not_matter(order) -> None:
    graph = Graph()
    terms = rep_vgg(graph)
    fusion, refusals = sum_of(graph, graph.sum("y", *(terms[i] for i in order)))
    assert fusion is not None
    assert not refusals
    assert fusion.convolution.size == (3, 3)
    assert fusion.carrier.name == "c3"
    assert not fusion.rest


def test_sums_of_sums_are_one_sum() -> None:
    graph = Graph()
    a, b, c = rep_vgg(graph)
    graph.other("residual", "x")
    graph.sum("inner", a, "-residual")
    graph.sum("middle", b, "-inner")
    graph.sum("y", "middle", c)
    assert fuse_sum(graph, "inner", None) == ()
    assert fuse_sum(graph, "middle", None) == ()
    fusion, _ = sum_of(graph, "y")
    assert fusion is not None
    assert fusion.rest == (Term("residual", 1),)


def test_foreign_terms_keep_their_signs() -> None:
    graph = Graph()
    a, b, c = rep_vgg(graph)
    graph.other("more", "x")
    graph.other("less", "x")
    fusion, _ = sum_of(graph, graph.sum("y", f"-{a}", "-less", b, "more", f"-{c}"))
    assert fusion is not None
    assert fusion.rest == (Term("less", -1), Term("more", 1))


def test_a_sum_that_others_read_is_fused_where_it_stands() -> None:
    graph = Graph()
    a, b, c = rep_vgg(graph)
    graph.sum("inner", a, b)
    graph.sum("y", "inner", c)
    graph.other("relu", "inner")
    assert sum_of(graph, "inner")[0] is not None
    fusion, _ = sum_of(graph, "y")
    assert fusion is None


def test_an_identity_needs_a_conv_beside_it() -> None:
    graph = Graph()
    graph.scale("a", "x")
    assert sum_of(graph, graph.sum("y", "a", "x")) == (None, [])
    graph.conv("b", "x")
    fusion, _ = sum_of(graph, graph.sum("z", "-x", "b"))
    assert fusion is not None


def test_one_input_at_a_time() -> None:
    graph = Graph()
    graph.other("z", "x")
    for source in ("x", "z"):
        graph.conv(f"{source}3", source)
        graph.conv(f"{source}1", source, 1)
    fusion, _ = sum_of(graph, graph.sum("y", "x3", "z3", "x1", "z1"))
    assert fusion is not None
    assert len(fusion.rest) == 2


def test_the_source_may_lie_behind_a_common_operator() -> None:
    graph = Graph()
    graph.conv("stem", "x", 1)
    fusion, _ = sum_of(graph, graph.sum("y", *rep_vgg(graph, "stem")))
    assert fusion is not None
    assert fusion.source == "stem"


def test_a_branch_that_others_read_is_left_in_the_sum() -> None:
    graph = Graph(results=("n1",))
    a, b, c = rep_vgg(graph)
    fusion, refusals = sum_of(graph, graph.sum("y", a, b, c))
    assert fusion is not None
    assert fusion.rest == (Term("n1", 1),)
    assert any("another consumer" in r.reason for r in refusals)


def test_a_branch_without_a_normal_form_is_left_in_the_sum() -> None:
    graph = Graph()
    terms = rep_vgg(graph)
    terms.append(graph.inexact("bad", "x", "its constants hold NaN or infinity"))
    fusion, refusals = sum_of_inexact(graph, graph.sum("y", *terms))
    assert fusion is not None
    assert fusion.rest == (Term("bad", 1),)
    assert [(r.subject, "NaN" in r.reason) for r in refusals] == [("bad", True)]


def sum_of_inexact(graph: Graph, value: str):
    found = fuse_sum(graph, value, None)
    fusions = [one for one in found if isinstance(one, Fusion)]
    return (fusions or [None])[0], [one for one in found if isinstance(one, Refusal)]


def test_branches_that_cannot_be_added_say_why() -> None:
    graph = Graph()
    graph.conv("a", "x", 1, stride=2)
    graph.conv("b", "x", 5, padding=0)
    fusion, refusals = sum_of(graph, graph.sum("y", "a", "b"))
    assert fusion is None
    assert ["strides differ" in r.reason for r in refusals] == [True]


def test_near_misses_name_what_lies_between() -> None:
    graph = Graph()
    graph.conv("a", "x")
    graph.conv("b", "x", 1)
    graph.other("relu", "b")
    fusion, refusals = sum_of(graph, graph.sum("y", "a", "relu"))
    assert fusion is None
    assert [r.reason for r in refusals] == ["relu lies between"]
    # A sum of unrelated things is nothing that was nearly fused.
    graph = Graph()
    graph.conv("a", "x")
    graph.other("relu", "a")
    graph.hw["z"] = (8, 8)
    assert sum_of_inexact(graph, graph.sum("y", "relu", "z")) == (None, [])


def test_sums_that_broadcast_say_so_when_branches_meet() -> None:
    graph = Graph()
    graph.conv("a", "x")
    graph.conv("b", "x", 1)
    graph.sum("y", "a", "b")
    graph.blocked_sums["y"] = Blocked(reason="shapes", name="y", operands=("a", "b"))
    assert fuse_sum(graph, "y", None) == (Refusal(subject="y", reason="shapes"),)
    graph.other("relu", "a")
    graph.blocked_sums["y"] = Blocked(reason="shapes", name="y", operands=("relu", "x"))
    assert fuse_sum(graph, "y", None) == ()


def test_what_is_no_sum_is_none_of_its_business() -> None:
    graph = Graph()
    graph.conv("a", "x")
    assert fuse_sum(graph, "a", None) == ()
    assert fuse_sum(graph, "x", None) == ()


def test_dense_branches() -> None:
    graph = Graph((1, 1))
    graph.conv("a", "x", 1, kind="dense")
    graph.conv("b", "x", 1, kind="dense")
    fusion, _ = sum_of(graph, graph.sum("y", "a", "b", "x"))
    assert fusion is not None
    assert fusion.carrier.kind == "dense"


# What `time` decides.


def large_depthwise() -> tuple[Graph, list[str]]:
    graph = Graph((16, 16))
    graph.conv("depthwise", "x", 3, groups=8)
    graph.conv("pointwise", "x", 1)
    return graph, ["depthwise", graph.average("pooled", "pointwise", 7)]


def test_a_wide_dense_branch_is_left_apart_from_a_small_depthwise_kernel() -> None:
    graph, terms = large_depthwise()
    graph.sum("y", *terms)
    fusion, refusals = sum_of(graph, "y", roofline)
    assert fusion is None
    assert ["costs more than it saves" in r.reason for r in refusals] == [True]


def test_without_a_clock_everything_exact_is_taken() -> None:
    graph, terms = large_depthwise()
    fusion, refusals = sum_of(graph, graph.sum("y", *terms))
    assert fusion is not None
    assert not refusals
    assert (fusion.convolution.size, fusion.convolution.groups) == ((7, 7), 1)


def test_the_best_subset_is_taken() -> None:
    graph, terms = large_depthwise()
    terms.append(graph.conv("depthwise1", "x", 1, groups=8))
    fusion, refusals = sum_of(graph, graph.sum("y", *terms), roofline)
    assert fusion is not None
    assert fusion.subject == "depthwise + depthwise1"
    assert fusion.convolution.groups == 8
    assert fusion.rest == (Term("pooled", 1),)
    assert [r.subject for r in refusals] == ["pointwise > pooled"]
    assert "costs more than it saves" in refusals[0].reason


@pytest.mark.parametrize("time", [work, roofline])
def test_pairs_that_are_worth_it_apart_but_not_together(time) -> None:
    # Two depthwise and two dense branches: leaving any single one out helps nothing.
    graph = Graph((16, 16))
    for name in ("a", "b"):
        graph.conv(f"depthwise {name}", "x", groups=8)
        graph.conv(f"pointwise {name}", "x", 1)
    terms = [f"{kind} {name}" for kind in ("depthwise", "pointwise") for name in ("a", "b")]
    fusion, _ = sum_of(graph, graph.sum("y", *terms), time)
    assert fusion is not None
    assert len(fusion.rest) == 2
    assert len({o.name.split()[0] for o in fusion.operators}) == 1


@pytest.mark.parametrize("time", [work, traffic, roofline])
def test_rep_vgg_is_worth_it_on_any_device(time: Callable[[int, int], float]) -> None:
    graph = Graph()
    fusion, refusals = sum_of(graph, graph.sum("y", *rep_vgg(graph)), time)
    assert fusion is not None
    assert not fusion.rest
    assert not refusals


def shared(together: bool) -> tuple[Graph, str]:
    graph = Graph()
    graph.conv("a", "x")
    graph.conv("b", "x", 1, weight="w")
    if together:
        graph.conv("c", "x", 1, weight="w")
        return graph, graph.sum("y", "a", "b", "c")
    graph.conv("c", "a", 1, weight="w")
    graph.other("relu", "c")
    graph.conv("d", "x")
    return graph, graph.sum("y", "d", "b")


def test_weights_that_others_share_stay() -> None:
    graph, value = shared(together=False)
    fusion, refusals = sum_of(graph, value, roofline)
    assert fusion is None
    assert ["shared with another operator" in r.reason for r in refusals] == [True]
    assert sum_of(graph, value)[0] is not None


def test_weights_that_only_the_branches_share_are_fine() -> None:
    graph, value = shared(together=True)
    fusion, refusals = sum_of(graph, value, roofline)
    assert fusion is not None
    assert not refusals


@pytest.mark.parametrize("rule", [fold_affine, fuse_sequence])
def test_shared_weights_stay_in_chains_too(rule) -> None:
    graph = Graph()
    graph.conv("a", "x", 1, weight="w")
    value = graph.scale("n", "a") if rule is fold_affine else graph.conv("b", "a", 1)
    graph.conv("other", "x", 1, weight="w")
    refused = rule(graph, value, roofline)
    assert isinstance(refused, Refusal)
    assert "shared with another operator" in refused.reason
    assert isinstance(rule(graph, value, None), Fusion)


def test_unknown_image_sizes_are_weighed_all_the_same() -> None:
    graph = Graph(None)
    graph.conv("a", "x")
    graph.conv("b", "x", 1)
    found = fuse_sum(graph, graph.sum("y", "a", "b"), roofline)
    assert isinstance(found[0], Fusion)
