"""Selects versions of sessions: one statement a question, so that each answer is of one moment."""

from __future__ import annotations

from functools import cache
from typing import Any

import sqlalchemy as sa

from runtimestore_server.integers import INT64_MAX
from runtimestore_server.store.tables import BASE, runtimes, session_versions
from runtimestore_server.store.versions.rows import DESCRIPTION

_V = session_versions
_ITS = _V.alias("its")
_AS_OF = sa.bindparam("as_of", type_=sa.BigInteger)


@cache
def chain(*, as_of: bool) -> sa.Select[Any]:
    """Select the rows from a base up to a version, which is the newest one or that `as_of` a revision.

    As of a revision the row after it comes last, without its body: it names the one that was there before it. Where
    there is no base, all rows up to there come.
    """
    base = _latest(_ITS.c.kind == BASE, as_of=as_of)
    body = sa.case((_V.c.revision <= _AS_OF, _V.c.body)).label("body") if as_of else _V.c.body
    return _beside_its(_from(base, as_of=as_of), _V.c.seal, body).order_by(_V.c.revision)


@cache
def description(*, as_of: bool) -> sa.Select[Any]:
    """Select the same of the version alone, and without its body."""
    described = _from(_latest(as_of=as_of), as_of=as_of)
    return _beside_its(described, _V.c.seal, sa.null().label("body")).order_by(_V.c.revision)


@cache
def page() -> sa.Select[Any]:
    """Select the rows of up to `most` versions `up_to` a revision without their bodies, newest first.

    One whose revision is damaged into none is not found: the version after it misses it.
    """
    is_one = sa.cast(_V.c.revision, sa.BigInteger) == _V.c.revision
    before = sa.and_(_V.c.revision <= sa.bindparam("up_to", type_=sa.BigInteger), is_one)
    newest_first = _beside_its(before, _V.c.seal).order_by(_V.c.revision.desc())
    return newest_first.limit(sa.bindparam("most", type_=sa.Integer))


def _from(first: sa.ColumnElement[Any], *, as_of: bool) -> sa.ColumnElement[bool]:
    """Ask for those from a revision on up to the version that is asked for, or to the one after it."""
    if not as_of:
        return sa.and_(_V.c.revision >= first, _V.c.revision <= _newest())
    after = sa.select(sa.func.min(_ITS.c.revision)).where(_of_it(), _ITS.c.revision > _AS_OF)
    last = sa.func.coalesce(after.correlate(runtimes).scalar_subquery(), _AS_OF)
    return sa.and_(_V.c.revision >= sa.func.coalesce(first, sa.literal_column("0")), _V.c.revision <= last)


def _latest(*kind: sa.ColumnExpressionArgument[bool], as_of: bool) -> sa.ScalarSelect[Any]:
    """Select the revision of a runtime's latest version, or latest one of a kind, up to the one that is asked for."""
    newest = _AS_OF if as_of else _newest()
    latest = sa.select(sa.func.max(_ITS.c.revision)).where(_of_it(), *kind, _ITS.c.revision <= newest)
    return latest.correlate(runtimes).scalar_subquery()


def _newest() -> sa.ColumnElement[int]:
    """Take the revision that a runtime's row names; where it names none all are looked at, for there should be none."""
    return sa.func.coalesce(runtimes.c.session_revision, sa.literal_column(str(INT64_MAX)))


def _of_it() -> sa.ColumnElement[bool]:
    return sa.and_(_ITS.c.realm == runtimes.c.realm, _ITS.c.runtime_id == runtimes.c.runtime_id)


def _beside_its(found: sa.ColumnElement[bool], *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """Select what a runtime's row says, beside the rows of its versions that are `found`."""
    of_it = sa.and_(_V.c.realm == runtimes.c.realm, _V.c.runtime_id == runtimes.c.runtime_id, found)
    its = (runtimes.c.revision, runtimes.c.session_revision, runtimes.c.session_sha256)
    asked_for = (
        runtimes.c.realm == sa.bindparam("realm", type_=sa.Text),
        runtimes.c.runtime_id == sa.bindparam("runtime_id", type_=sa.Text),
    )
    return sa.select(*its, *DESCRIPTION, *columns).select_from(runtimes.outerjoin(_V, of_it)).where(*asked_for)
