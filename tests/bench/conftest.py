"""The benchmarks are scripts: their folders are on the path when Python runs them, and here."""

from __future__ import annotations

import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parents[2] / "bench"

sys.path.insert(0, str(BENCH / "peers"))
sys.path.append(str(BENCH))  # last: it has a coverage.py
