"""What arrives at a port from everywhere: other protocols, broken HTTP/2, and gRPC calls with broken frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED = 0x1, 0x4, 0x8

METHODS = ("PersistInputState", "AtomicApply", "LoadSessionSnapshot", "CommitSessionSnapshot", "AuthAuthorityKey", "No")


def hostile_bytes(random: random.Random) -> bytes:
    """All that one connection sends before it hangs up."""
    return random.choice(_KINDS)(random)


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0, length: int | None = None) -> bytes:
    """An HTTP/2 frame; `length` lies about the payload."""
    told = len(payload) if length is None else length
    return told.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def header(name: bytes, value: bytes) -> bytes:
    """A header as HPACK writes one that it neither indexes nor compresses."""
    return b"\0" + _integer(len(name)) + name + _integer(len(value)) + value


def _integer(number: int) -> bytes:
    """An integer with a prefix of seven bits, the eighth being nought: no Huffman code."""
    if number < 127:
        return bytes((number,))
    found = bytearray((127,))
    number -= 127
    while number > 127:
        found.append(number % 128 + 128)
        number //= 128
    return bytes((*found, number))


def _opening(random: random.Random) -> bytes:
    return PREFACE + random.choice((frame(SETTINGS), frame(SETTINGS, b"\0\x03\0\0\0\x64"), b""))


def _call(path: str, *more: tuple[bytes, bytes], stream: int = 1, flags: int = END_HEADERS) -> bytes:
    headers = (
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", path.encode()), (b":authority", b"x"),
        (b"content-type", b"application/grpc"), (b"te", b"trailers"), *more,
    )  # fmt: skip
    return frame(HEADERS, b"".join(header(*item) for item in headers), flags=flags, stream=stream)


def _path(random: random.Random) -> str:
    return f"/runtimestore.v1.RuntimeStore/{random.choice(METHODS)}"


def _junk(random: random.Random) -> bytes:
    return random.randbytes(random.choice((1, 8, 9, 24, 100, 4096)))


def _http1(random: random.Random) -> bytes:
    first = random.choice(
        (b"GET / HTTP/1.1", b"POST /x HTTP/1.0", b"PRI * HTTP/1.1", b"CONNECT a:1 HTTP/1.1", b"GET /" + b"a" * 9000)
    )
    return first + b"\r\nHost: x\r\nContent-Length: 99999999999\r\nUpgrade: h2c\r\n\r\n" + _junk(random)


def _tls(random: random.Random) -> bytes:
    hello = b"\x01" + (200).to_bytes(3, "big") + b"\x03\x03" + random.randbytes(198)
    return b"\x16\x03\x01" + len(hello).to_bytes(2, "big") + hello


def _other_protocol(random: random.Random) -> bytes:
    return random.choice(
        (
            b"\0\0\0\x08\x04\xd2\x16\x2f",
            b"*1\r\n$4\r\nPING\r\n",
            b"EHLO x\r\n",
            b"SSH-2.0-x\r\n",
            b"\x05\x01\0",
            b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
        )
    )


def _broken_preface(random: random.Random) -> bytes:
    return PREFACE[: random.randrange(len(PREFACE))] + random.choice((b"", b"\0", PREFACE))


def _random_frames(random: random.Random) -> bytes:
    frames = (
        frame(
            random.randrange(12),
            random.randbytes(random.randint(0, 60)),
            flags=random.randrange(256),
            stream=random.choice((0, 1, 2, 3, 2**31 - 1)),
        )
        for _ in range(random.randint(1, 20))
    )
    return _opening(random) + b"".join(frames)


def _lying_frame(random: random.Random) -> bytes:
    length = random.choice((0, 1, 2**14 + 1, 2**24 - 1))
    return _opening(random) + frame(random.randrange(10), _junk(random), stream=random.randrange(3), length=length)


_REPEATED = (
    frame(PING, b"12345678"), frame(SETTINGS), frame(SETTINGS, b"\0\x04\xff\xff\xff\xff"), frame(GOAWAY, b"\0" * 8),
    frame(PRIORITY, b"\0\0\0\1\0", stream=1),
    frame(WINDOW_UPDATE, b"\x7f\xff\xff\xff"), frame(WINDOW_UPDATE, b"\0" * 4),
    frame(RST_STREAM, b"\0\0\0\x08", stream=1), frame(PUSH_PROMISE, b"\0\0\0\2", stream=1),
)  # fmt: skip


def _flood(random: random.Random) -> bytes:
    return _opening(random) + random.choice(_REPEATED) * random.choice((2, 50, 1000))


def _bad_hpack(random: random.Random) -> bytes:
    block = random.choice((b"\xff" * 20, b"\x80", b"\x3f\xff\xff\xff\xff\x7f", b"\0\x85abc", random.randbytes(40)))
    return _opening(random) + frame(
        HEADERS, block, flags=END_HEADERS | random.choice((0, END_STREAM, PADDED)), stream=1
    )


def _unending_headers(random: random.Random) -> bytes:
    more = frame(CONTINUATION, header(b"a", b"b" * 1000), stream=1)
    return _opening(random) + _call(_path(random), flags=0) + more * random.choice((1, 20, 200))


_ODD_HEADERS = (
    (b"grpc-timeout", b"99999999999999H"), (b"grpc-timeout", b"-1S"), (b"grpc-timeout", b"0n"), (b":unknown", b"x"),
    (b"grpc-encoding", b"gzip"), (b"grpc-encoding", b"x" * 500), (b"UPPER", b"x"), (b"a-bin", b"!!!"), (b"", b""),
    (b"x", b"\0\r\n"), (b"x", b"y" * 20_000), (b":path", b"/twice"), (b"content-type", b"text/html"),
    (b"grpc-status-details-bin", b"AAAA"),
)  # fmt: skip


def _bad_headers(random: random.Random) -> bytes:
    path = random.choice((_path(random), "", "/", "x", "/\0", "/" + "a" * 5000, "*"))
    call = _call(path, random.choice(_ODD_HEADERS))
    return _opening(random) + call + frame(DATA, b"\0\0\0\0\0", flags=END_STREAM, stream=1)


def _bad_message(random: random.Random) -> bytes:
    """A well-made call whose message has a prefix that lies, a flag that nobody knows, or no end."""
    body = _junk(random)
    flag = random.choice((0, 1, 2, 255))
    length = random.choice((0, 1, len(body), len(body) + 1, 2**22, 2**27, 2**31, 2**32 - 1))
    message = bytes((flag,)) + length.to_bytes(4, "big") + body
    message = random.choice((message, message[: random.randint(0, 5)], message * 2, b""))
    more = random.choice(((), ((b"grpc-encoding", b"gzip"),), ((b"grpc-encoding", b"deflate"),)))
    return (
        _opening(random)
        + _call(_path(random), *more)
        + frame(DATA, message, flags=random.choice((0, END_STREAM)), stream=1)
    )


def calls_out_of_time(path: str, count: int) -> bytes:
    """So many calls of a method that are given no time, so that each is over when the server comes to answer it."""
    flags = END_HEADERS | END_STREAM
    calls = (_call(path, (b"grpc-timeout", b"0n"), stream=stream, flags=flags) for stream in range(1, 2 * count, 2))
    return PREFACE + frame(SETTINGS) + b"".join(calls)


def _rapid_resets(random: random.Random) -> bytes:
    calls = (
        _call(_path(random), stream=stream) + frame(RST_STREAM, b"\0\0\0\x08", stream=stream)
        for stream in range(1, 2 * random.choice((2, 50, 200)), 2)
    )
    return _opening(random) + b"".join(calls)


_KINDS: tuple[Callable[[random.Random], bytes], ...] = (
    _junk, _http1, _tls, _other_protocol, _broken_preface, _random_frames, _lying_frame, _flood, _bad_hpack,
    _unending_headers, _bad_headers, _bad_message, _bad_message, _rapid_resets,
)  # fmt: skip
