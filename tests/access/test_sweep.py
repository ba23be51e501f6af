"""Every method of every service, found by reflection, with every kind of credential, against one table."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from runtimestore_server.access.methods import TABLE, Access, needed
from support.checkers.refusals import details
from support.generators.requests import ALL, request_of
from support.servers.access import access_file, bearer, ca, credentials, entry, new_token, server_files
from support.servers.server import in_process

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from google.protobuf.descriptor import MethodDescriptor

    from runtimestore_server.app import Application

WAIT_SECONDS = 20

IN, STRANGER, REALM, ACCESS = "IN", "UNAUTHENTICATED", "REALM_NOT_ALLOWED", "ACCESS_NOT_ALLOWED"

CODES = {STRANGER: "UNAUTHENTICATED", REALM: "PERMISSION_DENIED", ACCESS: "PERMISSION_DENIED"}

WHO = {
    # whether known, the access, and whether the realm `default` is theirs
    "none": (False, None, False),
    "wrong": (False, None, False),
    "malformed": (False, None, False),
    "expired": (False, None, False),
    "revoked": (False, None, False),
    "read": (True, Access.READ, True),
    "write": (True, Access.WRITE, True),
    "admin": (True, Access.ADMIN, True),
    "other-realm": (True, Access.WRITE, False),
    "other-realm-admin": (True, Access.ADMIN, False),
    "prefix": (True, Access.WRITE, True),
    "all-realms": (True, Access.READ, True),
}

UNKNOWN = ("/runtimestore.v1.RuntimeStore/DropEverything", "/nobody/Knows")

NEEDED = {
    "/grpc.health.v1.Health/Check": None,
    "/grpc.health.v1.Health/Watch": None,
    "/grpc.health.v1.Health/List": Access.READ,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Access.READ,
    "/runtimestore.v1.RuntimeStoreAdmin/GetServerInfo": Access.READ,
    "/runtimestore.v1.RuntimeStoreAdmin/AcquireRuntime": Access.WRITE,
    "/runtimestore.v1.RuntimeStoreAdmin/LoadRuntime": Access.READ,
    "/runtimestore.v1.RuntimeStoreAdmin/ListSessionVersions": Access.READ,
} | {
    f"/runtimestore.v1.RuntimeStore/{name}": (
        Access.READ if name.startswith("Load") or name == "AuthAuthorityKey" else Access.WRITE
    )
    for name in ALL
}
"""The one table, as the contract has it; None stands for nothing at all."""


def expected(path: str, who: str, *, in_realm: bool) -> str:
    """What becomes of a call."""
    known, access, own = WHO[who]
    needs = NEEDED[path]
    if needs is None:
        return IN
    if not known or access is None:
        return STRANGER
    if access < needs:
        return ACCESS
    return REALM if in_realm and not own else IN


@dataclass(frozen=True)
class Found:
    """A method of the server, as reflection tells of it."""

    path: str
    method: MethodDescriptor

    @property
    def in_realm(self) -> bool:
        return "realm" in self.method.input_type.fields_by_name

    def request(self) -> bytes:
        """A good request, or else an empty one, in the realm `default`."""
        if self.method.name in ALL:
            return bytes(request_of(self.method.name).SerializeToString())
        request = message_factory.GetMessageClass(self.method.input_type)()
        for name, value in {"runtime_id": "rt:session:x", "owner": "me", "list_services": "*"}.items():
            if name in self.method.input_type.fields_by_name:
                setattr(request, name, value)
        return bytes(request.SerializeToString())


async def methods(channel: grpc.aio.Channel, **options: Any) -> list[Found]:
    """Every method of every service."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    Request = reflection_pb2.ServerReflectionRequest  # noqa: N806  (a class)

    async def asked(request: Any) -> Any:
        async for answer in stub.ServerReflectionInfo(iter([request]), timeout=WAIT_SECONDS, **options):
            return answer
        raise AssertionError

    services = (await asked(Request(list_services="*"))).list_services_response.service
    pool = descriptor_pool.DescriptorPool()
    added = set()
    found = []
    for service in services:
        answer = await asked(Request(file_containing_symbol=service.name))
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(file)
            for file in answer.file_descriptor_response.file_descriptor_proto
        ]
        by_name = {file.name: file for file in files}

        def add(file: Any, by_name: Any = by_name) -> None:
            if file.name not in added:
                added.add(file.name)
                for dependency in file.dependency:
                    add(by_name[dependency])
                pool.AddSerializedFile(file.SerializeToString())

        for file in files:
            add(file)
        found += [Found(f"/{service.name}/{m.name}", m) for m in pool.FindServiceByName(service.name).methods]
    return found


async def outcome(channel: Any, found: Found, metadata: Any = None) -> str:
    """What became of a call: let in, whatever it was answered then, or refused and why."""
    method, options = found.method, {"metadata": metadata, "timeout": WAIT_SECONDS}
    try:
        if method.server_streaming:
            # Also where callers stream: of a call that is refused before its message is sent, grpc.aio's client tells
            # an error of its own once in a while (INTERNAL, "Internal error from Core") in the place of the refusal.
            stream: Any = channel.unary_stream(found.path)(found.request(), **options)
            await stream.read()
            stream.cancel()
        else:
            await channel.unary_unary(found.path)(found.request(), **options)
    except grpc.aio.AioRpcError as error:
        refusal = details(error)
        if (code := CODES.get(refusal.reason)) is None:
            return IN
        return refusal.reason if error.code().name == code else f"{refusal.reason} as {error.code().name}"
    return IN


async def code_of(channel: Any, path: str, metadata: Any) -> str:
    """What a method is answered with that the server does not have."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await channel.unary_unary(path)(b"", metadata=metadata, timeout=WAIT_SECONDS)
    code: str = failed.value.code().name
    return code


def who_calls(folder: Path, *, by: str) -> tuple[Path, dict[str, Any]]:
    """An access file, and what each of `WHO` brings: a token, or a certificate."""
    keys: dict[str, dict[str, Any]] = {
        "expired": {"until": datetime(2020, 1, 1, tzinfo=UTC), "access": "admin"},
        "read": {"access": "read"},
        "write": {"access": "write"},
        "admin": {"access": "admin"},
        "other-realm": {"realms": ["team-a", "team-*"]},
        "other-realm-admin": {"realms": ["team-a"], "access": "admin"},
        "prefix": {"realms": ["def*"]},
        "all-realms": {"realms": ["*"], "access": "read"},
        "revoked": {"access": "admin"},
    }
    if by == "token":
        brought: dict[str, Any] = {who: new_token() for who in WHO}
        entries = {who: entry(who, brought[who], **keys[who]) for who in keys}
        brought |= {"malformed": "rst_not-one", "none": None}
    else:
        brought = {who: ca().issue_cert(f"{who}.test") for who in WHO if who not in ("none", "malformed")}
        entries = {who: entry(who, certificate_sans=[f"{who}.test"], **keys[who]) for who in keys}
    path = access_file(folder / "access.toml", entries.values())
    path.with_suffix(".without").write_text("\n".join(one for who, one in entries.items() if who != "revoked"))
    return path, brought


async def revoke(app: Application, path: Path) -> None:
    """Take the principal `revoked` out of the file, once it was let in."""
    assert app.authorization is not None
    access_file(path, [path.with_suffix(".without").read_text()])


async def test_every_method_lets_in_by_token_whom_the_table_names_and_nobody_else(
    tmp_path: Path, serve: Callable[..., AbstractAsyncContextManager[Application]]
) -> None:
    await sweep(tmp_path, serve, by="token")


async def test_every_method_lets_in_by_certificate_whom_the_table_names_and_nobody_else(tmp_path: Path) -> None:
    await sweep(tmp_path, lambda **settings: in_process("memory:", **settings), by="certificate")


async def sweep(folder: Path, serve: Callable[..., AbstractAsyncContextManager[Application]], *, by: str) -> None:
    """Call every method as everybody."""
    path, brought = who_calls(folder, by=by)
    files: dict[str, Any] = server_files(folder, client_ca=by == "certificate")
    async with serve(access_file=path, **files) as app:

        def channel_of(who: str) -> tuple[grpc.aio.Channel, Any]:
            certificate = brought[who] if by == "certificate" else None
            metadata = bearer(brought[who]) if by == "token" and brought[who] else None
            return grpc.aio.secure_channel(app.address, credentials(certificate)), metadata

        channel, metadata = channel_of("revoked")
        async with channel:
            found = await methods(channel, metadata=metadata)  # it is let in, while it is listed
            assert {one.path for one in found} == NEEDED.keys()
            await revoke(app, path)

            seen, table = {}, {}
            for who in brought:
                other, metadata = channel_of(who)
                async with other:
                    for one in found:
                        table[who, one.path] = expected(one.path, who, in_realm=one.in_realm)
                        seen[who, one.path] = await outcome(channel if who == "revoked" else other, one, metadata)
                    for nowhere in UNKNOWN:
                        table[who, nowhere] = "UNIMPLEMENTED" if WHO[who][0] else STRANGER
                        seen[who, nowhere] = await code_of(channel if who == "revoked" else other, nowhere, metadata)
    assert seen == table


async def test_every_method_stands_in_the_table_and_a_new_one_is_closed() -> None:
    async with in_process("memory:") as app, grpc.aio.insecure_channel(app.address) as channel:
        found = await methods(channel)

    assert {one.path for one in found} == TABLE.keys()
    assert needed("/runtimestore.v1.RuntimeStore/DropEverything") is Access.ADMIN


async def test_strangers_may_ask_for_the_health_of_the_whole_server_and_of_nothing_else(tmp_path: Path) -> None:
    path = access_file(tmp_path / "access.toml", [entry("agents", token := new_token(), access="read")])
    named = b"\n\x0dgrpc.health.x"
    async with in_process("memory:", access_file=path) as app, grpc.aio.insecure_channel(app.address) as found:
        channel: Any = found
        for method in ("Check", "Watch"):
            one = channel.unary_stream(f"/grpc.health.v1.Health/{method}")
            assert await one(b"", timeout=WAIT_SECONDS).read()
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await one(named, timeout=WAIT_SECONDS).read()
            assert failed.value.code() is grpc.StatusCode.UNAUTHENTICATED
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await check(named, metadata=bearer(token), timeout=WAIT_SECONDS)
        assert failed.value.code() is grpc.StatusCode.NOT_FOUND
