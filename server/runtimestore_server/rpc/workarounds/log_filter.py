"""Keeps out of the log what gRPC tells, with a traceback, of callers who hung up or sent what is no UTF-8.

**The defect.** Where a call is gone that it wanted to answer, `grpc.aio` logs an `ExecuteBatchError` as if the server
had failed; any caller who gives up in the wrong moment leaves twenty lines. Where a header or a path is no UTF-8, it
logs a `UnicodeDecodeError`, and with it what was sent, which may be a secret.

**Upstream.** https://github.com/grpc/grpc/issues/31043 asks that the first be no error of the event loop's; since
https://github.com/grpc/grpc/pull/32551 it is logged instead. For the second no issue is known; see `serving_on` for how
to call such a path.

**Held by** `tests/faults/test_reader_gone.py` for the first and `test_serving_on.py` for the second.

**May go** when those pass without it.
"""

from __future__ import annotations

import logging


def keep_callers_out_of_the_log() -> None:
    """Filter the lines that tell of what callers did, from here on."""
    for name in ("grpc._cython.cygrpc", "asyncio"):
        logging.getLogger(name).addFilter(_of_interest)


def _of_interest(record: logging.LogRecord) -> bool:
    """Tell whether a line of gRPC's is more than a caller who hung up before the answer, or sent what is no UTF-8."""
    if not record.exc_info or record.exc_info[0] is None:
        return True
    return record.exc_info[0].__name__ != "ExecuteBatchError" and not issubclass(record.exc_info[0], UnicodeDecodeError)
