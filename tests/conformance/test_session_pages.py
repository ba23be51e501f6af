"""Pages of a session's versions, as AIP-158 has them: tokens say nothing to their callers and fit one runtime only."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import grpc

from runtimestore.v1 import runtime_store_admin_pb2 as pb
from support.checkers.refusals import is_refusal, refused
from support.generators.documents import session

if TYPE_CHECKING:
    from runtimestore import AsyncRuntimeStoreClient

COUNT = 5


async def _written(client: AsyncRuntimeStoreClient, *runtime_ids: str) -> None:
    for runtime_id in runtime_ids:
        for _ in range(COUNT):
            await client.commit_session_snapshot(runtime_id, session())


async def _page(admin: Any, realm: str, runtime_id: str, size: int, token: str = "") -> tuple[list[int], str]:
    asked = pb.ListSessionVersionsRequest(realm=realm, runtime_id=runtime_id, page_size=size, page_token=token)
    page = await admin.ListSessionVersions(asked)
    return [version.revision for version in page.versions], page.next_page_token


async def test_the_size_of_a_page_may_change_from_one_to_the_next(
    admin: Any, client: AsyncRuntimeStoreClient, realm: str, runtime_id: str
) -> None:
    await _written(client, runtime_id)

    first, token = await _page(admin, realm, runtime_id, 1)
    second, token = await _page(admin, realm, runtime_id, 3, token)
    third, last = await _page(admin, realm, runtime_id, 0, token)

    assert (first, second, third, last) == ([5], [4, 3, 2], [1], "")


async def test_a_page_that_is_just_full_is_the_last_one(
    admin: Any, client: AsyncRuntimeStoreClient, realm: str, runtime_id: str
) -> None:
    await _written(client, runtime_id)

    assert await _page(admin, realm, runtime_id, COUNT) == ([5, 4, 3, 2, 1], "")


async def test_a_token_is_safe_in_a_url_and_nothing_to_count_with(
    admin: Any, client: AsyncRuntimeStoreClient, realm: str, runtime_id: str
) -> None:
    await _written(client, runtime_id)

    _, token = await _page(admin, realm, runtime_id, 2)

    assert re.fullmatch(r"[A-Za-z0-9_-]+", token)
    assert not token.isdecimal()


async def test_a_token_that_no_answer_about_this_runtime_gave_is_refused(
    admin: Any, client: AsyncRuntimeStoreClient, realm: str, runtime_id: str
) -> None:
    other = f"{runtime_id}/other"
    await _written(client, runtime_id, other)
    _, token = await _page(admin, realm, runtime_id, 2)
    _, of_other = await _page(admin, realm, other, 2)
    flipped = "B" if token[-1] != "B" else "C"

    for realm_asked, bad in (
        (realm, of_other),
        ("elsewhere", token),
        (realm, "4"),
        (realm, "none"),
        (realm, "\u0663"),
        (realm, token[:-1] + flipped),
        (realm, token[:-1]),
        (realm, f"{token}="),
        (realm, f"{token} "),
        (realm, f"\n{token}"),
        (realm, token * 100),
    ):
        found = await refused(
            admin.ListSessionVersions(
                pb.ListSessionVersionsRequest(realm=realm_asked, runtime_id=runtime_id, page_size=2, page_token=bad)
            )
        )
        is_refusal(found, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "internal")
        assert list(found.violations) == ["page_token"]
        assert found.metadata["field"] == "page_token"
