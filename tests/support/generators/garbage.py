"""Requests of every method that are nearly good, or no messages at all: made for one server, repeatable from a seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from runtimestore.v1 import runtime_store_pb2 as pb
from support.generators.documents import UINT64_MAX, spellings
from support.generators.hostile_json import input_document, ops_document, session_document
from support.generators.requests import ALL

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

SERVICE = "/runtimestore.v1.RuntimeStore/"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
ELSEWHERE = (
    "/runtimestore.v1.RuntimeStoreAdmin/GetServerInfo",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/List",
    WATCH,
    REFLECTION,
)
UNKNOWN = (f"{SERVICE}DropTables", "/runtimestore.v2.RuntimeStore/AtomicApply", "/x/y", f"{SERVICE}../../etc/passwd")

HOSTILE_TEXTS = (
    "", " ", "\0", "a\0b", "../../../../etc/passwd", "/dev/null", "file:///etc/passwd", "C:\\con", ".", "..", "-", "%",
    "'; DROP TABLE runtimes; --", "' OR '1'='1", '" OR ""="', "%s%s%n", "{0.__class__}", "${jndi:ldap://x}", "`id`",
    "$(reboot)", "a\r\nb: c", "\x1b[2J", "\u202egnp", "e\u0301", "é", "\ufeff", "\U0010ffff", "😀" * 128, "😀" * 129,
    "_", "*",
    "x" * 512, "x" * 513, "x" * 100_000, "default", "DEFAULT", "a" * 63, "a" * 64, "NULL", "None", "0", "-1", "1e400",
    "\u0661", "ﬀ", "İ",
)  # fmt: skip
NUMBERS = (0, 1, 2, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, UINT64_MAX)


class Garbage(NamedTuple):
    """One call: the path of its method and the bytes of its message."""

    path: str
    message: bytes

    @property
    def method(self) -> str:
        """The name of the method; of the service itself if it is one of `requests.ALL`."""
        return self.path.removeprefix(SERVICE)


def garbage(random: random.Random, realm: str) -> Garbage:
    """The next call. Whatever of it is accepted stays in the realm, but for realms that are themselves garbage."""
    if random.random() < 0.02:
        path = random.choice((*UNKNOWN, *ELSEWHERE))
        # Whoever watches properly is answered for as long as the server lives.
        return Garbage(path, b"\xff" if path == WATCH else _no_message(random, b""))
    method = random.choice(ALL)
    message = _request(random, method, realm).SerializeToString()
    if random.random() < 0.45:
        message = random.choice(_MANGLE)(random, message)
    return Garbage(SERVICE + method, message)


def _request(random: random.Random, method: str, realm: str) -> Any:
    """A request whose every field is as it should be, or hostile; most are of the first kind."""
    request = getattr(pb, f"{method}Request")()
    fields = request.DESCRIPTOR.fields_by_name
    request.realm = realm if random.random() < 0.97 else random.choice(HOSTILE_TEXTS)
    ids = {name: new_id_of(random) for name in ("request_id", "run_id", "input_id")}
    for name, good in {"runtime_id": f"rt:session:{new_id_of(random)}", **ids}.items():
        if name in fields:
            setattr(request, name, good if random.random() < 0.93 else random.choice(HOSTILE_TEXTS))
    for name in ("if_revision", "expected_version", "sequence"):
        if name in fields and random.random() < 0.1:
            setattr(request, name, random.choice(NUMBERS))
    for name in ("input_updates", "input_states"):
        if name in fields:
            getattr(request, name).extend(_input(random) for _ in range(random.choice((0, 0, 0, 1, 1, 2))))
    for name, fill in _MESSAGES.items():
        if name in fields and random.random() < 0.95:
            fill(random, request)
    return request


def _session_delta(random: random.Random, request: Any) -> None:
    request.session_delta.session_snapshot = session_document(random)


def _session_store_key(random: random.Random, request: Any) -> None:
    if random.random() < 0.1:
        request.session_store_key = random.choice((*HOSTILE_TEXTS, new_id_of(random)))


def _state(random: random.Random, request: Any) -> None:
    request.state.CopyFrom(_input(random))


def _commit(random: random.Random, request: Any) -> None:
    request.commit.runtime_state = random.choice((1, 2, 3, 4, 5, 6, 7, 0, 8, 2**31 - 1, -1))


def _snapshot(random: random.Random, request: Any) -> None:
    request.snapshot.snapshot_json = _text(ops_document(random))


def _snapshot_json(random: random.Random, request: Any) -> None:
    request.snapshot_json = random.choice((b"", b"{}", b"\xff\0", random.randbytes(random.randint(1, 3000))))


def _boundary(random: random.Random, request: Any) -> None:
    request.receipt.CopyFrom(_receipt(random))


_MESSAGES: dict[str, Callable[[random.Random, Any], None]] = {
    "session_delta": _session_delta,
    "session_store_key": _session_store_key,
    "receipt": _boundary,
    "state": _state,
    "commit": _commit,
    "snapshot": _snapshot,
    "snapshot_json": _snapshot_json,
}
"""What fills a field that not every request has."""


def _receipt(random: random.Random) -> pb.RunBoundaryReceipt:
    receipt = pb.RunBoundaryReceipt(
        run_id=new_id_of(random) if random.random() < 0.93 else random.choice(HOSTILE_TEXTS),
        boundary=random.choice((1, 2, 3, 1, 2, 3, 0, 4, -1)),  # type: ignore[arg-type]  # what no enum holds, too
        message_count=random.choice(NUMBERS),
        sequence=random.choice(NUMBERS),
    )
    if random.random() < 0.5:
        receipt.conversation_digest = random.choice(HOSTILE_TEXTS)
    receipt.contributing_input_ids.extend(new_id_of(random) for _ in range(random.choice((0, 1, 3))))
    if random.random() < 0.05:
        receipt.contributing_input_ids.append(random.choice(HOSTILE_TEXTS))
    return receipt


def _input(random: random.Random) -> pb.StoredInputState:
    input_id = new_id_of(random)
    state = pb.StoredInputState(input_id=input_id, state_json=_text(input_document(random, input_id)))
    if random.random() < 0.1:
        state.input_id = random.choice((*HOSTILE_TEXTS, *spellings(input_id)))
    return state


def _text(document: bytes) -> str:
    """The document as a field of text can hold it; `_bad_text` is for bytes that are none."""
    return document.decode(errors="replace")


def new_id_of(random: random.Random) -> str:
    """A UUID from the seed."""
    digits = random.randbytes(16).hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _no_message(random: random.Random, _message: bytes) -> bytes:
    return random.randbytes(random.choice((0, 1, 2, 10, 100, 1000)))


def _flipped(random: random.Random, message: bytes) -> bytes:
    changed = bytearray(message)
    for _ in range(random.randint(1, 6) if changed else 0):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _cut(random: random.Random, message: bytes) -> bytes:
    start, end = sorted((random.randint(0, len(message)), random.randint(0, len(message))))
    return random.choice(
        (message[:start], message[start:], message[:start] + message[end:], message + message[start:end])
    )


def _tag(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*found, number))


def _wrong_type(random: random.Random, message: bytes) -> bytes:
    """A known field in another wire type, with something behind it that the type may or may not like."""
    payload = random.choice((b"", b"\0", b"\xff" * 12, b"\x05abc", _varint(2**64 - 1), random.randbytes(8)))
    return message + _tag(random.randint(1, 8), random.randrange(8)) + payload


def _far_fields(random: random.Random, message: bytes) -> bytes:
    """Numbers that no field has: nought, reserved ones, the last one, and beyond it."""
    field = random.choice((0, 19_000, 19_999, 2**29 - 1, 2**29, 2**61 - 1, random.randint(9, 10_000)))
    return message + _tag(field, random.choice((0, 1, 2, 5))) + random.choice((b"\0" * 8, b"\x03abc", b""))


def _huge_length(random: random.Random, message: bytes) -> bytes:
    length = random.choice((2**20, 2**31 - 1, 2**31, 2**32, 2**63, 2**64 - 1))
    return message + _tag(random.randint(1, 12), 2) + _varint(length) + b"abc"


def _overlong(random: random.Random, message: bytes) -> bytes:
    """Varints that never end, or are longer than any number."""
    return message + random.choice((b"\x80" * 5, b"\x80" * 11 + b"\0", b"\xff" * 100, b"\x08" + b"\x80" * 9 + b"\x7f"))


def _deep(random: random.Random, message: bytes) -> bytes:
    """Messages or groups in each other."""
    depth = random.choice((50, 99, 101, 1_000, 20_000))
    if random.random() < 0.5:
        return message + _tag(random.randint(1, 20), 3) * depth
    nested = b""
    for _ in range(min(depth, 1_000)):
        nested = _tag(5, 2) + _varint(len(nested)) + nested
    return message + nested


def _bad_text(random: random.Random, message: bytes) -> bytes:
    bad = random.choice((b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"rt:\x80"))
    return message + _tag(random.randint(1, 3), 2) + _varint(len(bad)) + bad


def _again(random: random.Random, message: bytes) -> bytes:
    """The same message behind itself: the last of each field counts, lists grow, inner messages merge."""
    return message * random.choice((2, 3))


def _padded(random: random.Random, message: bytes) -> bytes:
    """A field that nobody knows, as large as it likes to be."""
    size = random.choice((10, 70_000, 70_000, 3_000_000))
    return message + _tag(1000, 2) + _varint(size) + b"x" * size


_MANGLE: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _no_message, _flipped, _flipped, _cut, _wrong_type, _far_fields, _huge_length, _overlong, _bad_text, _again,
    *(_flipped, _cut, _wrong_type) * 3, _deep, _padded,
)  # fmt: skip


def unknown_field(size_bytes: int) -> bytes:
    """A message of any type that is as large as this: field 100, unknown to all, with a length that is a varint."""
    length = bytes(
        [size_bytes & 127 | 128, size_bytes >> 7 & 127 | 128, size_bytes >> 14 & 127 | 128, size_bytes >> 21]
    )
    return b"\xa2\x06" + length + bytes(size_bytes)
