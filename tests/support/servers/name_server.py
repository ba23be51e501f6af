"""A name server on loopback that knows one name."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_HEADER = struct.Struct("!6H")
_TYPE_A = 1
_ANSWERED = 0x8180
_POINTER_TO_THE_NAME = 0xC000 | _HEADER.size


@contextlib.contextmanager
def name_server(name: str, addresses: Sequence[str]) -> Iterator[str]:
    """HOST:PORT of a server that answers `name` with these IPv4 addresses, and whatever else with none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        asked = threading.Thread(target=_serve, args=(bound, name, addresses), daemon=True)
        asked.start()
        port = bound.getsockname()[1]
        try:
            yield f"127.0.0.1:{port}"
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
                end.sendto(b"", ("127.0.0.1", port))
            asked.join()


def _serve(bound: socket.socket, name: str, addresses: Sequence[str]) -> None:
    while question := (received := bound.recvfrom(4096))[0]:
        bound.sendto(_answer(question, name, addresses), received[1])


def _answer(message: bytes, name: str, addresses: Sequence[str]) -> bytes:
    """RFC 1035, section 4: the header, the question again, and a record for each address."""
    number = _HEADER.unpack_from(message)[0]
    wanted = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"
    end = message.index(b"\0", _HEADER.size) + 1
    kind = struct.unpack_from("!H", message, end)[0]
    question = message[_HEADER.size : end + 4]
    found = addresses if kind == _TYPE_A and question.startswith(wanted) else ()
    records = [
        struct.pack("!HHHIH4s", _POINTER_TO_THE_NAME, _TYPE_A, 1, 60, 4, ipaddress.IPv4Address(address).packed)
        for address in found
    ]
    return _HEADER.pack(number, _ANSWERED, 1, len(records), 0, 0) + question + b"".join(records)
