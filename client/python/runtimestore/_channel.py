"""Reads addresses and sets the options of both clients' channels."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Sequence
from urllib.parse import unquote

from runtimestore import _arguments as arguments

Address = str | Sequence[str]
"""Where the servers are: one address, or several of which each call takes the next."""

DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_TIMEOUT_SECONDS = 30.0
DEFAULT_MAX_MESSAGE_BYTES = 256 * 1024 * 1024
"""Twice what a server accepts by default, so that nothing it accepts is unreadable."""

KEEPALIVE_TIME_MS = 10_000
"""How long a connection with calls on it may be silent before it is asked for a sign of life."""
KEEPALIVE_TIMEOUT_MS = 10_000
"""How long that sign may take; on a slow network it comes behind megabytes.

Both together must leave time for a repeat within `DEFAULT_TIMEOUT_SECONDS`.
"""

RESOLVE_AGAIN_MS = 1_000
"""How soon a name may be resolved again when a connection is lost; gRPC itself waits for half a minute, which is the
whole of `DEFAULT_TIMEOUT_SECONDS`."""
CONNECT_TIMEOUT_MS = 5_000
"""How long an attempt to connect may take. An address that is nobody's any more does not always refuse; until the
attempt has failed gRPC does not ask again what the name stands for."""

_SCHEMES = ("unix:", "unix-abstract:", "vsock:", "xds:")
"""What gRPC reads by itself. What it cannot read it calls a server that cannot be reached, which is waited for."""
_LITERALS = ("ipv4:", "ipv6:")
"""What gRPC reads as a list of IP addresses, likewise."""

_LAST_PORT = 65535
_WINDOW_BYTES = 4 * 1024 * 1024
"""How much of an answer may be on its way."""
_MOST_MESSAGE_BYTES = 2**31 - 1

_BALANCED = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})


def target_of(address: Address) -> str:
    """Return what gRPC calls a target: one address as it is, several as the list that they are.

    Raises:
        ValueError: there is none, it lacks its port, or they cannot be one target; the message says the cure.
    """
    if isinstance(address, str):
        arguments.text("address", address)
        if address.startswith(_LITERALS):
            return _of_literals(address)
        return _of_scheme(address) if address.startswith(_SCHEMES) else _with_port(address)
    if not isinstance(address, Iterable):
        raise TypeError(f"address must be a str or a sequence of str, not {type(address).__name__}")
    addresses = [arguments.text(f"address[{number}]", one) for number, one in enumerate(address)]
    if not addresses:
        raise ValueError("address is an empty list; give at least one HOST:PORT")
    if len(addresses) == 1:
        return target_of(addresses[0])
    kinds = {_literal(one) for one in addresses}
    if len(kinds) > 1:
        raise ValueError("address mixes IPv4 and IPv6; give addresses of one kind, or one dns:///NAME:PORT")
    return f"{kinds.pop()}:{','.join(addresses)}"


def _of_scheme(address: str) -> str:
    """Return the address, if its scheme is not all of it."""
    scheme, _, rest = address.partition(":")
    if not rest.strip("/"):
        raise ValueError(f"address {address!r} names nothing behind {scheme}:, such as unix:/run/runtimestore.sock")
    return address


def _of_literals(address: str) -> str:
    """Return the address, if it is a list of IP addresses of the kind that it says, each with its port."""
    scheme, _, rest = address.partition(":")
    # It may be a URI, with slashes, which are left to gRPC, and with `[` written as `%5B`.
    if not rest.startswith("//") and any(_literal(one) != scheme for one in unquote(rest).split(",")):
        raise ValueError(f"address {address!r} is not of its kind; write ipv4:10.0.0.7:50051 or ipv6:[fd00::7]:50051")
    return address


def _with_port(address: str) -> str:
    """Return the address, of `HOST:PORT` or `dns:` before it. Without a port gRPC would call 443, and wait."""
    name = address.removeprefix("dns:")
    if name != address and name.startswith("//"):
        name = name.removeprefix("//").partition("/")[2]  # what is between the slashes is the name server to ask
    if "," in name:
        raise ValueError(
            f"address {address!r} seems to be several in one text; give a list, such as "
            '["10.0.0.7:50051", "10.0.0.8:50051"]'
        )
    host, _, port = name.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    readable = address.isprintable() and " " not in address
    if not host or "/" in host or (":" in host and not bracketed) or not _is_port(port) or not readable:
        raise ValueError(
            f"address {address!r} is not HOST:PORT, such as store:50051 or [::1]:50051, nor unix:PATH, nor "
            "dns:///NAME:PORT"
        )
    return address


def _literal(address: str) -> str:
    host, colon, port = address.rpartition(":")
    try:
        found = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        found = None
    if found is None or not colon or not _is_port(port) or (found.version == 6) != host.startswith("["):  # noqa: PLR2004  (IPv6)
        raise ValueError(
            f"address {address!r} is one of a list, which must be IP addresses with a port, such as 10.0.0.7:50051 or "
            "[fd00::7]:50051; for a name with several addresses give dns:///NAME:PORT alone"
        )
    return f"ipv{found.version}"


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 1 <= int(text) <= _LAST_PORT


def message_limit(max_message_bytes: int) -> int:
    """Return the largest message, as gRPC takes it.

    Raises:
        ValueError: it is no number of bytes that gRPC could count.
    """
    if (
        isinstance(max_message_bytes, bool)
        or not isinstance(max_message_bytes, int)
        or not 0 < max_message_bytes <= _MOST_MESSAGE_BYTES
    ):
        raise ValueError(f"max_message_bytes is a whole number from 1 to {_MOST_MESSAGE_BYTES}")
    return max_message_bytes


def channel_options(target: str, max_message_bytes: int) -> list[tuple[str, int | str]]:
    """Return the arguments of a channel to what `target_of` made."""
    options = _options(max_message_bytes)
    if target.startswith(("dns:", "ipv4:", "ipv6:")):
        # Without it gRPC stays with the first address that answers, and with it alone.
        options.append(("grpc.service_config", _BALANCED))
    return options


def _options(max_message_bytes: int) -> list[tuple[str, int | str]]:
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        # The client repeats by itself and knows what is safe; gRPC would repeat beneath it, uncounted.
        ("grpc.enable_retries", 0),
        ("grpc.service_config_disable_resolution", 1),
        # gRPC fails every call while it waits to connect again: at first a second, more than a restart takes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
        ("grpc.min_reconnect_backoff_ms", CONNECT_TIMEOUT_MS),  # in spite of its name
        # A server that moved is found under its name, by a call that may have failed already.
        ("grpc.dns_min_time_between_resolutions_ms", RESOLVE_AGAIN_MS),
        # A server that hangs, or whose machine is gone, answers no ping: its calls fail, and go on at another one.
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),  # what gRPC really goes by; a minute by itself
        ("grpc.http2.max_pings_without_data", 0),
        # gRPC measures the network by pings among the data. On a slow link one stands behind ten seconds of it, and the
        # server is taken for one that hangs. Silent connections are asked still; windows are wide from the start.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", _WINDOW_BYTES),
        # A refusal's details travel in the trailing metadata, for which gRPC allows 8 KiB.
        ("grpc.max_metadata_size", 64 * 1024),
        # Closing a client closes its connection, and no client inherits another's failed one.
        ("grpc.use_local_subchannel_pool", 1),
        # A store is reached directly, as a database is; http_proxy is meant for the web. Who needs one gives a channel.
        ("grpc.enable_http_proxy", 0),
    ]
