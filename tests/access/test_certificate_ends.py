"""The end of a certificate in force is told in time: once a day for a long life, in its last tenth for a short one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import structlog.testing

from runtimestore_server.access.tls import Certificates
from support.generators.certificates import DAY, intermediate, issued, root
from support.servers.access import files_of

if TYPE_CHECKING:
    from pathlib import Path


class Clock:
    """A time that tests move."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        """The time."""
        return datetime.now(UTC) + self.ahead


@pytest.mark.parametrize("what", ["the certificate", "one between it and its CA", "the CA of clients"])
def test_the_end_of_what_is_in_force_is_told_ahead_once_a_day_and_it_serves_on(tmp_path: Path, what: str) -> None:
    clock = Clock()
    short, between, ca = 365 * DAY, intermediate(), None
    if what == "the certificate":
        short = 100 * DAY
    elif what == "one between it and its CA":
        between = issued(root(), names=(), common_name="between", is_ca=True, ends=100 * DAY)
    else:
        ca = issued(names=(), common_name="clients", is_ca=True, ends=100 * DAY).pem
    files = files_of(tmp_path, issued(between, ends=short), between, client_ca=ca)
    certificates = Certificates(files["tls_cert"], files["tls_key"], files.get("tls_client_ca"), clock)
    assert certificates.warning is None

    def logged() -> list[str]:
        with structlog.testing.capture_logs() as lines:
            certificates.look(again=True)
            certificates.tell_of_ends()
        return [line["error"] for line in lines if line["log_level"] == "warning"]

    clock.ahead = 85 * DAY
    assert logged() == []
    clock.ahead = 91 * DAY
    assert [certificates.warning] == logged()
    assert certificates.warning is not None
    assert "it ends at" in certificates.warning
    assert logged() == []
    clock.ahead += DAY
    assert len(logged()) == 1
    clock.ahead = 101 * DAY
    assert "ended at" in certificates.warning
    assert len(logged()) == 1
    assert logged() == []
    assert certificates.unusable is None
    files_of(tmp_path, issued(intermediate(), ends=364 * DAY), intermediate(), client_ca=ca and root().pem)
    assert logged() == []
    assert certificates.warning is None


def test_a_certificate_of_a_short_life_is_told_of_in_the_last_tenth_of_it(tmp_path: Path) -> None:
    clock = Clock()
    files = files_of(tmp_path, issued(intermediate(), begins=timedelta(), ends=timedelta(hours=10)))
    certificates = Certificates(files["tls_cert"], files["tls_key"], None, clock)
    clock.ahead = timedelta(hours=8, minutes=50)
    assert certificates.warning is None
    clock.ahead = timedelta(hours=9, minutes=10)
    assert certificates.warning is not None
