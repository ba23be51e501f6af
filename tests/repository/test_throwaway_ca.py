"""`scripts/throwaway-ca` makes certificates that TLS takes, with keys that nobody else reads."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the script is openssl's")
def test_a_server_and_a_client_have_certificates_of_one_ca_and_its_key_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    made = subprocess.run(
        [ROOT / "scripts" / "throwaway-ca", folder, "db.example.org"], capture_output=True, text=True, check=False
    )

    assert made.returncode == 0, made.stderr
    assert not (folder / "ca.key").exists()
    for name in ("server", "client"):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.pem"))
        context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
        assert (folder / f"{name}.key").stat().st_mode & 0o077 == 0
        subprocess.run(
            ["openssl", "verify", "-CAfile", folder / "ca.pem", folder / f"{name}.pem"], check=True, capture_output=True
        )
    text = subprocess.run(
        ["openssl", "x509", "-in", folder / "server.pem", "-noout", "-text"], check=True, capture_output=True, text=True
    ).stdout
    assert "DNS:db.example.org" in text
