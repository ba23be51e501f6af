"""What every test may use: coroutines as tests, servers on each engine, their clients, and proof of cleaning up."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import random
import signal
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest

from runtimestore import AsyncRuntimeStoreClient, RuntimeStoreClient
from runtimestore.v1 import runtime_store_pb2_grpc
from support.checkers.clean_up import open_connections, tasks_left, threads_left
from support.checkers.threaded import threaded
from support.checkers.torture import Trial, write_report
from support.generators.forms import CHANGED, EDITS, FORMS, WHOLE, sending
from support.servers.engines import Engine, Memory, Postgres, Sqlite
from support.servers.postgres import postgres
from support.servers.quick_folders import quick_folder
from support.servers.server import entered, in_process

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from runtimestore_server.app import Application
    from support.generators.forms import Form
    from support.servers.postgres import Cluster

# Nothing that the client for threads does depends on the engine behind the server: one is enough. Nor does the form in
# which a client sends what it is given: each is met on one engine, and on all of them under `--torture`.
ALL_CASES: tuple[tuple[type[Engine], str, Form], ...] = (
    (Memory, "async", WHOLE),
    (Sqlite, "async", EDITS),
    (Sqlite, "sync", CHANGED),
    (Postgres, "async", EDITS),
)

RUNNER = pytest.StashKey[asyncio.Runner]()
TRIALS = pytest.StashKey[dict[str, dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--torture", action="store_true", help="run tests of faults in their long form")
    group.addoption("--torture-report", type=Path, metavar="FILE", help="write the figures of tests of faults as JSON")
    group.addoption("--seed", type=int, help="repeat the randomness of a test of faults that printed this seed")


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts what it runs in the background with SIGINT ignored, and processes inherit that: tests that
    # interrupt one would wait for ever.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.disable()  # nothing of what is collected is garbage: looking for it takes a quarter of the time
    config.addinivalue_line("markers", "needs(capability): only on engines that have it")
    config.stash[TRIALS] = {}


def pytest_sessionfinish(session: pytest.Session) -> None:
    path: Path | None = session.config.getoption("--torture-report")
    if path is not None:
        trials = session.config.stash[TRIALS]
        write_report(path, trials)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Look for garbage once more, and never again in the thousands of tests that stay until the end."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture
def trial(request: pytest.FixtureRequest) -> Iterator[Trial]:
    """The length, the seed and the figures of a test of faults."""
    config = request.config
    given: int | None = config.getoption("--seed")
    seed = random.SystemRandom().getrandbits(32) if given is None else given
    found = Trial(request.node.nodeid, long=config.getoption("--torture"), seed=seed)
    print(f"repeat with --seed {seed}")  # noqa: T201  (pytest shows it when the test fails)
    yield found
    config.stash[TRIALS][found.name] = found.report() | {"passed": not getattr(request.node, "failed", False)}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that failed, at whatever moment, says so in the report of the trials."""
    del call
    report = yield
    if report.failed:
        item.failed = True  # type: ignore[attr-defined]  # read by `trial`
        entry: dict[str, Any] = {"seed": None, "seconds": 0.0, "figures": {}}
        item.config.stash[TRIALS].setdefault(item.nodeid, entry)["passed"] = False
    return report


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test that reaches a server runs on each engine; with both clients, where it speaks through `store`.

    What a client does, it does in one form on each engine, and with `--torture` in each.
    """
    names = [name for name in ("engine", "transport", "form") if name in metafunc.fixturenames]
    if "engine" not in names:
        return
    needed = {mark.args[0] for mark in metafunc.definition.iter_markers("needs")}
    cases = [case for case in ALL_CASES if needed <= case[0].capabilities]
    if "transport" not in names:
        cases = [case for case in cases if case[1] == "async"]
    if metafunc.config.getoption("--torture") and "form" in names:
        cases = [(engine, transport, form) for engine, transport, _ in cases for form in FORMS]
    chosen = []
    for engine, transport, form in cases:
        values = {"engine": engine, "transport": transport, "form": form}
        told = [{"engine": engine.name, "transport": transport, "form": form}[name] for name in names]
        chosen.append(pytest.param(*(values[name] for name in names), id="-".join(told)))
    metafunc.parametrize(names, chosen, indirect=True, scope="module")


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str, obj: object) -> None:
    """A coroutine function that is a test needs a loop to run on."""
    if collector.istestfunction(obj, name) and inspect.iscoroutinefunction(obj):
        pytest.mark.usefixtures("runner")(obj)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine function on the session's loop."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names if name in pyfuncitem.funcargs}
    pyfuncitem.config.stash[RUNNER].run(pyfuncitem.obj(**arguments))
    return True


@pytest.fixture(scope="session")
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    """The one event loop: gRPC wants no second one in a process."""
    with asyncio.Runner() as found:
        request.config.stash[RUNNER] = found
        found.run(_start_grpc())
        yield found
        del request.config.stash[RUNNER]


async def _start_grpc() -> None:
    grpc.aio.init_grpc_aio()  # its thread belongs to the session, not to the first test


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test with a loop no task of it runs on, and no connection is held."""
    if "runner" not in request.fixturenames:
        yield
        return
    runner: asyncio.Runner = request.getfixturevalue("runner")
    app: Application | None = request.getfixturevalue("app") if "app" in request.fixturenames else None
    before = asyncio.all_tasks(runner.get_loop())
    yield
    assert runner.run(tasks_left(before)) == set()
    if app is not None:
        database = app.store.database
        assert runner.run(open_connections((database.writers.pool, database.readers.pool))) == 0


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[Cluster]:
    with postgres() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def sqlite_engines() -> Iterator[dict[type[Engine], Engine]]:
    with quick_folder() as folder:
        yield {Memory: Memory(folder), Sqlite: Sqlite(folder)}


@pytest.fixture(scope="module")
def engine(request: pytest.FixtureRequest) -> Engine:
    """One engine of the matrix."""
    kind: type[Engine] = request.param
    if kind is Postgres:
        return Postgres(request.getfixturevalue("postgres_cluster"))
    found: Engine = request.getfixturevalue("sqlite_engines")[kind]
    return found


@pytest.fixture(scope="module")
def transport(request: pytest.FixtureRequest) -> str:
    """Which of the two clients a test speaks through."""
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="module")
def app(runner: asyncio.Runner, engine: Engine) -> Iterator[Application]:
    """A server with the default settings on a fresh database; the tests of a module share it."""
    url = engine.fresh_url()
    before = threading.enumerate()
    with entered(runner, in_process(url)) as application:
        yield application
    assert runner.run(threads_left(before)) == set()
    engine.drop(url)


@pytest.fixture
def serve(engine: Engine) -> Callable[..., contextlib.AbstractAsyncContextManager[Application]]:
    """Starts a server of the test's own, with settings of its own, on a fresh database."""

    @contextlib.asynccontextmanager
    async def start(**settings: Any) -> Any:
        url = engine.fresh_url()
        async with in_process(url, **settings) as application:
            yield application
        engine.drop(url)

    return start


@pytest.fixture
def fresh_url(engine: Engine) -> Iterator[str]:
    """A fresh database without a server; whoever serves it has stopped when the test ends."""
    url = engine.fresh_url()
    yield url
    engine.drop(url)


@pytest.fixture
def realm() -> str:
    """A realm that no other test uses."""
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
def runtime_id() -> str:
    """A runtime that no other test uses."""
    return f"rt:session:{uuid.uuid4()}"


@pytest.fixture(scope="module")
def form(request: pytest.FixtureRequest) -> Form:
    """In which form the clients send what they are given."""
    chosen: Form = request.param
    return chosen


@pytest.fixture
def known_bytes(form: Form) -> Iterator[int]:
    """How much the clients remember. A module about damage says 0: what a client has it does not read again."""
    with sending(form) as found:
        yield found


@pytest.fixture
def client(runner: asyncio.Runner, app: Application, realm: str, known_bytes: int) -> Iterator[AsyncRuntimeStoreClient]:
    """The client for asyncio, in the test's realm."""
    with entered(runner, AsyncRuntimeStoreClient(app.address, realm=realm, known_bytes=known_bytes)) as found:
        yield found


@pytest.fixture
def store(
    request: pytest.FixtureRequest, transport: str, app: Application, realm: str, known_bytes: int
) -> Iterator[Any]:
    """Either client, in the test's realm."""
    if transport == "async":
        yield request.getfixturevalue("client")
        return
    with RuntimeStoreClient(app.address, realm=realm, known_bytes=known_bytes) as found:
        yield threaded(found)


@pytest.fixture
def channel(runner: asyncio.Runner, app: Application) -> Iterator[grpc.aio.Channel]:
    """A channel as anybody opens it: gRPC's own limit of 4 MiB a message holds."""

    async def opened() -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(app.address)

    with entered(runner, runner.run(opened())) as found:
        yield found


@pytest.fixture
def wire(channel: grpc.aio.Channel) -> runtime_store_pb2_grpc.RuntimeStoreAsyncStub:
    """The bare stub: the wire as it is, with nothing of the client's."""
    return runtime_store_pb2_grpc.RuntimeStoreStub(channel)
