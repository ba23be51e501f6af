"""The ids of requests: realms, runtime ids and UUIDs, checked and brought to one form."""

from __future__ import annotations

import re

from runtimestore.errors import FieldViolation, InvalidRequest

DEFAULT_REALM = "default"

_REALM = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_CANONICAL_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
# The textual forms that Rust's `Uuid::parse_str` reads: a URN's name is the same in any case (RFC 8141, section 3.1).
# Python's `UUID()` would also take hyphens and braces anywhere.
_HYPHENATED = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
_ANY_UUID = re.compile(
    rf"(?P<simple>[0-9a-fA-F]{{32}})|(?:[uU][rR][nN]:[uU][uU][iI][dD]:)?(?P<hyphenated>{_HYPHENATED})|\{{(?P<braced>{_HYPHENATED})\}}"
)


def canonical_uuid(text: str) -> str | None:
    """Return the UUID in `text`, any version and textual form, in lower case with hyphens; None if it is none."""
    if _CANONICAL_UUID.fullmatch(text):
        return text
    match = _ANY_UUID.fullmatch(text)
    if match is None:
        return None
    digits = next(form for form in match.groups() if form).lower().replace("-", "")
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def uuid_field(text: str, field: str) -> str:
    """Return the canonical form of the UUID in a request's `field`.

    Raises:
        InvalidRequest: it is no UUID.
    """
    canonical = canonical_uuid(text)
    if canonical is None:
        raise bad_field(field, "must be a UUID, such as 019e4f8e-8200-7daf-ae78-9e6aa1b965f4")
    return canonical


def realm_field(text: str) -> str:
    """Return the realm that a request names; empty means `default`.

    Raises:
        InvalidRequest: it is no realm name.
    """
    if not text:
        return DEFAULT_REALM
    if not _REALM.fullmatch(text):
        raise bad_field("realm", "must be empty or match [a-z0-9][a-z0-9._-]{0,62}")
    return text


def runtime_id_field(text: str, *, store_error: str = "read_failed") -> str:
    """Read the runtime id of a request, as it is; `store_error` is the trait's error for one that is too long.

    Raises:
        InvalidRequest: it is empty, too long or holds a NUL.
    """
    return _text_field(text, "runtime_id", 512, "is required", store_error=store_error)


def owner_field(text: str) -> str:
    """Read who acquires a runtime, as it is.

    Raises:
        InvalidRequest: it is empty, too long or holds a NUL.
    """
    return _text_field(text, "owner", 256, "is required: say who acquires, such as a host and a process id")


def _text_field(text: str, field: str, most_bytes: int, missing: str, **of_too_long: str) -> str:
    if not text:
        raise bad_field(field, missing)
    if "\0" in text:
        raise bad_field(field, "must not hold a NUL character")
    if len(text) > most_bytes or len(text.encode()) > most_bytes:
        raise bad_field(field, f"must have at most {most_bytes} bytes of UTF-8", **of_too_long)
    return text


def request_id_field(text: str) -> str | None:
    """Return the canonical form of a request's `request_id`; None if it carries none.

    Raises:
        InvalidRequest: it is no UUID.
    """
    return uuid_field(text, "request_id") if text else None


def bad_field(field: str, description: str, **metadata: str) -> InvalidRequest:
    """Make the refusal of one field; `description` says the cure, `metadata` what else programs are told."""
    return InvalidRequest(
        f"{field}: {description}",
        metadata={"field": field, "description": description, **metadata},
        violations=[FieldViolation(field, description)],
    )
