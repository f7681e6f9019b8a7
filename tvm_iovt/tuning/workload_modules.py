"""The unscheduled function of a workload as it is kept in the records: compressed text."""

from __future__ import annotations

import base64
import binascii
import zlib

from tvm_iovt.errors import TuningError
from tvm_iovt.tuning.schedule_records import WorkloadRecord

_LARGEST_BYTES = 64 << 20


def compress_module(text: str) -> str:
    """`tvm.ir.save_json` of a module as `WorkloadRecord.module` keeps it; equal for equal texts."""
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode("ascii")


def decompress_module(record: WorkloadRecord) -> str:
    """The inverse, for a record.

    Raises:
        TuningError: It is damaged.
    """
    try:
        expander = zlib.decompressobj()
        packed = base64.b64decode(record.module, validate=True)
        text = expander.decompress(packed, _LARGEST_BYTES)
        if not expander.eof:
            raise zlib.error(f"cut off, or larger than {_LARGEST_BYTES} bytes")
        return text.decode("utf-8")
    except (binascii.Error, zlib.error, ValueError) as error:
        raise TuningError(
            f"The module of workload {record.name} ({record.key}) is damaged",
            seen=str(error),
            do="remove its line from the records; it is written again when it is next tuned",
        ) from error
