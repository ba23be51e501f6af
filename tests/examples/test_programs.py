"""The programs that users copy from, each run as its README says, against a server of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runtimestore import RuntimeState, RuntimeStoreClient
from support.servers.server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
LONGEST_SECONDS = 300  # the first run on a machine compiles what Go and npm bring
TURN_IN_ANY_LANGUAGE = """\
accepted at revision 1
committed at revision 2, replayed false
committed at revision 2, replayed true
session equal: true
refused: BOUNDARY_RECEIPT_EXISTS
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with ServerProcess(f"sqlite:///{tmp_path_factory.mktemp('store')}/store.db") as server:
        yield server.address


def _run(
    *command: str, cwd: Path = ROOT, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LONGEST_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def _python(program: str, *arguments: str) -> str:
    return _run(sys.executable, str(EXAMPLES / program), *arguments).stdout


def _kill_in_the_middle_of_turns(program: str, *arguments: str, turns: int) -> set[str]:
    """Start a program, kill it when so many turns are under way, and tell the inputs that it had accepted."""
    command = [sys.executable, str(EXAMPLES / program), *arguments, "--thinking-seconds", "600"]
    accepted: set[str] = set()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            while turns:
                line = process.stdout.readline()
                assert line, "it ended by itself"
                turns -= line.startswith("thinking")
                accepted.update(re.findall("^accepted (.{36})", line))
        finally:
            process.send_signal(signal.SIGKILL)
    return accepted


def _conversation(address: str, runtime_id: str) -> list[tuple[str, str]]:
    with RuntimeStoreClient(address) as store:
        session = json.loads(store.load_session_snapshot(runtime_id) or b"")
        assert store.load_runtime_state(runtime_id) is RuntimeState.IDLE
        for state in store.load_input_states(runtime_id):
            document = json.loads(state.state_json)
            assert document["current_state"] == "consumed"
            receipt = store.load_boundary_receipt(runtime_id, document["run_id"], 0)
            assert receipt is not None
            assert receipt.contributing_input_ids == (state.input_id,)
    return [(message["role"], message["content"]) for message in session["messages"]]


def test_an_agent_that_is_killed_in_the_middle_of_a_turn_loses_nothing_and_applies_nothing_twice(address: str) -> None:
    runtime_id = f"rt:session:{uuid.uuid4()}"
    told = _python("agent.py", runtime_id, "one", "--address", address, "--thinking-seconds", "0")
    assert told.endswith("user: one\nassistant: You said: one\n")

    arguments = (runtime_id, "one", "two", "three", "--address", address)
    (accepted,) = _kill_in_the_middle_of_turns("agent.py", *arguments, turns=1)
    # The second time it dies in the recovery, which is no other turn than the first try.
    assert _kill_in_the_middle_of_turns("agent.py", *arguments, turns=1) == set()
    with RuntimeStoreClient(address) as store:
        assert store.load_runtime_state(runtime_id) is RuntimeState.RUNNING
    told = _python("agent.py", *arguments, "--thinking-seconds", "0")

    assert told.splitlines()[0] == f"resumed {accepted}"
    assert _conversation(address, runtime_id) == [
        (role, text)
        for prompt in ("one", "two", "three")
        for role, text in (("user", prompt), ("assistant", f"You said: {prompt}"))
    ]


def test_agents_in_threads_that_are_killed_together_each_finish_their_turn(address: str) -> None:
    runtimes = [f"rt:session:{uuid.uuid4()}" for _ in range(3)]
    arguments = ("Hello", "--address", address, "--runtimes", *runtimes)

    (accepted,) = _kill_in_the_middle_of_turns("agent_threads.py", *arguments, turns=3)
    told = _python("agent_threads.py", *arguments, "--thinking-seconds", "0").splitlines()

    assert {line for line in told if line.startswith("resumed")} == {f"resumed {accepted} {name}" for name in runtimes}
    for runtime_id in runtimes:
        assert _conversation(address, runtime_id) == [("user", "Hello"), ("assistant", "You said: Hello")]


def test_compare_and_swap_loses_no_update(address: str) -> None:
    told = re.fullmatch(r"counter (\d+), \d+ conflicts\n", _python("compare_and_swap.py", "--address", address))

    assert told is not None
    assert told[1] == "40"


def test_a_worker_that_was_replaced_is_refused_by_its_fence(address: str) -> None:
    assert _python("fences.py", "--address", address).splitlines() == [
        "worker-2 took over from worker-1",
        "worker-1 was refused: worker-2 drives the runtime now",
        "state idle",
    ]


def _copy(folder: str, tmp_path: Path) -> Path:
    """An example of another language beside the protos, where its tools may put what they make."""
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    ignored = shutil.ignore_patterns("v1", "node_modules", "package-lock.json")
    return Path(shutil.copytree(EXAMPLES / folder, tmp_path / "examples" / folder, ignore=ignored))


def test_the_go_client_commits_a_turn_and_decodes_a_refusal(address: str, tmp_path: Path) -> None:
    if shutil.which("go") is None:
        pytest.skip("go is not installed")
    folder = _copy("go", tmp_path)
    # buf is where `make setup` puts it.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "CGO_ENABLED": "0"}
    # Where nothing is compiled yet, that is most of the test. buf starts both plugins at once, and each would compile
    # all that they share; and the client shares with them what is compiled as they are, without flags.
    _run("go", "build", "tool", cwd=folder, environment=environment)
    _run("go", "generate", cwd=folder, environment=environment)
    assert _run("go", "vet", ".", cwd=folder, environment=environment).stderr == ""

    told = _run("go", "run", ".", address, cwd=folder, environment=environment).stdout
    assert told == TURN_IN_ANY_LANGUAGE


def test_the_typescript_client_commits_a_turn_and_decodes_a_refusal(address: str, tmp_path: Path) -> None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    folder = _copy("typescript", tmp_path)
    _run("npm", "install", "--prefer-offline", "--no-audit", "--no-fund", "--no-package-lock", cwd=folder)
    _run("npm", "run", "--silent", "check", cwd=folder)

    assert _run("npm", "start", "--silent", "--", address, cwd=folder).stdout == TURN_IN_ANY_LANGUAGE
