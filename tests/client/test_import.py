from __future__ import annotations

import subprocess
import sys


def test_importing_the_client_loads_neither_the_server_nor_what_only_the_server_needs() -> None:
    program = "import runtimestore, sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)

    loaded = set(done.stdout.split())
    assert {"grpc", "google", "runtimestore"} <= loaded
    assert not loaded & {
        *("runtimestore_server", "runtimestore_migrations", "sqlalchemy", "alembic", "psycopg", "msgspec"),
        *("pydantic", "structlog", "uvloop", "rich", "grpc_status"),
    }


def test_what_the_package_exports_is_there() -> None:
    import runtimestore

    assert [name for name in runtimestore.__all__ if not hasattr(runtimestore, name)] == []


def test_every_error_class_is_exported() -> None:
    import runtimestore
    from runtimestore import errors

    assert {name for name in errors.__all__ if name[0].isupper() and name not in {"DOMAIN", "REFUSALS"}} <= set(
        runtimestore.__all__
    )
