"""How both clients set up their channels."""

from __future__ import annotations

DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_TIMEOUT_SECONDS = 30.0
DEFAULT_MAX_MESSAGE_BYTES = 256 * 1024 * 1024
"""Twice what a server accepts by default, so that nothing it accepts is unreadable."""


def channel_options(max_message_bytes: int) -> list[tuple[str, int]]:
    """The arguments of a channel."""
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        # The client repeats by itself and knows what is safe; gRPC would repeat beneath it, uncounted.
        ("grpc.enable_retries", 0),
        ("grpc.service_config_disable_resolution", 1),
        # gRPC fails every call while it waits to connect again: at first a second, more than a restart takes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
        # A refusal's details travel in the trailing metadata, for which gRPC allows 8 KiB.
        ("grpc.max_metadata_size", 64 * 1024),
        # Closing a client closes its connection, and no client inherits another's failed one.
        ("grpc.use_local_subchannel_pool", 1),
        # A store is reached directly, as a database is; HTTP_PROXY is meant for the web.
        ("grpc.enable_http_proxy", 0),
    ]
