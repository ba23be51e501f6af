"""Names a store to an operator: by its file, or its host and database, and never with a password."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote

from runtimestore_server.store.engines import parse_url

MEMORY = "memory:"


def describe(url: str) -> str:
    """Return the store behind a URL, such as `sqlite:/var/lib/store.db` or `postgresql:host:5432/database`.

    It connects to nothing. What the URL leaves open is told as libpq fills it in, from the environment.

    Raises:
        ValueError: the URL is none; the message quotes no part of it.
    """
    if url == MEMORY:
        return MEMORY
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        return f"sqlite:{Path(str(parsed.database)).absolute()}"
    asked = {name: (value,) if isinstance(value, str) else tuple(value) for name, value in parsed.query.items()}
    hosts = [unquote(parsed.host)] if parsed.host else list(asked.get("host") or asked.get("hostaddr") or ())
    if parsed.host and parsed.port:
        hosts = [f"{parsed.host}:{parsed.port}"]
    if not hosts:
        hosts = [os.environ.get("PGHOST") or os.environ.get("PGHOSTADDR") or "the local socket"]
    user = parsed.username or os.environ.get("PGUSER")
    (database,) = asked.get("dbname", (parsed.database or os.environ.get("PGDATABASE") or user or "",))[:1]
    return f"postgresql:{','.join(hosts)}/{database}"


def survives(url: str) -> str:
    """Tell whether what is written outlives the server, in a few words for a person."""
    if url == MEMORY:
        return "gone when the server stops: this store is in memory only"
    if parse_url(url).get_backend_name() == "sqlite":
        return "survives restarts and crashes, as long as this file and its -wal do"
    return "survives restarts and crashes of this server; the database's own settings decide about its machine"
