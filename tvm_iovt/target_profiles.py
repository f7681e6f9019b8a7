"""Numbers of a device in TOML: the tables `[datasheet]`, `[measured]` and `[[link]]`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tvm_iovt.errors import TargetError
from tvm_iovt.types import DeviceProfile, DtypePeak, KindFit, Link, Roof
from tvm_iovt.unit_laws import TERMS

DATASHEET, MEASURED, LINK = "datasheet", "measured", "link"

DTYPES = ("float32", "float16", "bfloat16", "int8")
"""Types that a peak can be stated for."""

_PROFILE_NUMBERS = ("launch_s", "handoff_s", "stage_s", "boundary_bytes_per_s", "shared_slowdown")
_PROFILE_KEYS = ("date", "device", *_PROFILE_NUMBERS, "cache_bytes", "roof", "fit")
_ROOF_NUMBERS = (
    "bandwidth_bytes_per_s",
    "shared_bandwidth_bytes_per_s",
    "cache_bandwidth_bytes_per_s",
)
_ROOF_KEYS = ("threads", "peak_flops", *_ROOF_NUMBERS)
_FIT_KEYS = ("kind", "threads", "median_error", "samples", "coefficients")
_LINK_KEYS = ("dst", "bytes_per_s", "latency_s", "source")


def read_profile(table: Any, path: Path, source: str) -> DeviceProfile:
    """A `[datasheet]` or `[measured]` table.

    Args:
        table: As TOML gives it.
        path: Of the file, for messages.
        source: Which of the two.

    Raises:
        TargetError: Names the file, the key, what it holds and what to write.
    """
    reader = _Reader(path)
    table = reader.table(table, source, _PROFILE_KEYS)
    if "launch_s" not in table:
        raise wrong(path, f"{source}.launch_s", "nothing", "add the seconds to start one kernel")
    rows = reader.tables(table.get("roof"), f"{source}.roof")
    if not rows:
        raise wrong(
            path,
            f"{source}.roof",
            "nothing",
            f"add a table [[{source}.roof]] for each thread count",
        )
    roofs = tuple(_read_roof(reader, row, f"{source}.roof[{i}]") for i, row in enumerate(rows))
    threads = [roof.threads for roof in roofs]
    if threads != sorted(set(threads)):
        raise wrong(path, f"{source}.roof", threads, "put the roofs in order of increasing threads")
    fits = reader.tables(table.get("fit", []), f"{source}.fit")
    return DeviceProfile(
        source=source,
        date=reader.text(table, "date", source),
        device=reader.text(table, "device", source),
        roofs=roofs,
        launch_s=reader.number(table, "launch_s", source, least=0.0),
        handoff_s=reader.number(table, "handoff_s", source, least=0.0),
        stage_s=reader.number(table, "stage_s", source, least=0.0),
        boundary_bytes_per_s=reader.number(table, "boundary_bytes_per_s", source, least=0.0),
        shared_slowdown=(
            reader.number(table, "shared_slowdown", source, least=1.0)
            if "shared_slowdown" in table
            else 1.0
        ),
        cache_bytes=reader.whole(table, "cache_bytes", source, least=0),
        fits=tuple(_read_fit(reader, row, f"{source}.fit[{i}]") for i, row in enumerate(fits)),
    )


def read_links(tables: Any, path: Path, src: str) -> tuple[Link, ...]:
    """The `[[link]]` tables of a target called `src`.

    Raises:
        TargetError: As `read_profile`.
    """
    reader = _Reader(path)
    links = []
    for i, row in enumerate(reader.tables(tables, LINK)):
        where = f"{LINK}[{i}]"
        row = reader.table(row, where, _LINK_KEYS)
        dst = reader.text(row, "dst", where)
        if not dst:
            raise wrong(path, f"{where}.dst", row.get("dst"), 'write the other end, "host" say')
        source = reader.text(row, "source", where) or "stated"
        if source not in ("stated", "measured", "assumed"):
            raise wrong(path, f"{where}.source", source, 'write "stated" or "measured"')
        links.append(
            Link(
                src=src,
                dst=dst,
                bytes_per_s=reader.positive(row, "bytes_per_s", where),
                latency_s=reader.number(row, "latency_s", where, least=0.0),
                source=source,
            )
        )
    return tuple(links)


def profile_toml(profile: DeviceProfile, links: Sequence[Link] = ()) -> str:
    """A measured profile as the TOML that `read_profile` and `read_links` read."""
    lines = [f"[{MEASURED}]", f"date = {_quoted(profile.date)}"]
    lines += [f"device = {_quoted(profile.device)}", f"launch_s = {_number(profile.launch_s)}"]
    for key in _PROFILE_NUMBERS[1:]:
        if getattr(profile, key):
            lines.append(f"{key} = {_number(getattr(profile, key))}")
    if profile.cache_bytes:
        lines.append(f"cache_bytes = {profile.cache_bytes}")
    for roof in profile.roofs:
        lines += ["", f"[[{MEASURED}.roof]]", f"threads = {roof.threads}"]
        peaks = ", ".join(f"{p.dtype} = {_number(p.flops_per_s)}" for p in roof.peaks)
        lines.append(f"peak_flops = {{ {peaks} }}")
        for key in _ROOF_NUMBERS:
            if getattr(roof, key):
                lines.append(f"{key} = {_number(getattr(roof, key))}")
    for fit in profile.fits:
        lines += ["", f"[[{MEASURED}.fit]]", f"kind = {_quoted(fit.kind)}"]
        lines += [f"threads = {fit.threads}", f"median_error = {fit.median_error:.4f}"]
        lines.append(f"samples = {fit.samples}")
        lines.append(f"coefficients = [{', '.join(map(_number, fit.coefficients))}]")
    for link in links:
        lines += ["", f"[[{LINK}]]", f"dst = {_quoted(link.dst)}"]
        lines += [f"bytes_per_s = {_number(link.bytes_per_s)}"]
        lines += [f"latency_s = {_number(link.latency_s)}", f"source = {_quoted(link.source)}"]
    return "\n".join(lines) + "\n"


def wrong(path: Path, key: str, value: object, do: str) -> TargetError:
    """The error about a key of a target file."""
    return TargetError(f"{path}: {key} is wrong", seen=repr(value), do=do)


def _read_roof(reader: _Reader, row: Any, where: str) -> Roof:
    row = reader.table(row, where, _ROOF_KEYS)
    stated = row.get("peak_flops")
    peaks = reader.table(stated if stated is not None else {}, f"{where}.peak_flops", DTYPES)
    if "float32" not in peaks:
        raise wrong(
            reader.path,
            f"{where}.peak_flops",
            stated,
            "write { float32 = 50e9 }: FLOPs a second, a multiply-add counted as two",
        )
    return Roof(
        threads=reader.whole(row, "threads", where, least=1),
        peaks=tuple(
            DtypePeak(dtype=dtype, flops_per_s=reader.positive(peaks, dtype, f"{where}.peak_flops"))
            for dtype in peaks
        ),
        bandwidth_bytes_per_s=reader.positive(row, "bandwidth_bytes_per_s", where),
        shared_bandwidth_bytes_per_s=reader.number(
            row, "shared_bandwidth_bytes_per_s", where, least=0.0
        ),
        cache_bandwidth_bytes_per_s=reader.number(
            row, "cache_bandwidth_bytes_per_s", where, least=0.0
        ),
    )


def _read_fit(reader: _Reader, row: Any, where: str) -> KindFit:
    row = reader.table(row, where, _FIT_KEYS)
    coefficients = row.get("coefficients")
    if not isinstance(coefficients, list) or len(coefficients) != TERMS:
        raise wrong(
            reader.path,
            f"{where}.coefficients",
            coefficients,
            f"there are {TERMS} in this version: run `tvm-iovt targets probe` again",
        )
    numbers = {str(i): value for i, value in enumerate(coefficients)}
    return KindFit(
        kind=reader.text(row, "kind", where),
        threads=reader.whole(row, "threads", where, least=1),
        coefficients=tuple(
            reader.number(numbers, key, f"{where}.coefficients", least=0.0) for key in numbers
        ),
        median_error=reader.number(row, "median_error", where, least=0.0),
        samples=reader.whole(row, "samples", where, least=0),
    )


class _Reader:
    """Takes checked values out of tables; `where` is the key of the table itself."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def table(self, value: Any, where: str, known: Sequence[str]) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise wrong(self.path, where, value, "make it a table")
        unknown = sorted(set(value) - set(known))
        if unknown:
            key = f"{where}.{unknown[0]}"
            raise wrong(self.path, key, value[unknown[0]], f"known: {', '.join(known)}")
        return value

    def tables(self, value: Any, where: str) -> list[Any]:
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
            raise wrong(self.path, where, value, f"write one table [[{where}]] for each")
        return value

    def text(self, table: Mapping[str, Any], key: str, where: str) -> str:
        value = table.get(key, "")
        if not isinstance(value, str):
            raise wrong(self.path, f"{where}.{key}", value, "write a text in quotes")
        return value

    def number(self, table: Mapping[str, Any], key: str, where: str, *, least: float) -> float:
        value = table.get(key, 0.0)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise wrong(self.path, f"{where}.{key}", value, "write a number")
        if not math.isfinite(value) or value < least:
            raise wrong(self.path, f"{where}.{key}", value, "write a number that is not negative")
        return float(value)

    def positive(self, table: Mapping[str, Any], key: str, where: str) -> float:
        value = self.number(table, key, where, least=0.0) if key in table else None
        if not value:
            seen = "nothing" if value is None else table[key]
            raise wrong(self.path, f"{where}.{key}", seen, "write a number above zero")
        return value

    def whole(self, table: Mapping[str, Any], key: str, where: str, *, least: int) -> int:
        value = table.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            do = "write a positive whole number" if least else "write a whole number"
            raise wrong(self.path, f"{where}.{key}", value, do)
        return value


def _quoted(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=True)


def _number(value: float) -> str:
    return f"{value:.6g}" if value else "0.0"
