"""`tvm-iovt inspect`."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tvm_iovt.cli.options import common_options, input_shape_option, print_json
from tvm_iovt.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tvm_iovt.frontend.inspection import ModelInspection, SymbolicTensor
    from tvm_iovt.types import Manifest


@click.command("inspect")
@click.argument("path", metavar="MODEL|BUNDLE", type=click.Path(path_type=Path))
@input_shape_option
@click.option("--all", "every", is_flag=True, help="List every operator, not only the types.")
@common_options
def inspect(
    path: Path, input_shapes: tuple[str, ...], every: bool, as_json: bool, verbosity: int
) -> None:
    """Show what an ONNX model or a bundle contains.

    Of a model: inputs, outputs, operators with FLOPs and memory traffic, and the operators that
    cannot be compiled. Costs need fixed input shapes. Of a bundle: deployments with their
    checks and latencies, files, operators, and with -v what the passes decided.
    """
    from tvm_iovt.json_codec import to_json

    if path.is_dir():
        from tvm_iovt.bundle import read_manifest

        if input_shapes:
            raise UsageError(
                "--input-shape is for models",
                seen=f"{path} is a bundle, whose shapes are fixed",
                do="leave it out",
            )
        manifest = read_manifest(path)
        if as_json:
            print_json(to_json(manifest))
        else:
            _print_all(_bundle_parts(manifest, every=every, decisions=every or verbosity > 0))
        return

    from tvm_iovt.frontend.inspection import inspect_model
    from tvm_iovt.frontend.shapes import parse_input_shapes

    found = inspect_model(path, parse_input_shapes(input_shapes))
    if as_json:
        print_json(to_json(found))
    else:
        _print_all(_model_parts(found, every=every))


def _print_all(parts: list[RenderableType]) -> None:
    from tvm_iovt.report import tables

    for position, part in enumerate(parts):
        if position:
            click.echo()
        tables.render(part, sys.stdout)


def _model_parts(found: ModelInspection, *, every: bool) -> list[RenderableType]:
    from rich.text import Text

    from tvm_iovt.report import tables
    from tvm_iovt.report.units import format_bytes, format_count, format_flops, format_macs

    facts = [
        ("model", found.name),
        ("file", f"{format_bytes(found.size_bytes)}, sha256 {found.sha256}"),
        ("opset", str(found.opset)),
        ("written by", found.producer or "unknown"),
        ("operators", str(len(found.operators))),
        ("parameters", format_count(found.parameters)),
    ]
    if found.totals is not None:
        facts += [
            (
                "work",
                f"{format_flops(found.totals.flops)}; convolutions and matrix products: "
                f"{format_macs(found.totals.macs)}",
            ),
            ("traffic", f"{format_bytes(found.totals.bytes)} if no operators are fused"),
        ]
    parts: list[RenderableType] = [
        tables.facts_table(facts),
        tables.tensors_table("Inputs", _tensor_rows(found.inputs)),
        tables.tensors_table("Outputs", _tensor_rows(found.outputs)),
        tables.operator_summary_table(found.operators),
    ]
    if found.totals is None:
        parts.append(Text(_shapes_hint(found.inputs)))
    if every:
        parts.append(tables.operator_table(found.operators))
    nodes: dict[str, list[str]] = defaultdict(list)
    for item in found.unsupported:
        nodes[item.qualified].append(item.node)
    if nodes:
        parts.append(tables.unsupported_table(nodes))
    else:
        parts.append(Text("TVM imports all of these operators."))
    return parts


def _bundle_parts(manifest: Manifest, *, every: bool, decisions: bool) -> list[RenderableType]:
    from tvm_iovt import bundle
    from tvm_iovt.report import tables

    facts = [
        ("model", manifest.model_name),
        ("model sha256", manifest.model_sha256),
        ("created", manifest.created),
        (
            "versions",
            f"tvm-iovt {manifest.tool_version}, TVM {manifest.tvm_version}, "
            f"TVM FFI {manifest.tvm_ffi_version}",
        ),
    ]
    if manifest.precision != "fp32":
        facts.append(("precision", manifest.precision))
    if manifest.preprocess is not None:
        facts.append(("images", f"{manifest.preprocess.name}, {manifest.preprocess.channels}"))
    if manifest.labels:
        facts.append(("labels", f"{len(manifest.labels)} classes"))
    parts: list[RenderableType] = [
        tables.facts_table(facts),
        tables.tensors_table("Inputs", tables.tensor_rows(manifest.inputs)),
        tables.tensors_table("Outputs", tables.tensor_rows(manifest.outputs)),
        tables.deployments_table(manifest.deployments),
        tables.files_table(bundle.files(manifest)),
    ]
    if manifest.operators:
        parts.append(tables.operator_summary_table(manifest.operators))
        if every:
            parts.append(tables.operator_table(manifest.operators))
    if decisions:
        parts.append(tables.decisions_table(manifest.decisions, every=every))
    return parts


def _tensor_rows(tensors: tuple[SymbolicTensor, ...]) -> list[tuple[str, str, str]]:
    from tvm_iovt.report.units import format_shape

    return [
        (t.name, "unknown rank" if t.shape is None else format_shape(t.shape), t.dtype)
        for t in tensors
    ]


def _shapes_hint(inputs: tuple[SymbolicTensor, ...]) -> str:
    flags = " ".join(
        f"--input-shape {t.name}="
        + "x".join(str(d) if isinstance(d, int) else "?" for d in t.shape)
        if t.shape
        else f"--input-shape {t.name}=?x?"
        for t in inputs
        if not t.is_static
    )
    return f"Costs need fixed input shapes: {flags} with a number for each ?."
