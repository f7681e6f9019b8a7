"""Which bindings become one kernel: the units that a network can be cut between.

    %c = conv2d(%x, w)            # the main operator, or *anchor*
    %b = add(%c, reshape(bias))   # element-wise, and nothing else reads %c: computed with it
    %s = multiply(%b, sigmoid(%b))  # two readers, but all paths meet again at the multiplication
    %y = add(%s, %r)              # a residual, when this is the later one of two convolutions
    %q = quantize(%y)             # ends a unit, if what follows does not end in integers again

An anchor takes what lies between it and its next *post-dominator* (the first operator that all
paths to a result pass), if all of that is element-wise. The last binding of a unit is thus the only
one that others read, so units cannot depend on one another in a circle: in the order of their last
bindings, each comes after all that it reads. The tensors of a tuple (`split`) and views
stay with what they are read from.

What widens integers (`dequantize`, `astype`) goes with the operator that reads it, as do
element-wise operators that only one reduction or copy reads. Constant subexpressions and views of
inputs belong to no unit; every reader computes its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tvm import relax

from relay_passes.operator_kinds import kind_of
from relay_passes.operator_roles import elements, first_item
from relay_passes.relax_tensors import op_name
from relay_passes.straight_line import Node, StraightLine

_CONVERSIONS = ("astype", "dequantize", "quantize")


@dataclass(frozen=True, eq=False)
class Group:
    """The nodes of one unit.

    Attributes:
        anchor: The main operator; of element-wise operators the first that is no conversion.
        nodes: All of them, in order.
    """

    anchor: Node
    nodes: tuple[Node, ...]


def group_units(line: StraightLine) -> tuple[Group, ...]:
    """Every node that is not replicated, in exactly one group; groups in topological order."""
    return _Grouping(line).groups()


@dataclass(eq=False)
class _Growing:
    anchor: Node
    core: list[Node] = field(default_factory=list)
    attached: list[Node] = field(default_factory=list)

    @property
    def end(self) -> int:
        """What the order of groups follows; attached views can come behind their readers' place."""
        return max(node.index for node in self.core or self.attached)


class _Grouping:
    def __init__(self, line: StraightLine) -> None:
        self._line = line
        self._owner: dict[Any, _Growing] = {}
        self._outputs = frozenset(o for o in line.outputs if isinstance(o, relax.Var))
        self._meeting = _post_dominators(line, self._outputs)

    def groups(self) -> tuple[Group, ...]:
        work = [node for node in self._line.nodes if not node.replicated]
        growing: list[_Growing] = []
        # Backwards, so that the later one of two convolutions takes their sum.
        for node in reversed(work):
            if node.role == "anchor":
                growing.append(self._grown(node))
        for group in list(growing):
            self._take_prologue(group)
        for node in work:
            if node.role == "elementwise" and node.var not in self._owner:
                group = self._grown(node)
                self._take_prologue(group)
                growing.append(group)
        growing += self._attach_views(work)
        growing.sort(key=lambda group: group.end)
        return tuple(map(_finished, growing))

    def _grown(self, anchor: Node) -> _Growing:
        """The anchor with the element-wise operators behind it."""
        group = _Growing(anchor)
        self._claim(group, anchor)
        current = anchor
        ahead: list[Node] = []
        while True:
            # Behind integers only what makes integers again, so that units end with the smaller
            # tensors.
            past = bool(ahead) or op_name_of(current) == "quantize"
            region = self._region(current)
            if not region or not all(self._joins(anchor, current, n, past) for n in region):
                return group
            current = region[-1]
            ahead += region
            if not past or op_name_of(current) == "quantize":
                for node in ahead:
                    self._claim(group, node)
                ahead = []

    def _region(self, node: Node) -> list[Node]:
        """Everything behind a node up to where all paths meet again; empty if they do not."""
        meeting = self._meeting[node.index]
        if meeting is None:
            return []
        found: dict[int, Node] = {}
        pending = [node]
        while pending:
            for reader in self._line.readers.get(pending.pop().var, ()):
                if reader.index not in found:
                    found[reader.index] = reader
                    if reader.index != meeting:
                        pending.append(reader)
        return [found[index] for index in sorted(found)]

    def _joins(self, anchor: Node, last: Node, node: Node, past_integers: bool) -> bool:
        """Whether a node is computed element by element where the last result is."""
        kind = kind_of(anchor)
        grows = kind.adds or anchor.role == "elementwise"  # as a gate that is multiplied with
        have, wanted = elements(last.value), elements(node.value)
        return (
            node.var not in self._owner
            and (node.role == "elementwise" or (node.role == "view" and not kind.windowed))
            and (past_integers or not self._widens_integers(node))
            and (have == wanted or (grows and have < wanted))
        )

    def _take_prologue(self, group: _Growing) -> None:
        """Element-wise operators that nothing but this group reads."""
        pending = list(group.core)
        while pending:
            reader = pending.pop()
            for read in reader.reads:
                node = self._line.node_of.get(read)
                if node is not None and self._is_prologue(group, node, reader):
                    self._claim(group, node)
                    pending.append(node)

    def _is_prologue(self, group: _Growing, node: Node, reader: Node) -> bool:
        if (
            node.role != "elementwise"
            or node.replicated
            or node.var in self._owner
            or node.var in self._outputs
            or op_name_of(node) == "quantize"
            or any(self._owner.get(r.var) is not group for r in self._line.readers[node.var])
        ):
            return False
        if reader.role == "anchor":
            return kind_of(reader).name in ("reduce", "move") or self._widens(node)
        return elements(node.value) == elements(reader.value)

    def _widens_integers(self, node: Node) -> bool:
        """Whether a node converts small integers, which are less to pass on than its result."""
        if op_name_of(node) not in _CONVERSIONS:
            return False
        dtype = str(first_item(node.reads[0]).ty.dtype)
        return dtype.startswith(("int", "uint")) and _bits(node.reads[0]) < _bits(node.value)

    def _widens(self, node: Node) -> bool:
        """Whether a chain of element-wise operators makes wider numbers than it reads."""
        reads = [read for read in node.reads if not self._line.is_constant(read)]
        if len(reads) != 1:
            return False
        if _bits(reads[0]) < _bits(node.value):
            return True
        before = self._line.node_of.get(reads[0])
        return (
            before is not None
            and before.role == "elementwise"
            and len(self._line.readers[before.var]) == 1
            and self._widens(before)
        )

    def _attach_views(self, work: list[Node]) -> list[_Growing]:
        """Views and items go with what they are of, or with their only reader."""
        made = []
        left = [node for node in work if node.var not in self._owner]
        for node in reversed(left):
            readers = self._line.readers.get(node.var, ())
            shared = len(self._line.readers[node.reads[0]]) > 1 or node.reads[0] in self._outputs
            owners = [self._owner.get(reader.var) for reader in readers]
            if node.role != "view" or not shared or node.var in self._outputs:
                continue
            if len(owners) == 1 and owners[0] is not None:
                self._claim(owners[0], node, attached=True)
        for node in left:
            if node.var not in self._owner:
                owner = self._owner.get(node.reads[0])
                if owner is None:
                    owner = _Growing(node)
                    made.append(owner)
                self._claim(owner, node, attached=True)
        return made

    def _claim(self, group: _Growing, node: Node, *, attached: bool = False) -> None:
        self._owner[node.var] = group
        (group.attached if attached else group.core).append(node)


def _finished(group: _Growing) -> Group:
    nodes = sorted((*group.core, *group.attached), key=lambda node: node.index)
    anchor = group.anchor
    if anchor.role == "elementwise":
        main = (n for n in nodes if n.role == "elementwise" and op_name_of(n) not in _CONVERSIONS)
        anchor = next(main, anchor)
    return Group(anchor=anchor, nodes=tuple(nodes))


def op_name_of(node: Node) -> str:
    """Name of a node's operator; empty for an item of a tuple."""
    return op_name(node.value) if isinstance(node.value, relax.Call) else ""


def _bits(value: Any) -> int:
    import tvm

    return int(tvm.DataType(str(first_item(value).ty.dtype)).bits)


def _post_dominators(line: StraightLine, outputs: frozenset[Any]) -> list[int | None]:
    """The index of the first node that all paths from a node to the results pass; None for none."""
    depth: dict[int | None, int] = {None: 0}
    meeting: list[int | None] = [None] * len(line.nodes)
    for node in reversed(line.nodes):
        ways: Iterator[int | None] = (r.index for r in line.readers.get(node.var, ()))
        ends = [None] if node.var in outputs else list(ways)
        common = ends[0] if ends else None
        for end in ends[1:]:
            while common != end:
                if depth[common] >= depth[end]:
                    common = None if common is None else meeting[common]
                else:
                    end = None if end is None else meeting[end]
        meeting[node.index] = common
        depth[node.index] = depth[common] + 1
    return meeting
