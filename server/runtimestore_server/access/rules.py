"""The access file: who there is, by which credentials they are known, and what they may do where."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from runtimestore_server.access.methods import BY_NAME, Access

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from runtimestore.errors import RuntimeStoreError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@/-]{0,127}")
_REALMS = re.compile(r"\*|[a-z0-9][a-z0-9._-]{0,62}\*?")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_KEYS = {"name", "token_sha256", "certificate_sans", "realms", "access", "until"}


MOST_LABELS = 100
"""How many realms and prefixes metrics tell apart, the first of the file: each is a series of its own for ever."""

Credential = bytes | tuple[str, ...]
"""What a caller is known by: the SHA-256 of a token, or the names in a certificate."""


class Unusable(ValueError):
    """A file is missing or cannot be used. The message names it and what is wrong, and quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class Principal:
    """A known caller: a name for the log, the realms and the access that it has, and when it expires."""

    name: str
    realms: tuple[str, ...]
    access: Access
    until: datetime | None
    _names: frozenset[str]
    _prefixes: tuple[str, ...]

    @classmethod
    def of(cls, name: str, realms: Iterable[str], access: Access, until: datetime | None = None) -> Principal:
        """Return a principal with realms as the access file has them: names, or prefixes that end with `*`."""
        realms = tuple(realms)
        names = frozenset(realm for realm in realms if not realm.endswith("*"))
        prefixes = tuple(realm[:-1] for realm in realms if realm.endswith("*"))
        return cls(name, realms, access, until, names, prefixes)

    def may_use(self, realm: str) -> bool:
        """Tell whether a realm is one of its own."""
        return realm in self._names or realm.startswith(self._prefixes)

    @property
    def ended(self) -> bool:
        """Whether its time is over."""
        return self.until is not None and self.until <= datetime.now(UTC)


class Rules:
    """All principals, by their credentials.

    Tokens are found by a keyed hash of their digests whose key is this object's own: what the time of a look-up tells
    of such a hash tells nothing of a token. The digests themselves are compared in constant time.
    """

    def __init__(self) -> None:
        self.entries: list[tuple[Principal, int, tuple[str, ...]]] = []
        """The principals in the order of the file, each with how many tokens and which names of certificates it has."""
        self._key = secrets.token_bytes(32)
        self._by_token: dict[bytes, tuple[bytes, Principal]] = {}
        self._by_san: dict[str, Principal] = {}
        self._realms: set[str] = set()
        self._prefixes: list[str] = []

    def add(self, principal: Principal, digests: Sequence[bytes], sans: Sequence[str]) -> None:
        """Take in a principal with its credentials.

        Raises:
            Unusable: a credential is another's already.
        """
        self.entries.append((principal, len(digests), tuple(sans)))
        self._label(principal.realms)
        for digest in digests:
            if self.by_token(digest) is not None:
                raise Unusable("a token stands there twice: it would not be known whose it is")
            self._by_token[self._hash(digest)] = digest, principal
        for san in sans:
            if san in self._by_san:
                raise Unusable("a name of a certificate stands there twice: it would not be known whose it is")
            self._by_san[san] = principal

    def known_by(self, credential: Credential) -> Principal | None:
        """Tell whose credential this is."""
        return self.by_token(credential) if isinstance(credential, bytes) else self.by_sans(credential)

    def by_token(self, digest: bytes) -> Principal | None:
        """Tell whose token has this SHA-256."""
        known, principal = self._by_token.get(self._hash(digest), (bytes(32), None))
        return principal if hmac.compare_digest(known, digest) else None

    def by_sans(self, sans: Iterable[str]) -> Principal | None:
        """Tell whose certificate has these names; None if they are nobody's, or of several."""
        found = [self._by_san[san] for san in sans if san in self._by_san]
        return found[0] if found and all(principal is found[0] for principal in found) else None

    def realm_label(self, realm: str) -> str | None:
        """Tell what metrics call a realm: its name or the longest prefix of it that the file has; None if none."""
        if realm in self._realms:
            return realm
        return next((f"{prefix}*" for prefix in self._prefixes if realm.startswith(prefix)), None)

    def _label(self, realms: Iterable[str]) -> None:
        for realm in realms:
            if len(self._realms) + len(self._prefixes) >= MOST_LABELS:
                return
            if not realm.endswith("*"):
                self._realms.add(realm)
            elif realm != "*" and realm[:-1] not in self._prefixes:
                self._prefixes.append(realm[:-1])
                self._prefixes.sort(key=len, reverse=True)

    def _hash(self, digest: bytes) -> bytes:
        return hashlib.blake2b(digest, key=self._key, digest_size=16).digest()


@dataclass(slots=True, eq=False)
class Caller:
    """Who made a call, as it was known last, by which credential, and what for."""

    credential: Credential
    principal: Principal
    rules: Rules
    """The rules that say so: others may say otherwise."""
    realm: str | None = None
    """The realm of the request, once that is received, if it names one."""
    is_needed: bool = True
    """Whether what is asked is answered to it alone, and not to strangers as well."""
    refusal: RuntimeStoreError | None = None
    """Why the call is ended by `OpenStreams`, if it is."""


def parsed(text: str) -> Rules:
    """Return the rules of an access file.

    Raises:
        Unusable: it is none.
    """
    try:
        file = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = re.search(r"\(at [^)]*\)$", str(error))  # the rest of the message may quote the file
        raise Unusable(f"it is no TOML {where[0] if where else ''}".rstrip()) from None
    except (ValueError, RecursionError):  # of numbers of thousands of digits, and of what is nested as deeply
        raise Unusable("it is no TOML that can be read") from None
    entries = file.pop("principal", [])
    if file or not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise Unusable("it may hold [[principal]] tables and nothing else")
    rules = Rules()
    for number, entry in enumerate(entries, 1):
        try:
            _take_in(rules, entry)
        except Unusable as wrong:
            raise Unusable(f"the [[principal]] number {number}: {wrong}") from None
    return rules


def _take_in(rules: Rules, entry: dict[str, Any]) -> None:
    if unknown := entry.keys() - _KEYS:
        known = ", ".join(sorted(_KEYS))
        raise Unusable(f"has {len(unknown)} key that nobody knows (it may be mistyped); there are {known}")
    name = entry.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Unusable("name must be letters, digits and . _ @ / - (128 at most)")
    realms = _texts(entry, "realms", _REALMS, "realms, or prefixes that end with *")
    if not realms:
        raise Unusable('realms is missing; realms = ["*"] stands for all')
    access = entry.get("access")
    if not isinstance(access, str) or access not in BY_NAME:
        raise Unusable(f"access must be one of {', '.join(BY_NAME)}")
    until = entry.get("until")
    if until is not None and (not isinstance(until, datetime) or until.tzinfo is None):
        raise Unusable("until must be a date and time with its offset, such as 2027-01-01T00:00:00Z")
    digests = _texts(entry, "token_sha256", _DIGEST, "SHA-256 digests of tokens, in 64 lower-case hexadecimal digits")
    sans = _texts(entry, "certificate_sans", re.compile(r"\S+"), "names in certificates, without spaces")
    if not digests and not sans:
        raise Unusable("needs token_sha256 or certificate_sans: nobody could come in by it")
    rules.add(Principal.of(name, realms, BY_NAME[access], until), [bytes.fromhex(one) for one in digests], sans)


def _texts(entry: dict[str, Any], key: str, pattern: re.Pattern[str], what: str) -> list[str]:
    value = entry.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, str) and pattern.fullmatch(one) for one in value):
        raise Unusable(f"{key} must be a list of {what}")
    return value
