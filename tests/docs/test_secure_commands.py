"""What the pages show of TLS and tokens is run as it stands, against servers that ask for both."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from support.checkers.grpcurl import command_path
from support.checkers.markdown import Block, blocks
from support.servers.access import access_file, ca, entry, new_token, put
from support.servers.server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTED = ("store.example.org:50051", "127.0.0.1:50051")
BLOCKS = [(page.name, block) for page in PAGES for block in blocks(page) if block.is_secure]


class Protected(NamedTuple):
    """Servers that ask who calls, one of them for certificates, and the files beside which a command is run."""

    folder: Path
    token: str
    asks_for_tokens: str
    asks_for_certificates: str

    def address_for(self, command: str) -> str:
        """The server that a command is meant for."""
        return self.asks_for_certificates if "-cert " in command else self.asks_for_tokens


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Protected]:
    """Two servers on empty stores, and `ca.pem`, `client.pem` and `client.key`."""
    folder = tmp_path_factory.mktemp("protected")
    for name, made in (
        ("server", ca().issue_cert("localhost", "127.0.0.1", "store.example.org")),
        ("client", ca().issue_cert("worker.example.org")),
    ):
        put(folder / f"{name}.pem", b"".join(blob.bytes() for blob in made.cert_chain_pems))
        put(folder / f"{name}.key", made.private_key_pem.bytes())
    put(folder / "ca.pem", ca().cert_pem.bytes())
    entries = [
        entry("agents", token := new_token(), access="read"),
        entry("worker", certificate_sans=["worker.example.org"], access="read"),
    ]
    settings: dict[str, Any] = {
        "tls_cert": str(folder / "server.pem"),
        "tls_key": str(folder / "server.key"),
        "access_file": str(access_file(folder / "access.toml", entries)),
    }
    with (
        ServerProcess("memory:", **settings) as tokens,
        ServerProcess("memory:", tls_client_ca=str(folder / "ca.pem"), **settings) as certificates,
    ):
        yield Protected(folder, token, tokens.address, certificates.address)


def run(block: Block, text: str, at: Protected, commands: Path) -> subprocess.CompletedProcess[str]:
    """Run a line, or a program, where its files are."""
    for documented in DOCUMENTED:
        text = text.replace(documented, at.address_for(text))
    text = text.replace(".venv/bin/", f"{commands}/")
    argv = {"sh": ["bash", "-euo", "pipefail", "-c", text], "python": [sys.executable, "-c", text]}[block.language]
    environment = {**os.environ, "PATH": os.pathsep.join([str(commands), command_path()]), "TOKEN": at.token}
    return subprocess.run(argv, cwd=at.folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(("page", "block"), BLOCKS, ids=[f"{page}:{block.line}" for page, block in BLOCKS])
def test_every_command_that_a_page_shows_with_tls_is_let_in(
    page: str, block: Block, protected: Protected, commands: Path
) -> None:
    lines = block.text.splitlines() if block.language == "sh" else [block.text]
    for line in lines:
        done = run(block, line, protected, commands)
        assert done.returncode == 0, f"{page}: {line}\n{done.stdout}{done.stderr}"


def test_the_same_commands_are_refused_with_a_token_that_nobody_has(protected: Protected, commands: Path) -> None:
    stranger = protected._replace(token=new_token())
    with_token = [(block, line) for _, block in BLOCKS for line in block.text.splitlines() if "$TOKEN" in line]

    assert with_token
    for block, line in with_token:
        assert run(block, line, stranger, commands).returncode != 0, line


def test_the_pages_show_a_token_and_a_certificate_with_grpcurl() -> None:
    for page in ("README.md", "clients.md"):
        shown = "".join(block.text for name, block in BLOCKS if name == page)
        assert 'grpcurl -cacert ca.pem -H "authorization: Bearer $TOKEN"' in shown
        assert "grpcurl -cacert ca.pem -cert client.pem -key client.key" in shown
    assert {"README.md", "clients.md", "operations.md"} == {name for name, _ in BLOCKS}
