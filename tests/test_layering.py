"""The dependency direction: a module may import only modules of a lower layer."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# From the bottom up. A module belongs to the longest prefix that is listed.
LAYERS = (
    ("tvm_iovt._version", "tvm_iovt.errors", "tvm_iovt.interrupts"),
    ("tvm_iovt.types", "tvm_iovt.json_codec", "tvm_iovt.resources"),
    ("tvm_iovt.cost_graph",),
    ("tvm_iovt.host_cpu", "tvm_iovt.fusion", "tvm_iovt.roofline", "tvm_iovt.precision"),
    ("tvm_iovt.unit_laws",),
    ("tvm_iovt.target_profiles",),
    ("tvm_iovt.unit_times", "tvm_iovt.partition"),
    ("tvm_iovt.targets", "tvm_iovt.discrepancy", "tvm_iovt.bundle", "tvm_iovt.atomic_write"),
    ("tvm_iovt._tvm", "tvm_iovt.images"),
    ("tvm_iovt.datasets", "tvm_iovt.frames"),
    ("relay_passes",),
    ("tvm_iovt.frontend", "tvm_iovt.schedules", "tvm_iovt.nn"),
    ("tvm_iovt.build", "tvm_iovt.onnx_fusion"),
    ("tvm_iovt.runtime", "tvm_iovt.accuracy", "tvm_iovt.zoo"),
    ("tvm_iovt.tuning",),
    ("tvm_iovt.report", "tvm_iovt.boards"),
    ("tvm_iovt.stages",),
    ("tvm_iovt.probe", "tvm_iovt.planning"),
    ("tvm_iovt.compiler", "tvm_iovt.inference", "tvm_iovt.verification", "tvm_iovt.doctor"),
    ("tvm_iovt.pipelines",),
    ("tvm_iovt.tuner",),
    ("tvm_iovt.cli",),
    ("tvm_iovt", "tvm_iovt.__main__"),
)
LIGHT = (
    "errors",
    "types",
    "json_codec",
    "precision",
    "resources",
    "roofline",
    "cost_graph",
    "unit_laws",
    "unit_times",
    "partition",
    "target_profiles",
    "targets",
    "host_cpu",
    "discrepancy",
    "bundle",
)
HEAVY = ("tvm", "tvm_ffi", "torch", "onnx", "onnxruntime", "onnxslim", "optuna")


def modules() -> dict[str, Path]:
    found = {}
    for package in ("tvm_iovt", "relay_passes"):
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = path
    return found


def layer(name: str) -> int:
    prefixes = {prefix: i for i, layer in enumerate(LAYERS) for prefix in layer}
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        prefix = ".".join(parts[:end])
        # The bare package is only its __init__: an unlisted module must not hide in it.
        if prefix in prefixes and (prefix != "tvm_iovt" or end == len(parts)):
            return prefixes[prefix]
    message = f"{name} is in no layer: add it to LAYERS"
    raise AssertionError(message)


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in _import_nodes(tree, top_level_only):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _import_nodes(tree: ast.Module, top_level_only: bool) -> list[ast.Import | ast.ImportFrom]:
    if not top_level_only:
        return [n for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom))]
    nodes: list[ast.Import | ast.ImportFrom] = []
    pending: list[ast.stmt] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            nodes.append(node)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test):
            pending += [*node.body, *node.orelse]
    return nodes


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_point_down(name: str) -> None:
    known = modules()
    own = layer(name)
    for imported in imports(known[name]) & set(known):
        if imported == "tvm_iovt" or room(imported) == room(name):
            continue
        assert layer(imported) < own, f"{name} imports {imported}, which is not below it"


def room(name: str) -> str:
    parts = name.split(".")
    return parts[0] if parts[0] == "relay_passes" else ".".join(parts[:2])


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_stay_light(name: str) -> None:
    module = ROOT / "tvm_iovt" / f"{name}.py"
    for path in (module,) if module.is_file() else module.with_suffix("").rglob("*.py"):
        assert not {i.split(".")[0] for i in imports(path)} & set(HEAVY), path


def test_runtime_needs_no_compiler() -> None:
    for path in (ROOT / "tvm_iovt" / "runtime").rglob("*.py"):
        found = imports(path)
        assert not {i.split(".")[0] for i in found} & {"tvm", "torch", "onnx", "onnxruntime"}
        assert "tvm_iovt._tvm" not in imports(path, top_level_only=True)


def test_verbs_import_nothing_heavy_at_the_top() -> None:
    for path in (ROOT / "tvm_iovt" / "cli").glob("*.py"):
        top = imports(path, top_level_only=True)
        assert not {i.split(".")[0] for i in top} & {*HEAVY, "numpy", "rich"}, path.name
        assert not top & {"tvm_iovt._tvm", "tvm_iovt.compiler", "tvm_iovt.runtime"}, path.name


def test_only_cli_imports_click() -> None:
    for name, path in modules().items():
        if "click" in {i.split(".")[0] for i in imports(path)}:
            assert name.startswith("tvm_iovt.cli"), name
