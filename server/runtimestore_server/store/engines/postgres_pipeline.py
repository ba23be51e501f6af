"""Sends the statements of a commit straight to libpq, in one pipeline that ends with COMMIT.

psycopg's own pipeline hands each statement to the socket by itself and asks before whether it may: that is a few calls
of the system a statement, and Postgres wakes up for each. Here everything up to the next answer that is needed goes
out at once, and nothing is looked up for a parameter, since its form is known.
"""

from __future__ import annotations

import re
import select
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from runtimestore_server.store.engines.postgres_stale import is_stale

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from runtimestore_server.store.engines.answers import KeyNotFree
    from runtimestore_server.store.engines.direct import Row

_PARAMETER = re.compile(r"%\((\w+)\)s")

_LOADERS: Final[Mapping[int, Callable[[bytes], Any]]] = {
    16: lambda value: value != b"\0",  # bool
    17: bytes,  # bytea
    # text, varchar. A disk may leave what is no UTF-8: the row must be found by who reads it.
    **dict.fromkeys((25, 1043), lambda value: str(value, "utf-8", "surrogateescape")),
    **dict.fromkeys((20, 21, 23), lambda value: int.from_bytes(value, signed=True)),  # int8, int2, int4
}
"""By the oid of their type, what makes a value of its binary form."""


class Statement(NamedTuple):
    """A statement as libpq takes it."""

    text: bytes
    order: tuple[str, ...]
    """The names of its parameters, by their numbers."""


def statement_of(text: str) -> Statement:
    """Return the same statement as psycopg takes it, with names for its parameters."""
    order = tuple(dict.fromkeys(_PARAMETER.findall(text)))
    numbered = _PARAMETER.sub(lambda match: f"${order.index(match[1]) + 1}", text)
    return Statement(numbered.replace("%%", "%").encode(), order)


class Sent:
    """What was sent, and later its result."""

    __slots__ = ("prepares", "result", "taken")

    def __init__(self, *, prepares: bytes | None = None, taken: KeyNotFree | None = None) -> None:
        self.prepares = prepares
        """The text that it prepares, if it does."""
        self.taken = taken
        """What is raised if it divides by zero, which is how a statement fails that finds what it must not."""
        self.result: Any = None

    def rows(self) -> list[Row]:
        """Return the rows that were found."""
        result = self.result
        if not (count := result.ntuples):
            return []
        get = result.get_value
        columns = [(place, _LOADERS[result.ftype(place)]) for place in range(result.nfields)]
        return [
            tuple([None if (value := get(row, place)) is None else load(value) for place, load in columns])
            for row in range(count)
        ]


class Pipeline:
    """The pipeline of one connection: opened for a transaction, closed by its COMMIT or when it is abandoned.

    What raises one of psycopg's errors has closed it: nothing that was sent behind that has an effect.
    """

    def __init__(self, driver: Any) -> None:
        from psycopg.pq import ConnStatus, ExecStatus, TransactionStatus

        self._driver = driver
        self._libpq = driver.pgconn
        self._connected, self._idle = ConnStatus.OK, TransactionStatus.IDLE
        # As plain numbers: to compare them is cheaper.
        self._good = (int(ExecStatus.COMMAND_OK), int(ExecStatus.TUPLES_OK))
        self._runs: dict[bytes, int] = {}
        self._prepared: dict[bytes, bytes] = {}
        """The names of what is prepared, or is about to be, by the text."""
        self._last_name = 0
        self._sent: deque[Sent] = deque()
        """What is not answered yet."""
        self._held_back = False
        """Whether the server may wait with answers to what was sent last."""
        self._synced = False
        """Whether its end was sent."""
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(self._libpq.socket, select.POLLIN)
        self._writable.register(self._libpq.socket, select.POLLIN | select.POLLOUT)
        self.is_open = False

    def begin(self) -> None:
        """Open it, and begin the transaction if it has not begun."""
        begun = self._in_transaction
        self._open()
        if not begun:
            self._command(b"BEGIN")

    def send(self, statement: Statement, parameters: Mapping[str, Any], *, taken: KeyNotFree | None = None) -> Sent:
        """Send a statement, sooner or later: bytes in binary form, all else as text.

        `taken` is raised in place of a division by zero.
        """
        values, forms = [], []
        for value in map(parameters.__getitem__, statement.order):
            binary = isinstance(value, bytes)
            values.append(value if binary else str(value).encode())
            forms.append(binary)
        if (prepared := self._name_of(statement.text)) is None:
            self._libpq.send_query_params(statement.text, values, None, forms, 1)
        else:
            self._libpq.send_query_prepared(prepared, values, forms, 1)
        return self._queued(Sent(taken=taken))

    def found(self, sent: Sent) -> list[Row]:
        """Wait for the rows that a statement found."""
        if sent.result is None:
            if self._held_back:
                self._libpq.send_flush_request()
                self._held_back = False
            self._receive_until(sent)
        return sent.rows()

    def commit(self) -> list[str | None]:
        """Send COMMIT behind all that was sent, and wait for it; how severe is what Postgres says beside.

        What raises has rolled back, where there is something to be rolled back.
        """
        try:
            return self._committed()
        except BaseException:
            self.rollback()
            raise

    def _committed(self) -> list[str | None]:
        from psycopg.errors import InFailedSqlTransaction

        severities: list[str | None] = []

        def noted(diagnostic: Any) -> None:
            severities.append(diagnostic.severity_nonlocalized)

        self._driver.add_notice_handler(noted)
        try:
            commit = self._command(b"COMMIT")
            self._sync()
            self._receive_until(commit)
            self._end()
        finally:
            self._driver.remove_notice_handler(noted)
        if commit.result.command_status != b"COMMIT":
            raise InFailedSqlTransaction("COMMIT was answered by a rollback")
        return severities

    def rollback(self) -> None:
        """Close it, whatever is under way, and roll the transaction back. Raises nothing.

        psycopg, where it rolls back, may let go of all that is prepared.
        """
        from psycopg import Error

        self.abandon()
        try:
            if self._in_transaction:
                self._open()
                rolled_back = self._command(b"ROLLBACK")
                self._sync()
                self._receive_until(rolled_back)
                self._end()
        except Error:
            self._forget()

    def abandon(self) -> None:
        """Close it, whatever is under way; the transaction is then to be rolled back. Raises nothing."""
        from psycopg import Error

        if not self.is_open:
            return
        try:
            if not self._synced:
                self._sync()
            self._end()
        except Error:
            self._forget()  # the connection broke: whoever uses it next is told

    @property
    def _in_transaction(self) -> bool:
        return bool(self._libpq.status == self._connected and self._libpq.transaction_status != self._idle)

    def _open(self) -> None:
        self._libpq.enter_pipeline_mode()
        self.is_open, self._synced = True, False
        self._driver.cursor = _no_cursor

    def _command(self, text: bytes) -> Sent:
        self._libpq.send_query_params(text, ())
        return self._queued(Sent())

    def _queued(self, sent: Sent) -> Sent:
        self._sent.append(sent)
        self._held_back = True
        return sent

    def _name_of(self, text: bytes) -> bytes | None:
        """Return the name under which a statement is prepared; prepares one that was run so often. None before."""
        if (name := self._prepared.get(text)) is not None or self._driver.prepare_threshold is None:
            return name
        runs = self._runs[text] = self._runs.get(text, 0) + 1
        if runs <= self._driver.prepare_threshold:
            return None
        self._last_name += 1  # never twice: one that failed may have been prepared all the same
        name = self._prepared[text] = b"runtimestore_%d" % self._last_name
        self._libpq.send_prepare(name, text)
        self._queued(Sent(prepares=text))
        return name

    def _receive_until(self, last: Sent) -> None:
        while last.result is None:
            self._receive()

    def _receive(self) -> None:
        """Take the next result in; raises if it is an error."""
        from psycopg.errors import OperationalError, error_from_result

        if (result := self._result()) is None:
            raise OperationalError("the connection is lost")
        sent = self._sent[0]
        if result.status in self._good:
            sent.result = result
            self._libpq.get_result()  # that this one has no other, for which nothing is waited
            self._sent.popleft()
            return
        error = error_from_result(result)
        if error.sqlstate is None:
            error = OperationalError(str(error))  # libpq's own
        self.abandon()  # to its end, where it turns out if the connection goes on
        if is_stale(error):
            self._prepared.clear()
        raise sent.taken if sent.taken is not None and error.sqlstate == "22012" else error  # division_by_zero

    def _result(self) -> Any:
        libpq = self._libpq
        if libpq.is_busy():
            while libpq.flush():
                if any(events & select.POLLIN for _, events in self._writable.poll()):
                    libpq.consume_input()
            while libpq.is_busy():
                self._readable.poll()
                libpq.consume_input()
        return libpq.get_result()

    def _sync(self) -> None:
        self._libpq.pipeline_sync()
        self._synced, self._held_back = True, False

    def _end(self) -> None:
        """Pass over what comes before the end that was sent, and close."""
        from psycopg.errors import OperationalError
        from psycopg.pq import ExecStatus

        for _ in range(2 * len(self._sent) + 1):  # of each a result, and that there is no other
            result = self._result()
            if result is not None and result.status == ExecStatus.PIPELINE_SYNC:
                self._libpq.exit_pipeline_mode()
                self._forget()
                return
            if self._libpq.status != self._connected:
                break
        raise OperationalError("the connection is lost")

    def _forget(self) -> None:
        for sent in self._sent:
            if sent.prepares is not None:
                self._prepared.pop(sent.prepares, None)
        self._sent.clear()
        self.is_open = self._held_back = False
        self._driver.__dict__.pop("cursor", None)


def _no_cursor(*_: object, **__: object) -> NoReturn:
    """Stand for a connection's way of making cursors: the answer to what is run past the pipeline would never come."""
    raise RuntimeError("a statement was run past the pipeline that is open")
