"""What of a server's ways is switched on when it is measured: metrics that are scraped, TLS, tokens, or all of them."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtimestore_server.access.tokens import digest_of, new_token

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

METRICS, TLS, TOKENS = "metrics", "tls", "tokens"

PLAIN, ALL = "plain", "all"

PARTS: dict[str, frozenset[str]] = {
    PLAIN: frozenset(),
    METRICS: frozenset({METRICS}),
    TLS: frozenset({TLS}),
    TOKENS: frozenset({TOKENS}),
    ALL: frozenset({METRICS, TLS, TOKENS}),
}
"""What is on in each variant."""

SCRAPES_EVERY_SECONDS = 1.0

TOKEN_VARIABLE = "BENCH_TOKEN"  # noqa: S105  (its name)
"""Where a load generator finds the token: the list of processes shows flags."""

_METRICS_ADDRESS = re.compile(r"metrics_address=(\S+)")


@dataclass(frozen=True)
class Variant:
    """How one server is started, and what those who call it need."""

    name: str
    options: tuple[str, ...] = ()
    """Of `runtimestore serve`."""
    ca: Path | None = None
    token: str | None = None

    @property
    def suffix(self) -> str:
        """What the name of a target ends with."""
        return "" if self.name == PLAIN else f"+{self.name}"

    @property
    def is_scraped(self) -> bool:
        """Whether its metrics are asked for while it is measured."""
        return METRICS in PARTS[self.name]

    @property
    def flags(self) -> dict[str, object]:
        """What a load generator is told."""
        return {} if self.ca is None else {"--tls-ca": self.ca}

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a load generator."""
        return {**os.environ, **({} if self.token is None else {TOKEN_VARIABLE: self.token})}


def made(name: str, folder: Path) -> Variant:
    """A variant with the files that it needs, which are put into a folder."""
    parts = PARTS[name]
    options = ["--metrics-listen", "127.0.0.1:0" if METRICS in parts else ""]
    ca = token = None
    if TLS in parts:
        import trustme

        authority = trustme.CA()
        certificate = authority.issue_cert("localhost", "127.0.0.1")
        ca, chain, key = (folder / f"{name}-{file}.pem" for file in ("ca", "cert", "key"))
        authority.cert_pem.write_to_path(str(ca))
        chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
        key.touch(0o600)
        certificate.private_key_pem.write_to_path(str(key))
        options += ["--tls-cert", str(chain), "--tls-key", str(key)]
    if TOKENS in parts:
        token = new_token()
        rules = folder / f"{name}-access.toml"
        rules.write_text(
            f'[[principal]]\nname = "bench"\ntoken_sha256 = ["{digest_of(token).hex()}"]\n'
            'realms = ["default"]\naccess = "write"\n',
            encoding="utf-8",
        )
        options += ["--access-file", str(rules)]
    return Variant(name, tuple(options), ca, token)


def metrics_url(log: str) -> str:
    """Where the server that wrote this log tells its metrics.

    Raises:
        LookupError: it does not tell where.
    """
    if (found := _METRICS_ADDRESS.search(log)) is None:
        raise LookupError("the server tells no metrics_address")
    return f"http://{found[1]}/metrics"


@contextlib.contextmanager
def scraped(url: str) -> Iterator[None]:
    """Inside, the metrics at this URL are asked for every second, as Prometheus would rather often do.

    Raises:
        OSError: the last scrape failed.
    """
    ends = threading.Event()
    failed: list[OSError] = []
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever http_proxy says

    def scrape() -> None:
        while True:
            failed.clear()
            try:
                with direct.open(url, timeout=10) as answer:
                    answer.read()
            except OSError as error:
                failed.append(error)
            if ends.wait(SCRAPES_EVERY_SECONDS):
                return

    thread = threading.Thread(target=scrape, name="scrapes", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()
    if failed:
        raise failed[0]
