from __future__ import annotations

import asyncio
import subprocess
import sys

from support.servers.scripted_store import Script, scripted_store


def test_importing_the_client_loads_neither_the_server_nor_what_only_the_server_needs() -> None:
    program = "import runtimestore, sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)

    loaded = set(done.stdout.split())
    assert {"grpc", "google", "runtimestore"} <= loaded
    assert not loaded & {
        *("runtimestore_server", "runtimestore_migrations", "sqlalchemy", "alembic", "psycopg", "msgspec"),
        *("pydantic", "structlog", "uvloop", "rich", "grpc_status"),
    }


async def test_a_client_imports_nothing_of_opentelemetry_for_who_does_not_trace() -> None:
    # In a process of its own: of this one other tests have made an application that traces.
    script = Script()
    async with scripted_store(script) as address:
        program = (
            "import runtimestore, sys\n"
            f"with runtimestore.RuntimeStoreClient({address!r}) as client: client.load_runtime_state('rt:one')\n"
            "print(*(name for name in sys.modules if name.startswith('opentelemetry')))"
        )
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=subprocess.PIPE)
        told, _ = await process.communicate()

    assert (process.returncode, told.split()) == (0, [])
    assert len(script.requests["LoadRuntimeState"]) == 1


def test_what_the_package_exports_is_there() -> None:
    import runtimestore

    assert [name for name in runtimestore.__all__ if not hasattr(runtimestore, name)] == []


def test_every_error_class_is_exported() -> None:
    import runtimestore
    from runtimestore import errors

    assert {name for name in errors.__all__ if name[0].isupper() and name not in {"DOMAIN", "REFUSALS"}} <= set(
        runtimestore.__all__
    )
