"""What a test of the clients hands over where any would do."""

from __future__ import annotations

from runtimestore import InputState, RunApplyBoundary, RunBoundaryReceipt

RUNTIME = "rt:session:1"
INPUT = InputState("0189f7a0-0000-7000-8000-000000000001", "{}")
ID = "0189f7a0-0000-7000-8000-00000000000a"
RECEIPT = RunBoundaryReceipt(ID, RunApplyBoundary.RUN_START, (), 0, 0)
