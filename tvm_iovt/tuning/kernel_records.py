"""Measured kernel choices, kept as lines of JSON in `tuning_logs/<CPU>/kernel_choice.jsonl`.

`tuning_logs/README.md` describes the fields.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tvm_iovt import resources
from tvm_iovt.atomic_write import write_atomically
from tvm_iovt.errors import IovtError, UsageError
from tvm_iovt.json_codec import from_json, to_json
from tvm_iovt.schedules.convolution import Conv2d

FOLDER = "tuning_logs"
FILE = "kernel_choice.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuKind:
    """What a measurement holds for: CPUs of another kind never use it.

    Attributes:
        mcpu: LLVM's name of the CPU, e.g. `znver4`; never `native`.
        triple: LLVM triple.
        vector_bits: Width of one SIMD register.
        cores: That the schedules were planned for.
    """

    mcpu: str
    triple: str
    vector_bits: int
    cores: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The circumstances of a choice.

    Attributes:
        target: The CPU.
        threads: Of TVM's pool.
        winograd: Whether Winograd's algorithm was among the choices.
    """

    target: CpuKind
    threads: int
    winograd: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredKernel:
    """One candidate.

    Attributes:
        name: From `selection.kernel_name`.
        median_s: Seconds of one call, median of the blocks.
        spread_s: See `kernel_timing.Timing`.
    """

    name: str
    median_s: float
    spread_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedKernel:
    """A candidate that was not timed, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelChoice:
    """The measured candidates of one convolution and the one to use; a line of the records.

    Attributes:
        setting: The circumstances.
        convolution: The geometry.
        candidates: What was timed.
        dropped: What failed or computed something else.
        predicted: Name of the predicted kernel.
        chosen: Name of the kernel to use.
        tvm_version: Of apache-tvm, which generated the code.
        tool_version: Of this program.
        date: UTC, ISO 8601.
    """

    SCHEMA: ClassVar[str] = "tvm-iovt/kernel-choice/1"

    setting: Setting
    convolution: Conv2d
    candidates: tuple[MeasuredKernel, ...]
    dropped: tuple[DroppedKernel, ...]
    predicted: str
    chosen: str
    tvm_version: str
    tool_version: str
    date: str

    @property
    def gain(self) -> float:
        """Time of the chosen kernel as a share of that of the predicted one; 1 if that failed."""
        times = {c.name: c.median_s for c in self.candidates}
        return times[self.chosen] / times.get(self.predicted, times[self.chosen])


class Records:
    """The measurements for one kind of CPU that can be found, and where new ones go.

    The user's come before the shipped ones; within a file the last line counts. Layers of the same
    geometry may differ in what their weights allow, which shows in what is predicted for them: a
    measurement is of one geometry and one prediction.

    Attributes:
        problems: What was skipped, as sentences with file and line number.
        path: The file that `add` writes to.
    """

    def __init__(self, setting: Setting, folders: Sequence[Path] | None = None) -> None:
        found = resources.search_path(FOLDER) if folders is None else tuple(folders)
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", setting.target.mcpu)
        files = [folder / name / FILE for folder in found]
        self.path = files[0]
        self.problems: list[str] = []
        self._setting = setting
        self._choices: dict[tuple[Conv2d, str], KernelChoice] = {}
        for path in reversed(files):
            choices, problems = _read(path)
            self.problems += problems
            for choice in choices:
                if choice.setting == setting:
                    self._choices[choice.convolution, choice.predicted] = choice

    def find(self, conv: Conv2d, predicted: str) -> KernelChoice | None:
        """The measurement of a convolution in this setting, or None.

        Args:
            conv: The geometry.
            predicted: Name of the kernel that is predicted for it.
        """
        return self._choices.get((conv, predicted))

    def add(self, choice: KernelChoice) -> None:
        """Remember a measurement and write it to the user's file, in place of an older one.

        Lines that cannot be read stay as they are.

        Raises:
            UsageError: The file cannot be written.
        """
        self._choices[choice.convolution, choice.predicted] = choice
        try:
            lines = _lines(self.path)  # another process may have added to it in the meantime
        except OSError as error:
            raise UsageError(
                f"Cannot add a measurement to {self.path}",
                seen=str(error),
                do="make the file readable and writable, or name another folder for records in "
                "TVM_IOVT_PATH",
            ) from error
        kept = [line for line in lines if not _is_about(line, choice)]
        write_atomically(self.path, _bytes([*kept, json.dumps(to_json(choice))]))


def _is_about(line: str, choice: KernelChoice) -> bool:
    """Whether a line is a record of the same convolution and prediction in the same setting."""
    old = _parsed(line)
    return not isinstance(old, str) and _key(old) == _key(choice)


def _key(choice: KernelChoice) -> tuple[Setting, Conv2d, str]:
    return choice.setting, choice.convolution, choice.predicted


def _lines(path: Path) -> list[str]:
    """The lines of a file, none if there is no such file; what is not UTF-8 survives `_bytes`."""
    try:
        return path.read_bytes().decode("utf-8", errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return []


def _bytes(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode("utf-8", errors="surrogateescape")


def _read(path: Path) -> tuple[list[KernelChoice], list[str]]:
    try:
        lines = _lines(path)
    except OSError as error:
        return [], [f"the records {path} cannot be read: {error}"]
    choices, problems = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        parsed = _parsed(line)
        if isinstance(parsed, str):
            problems.append(f"{path}, line {number}, was skipped: {parsed}")
        else:
            choices.append(parsed)
    return choices, problems


def _parsed(line: str) -> KernelChoice | str:
    """The record in a line, or why there is none."""
    try:
        choice = from_json(KernelChoice, json.loads(line))
    except json.JSONDecodeError as error:
        return f"it is not JSON ({error.msg})"
    except IovtError as error:
        return error.what
    if choice.chosen not in {c.name for c in choice.candidates}:
        return "what it chose is not among its candidates"
    return choice
