"""Canaries: what is secret is planted everywhere, and looked for in everything that anybody can read."""

from __future__ import annotations

import base64
import contextlib
import itertools
import resource
import signal
from typing import TYPE_CHECKING, Any

import grpc
import psutil
import pytest
from sqlalchemy.engine import make_url

from runtimestore import AsyncRuntimeStoreClient, RetryPolicy, RuntimeStoreClient, RuntimeStoreError, Tls
from runtimestore.v1 import runtime_store_pb2 as pb
from runtimestore.v1 import runtime_store_pb2_grpc as rpc
from support.checkers.scraping import LISTEN, get, metrics_address
from support.generators.documents import new_id, session
from support.servers.access import access_file, ca, entry, new_token, put, server_files
from support.servers.collector import Collector
from support.servers.command import run, serving
from support.servers.server_process import SERVE

if TYPE_CHECKING:
    from pathlib import Path

DOCUMENT, OAUTH, PASSWORD = "canary-document-51", "canary-oauth-52", "canary-password-53"
RUNTIME, REALM = "rt:canary-runtime-55", "canary-realm-56"


@pytest.mark.parametrize(("level", "style"), list(itertools.product(["debug", "info"], ["text", "json"])))
def test_no_secret_is_in_the_log_the_errors_or_the_list_of_processes(tmp_path: Path, level: str, style: str) -> None:
    token, wrong, reader = new_token(), new_token(), new_token()
    files = server_files(tmp_path)
    key = files["tls_key"].read_text().splitlines()[2]
    path = access_file(tmp_path / "access.toml", [entry("agents", token), entry("reader", reader, access="read")])
    extra = {f"RUNTIMESTORE_{name.upper()}": str(file) for name, file in files.items()}
    extra |= {"RUNTIMESTORE_LOG_LEVEL": level, "RUNTIMESTORE_LOG_FORMAT": style}
    said: list[str] = []
    listening = ("--listen", "127.0.0.1:0", "--database-url", "memory:", "--access-file", str(path))
    scraped = ("--metrics-listen", LISTEN["metrics_listen"])
    with serving(*listening, *scraped, cwd=tmp_path, extra=extra, command=SERVE) as server:
        for given in (token, wrong, reader):
            tls = Tls(ca=ca().cert_pem.bytes())
            with (
                RuntimeStoreClient(server.address, tls=tls, token=given) as client,
                RuntimeStoreClient(server.address, tls=tls, token=given, realm=REALM) as elsewhere,
            ):
                calls: list[Any] = [
                    lambda c=client: c.commit_session_snapshot("rt:session:x", session(title=DOCUMENT)),
                    lambda c=client: c.commit_session_snapshot("rt:session:x", f'{{"id": "{DOCUMENT}"}}'),
                    lambda c=client: c.persist_auth_oauth_flow_snapshot(OAUTH.encode()),
                    lambda c=client: c.load_auth_oauth_flow_snapshot(),
                    lambda c=client: c.load_runtime_state(RUNTIME),
                    lambda c=elsewhere: c.load_runtime_state(RUNTIME),
                ]
                for call in calls:
                    try:
                        call()
                    except RuntimeStoreError as error:
                        said += [repr(error), str(error), str(error.metadata), str(error.__cause__)]
                said.append(repr(client))
        # Read while it runs: a file of access and a key that cannot be used, with secrets in them.
        access_file(path, [entry("agents", token), f"token = {token}"])
        put(files["tls_key"], f"{key}\n".encode())
        for _ in range(2):
            with RuntimeStoreClient(server.address, tls=Tls(ca=ca().cert_pem.bytes()), token=token) as client:
                client.get_server_info()
        said += psutil.Process(server.pid).cmdline()
        shown = [get(metrics_address(server), path)[1] for path in ("/metrics", "/healthz", "/readyz?verbose", "/x")]
        assert all(shown)
        said += shown
    said.append(server.log)
    assert ("cannot be used" in server.log) is True
    secrets = [token, wrong, reader, key, DOCUMENT, OAUTH]
    encoded = [base64.b64encode(secret.encode()).decode().rstrip("=") for secret in secrets]
    assert [secret for secret in (*secrets, *encoded) if any(secret in text for text in said)] == []
    # Nor has a metric what callers choose: each name would be a series for ever.
    assert [name for name in (RUNTIME, REALM) if any(name in text for text in shown)] == []


@pytest.mark.parametrize(
    ("given", "warned"),
    [
        (("--database-url", f"postgresql://app:{PASSWORD}@127.0.0.1:1/x"), True),
        (("--database-url", f"postgresql://app@127.0.0.1:1/x?password={PASSWORD}"), True),
        (("--database-url", "postgresql://app@127.0.0.1:1/x?passfile=nowhere"), False),
        ((), False),
    ],
)
def test_a_password_in_a_flag_is_warned_of_and_not_repeated(
    tmp_path: Path, given: tuple[str, ...], warned: bool
) -> None:
    extra = {} if given else {"RUNTIMESTORE_DATABASE_URL": f"postgresql://app:{PASSWORD}@127.0.0.1:1/x"}
    done = run("serve", "--listen", "127.0.0.1:0", *given, cwd=tmp_path, extra=extra)

    assert done.returncode == 1
    assert ("the database's password is in a flag" in done.stderr) is warned
    assert PASSWORD not in done.stderr


def test_a_crash_leaves_no_dump_of_the_memory(tmp_path: Path) -> None:
    unlimited = ("sh", "-c", 'ulimit -S -c "$(ulimit -H -c)"; exec "$@"', "sh", *SERVE)
    listening = ("--listen", "127.0.0.1:0", "--database-url", "memory:")
    with serving(*listening, cwd=tmp_path, command=unlimited, exit_code=-signal.SIGSEGV) as server:
        assert resource.prlimit(server.pid, resource.RLIMIT_CORE)[0] <= 1
        server.send_signal(signal.SIGSEGV)
        server.wait()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.needs("durable")
def test_no_secret_is_in_a_trace(tmp_path: Path, fresh_url: str) -> None:
    token, wrong, header = new_token(), new_token(), "canary-header-54"
    path = access_file(tmp_path / "access.toml", [entry("agents", token)])
    with Collector() as collector:
        extra = collector.environment | {"OTEL_EXPORTER_OTLP_HEADERS": f"authorization={header}"}
        listening = ("--listen", "127.0.0.1:0", "--database-url", fresh_url, "--access-file", str(path))
        with serving(*listening, "--log-calls", cwd=tmp_path, extra=extra) as server:
            for shown in (token, wrong):
                with RuntimeStoreClient(server.address, token=shown, retry=RetryPolicy(max_attempts=1)) as client:
                    calls: list[Any] = [
                        lambda c=client: c.commit_session_snapshot("rt:session:x", session(title=DOCUMENT)),
                        lambda c=client: c.commit_session_snapshot("rt:session:x", f'{{"id": "{DOCUMENT}"}}'),
                        lambda c=client: c.persist_auth_oauth_flow_snapshot(OAUTH.encode()),
                        lambda c=client: c.persist_auth_oauth_flow_snapshot(OAUTH.encode(), request_id=new_id()),
                        lambda c=client: c.load_auth_oauth_flow_snapshot(),
                        lambda c=client: c.load_session_snapshot("rt:session:x"),
                    ]
                    for call in calls:
                        with contextlib.suppress(RuntimeStoreError):
                            call()
                with grpc.insecure_channel(server.address) as channel, contextlib.suppress(grpc.RpcError):
                    request = pb.LoadRuntimeStateRequest(runtime_id="rt:session:x")
                    context = ("traceparent", f"00-{token}"), ("tracestate", wrong), ("baggage", f"k={token}")
                    stub = rpc.RuntimeStoreStub(channel)
                    stub.LoadRuntimeState(request, metadata=(("authorization", f"Bearer {shown}"), *context))
        told, calls_seen = collector.text, [span for span in collector.seen if span.kind == "server"]
    secrets = [token, wrong, header, DOCUMENT, OAUTH]
    if password := make_url(fresh_url).password if "://" in fresh_url else None:
        secrets.append(password)
    encoded = [base64.b64encode(secret.encode()).decode().rstrip("=") for secret in secrets]
    assert len(calls_seen) == 14
    assert [secret for secret in (*secrets, *encoded) if secret in told or secret in server.log] == []


def test_no_command_repeats_a_secret_that_it_was_given(tmp_path: Path) -> None:
    token = new_token()
    bad = tmp_path / "access.toml"
    bad.write_text(f"[[principal]]\nname = {token}\n")
    mistakes: list[tuple[list[str], dict[str, str]]] = [
        (["serve", "--access-file", str(bad)], {}),
        (["serve", "--token", token], {}),
        (["serve", "--insecure", token], {}),
        (["token", "new", "x", "--realm", "*", "--access", token], {}),
        (["token", "new", token + "\n", "--realm", "*", "--access", "read", "--access-file", "new.toml"], {}),
        (["token", "new", "x", "--realm", token, "--access", "read", "--access-file", "new.toml"], {}),
        (["token", "new", "x", "--realm", "*", "--access", "read", "--access-file", str(bad)], {}),
        (["token", "new", "x", "--realm", "*", "--access", "read", "--until", token], {}),
        (["token", "list", "--access-file", str(bad)], {}),
        (["token", "list", token], {}),
        (["token", token], {}),
        (["health", "--token", token], {}),
        (["health", "--address", "store.invalid:1"], {"RUNTIMESTORE_CLIENT_TOKEN": token}),
        (["health", "--address", "127.0.0.1:1"], {"RUNTIMESTORE_CLIENT_TOKEN": f"{token} {token}"}),
        (["health", "--address", "127.0.0.1:1"], {"RUNTIMESTORE_CLIENT_TOKEN": token}),
        (["health", "--help"], {"RUNTIMESTORE_CLIENT_TOKEN": token}),
        (
            ["serve", "--listen", "0.0.0.0:0"],
            {"RUNTIMESTORE_DATABASE_URL": f"postgresql://app:{PASSWORD}@127.0.0.1:1/x"},
        ),
        (["serve", "--help"], {"RUNTIMESTORE_DATABASE_URL": f"postgresql://app:{PASSWORD}@127.0.0.1:1/x"}),
    ]
    for arguments, extra in mistakes:
        done = run(*arguments, cwd=tmp_path, extra=extra)
        told = done.stdout + done.stderr
        assert told, arguments
        assert token not in told, arguments
        assert PASSWORD not in told, arguments
        assert "Traceback" not in told, arguments
        assert (done.returncode == 0) is ("--help" in arguments), arguments


@pytest.mark.parametrize("client", [AsyncRuntimeStoreClient, RuntimeStoreClient])
@pytest.mark.parametrize("shape", ["{} {}", "{}\n", " {}", "ü{}"])
def test_a_client_quotes_nothing_of_a_token_that_cannot_be_one(client: Any, shape: str) -> None:
    token = new_token()
    with pytest.raises(ValueError, match="token") as raised:
        client("127.0.0.1:1", token=shape.format(token, token))
    assert token not in str(raised.value)
    assert "canary" not in repr(Tls(certificate="c.pem", key=b"canary"))


def test_what_a_token_command_prints_is_the_token_alone_and_the_file_does_not_hold_it(tmp_path: Path) -> None:
    made = ["token", "new", "agents", "--realm", "default", "--access", "write", "--access-file", "access.toml"]
    done = run(*made, cwd=tmp_path)
    token = done.stdout.strip()

    assert done.returncode == 0
    assert token.startswith("rst_")
    assert done.stderr == ""
    assert token not in (tmp_path / "access.toml").read_text()
    assert (tmp_path / "access.toml").stat().st_mode & 0o077 == 0
    assert token not in run("token", "list", "--access-file", "access.toml", cwd=tmp_path).stdout
