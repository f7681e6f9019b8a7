"""The report of a bundle as one HTML file that needs no server, font, script or network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tvm_iovt.report.blocks import facts_list, rows_table, section, tiles_panel
from tvm_iovt.report.charts import intensity_plot, op_bars
from tvm_iovt.report.markup import Markup, breakable, element, joined
from tvm_iovt.report.page import page
from tvm_iovt.report.plan_section import STYLE, plan_sections
from tvm_iovt.report.plan_view import PlanLike
from tvm_iovt.report.summary import group_by_op, is_unknown, moved_bytes, unknown_note
from tvm_iovt.report.units import (
    format_bytes,
    format_cosine,
    format_count,
    format_error,
    format_flops,
    format_percent,
    format_seconds,
    format_seconds_range,
    format_shape,
)
from tvm_iovt.types import (
    Decision,
    Deployment,
    Discrepancy,
    Manifest,
    Measurement,
    OpCost,
    TargetSpec,
    TensorSpec,
)

_SUBJECTS_SHOWN = 3


def html_report(manifest: Manifest, plans: Mapping[str, PlanLike] | None = None) -> str:
    """What was built, whether it is right, where the work is, and what the passes decided.

    Args:
        manifest: Of the bundle. Its `report` record is not looked at, so the report can be made
            before its own checksum is known.
        plans: What deployments were planned from, by their names; without them their plans are
            shown without units.

    Returns:
        A complete HTML document. Every string of the manifest is escaped.
    """
    sections = [
        _deployments(manifest.deployments),
        *plan_sections(manifest.deployments, plans),
    ]
    if manifest.operators:
        sections.append(_work(manifest.operators))
    sections += [_decisions(manifest.decisions), _interface(manifest)]
    if manifest.operators:
        sections.append(_operators(manifest.operators))
    body = joined(_header(manifest), element("main", *sections), _footer(manifest))
    return page(f"{manifest.model_name} - tvm-iovt report", body, style=STYLE)


def _header(manifest: Manifest) -> Markup:
    facts = (
        f"tvm-iovt {manifest.tool_version}",
        f"TVM {manifest.tvm_version}",
        f"TVM FFI {manifest.tvm_ffi_version}",
        *((f"precision {manifest.precision}",) if manifest.precision != "fp32" else ()),
        manifest.created,
    )
    digest = element(
        "span",
        "model sha256 ",
        element("code", manifest.model_sha256[:12]),
        title=manifest.model_sha256,
    )
    return element(
        "header",
        element("p", "tvm-iovt report", class_="eyebrow"),
        element("h1", breakable(manifest.model_name)),
        element("p", *(element("span", fact) for fact in facts), digest, class_="meta"),
        _tiles(manifest),
    )


def _tiles(manifest: Manifest) -> Markup:
    operators, deployments = manifest.operators, manifest.deployments
    flops = sum(cost.flops for cost in operators)
    traffic = sum(map(moved_bytes, operators))
    tiles = []
    if operators:
        unknown = sum(map(is_unknown, operators))
        types = len({cost.op for cost in operators})
        tiles = [
            ("Work", format_flops(flops), "one inference"),
            ("Traffic", format_bytes(traffic), f"if nothing is fused; {_ratio(flops, traffic)}"),
            (
                "Operators",
                format_count(len(operators)),
                f"{types} types" + (f", {unknown} of unknown cost" if unknown else ""),
            ),
        ]
    parameters = max(
        (sum(lib.parameters_bytes for lib in d.libraries) for d in deployments), default=0
    )
    if parameters:
        tiles.append(("Parameters", format_bytes(parameters), "inside each deployment"))
    compared = [d.discrepancy for d in deployments if d.discrepancy is not None]
    passed = sum(discrepancy.passed for discrepancy in compared)
    tiles.append(
        ("Verified", f"{passed} of {len(deployments)}", _verified_note(len(deployments), compared))
    )
    measured = [(d.measurement.median_s, d.name) for d in deployments if d.measurement]
    if measured:
        latency_s, name = min(measured)
        tiles.append(("Fastest", format_seconds(latency_s), f"median on {name}"))
    return tiles_panel(tiles)


def _verified_note(deployments: int, compared: Sequence[Discrepancy]) -> str:
    failed = sum(not discrepancy.passed for discrepancy in compared)
    if failed:
        return f"{failed} failed"
    missing = deployments - len(compared)
    return f"{missing} not compared" if missing else "outputs within tolerance"


def _deployments(deployments: Sequence[Deployment]) -> Markup:
    if not deployments:
        return section("Deployments", "This bundle holds no deployment.")
    return section(
        "Deployments",
        "Ways to run the network. Outputs are compared with a reference, element by element; "
        "latencies are medians with the 10th and 90th percentile.",
        element("div", *map(_card, deployments), class_="cards"),
    )


def _card(deployment: Deployment) -> Markup:
    return element(
        "article",
        element(
            "div",
            element(
                "div",
                element("h3", deployment.name),
                *(element("p", t.description, class_="soft small") for t in deployment.targets),
            ),
            _pill(deployment),
            class_="top",
        ),
        _latency(deployment.measurement),
        facts_list(_deployment_facts(deployment)),
        _discrepancy_details(deployment.discrepancy),
        class_="card panel",
    )


def _pill(deployment: Deployment) -> Markup:
    if deployment.discrepancy is None:
        return element("span", "not compared", class_="pill wait")
    if deployment.discrepancy.passed:
        return element("span", "verified", class_="pill good")
    return element("span", "outputs differ", class_="pill bad")


def _latency(measurement: Measurement | None) -> Markup:
    if measurement is None:
        return element("div", "latency not measured", class_="latency none")
    spread = format_seconds_range(measurement.p10_s, measurement.p90_s)
    runs = f"{measurement.samples} runs after {measurement.warmup} to warm up"
    notes = (
        f"{spread} · {measurement.scope.replace('_', ' ')}",
        " · ".join(filter(None, (runs, measurement.environment))),
    )
    return element(
        "div",
        element("div", format_seconds(measurement.median_s), class_="latency"),
        *(element("div", note, class_="soft small") for note in notes),
    )


def _deployment_facts(deployment: Deployment) -> list[tuple[str, str]]:
    facts: list[tuple[str, str]] = []
    for target in deployment.targets:
        facts.append(("Target", _target(target, deployment.name)))
    several = len(deployment.plan.stages) > 1
    if several:
        facts += [
            (
                f"Stage {stage.index}",
                f"{len(stage.units)} units from {stage.units[0]} on {stage.target}"
                if stage.units
                else f"the whole network on {stage.target}",
            )
            for stage in deployment.plan.stages
        ]
        facts.append(("Plan", f"{deployment.plan.objective}: {deployment.plan.reason}"))
    for library in deployment.libraries:
        name = f"Library {library.stage}" if several else "Library"
        size = format_bytes(library.file.size_bytes)
        facts.append((name, joined(element("code", breakable(library.file.file)), f" {size}")))
    facts.append(("Check", deployment.verified))
    discrepancy = deployment.discrepancy
    if discrepancy is not None:
        facts.append(("Reference", discrepancy.reference))
        if discrepancy.outputs:
            outputs = discrepancy.outputs
            outside = sum(output.violations for output in outputs)
            if outside:
                elements = sum(output.elements for output in outputs)
                facts.append(("Outside", f"{outside} of {elements} elements"))
            error = max(output.max_abs for output in outputs)
            relative = max(output.max_rel for output in outputs)
            facts.append(
                ("Error", f"{format_error(error)} absolute, {format_error(relative)} relative")
            )
            facts.append(("Cosine", format_cosine(min(output.cosine for output in outputs))))
        facts.append(("Tolerance", str(discrepancy.tolerance)))
    return facts


def _target(target: TargetSpec, deployment: str) -> str:
    parts = [target.name] if target.name != deployment else []
    if target.gpu:
        parts += [f"{target.gpu.kind} {target.gpu.arch}", target.cpu.triple]
    else:
        parts += [target.cpu.triple, target.cpu.mcpu]
    return ", ".join(parts)


def _discrepancy_details(discrepancy: Discrepancy | None) -> Markup:
    if discrepancy is None or len(discrepancy.outputs) < 2:
        return joined()
    rows = [
        (
            element("code", breakable(output.name)),
            format_error(output.max_abs),
            format_error(output.max_rel),
            f"{output.violations} of {output.elements}",
        )
        for output in discrepancy.outputs
    ]
    table = rows_table(("Output", "Max abs", "Max rel", "Outside"), rows, numeric_from=1)
    summary = element("summary", f"All {len(rows)} outputs")
    return element("details", summary, table, class_="small")


def _work(operators: Sequence[OpCost]) -> Markup:
    note = unknown_note(operators)
    lead = (
        "Counted on the network before fusion, two FLOPs a multiply-add. "
        "Fusing an operator into its neighbour removes most of its traffic."
    )
    bars = element(
        "div", element("h3", "By operator type"), op_bars(group_by_op(operators)), class_="panel"
    )
    plot = intensity_plot(operators)
    if not plot:
        return section("Where the work is", f"{lead} {note}".strip(), bars)
    dots = element(
        "div",
        element("h3", "Work over arithmetic intensity"),
        plot,
        element(
            "p",
            "A dot is an operator; dashed lines join equal traffic. Those on the left wait for "
            "memory on most machines, those on the right for arithmetic.",
            class_="soft small",
        ),
        class_="panel",
    )
    return section(
        "Where the work is", f"{lead} {note}".strip(), element("div", bars, dots, class_="split")
    )


def _decisions(decisions: Sequence[Decision]) -> Markup:
    title = "What the passes decided"
    if not decisions:
        return section(title, "No pass had anything to decide.")
    by_transform: dict[str, dict[tuple[bool, str], list[str]]] = {}
    for decision in decisions:
        reasons = by_transform.setdefault(decision.transform, {})
        reasons.setdefault((decision.applied, decision.reason), []).append(decision.subject)
    applied = sum(decision.applied for decision in decisions)
    lead = f"{applied} rewrites made, {len(decisions) - applied} refused, each with its reason."
    passes = [
        _pass_details(transform, reasons, opened=len(by_transform) <= 8)
        for transform, reasons in by_transform.items()
    ]
    return section(title, lead, element("div", *passes, class_="panel passes"))


def _pass_details(
    transform: str, reasons: dict[tuple[bool, str], list[str]], *, opened: bool
) -> Markup:
    counts = {
        made: sum(len(subjects) for (applied, _), subjects in reasons.items() if applied is made)
        for made in (True, False)
    }
    pills = [
        element("span", f"{counts[made]} {word}", class_=f"pill {kind}")
        for made, word, kind in ((True, "applied", "good"), (False, "not applied", "wait"))
        if counts[made]
    ]
    items = [
        element(
            "li",
            element(
                "span",
                "applied" if made else "not applied",
                class_=f"verb {'good' if made else 'wait'}",
            ),
            element("div", element("p", reason), _subjects(subjects)),
        )
        for (made, reason), subjects in reasons.items()
    ]
    summary = element("summary", element("h3", transform), element("span", *_spaced(pills)))
    return element("details", summary, element("ul", *items), open="" if opened else None)


def _subjects(subjects: Sequence[str]) -> Markup:
    names = [element("code", breakable(subject)) for subject in subjects]
    first = joined(*_spaced(names[:_SUBJECTS_SHOWN], ", "))
    if len(names) <= _SUBJECTS_SHOWN:
        return element("div", first, class_="subjects")
    rest = names[_SUBJECTS_SHOWN:]
    return element(
        "div",
        first,
        element(
            "details", element("summary", f"and {len(rest)} more"), joined(*_spaced(rest, ", "))
        ),
        class_="subjects",
    )


def _spaced(parts: Sequence[Markup], separator: str = " ") -> list[str]:
    spaced: list[str] = []
    for part in parts:
        spaced += [separator, part] if spaced else [part]
    return spaced


def _interface(manifest: Manifest) -> Markup:
    rows = [
        (kind, element("code", breakable(spec.name)), format_shape(spec.shape), spec.dtype, size)
        for kind, specs in (("input", manifest.inputs), ("output", manifest.outputs))
        for spec, size in zip(specs, map(_size, specs), strict=True)
    ]
    table = rows_table(("", "Name", "Shape", "Type", "Size"), rows, numeric_from=4)
    notes = []
    if manifest.preprocess is not None:
        chosen = manifest.preprocess
        resize = f"short side to {chosen.resize}, centre crop" if chosen.resize else "resize"
        notes.append(
            f"Images: {chosen.name} preset, {chosen.channels}, {resize}, "
            f"mean {_numbers(chosen.mean)}, standard deviation {_numbers(chosen.std)}."
        )
    if manifest.labels:
        notes.append(f"{len(manifest.labels)} class labels.")
    panel = element("div", element("div", table, class_="scroll"), class_="panel tensors")
    return section("Inputs and outputs", " ".join(notes), panel)


def _size(spec: TensorSpec) -> str:
    return format_bytes(spec.nbytes)


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _operators(operators: Sequence[OpCost]) -> Markup:
    total = sum(cost.flops for cost in operators) or 1
    largest = max((cost.flops for cost in operators), default=0) or 1
    names = (
        ("#", "num"),
        ("Name", "name"),
        ("Type", None),
        ("Output", "wide"),
        ("FLOPs", "share"),
        ("Traffic", "num"),
        ("Weights", "num wide"),
        ("FLOP/B", "num"),
    )
    head = [
        element("th", name, class_=kind, data_numeric="" if kind == "share" else None)
        for name, kind in names
    ]
    rows = [_operator_row(cost, total, largest) for cost in operators]
    table = element(
        "table",
        element("thead", element("tr", *head)),
        element("tbody", *rows),
        id="sortable",
        class_="operators",
    )
    # Hidden until the script that makes it work has run.
    tools = element(
        "div",
        element(
            "input",
            id="filter",
            type="search",
            placeholder="Filter by name or type",
            aria_label="Filter operators",
        ),
        element("span", id="count", class_="soft small"),
        class_="tools no-script",
    )
    return section(
        "Operators",
        "In the order of the graph. Weights count as traffic.",
        element("div", tools, element("div", table, class_="scroll"), class_="panel"),
    )


def _operator_row(cost: OpCost, total: int, largest: int) -> Markup:
    traffic = moved_bytes(cost)
    shape = format_shape(cost.shape_out) if cost.shape_out else ""
    if is_unknown(cost):
        work = element("span", "unknown", class_="soft")
    elif cost.flops:
        share = element("span", f" {format_percent(cost.flops / total)}", class_="soft")
        work = joined(format_flops(cost.flops), share)
    else:
        work = element("span", "-", class_="soft")
    return element(
        "tr",
        element("td", str(cost.index), class_="num soft", data_value=cost.index),
        element("td", element("code", breakable(cost.name)), class_="name", data_value=cost.name),
        element("td", cost.op, data_value=cost.op),
        element("td", shape, class_="wide mono", data_value=shape),
        element(
            "td",
            element("div", work),
            class_="share",
            data_value=cost.flops,
            style=f"--part:{100 * cost.flops / largest:.1f}%",
        ),
        element("td", _bytes(traffic), class_="num", data_value=traffic),
        element("td", _bytes(cost.bytes_weights), class_="num wide", data_value=cost.bytes_weights),
        element(
            "td",
            f"{cost.intensity:.2f}" if cost.flops else "-",
            class_="num",
            data_value=cost.intensity,
        ),
    )


def _bytes(size_bytes: int) -> str:
    return format_bytes(size_bytes) if size_bytes else "-"


def _ratio(flops: int, traffic: int) -> str:
    return f"{flops / traffic:.1f} FLOP/B" if traffic else "none counted"


def _footer(manifest: Manifest) -> Markup:
    return element(
        "footer",
        element(
            "p",
            "Self-check data: ",
            element("code", manifest.sample.file),
            f", {format_bytes(manifest.sample.size_bytes)}. Everything above is also in ",
            element("code", "manifest.json"),
            ".",
        ),
    )
