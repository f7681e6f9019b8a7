"""Lines of JSON: what is whole is read, what is not is named with its number."""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from tvm_iovt.errors import IovtError
from tvm_iovt.json_codec import from_json, to_json

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RecordFile(Generic[T]):
    """One kind of records.

    Attributes:
        name: Of the file.
        cls: What a line holds.
        objection: Why a record cannot be true; empty if it can.
    """

    name: str
    cls: type[T]
    objection: Callable[[T], str]

    def parse(self, line: bytes) -> T:
        """The record in a line.

        Raises:
            IovtError: There is none, or it cannot be true.
        """
        try:
            record = from_json(self.cls, json.loads(line.decode("utf-8")))
        except UnicodeDecodeError as error:
            raise IovtError(f"it is not UTF-8 (byte {error.start})") from error
        except json.JSONDecodeError as error:
            raise IovtError(f"it is not JSON ({error.msg})") from error
        except (RecursionError, ValueError, OverflowError) as error:
            raise IovtError(f"it is not sensible JSON ({str(error)[:80]})") from error
        objection = self.objection(record)
        if objection:
            raise IovtError(objection)
        return record

    def line(self, record: T) -> bytes:
        """A record as the line that `parse` reads, with its end."""
        return json.dumps(to_json(record), separators=(",", ":")).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class SkippedLine:
    """A line without a usable record.

    Attributes:
        path: Of the file.
        number: Of the line, from 1.
        reason: Why it was skipped.
        raw: The line without its end.
        foreign: Whether it is an object of another schema: perhaps of another version.
    """

    path: Path
    number: int
    reason: str
    raw: bytes
    foreign: bool = False

    def __str__(self) -> str:
        return f"{self.path}, line {self.number}, was skipped: {self.reason}"


@dataclass(frozen=True, slots=True)
class Lines(Generic[T]):
    """What a file holds.

    Attributes:
        records: In the order of the file.
        skipped: The other lines.
        unreadable: Why nothing could be read; empty if it could, or if there is no file.
    """

    records: tuple[T, ...] = ()
    skipped: tuple[SkippedLine, ...] = ()
    unreadable: str = ""

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with the file, as sentences with file and line number."""
        first = (self.unreadable,) if self.unreadable else ()
        return (*first, *map(str, self.skipped))


def read_file(kind: RecordFile[T], folder: Path) -> Lines[T]:
    """What the file of that kind in a folder holds; nothing if there is none."""
    path = folder / kind.name
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Lines()
    except OSError as error:
        return Lines(unreadable=f"the records {path} cannot be read: {error.strerror or error}")
    return read_lines(kind, content, path)


def read_lines(kind: RecordFile[T], content: bytes, path: Path) -> Lines[T]:
    """The records in the content of a file.

    Args:
        kind: What to expect.
        content: The bytes.
        path: For messages.
    """
    records: list[T] = []
    skipped: list[SkippedLine] = []
    lines = content.split(b"\n")
    with _no_collection():
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                records.append(kind.parse(line))
            except IovtError as error:
                reason = f"{error.what} ({error.seen})" if error.seen else error.what
                if number == len(lines):
                    reason = "its end is missing: its writer was stopped, or is still writing"
                skipped.append(SkippedLine(path, number, reason, line, _is_foreign(kind, line)))
    return Lines(tuple(records), tuple(skipped))


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Traces are many lists, all of which stay: collecting garbage takes most of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _is_foreign(kind: RecordFile[Any], line: bytes) -> bool:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(found, dict)
        and isinstance(found.get("schema"), str)
        and found["schema"] != kind.cls.SCHEMA
    )
