"""The templates as design spaces for MetaSchedule: search around a good schedule, not from nothing.

Each space is one structure of loops (order, epilogue fused or apart, rows of the register tile);
within it the sizes are sampled decisions, so that MetaSchedule can replay and mutate them. Every
schedule obeys the register rule of `tiles`. Functions without a template get TVM's generic rules.

>>> space = design_space(cpu, target)
>>> tune_tir(mod, target, work_dir, max_trials_global=64, space=space)

A function that writes into a border (`border.write_inside`) is tuned as the inner function.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from tvm_iovt.schedules.contraction import Contraction, ContractionPlan, tile_of
from tvm_iovt.schedules.cpu import TEMPLATES
from tvm_iovt.schedules.template import (
    Match,
    Refusal,
    reduce_extents,
    spatial_extents,
    volume,
)
from tvm_iovt.schedules.tiles import MAX_ROWS, Tile, issue_share, window_cols
from tvm_iovt.schedules.tvm_api import PyMutator, derived_object, meta_schedule
from tvm_iovt.schedules.window import Window, WindowPlan
from tvm_iovt.schedules.winograd import WINOGRAD_KEY
from tvm_iovt.schedules.winograd_template import Winograd, WinogradLoops
from tvm_iovt.types import CpuSpec


class Searched(Protocol):
    """A template with choices: `apply_plan` takes what `plan` returns, with other values in it."""

    def match(self, schedule: Any) -> Match | Refusal:
        """See `Template`."""
        ...

    def plan(self, schedule: Any, match: Match, cpu: CpuSpec) -> Any:
        """What is chosen without measuring."""
        ...

    def apply_plan(self, schedule: Any, match: Match, cpu: CpuSpec, plan: Any) -> None:
        """Schedule the function in place with given choices."""
        ...


MIN_ISSUE_SHARE = 0.7
"""Register tiles that give the multiply-adds less than this share of what the best tile gives them
are left out."""

MUTATE_SAMPLE = 0.9
"""How often a mutation changes one of our decisions; TVM's mutators share the rest."""


def design_space(cpu: CpuSpec, target: Any) -> Any:
    """A generator of design spaces, to be given to MetaSchedule's tuning functions as `space`.

    Args:
        cpu: What to schedule for.
        target: `tvm.target.Target` of kind `llvm` for the same CPU, with `num-cores`.

    Returns:
        A `SpaceGenerator` for unscheduled, fused PrimFuncs whose weights are packed.
    """

    def spaces(schedule: Any) -> list[Any]:
        return search_spaces(schedule, cpu, target)

    stock = meta_schedule.mutator.Mutator.create("llvm")
    scale = 1 - MUTATE_SAMPLE
    return meta_schedule.space_generator.ScheduleFn(
        spaces,
        mutator_probs={
            _MutateSample(): MUTATE_SAMPLE,
            **{mutator: float(share) * scale for mutator, share in stock.items()},
        },
    )


def search_spaces(schedule: Any, cpu: CpuSpec, target: Any) -> list[Any]:
    """The spaces of the function `main` of a schedule: its template's, else TVM's generic ones.

    The arguments are those of `template_spaces` and `design_space`.
    """
    return template_spaces(schedule, cpu) or generic_spaces(schedule, cpu, target)


def template_spaces(schedule: Any, cpu: CpuSpec) -> list[Any]:
    """The spaces of the template that matches the function `main` of a schedule.

    Args:
        schedule: A traced schedule of an unscheduled function; it stays as it is.
        cpu: What to schedule for.

    Returns:
        Schedules, each with the decisions that are chosen without measuring where it has them; the
        first is the default schedule of the function. Empty if no template matches.
    """
    for family, structures in (
        (Winograd, _winograd_structures),
        (Contraction, _contraction_structures),
        (Window, _window_structures),
    ):
        fused, apart = family(), family(fuse=False)
        match = fused.match(schedule.copy())
        if isinstance(match, Refusal):
            continue
        plan: Any = fused.plan(schedule.copy(), match, cpu)
        bases = list(structures(schedule.copy(), match, cpu, plan))
        found: list[Any] = []
        for base, options in bases:
            found += _spaces(schedule, fused, match, cpu, base, options)
        shapes = [_shape(schedule, template, match, cpu, plan) for template in (fused, apart)]
        if shapes[0] != shapes[1]:
            found += _spaces(schedule, apart, match, cpu, *bases[0])
        if found:
            return found
    return []


def generic_spaces(schedule: Any, cpu: CpuSpec, target: Any) -> list[Any]:
    """The schedule of the first template without choices, and TVM's own spaces.

    The arguments are those of `template_spaces` and `design_space`.
    """
    found = []
    for template in TEMPLATES:
        copy = schedule.copy()
        match = template.match(copy)
        if isinstance(match, Refusal):
            continue
        try:
            template.apply(copy, match, cpu)
        except Exception:  # TVM raises plain and unrelated classes; the next template may do
            continue
        found.append(copy)
        break
    generic = meta_schedule.space_generator.PostOrderApply()
    context = meta_schedule.TuneContext(schedule.mod, target=target, space_generator=generic)
    return [*found, *context.generate_design_space()]


Options = Mapping[str, Sequence[int]]
"""From the field of a plan to the values it may have."""


def _spaces(
    schedule: Any, template: Searched, match: Match, cpu: CpuSpec, plan: Any, options: Options
) -> list[Any]:
    """One space for each set of values that lead to the same steps.

    A trace is replayed with other decisions, so all of its decisions must take the same steps: a
    loop of one iteration vanishes, a large tile is stored through a buffer.
    """
    groups: list[list[tuple[int, ...]]] = []
    for name, values in options.items():
        by_shape: dict[object, list[int]] = {}
        for value in values:
            changed = dataclasses.replace(plan, **{name: value})
            shape = _shape(schedule, template, match, cpu, changed)
            if shape is not None:
                by_shape.setdefault(shape, []).append(value)
        default = getattr(plan, name)
        groups.append(sorted(map(tuple, by_shape.values()), key=lambda g: default not in g))
    found = []
    for combination in itertools.product(*groups):
        copy = schedule.copy()
        sampled = {
            name: _sample(copy, values, getattr(plan, name))
            for name, values in zip(options, combination, strict=True)
        }
        try:
            template.apply_plan(copy, match, cpu, dataclasses.replace(plan, **sampled))
        except Exception:  # TVM raises plain and unrelated classes; other spaces remain
            continue
        found.append(copy)
    return found


def _sample(schedule: Any, values: tuple[int, ...], default: int) -> Any:
    if len(values) == 1:
        return values[0]
    decision = values.index(default) if default in values else 0
    return schedule.sample_categorical(list(values), [1 / len(values)] * len(values), decision)


def _shape(
    schedule: Any, template: Searched, match: Match, cpu: CpuSpec, plan: Any
) -> tuple[object, ...] | None:
    """The steps that a plan takes and how much each yields; None if it is not possible."""
    copy = schedule.copy()
    try:
        template.apply_plan(copy, match, cpu, plan)
    except Exception:  # TVM raises plain and unrelated classes
        return None
    return tuple((str(step.kind.name), len(step.outputs)) for step in copy.trace.insts)


def _contraction_structures(
    schedule: Any, match: Match, cpu: CpuSpec, plan: ContractionPlan
) -> Iterator[tuple[ContractionPlan, Options]]:
    block = schedule.get_sblock(match.block)
    tile, extents = tile_of(schedule, block), spatial_extents(schedule, block)
    height = extents[1] if len(extents) == 4 else 1
    width = extents[-2] if len(extents) > 1 else 1
    for rows, cols in _tiles(height, width, tile, cpu):
        start = cols[0]
        bands = divisors(height // rows if len(extents) == 4 else width // start)
        banded = dataclasses.replace(
            plan, rows=rows, cols=start, band=plan.band if plan.band in bands else bands[-1]
        )
        in_bands: dict[str, Sequence[int]] = {"band": bands}
        # Bands of a matrix consist of tiles of its rows, so their sizes go with one tile.
        in_bands |= {"cols": cols} if len(extents) == 4 else {"cols": cols[:1]}
        by_panels = dataclasses.replace(plan, rows=rows, cols=start, band=None)
        orders: list[tuple[ContractionPlan, Options]] = [
            (banded, in_bands),
            (by_panels, {"cols": cols}),
        ]
        yield from orders if plan.band is not None else reversed(orders)


def _tiles(height: int, width: int, tile: Tile, cpu: CpuSpec) -> list[tuple[int, list[int]]]:
    """Rows of register tiles and the columns that go with them, those of `tile` first."""
    legal = []
    for rows in divisors(height, MAX_ROWS):
        for cols in divisors(width, cpu.vector_registers):
            candidate = dataclasses.replace(tile, rows=rows, cols=cols)
            if candidate == tile or candidate.registers <= cpu.vector_registers:
                legal.append(candidate)
    least = MIN_ISSUE_SHARE * max(map(issue_share, legal))
    found: dict[int, list[int]] = {}
    for candidate in sorted(legal, key=lambda t: (t != tile, t.rows != tile.rows, t.rows, -t.cols)):
        if candidate == tile or issue_share(candidate) >= least:
            found.setdefault(candidate.rows, []).append(candidate.cols)
    return list(found.items())


def _winograd_structures(
    schedule: Any, match: Match, cpu: CpuSpec, plan: WinogradLoops
) -> Iterator[tuple[WinogradLoops, Options]]:
    block = schedule.get(schedule.get_sblock(match.block))
    _, _, _, _, _, cols, vectors, lanes = (int(v) for v in block.annotations[WINOGRAD_KEY])
    bands, _, _, count, channels = spatial_extents(schedule, schedule.get_sblock("products"))
    tile = Tile(rows=1, cols=cols, vectors=vectors, lanes=lanes)
    (_, columns), *_ = _tiles(1, count, tile, cpu)
    both = bands > 1 and channels > tile.channels
    structures = [(False, False), (True, False), *([(True, True)] if both else [])]
    structures.sort(key=lambda s: s != (plan.whole_input, plan.panels_outside))
    for whole, outside in structures:
        base = dataclasses.replace(plan, whole_input=whole, panels_outside=outside)
        yield base, {"cols": columns}


def _window_structures(
    schedule: Any, match: Match, cpu: CpuSpec, plan: WindowPlan
) -> Iterator[tuple[WindowPlan, Options]]:
    block = schedule.get_sblock(match.block)
    _, height, width, channels = spatial_extents(schedule, block)
    taps = volume(reduce_extents(schedule, block))
    yield (
        plan,
        {
            "cols": [d for d in divisors(width) if d == plan.cols or _fits(d, taps, cpu)],
            "band": divisors(height),
            "vectors": divisors(channels // tile_of(schedule, block).lanes),
        },
    )


def _fits(cols: int, taps: int, cpu: CpuSpec) -> bool:
    """Whether the registers hold a window over `cols` output columns."""
    return window_cols(cols, taps, cpu) == cols


def divisors(extent: int, limit: int | None = None) -> list[int]:
    """Divisors of `extent` up to `limit`, in ascending order."""
    return [d for d in range(1, min(extent, limit or extent) + 1) if extent % d == 0]


@derived_object
class _MutateSample(PyMutator):  # type: ignore[misc]
    """Gives one sampled decision another value; TVM's own mutators leave such decisions alone."""

    def _initialize_with_tune_context(self, context: Any) -> None:
        """Nothing depends on the context."""

    def apply(self, trace: Any, seed: int) -> Any | None:
        """The trace with one decision changed, None if it has none."""
        found = [
            step
            for step in trace.insts
            if str(step.kind.name) == "SampleCategorical" and len(step.attrs[0]) > 1
        ]
        if not found:
            return None
        rng = random.Random(int(seed))
        step = rng.choice(found)
        others = [i for i in range(len(step.attrs[0])) if i != int(trace.decisions[step])]
        return trace.with_decision(step, rng.choice(others), True)

    def clone(self) -> Any:
        """Another one; there is no state."""
        return _MutateSample()
