"""A tuning run: model, records and measurer come together, and an outcome comes of it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_iovt import precision
from tvm_iovt.errors import IovtError
from tvm_iovt.interrupts import interrupt_inside
from tvm_iovt.stages import KernelOptions, kernel_selector, run_graph_passes
from tvm_iovt.tuner.measurers import board_request, linker_of, measurer_of
from tvm_iovt.tuner.options import TuneOptions, check_is_reachable, check_options
from tvm_iovt.tuning.events import (
    Listener,
    Note,
    RunStarted,
    TaskOutcome,
    TaskSummary,
    TuneOutcome,
)
from tvm_iovt.types import TargetSpec

if TYPE_CHECKING:
    from tvm_iovt.frontend.network import Arrays, Network
    from tvm_iovt.tuning.ceilings import MeasuredCeilings
    from tvm_iovt.tuning.network_choice import Contest, NetworkChoice
    from tvm_iovt.tuning.record_store import RecordStore
    from tvm_iovt.tuning.run_state import RunRequest, RunState
    from tvm_iovt.tuning.schedule_records import DeviceKind
    from tvm_iovt.tuning.session import Session
    from tvm_iovt.tuning.tasks import Task, Tasks
    from tvm_iovt.tuning.trial import Measurer


def tune_model(
    model: Path, options: TuneOptions, *, listen: Listener = lambda event: None
) -> TuneOutcome:
    """Search schedules for the kernels of a model by measuring them, and record what was found.

    Every trial is in the records when the next one begins: whatever ends this process, the same
    call goes on where it stopped.

    Args:
        model: ONNX file or torch.export program.
        options: See `TuneOptions`.
        listen: Hears of everything that happens; the outcome comes last.

    Raises:
        IovtError: One of its subclasses, each with its exit code.
    """
    spec = check_options(options)
    from tvm_iovt.build import cuda
    from tvm_iovt.runtime import threads
    from tvm_iovt.tuning.intrinsics import import_intrinsics

    threads.set_defaults()  # measurements use the pool as the bundle will
    import_intrinsics(gpu=spec.gpu is not None)
    check_is_reachable(spec, options)
    if spec.kind == "cuda":
        cuda.enable_codegen()

    from tvm_iovt.frontend.load import load_network
    from tvm_iovt.tuning.device_kind import device_kind
    from tvm_iovt.tuning.record_store import RecordStore, user_root
    from tvm_iovt.tuning.run_state import RunState

    network = load_network(model, options.input_shapes)
    precision.check_model(options.precision, network.arithmetic, model.name)
    device = device_kind(spec)
    with RecordStore.open(options.logs or user_root(), device, model=model.name) as store:
        for problem in (*store.problems, *store.refused):
            listen(Note(text=problem))
        request = _request(model, network, device, options, store)
        state = RunState.load_or_new(store, request)
        if state.warning:
            listen(Note(text=state.warning))
        run = _Run(network, spec, device, options, store, state, listen)
        return run.outcome()


class _Run:
    """One call of `tune_model`, once model, records and state are there."""

    def __init__(
        self,
        network: Network,
        spec: TargetSpec,
        device: DeviceKind,
        options: TuneOptions,
        store: RecordStore,
        state: RunState,
        listen: Listener,
    ) -> None:
        self._network = network
        self._spec = spec
        self._device = device
        self._options = options
        self._store = store
        self._state = state
        self._listen = listen

    def outcome(self) -> TuneOutcome:
        """Tune; the state on disk tells how it ended, whatever happens."""
        from tvm_iovt.tuning.run_state import COMPLETE, FAILED, INTERRUPTED

        try:
            outcome = self._tune()
        except BaseException as error:
            # The first error is the one to tell; a full disk refuses the state, too.
            with contextlib.suppress(IovtError):
                self._state.end(INTERRUPTED if interrupt_inside(error) else FAILED)
            raise
        self._state.end(COMPLETE if outcome.complete else INTERRUPTED)
        self._listen(outcome)
        return outcome

    def _tune(self) -> TuneOutcome:
        from tvm_iovt.tuning.cost_model import CostModel
        from tvm_iovt.tuning.session import Session
        from tvm_iovt.tuning.session_progress import Budget
        from tvm_iovt.tuning.tasks import extract_tasks

        fused = self._fused()
        tasks = extract_tasks(fused)
        measurer, runners = measurer_of(self._spec, self._options)
        try:
            ceilings = self._ceilings(measurer)
            summaries = _summaries(tasks, ceilings)
            self._listen(self._started(summaries, tasks, ceilings, runners))
            session = Session(
                run=self._state.record.run,
                tasks=list(zip(summaries, tasks.tasks, strict=True)),
                spec=self._spec,
                device=self._device,
                store=self._store,
                measurer=measurer,
                model=CostModel(self._options.cost_model, _target(self._spec)),
                budget=Budget(trials=self._options.trials, time_s=self._options.time_s),
                spent_s=self._state.resumed_s,
                listen=self._counting(),
                checkpoint=lambda _: self._state.tick(),
            )
            session.measure()
        finally:
            measurer.close()
        if tasks.tasks and session.done and not session.valid:
            return self._summary(session, tasks, None)  # which is an error
        choice = self._earlier(session)
        if choice is None:
            self._note("timing the fastest schedules inside the network")
            choice = self._choose(fused, session)
        return self._summary(session, tasks, choice)

    def _fused(self) -> Any:
        """The kernels as `compile` makes them.

        Convolutions get the algorithm and register tile that are predicted, or recorded: measured
        alone here, some choices made RepVGG-A0 slower.
        """
        from tvm_iovt.build.cuda_pipeline import fuse_for_cuda
        from tvm_iovt.schedules.cpu import fuse_for_cpu

        spec, options = self._spec, self._options
        module, _ = run_graph_passes(self._network, (spec,), options.fuse)
        if spec.gpu is not None:
            return fuse_for_cuda(module, _target(spec))
        folders = None if options.logs is None else [options.logs]
        kernels = KernelOptions(precision=options.precision, winograd=options.winograd)
        select = kernel_selector(spec, kernels, self._note, folders)
        fused = fuse_for_cpu(module, spec.cpu, _target(spec), options.precision, select)
        self._note(select.summary)
        return fused

    def _ceilings(self, measurer: Measurer) -> MeasuredCeilings:
        from tvm_iovt.tuning.ceilings import NO_CEILINGS, measure_ceilings

        if self._spec.gpu is not None:
            return NO_CEILINGS
        ceilings, reason = measure_ceilings(self._spec.cpu, measurer)
        if reason:
            self._note(f"the roofline could not be measured: {reason}")
        return ceilings

    def _started(
        self,
        summaries: Sequence[TaskSummary],
        tasks: Tasks,
        ceilings: MeasuredCeilings,
        runners: tuple[str, ...],
    ) -> RunStarted:
        from tvm_iovt.tuning.record_files import describe_device

        return RunStarted(
            run=self._state.record.run,
            model=self._network.name,
            target=self._spec.name,
            device=describe_device(self._device),
            tasks=tuple(summaries),
            fixed=len(tasks.fixed),
            trials_asked=self._options.trials or 0,
            time_asked_s=self._options.time_s or 0.0,
            resumed_trials=self._state.resumed_trials,
            runners=runners,
            peak_flops=ceilings.flops,
            peak_bytes_per_s=ceilings.bytes_per_s,
        )

    def _counting(self) -> Listener:
        from tvm_iovt.tuning.events import Event, TrialDone

        def listen(event: Event) -> None:
            if isinstance(event, TrialDone):
                self._state.count(valid=not event.failed)
            self._listen(event)

        return listen

    def _choose(self, fused: Any, session: Session) -> NetworkChoice:
        """Choose inside the network, and record the choices."""
        from tvm_iovt.frontend.network import sample_inputs
        from tvm_iovt.tuning import network_choice
        from tvm_iovt.tuning.finalists import keeps

        network, spec = self._network, self._spec
        found = sample_inputs(network.inputs)
        inputs = {tensor.name: found[tensor.name] for tensor in network.inputs}
        keys = [state.task.workload.key for state in session.states]
        trials = {key: self._store.trials(key) for key in keys}
        common = (fused, session.states, trials, spec, self._device)
        if spec.gpu is None and not self._options.tracker:
            choice = network_choice.choose_kernels(
                *common, list(inputs.values()), network=network.name, note=self._note
            )
        else:
            choice = network_choice.choose_together(
                *common, self._contest(inputs), network=network.name, note=self._note
            )
        for made in choice.choices:
            if not keeps(self._store.choice(made.workload), made):
                self._store.add_choice(made)
        return choice

    def _contest(self, inputs: Arrays) -> Contest:
        """Compares networks on the device."""
        if not self._options.tracker:
            from tvm_iovt.tuning.network_choice import local_contest

            return local_contest(self._spec, list(inputs.values()))
        from tvm_iovt.boards.network_contest import board_contest

        return board_contest(
            board_request(self._options),
            self._spec,
            linker_of(self._spec, self._options),
            inputs,
            [tensor.name for tensor in self._network.outputs],
            self._note,
        )

    def _earlier(self, session: Session) -> NetworkChoice | None:
        """The recorded choices, if nothing was measured since: a second look adds only noise."""
        from tvm_iovt.tuning.network_choice import NetworkChoice

        found = [self._store.choice(state.task.workload.key) for state in session.states]
        if session.done > self._state.resumed_trials or not all(found):
            return None
        return NetworkChoice(choices=tuple(c for c in found if c is not None), comparison=None)

    def _summary(self, session: Session, tasks: Tasks, choice: NetworkChoice | None) -> TuneOutcome:
        made = {c.workload: c for c in choice.choices} if choice else {}
        elapsed_s = max(session.elapsed_s, 1e-9)
        workers = max(self._options.jobs or self._spec.cpu.cores, 1)
        comparison = choice.comparison if choice else None
        trials, time_s = self._options.trials, self._options.time_s
        spent = (trials is not None and session.done >= trials) or (
            time_s is not None and self._state.spent_s >= time_s
        )
        return TuneOutcome(
            run=self._state.record.run,
            records=str(self._store.folder),
            tasks=tuple(
                TaskOutcome(
                    task=state.name,
                    weight=state.task.weight,
                    trials=state.run_trials,
                    valid=state.effort.valid,
                    template_s=state.template_s,
                    best_s=state.effort.best_s,
                    template_network_s=found.template_network_s if found else None,
                    chosen_network_s=found.network_s if found else None,
                    chosen="search" if found and found.trial else "template",
                    reason=found.reason if found else "nothing was measured",
                )
                for state in session.states
                for found in [made.get(state.task.workload.key)]
            ),
            fixed=len(tasks.fixed),
            trials_asked=trials or 0,
            trials_done=session.done,
            trials_valid=session.valid,
            complete=spent or session.proposed_all,
            template_network_s=comparison.before_s if comparison else None,
            tuned_network_s=comparison.before_s * comparison.ratio if comparison else None,
            noise=comparison.noise if comparison else None,
            elapsed_s=session.elapsed_s,
            share_search=session.search_s / elapsed_s,
            share_build=session.build_s / workers / elapsed_s,
            share_measure=session.measure_s / elapsed_s,
            errors=tuple(session.errors),
        )

    def _note(self, text: str) -> None:
        self._listen(Note(text=text))


def _request(
    model: Path,
    network: Network,
    device: DeviceKind,
    options: TuneOptions,
    store: RecordStore,
) -> RunRequest:
    """What identifies the run; `restart` looks for the first one that has no records yet."""
    from tvm_iovt.tuning.run_state import RunRequest

    settings: dict[str, Any] = {
        "fuse": options.fuse,
        "precision": options.precision,
        "winograd": options.winograd,
        "input_shapes": {name: list(shape) for name, shape in options.input_shapes.items()},
    }
    request = RunRequest(
        model=model.name,
        model_sha256=network.sha256,
        target=options.target,
        device=device,
        options=settings,
        trials=options.trials or 0,
        time_s=options.time_s or 0.0,
    )
    used = {trial.run for trial in store.all_trials()}
    number = 1
    while options.restart and request.run in used:
        number += 1
        request = dataclasses.replace(request, options={**settings, "restart": number})
    return request


def _summaries(tasks: Tasks, ceilings: MeasuredCeilings) -> tuple[TaskSummary, ...]:
    return tuple(_summary_of(task, ceilings) for task in tasks.tasks)


def _summary_of(task: Task, ceilings: MeasuredCeilings) -> TaskSummary:
    return TaskSummary(
        workload=task.workload.key,
        name=task.workload.name,
        weight=task.weight,
        flops=task.flops,
        moved_bytes=task.moved_bytes,
        bound_s=ceilings.bound_s(task.flops, task.moved_bytes),
    )


def _target(spec: TargetSpec) -> Any:
    from tvm_iovt import _tvm

    return _tvm.tvm_target(spec)
