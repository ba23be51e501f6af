"""Run ten turns of one agent runtime, kill its server in the middle of a turn, recover and compare every byte.

The server is a process on a SQLite file of its own. Exit code 0: everything that was acknowledged came back.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from examples.recovery.crash import kill_during
from examples.recovery.output import Output
from examples.recovery.runtime import Apply, DemoRuntime, LostWrite, Recovery
from examples.recovery.server_process import ServerFailed, ServerProcess
from runtimestore import RetryPolicy, RuntimeStoreClient, RuntimeStoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from examples.recovery.contents import Contents

CRASH_TURN = 6
LONGEST_SECONDS = 180
UNWOUND = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
CALL_TIMEOUT_SECONDS = 15.0


def main() -> int:
    """Run the demo as the command line says; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.recovery", description=__doc__)
    parser.add_argument(
        "--pace-seconds",
        type=float,
        default=0.25 if sys.stdout.isatty() else 0.0,
        help="a pause after each turn, for people who watch (default: 0.25 in a terminal, else 0)",
    )
    return run(pace_seconds=parser.parse_args().pace_seconds)


def run(*, pace_seconds: float) -> int:
    """Run it all in a temporary folder; the exit code. No process is left behind, not even after Ctrl-C or SIGTERM."""
    with (
        _signals_unwind(),
        Output(pace_seconds) as output,
        tempfile.TemporaryDirectory(prefix="runtimestore-") as folder,
    ):
        try:
            _live_die_recover(output, Path(folder) / "demo.db")
        except (LostWrite, ServerFailed, RuntimeStoreError) as problem:
            output.failed(str(problem) or type(problem).__name__)
            return 1
    return 0


def _live_die_recover(output: Output, database_file: Path) -> None:
    url = f"sqlite:///{database_file}"
    with ServerProcess.serve(url) as server, _client(output, server) as store:
        runtime = DemoRuntime(store)
        output.runtime_starts(runtime.runtime_id, runtime.session.turns)
        runtime.start()
        runtime.admit(1)
        for turn in range(1, CRASH_TURN):
            _run_turn(output, runtime, turn)
        unacknowledged = _crash(output, runtime, server, database_file)

    with ServerProcess.serve(url) as server, _client(output, server) as store:
        _recover(output, runtime, store, unacknowledged)
        runtime.finish(CRASH_TURN)
        for turn in range(CRASH_TURN + 1, runtime.session.turns + 1):
            _run_turn(output, runtime, turn)
        found = runtime.all_from_store()
        _demand_equal(runtime.acknowledged, found, "at the end")
        output.compared(runtime.acknowledged, found)
        if (code := server.stop()) != 0:
            raise ServerFailed(f"The server ended with {code} after SIGTERM.\n{server.log}")


def _run_turn(output: Output, runtime: DemoRuntime, turn: int) -> None:
    runtime.begin(turn)
    _admit_next(runtime, turn)
    commit = runtime.apply(runtime.boundary(turn))
    runtime.finish(turn)
    output.turn_done(turn, runtime.acknowledged, commit)


def _crash(output: Output, runtime: DemoRuntime, server: ServerProcess, database_file: Path) -> Apply | None:
    """Kill the server during the turn; the apply that was not acknowledged, if it was not."""
    runtime.begin(CRASH_TURN)
    _admit_next(runtime, CRASH_TURN)
    apply = runtime.boundary(CRASH_TURN)
    output.crash_comes(CRASH_TURN)
    error = kill_during(apply, runtime, server, database_file)
    output.crashed(server.pid, error)
    return apply if error is not None else None


def _recover(output: Output, runtime: DemoRuntime, store: RuntimeStoreClient, unacknowledged: Apply | None) -> None:
    """Do what a runtime does when it comes back, and compare before anything is written."""
    recovery = runtime.recover(store, unacknowledged)
    landed = _demand_one_of_the_outcomes(runtime, recovery, unacknowledged)
    output.recovered(recovery, landed=landed)
    if unacknowledged is None:
        return
    commit = runtime.apply(unacknowledged)
    if commit.replayed != landed:
        raise LostWrite(
            f"the receipt was {'there' if landed else 'missing'}, yet the repeat said replayed={commit.replayed}"
        )
    output.repeated(unacknowledged.request_id, commit)


def _demand_one_of_the_outcomes(runtime: DemoRuntime, recovery: Recovery, unacknowledged: Apply | None) -> bool | None:
    """Whether the unacknowledged apply landed whole (True) or not at all (False); None: there is none.

    Raises:
        LostWrite: neither; something acknowledged is gone, or a part of the apply is there without the rest.
    """
    if unacknowledged is None:
        _demand_equal(runtime.acknowledged, recovery.found, "after the crash")
        return None
    nothing, everything = runtime.possible_outcomes(unacknowledged)
    if not everything.differences(recovery.found):
        return True
    _demand_equal(nothing, recovery.found, "after the crash")
    return False


def _demand_equal(acknowledged: Contents, found: Contents, when: str) -> None:
    if differences := acknowledged.differences(found):
        lines = [f"  {what}\n    acknowledged {was}\n    found        {is_}" for what, was, is_ in differences]
        raise LostWrite("\n".join([f"{when} the store does not hold what it acknowledged:", *lines]))


def _admit_next(runtime: DemoRuntime, turn: int) -> None:
    """While a turn runs the next prompt arrives; so there is always one that waits."""
    if turn < runtime.session.turns:
        runtime.admit(turn + 1)


@contextlib.contextmanager
def _client(output: Output, server: ServerProcess) -> Iterator[RuntimeStoreClient]:
    address = server.wait_until_ready()
    output.server_serves(server.pid, address)
    # One attempt: a runtime that lives on would let its client retry; this one is to see the crash.
    retry = RetryPolicy(max_attempts=1)
    with RuntimeStoreClient(address, timeout_seconds=CALL_TIMEOUT_SECONDS, retry=retry) as client:
        yield client


@contextlib.contextmanager
def _signals_unwind() -> Iterator[None]:
    """Ctrl-C, SIGTERM, a closed terminal and the demo's own deadline all leave through `finally`."""

    def unwind(number: int, _frame: object) -> NoReturn:
        if number == signal.SIGALRM:
            sys.stderr.write(f"recovery: not done after {LONGEST_SECONDS} s\n")
            raise SystemExit(1)
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, unwind) for number in UNWOUND}
    signal.alarm(LONGEST_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    raise SystemExit(main())
