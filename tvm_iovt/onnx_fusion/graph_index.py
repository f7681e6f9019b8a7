"""An ONNX graph that can be edited: who computes and who reads each value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

# Before this version every initializer had to be listed as an input of the graph, too.
_IR_WITHOUT_INPUT_ENTRIES = 4


class GraphIndex:
    """The nodes of one graph in topological order; subgraphs of control flow count as readers.

    Edits are made on the index; `finish` writes them to the graph. What nobody reads any more
    because of an edit disappears, and nothing else does.

    Args:
        model: Its main graph is edited.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._ir_version = int(model.ir_version)
        self.nodes: list[Any] = list(model.graph.node)
        self.initializers: dict[str, Any] = {t.name: t for t in model.graph.initializer}
        self._original = frozenset(self.initializers)
        self._wanted: dict[str, str] = {}
        self._alive = {id(node) for node in self.nodes}
        self._producers: dict[str, Any] = {}
        self._readers: dict[str, list[Any]] = {}
        # Uses by others than nodes of this graph, which never go away.
        self._outside = Counter(output.name for output in model.graph.output)
        self._reserved = set(self._outside) | {
            tensor.values.name for tensor in model.graph.sparse_initializer
        }
        for node in self.nodes:
            for graph in _subgraphs(node):
                self._reserved |= set(_own_names(graph))
                self._outside.update(_reads(graph))
        self._reserved |= set(self._outside)
        self._names = self._reserved | {value.name for value in model.graph.input}
        self._names |= self._original
        for node in self.nodes:
            self._attach(node)
        self._changed = False

    @property
    def overridable(self) -> frozenset[str]:
        """Initializers that are only the defaults of inputs: the caller may feed others."""
        if self._ir_version < _IR_WITHOUT_INPUT_ENTRIES:
            return frozenset()
        return frozenset(value.name for value in self._graph.input) & self._original

    def is_alive(self, node: onnx.NodeProto) -> bool:
        """Whether a node of the original graph, or one put in later, is still there."""
        return id(node) in self._alive

    def producer(self, name: str) -> Any:
        """The node that computes a value; None for inputs and initializers."""
        return self._producers.get(name)

    def readers(self, name: str) -> Sequence[Any]:
        """The nodes that read a value, each as often as it does."""
        return self._readers.get(name, ())

    def outside_uses(self, name: str) -> int:
        """How often a value is an output of the graph or read inside of a subgraph."""
        return self._outside[name]

    def fresh(self, base: str) -> str:
        """A value name that nothing has yet."""
        name = _free(base, self._names)
        self._names.add(name)
        return name

    def add_initializer(self, tensor: onnx.TensorProto, wanted: str) -> str:
        """Add a constant; returns its name, which becomes `wanted` in the end if that is free."""
        tensor.name = self.fresh(f"{wanted}/fused")
        self.initializers[tensor.name] = tensor
        self._wanted[tensor.name] = wanted
        return str(tensor.name)

    def wanted_name(self, initializer: str) -> str:
        """The name that an initializer will have if that is free."""
        return self._wanted.get(initializer, initializer)

    def replace(self, root: onnx.NodeProto, nodes: Sequence[onnx.NodeProto]) -> None:
        """Put nodes at the place of `root`; the last one computes what `root` computed."""
        place = next(i for i, node in enumerate(self.nodes) if node is root)
        self.nodes[place : place + 1] = nodes
        self._alive.discard(id(root))
        for node in nodes:
            self._alive.add(id(node))
            self._attach(node)
        self._release(root)
        self._changed = True

    def finish(self) -> None:
        """Write the edits to the graph."""
        if not self._changed:
            return
        graph = self._graph
        names = self._name_initializers()
        for position in reversed(range(len(graph.initializer))):
            if graph.initializer[position].name not in self.initializers:
                del graph.initializer[position]
        added = [t for name, t in self.initializers.items() if name not in self._original]
        gone = self._original - set(self.initializers)
        for tensor in added:
            tensor.name = names[tensor.name]
        if self._ir_version < _IR_WITHOUT_INPUT_ENTRIES:
            _drop(graph.input, gone)
            graph.input.extend(map(_input_entry, added))
        graph.initializer.extend(added)
        nodes = list(self.nodes)
        del graph.node[:]
        graph.node.extend(nodes)
        values = {output for node in nodes for output in node.output}
        values |= {value.name for value in graph.input} | {t.name for t in graph.initializer}
        _drop(graph.value_info, {value.name for value in graph.value_info} - values)
        for position in reversed(range(len(graph.quantization_annotation))):
            if graph.quantization_annotation[position].tensor_name not in values:
                del graph.quantization_annotation[position]

    def _name_initializers(self) -> dict[str, str]:
        """Temporary names of added constants to their final ones, which the nodes then use."""
        gone = self._original - set(self.initializers)
        taken = {n for node in self.nodes for n in (*node.input, *node.output)}
        taken |= self._reserved | {value.name for value in self._graph.input}
        taken |= self._original
        taken -= {*self._wanted, *gone}
        names: dict[str, str] = {}
        for temporary, wanted in self._wanted.items():
            if temporary in self.initializers:
                names[temporary] = _free(wanted, taken)
                taken.add(names[temporary])
        for temporary, name in names.items():
            for node in self.readers(temporary):
                node.input[:] = [name if value == temporary else value for value in node.input]
        return names

    def _attach(self, node: Any) -> None:
        for name in filter(None, node.input):
            self._readers.setdefault(name, []).append(node)
        for name in filter(None, node.output):
            self._producers[name] = node
        self._names.update(node.input, node.output)

    def _release(self, node: Any) -> None:
        """Forget a node's reads, and whatever was computed for it alone."""
        for name in filter(None, node.input):
            readers = self._readers[name]
            readers[:] = [reader for reader in readers if reader is not node]
        for name in dict.fromkeys(filter(None, node.input)):
            if self._readers[name] or self._outside[name]:
                continue
            if name in self.initializers:
                del self.initializers[name]
                continue
            producer = self._producers.get(name)
            if producer is None or id(producer) not in self._alive or any(_subgraphs(producer)):
                continue
            if any(self._readers.get(o) or self._outside[o] for o in producer.output):
                continue
            self._alive.discard(id(producer))
            self.nodes = [other for other in self.nodes if other is not producer]
            for output in producer.output:
                self._producers.pop(output, None)
            self._release(producer)


def _free(base: str, taken: set[str]) -> str:
    name, number = base, 0
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    return name


def _drop(values: Any, names: Iterable[str]) -> None:
    gone = set(names)
    for position in reversed(range(len(values))):
        if values[position].name in gone:
            del values[position]


def _input_entry(tensor: Any) -> Any:
    import onnx

    return onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))


def _subgraphs(node: Any) -> Iterator[Any]:
    """The bodies of a node, and those inside of them."""
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield graph
            for inner in graph.node:
                yield from _subgraphs(inner)


def _reads(graph: Any) -> Iterator[str]:
    """Names that a body reads; that some are its own values does no harm."""
    for node in graph.node:
        yield from filter(None, node.input)
    yield from (output.name for output in graph.output)


def _own_names(graph: Any) -> Iterator[str]:
    """Names that a body defines; outer values must not have them."""
    yield from (value.name for value in (*graph.input, *graph.initializer))
    for node in graph.node:
        yield from filter(None, node.output)
