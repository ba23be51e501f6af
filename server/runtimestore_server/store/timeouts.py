"""Lists how long the store waits for what, the longest first, and which of these times wins over which.

A caller's own deadline wins over all of them: it stops waiting, and the store does not notice. A shutdown wins over
`TRANSIENT_LIMIT_SECONDS`: once it begins, nothing is run again, and what is deferred is tried once more and refused.

A row that another session holds is waited for by the batch that meets it first, for `LOCK_TIMEOUT_SECONDS`; then the
write that needs it is deferred. While any write is deferred, every batch passes held rows over, and waits
`BRIEF_LOCK_SECONDS` for what cannot be passed over. Deferred writes are tried again every `DEFERRED_PAUSE_SECONDS`
until `TRANSIENT_LIMIT_SECONDS` have passed since they came. While any is deferred, no batch lingers.
"""

from __future__ import annotations

POOL_TIMEOUT_SECONDS = 30.0
"""How long a thread waits for a connection of its pool; more means that the sizes of pools and threads disagree."""

TCP_TIMEOUT_SECONDS = 30
"""How long a connection to Postgres may leave unacknowledged what was sent to it before it counts as broken."""

TRANSIENT_LIMIT_SECONDS = 20.0
"""How long a batch is run again on transient errors, and how long a write may be deferred, before the writers are told
that the store is unavailable. It cuts no try short: the last one ends by the times of the engine. So long a migration,
too, is begun anew while another process holds the lock of an SQLite file."""

MIGRATION_LOCK_SECONDS = 10
"""How long a migration of Postgres waits for a table that others use; for another migration, without limit."""

UNKNOWN_LIMIT_SECONDS = 5.0
"""How long the truth about a COMMIT is sought before its writers are told that it is unknown. It begins when COMMIT
fails, whatever time the tries before it took."""

CONNECT_TIMEOUT_SECONDS = 5
"""How long Postgres may take to let one connection in."""

BUSY_TIMEOUT_SECONDS = 5.0
"""How long SQLite itself waits for another process' write lock before it says BUSY and the batch is run again."""

LOCK_TIMEOUT_SECONDS = 1
"""How long Postgres waits for a row that another session holds. Rivals that are alive hold one for milliseconds, and
for them waiting is the shortest way."""

DEFERRED_PAUSE_SECONDS = 0.25
"""How long a commit thread goes on with others before it tries deferred writes again. Well above the time of a try, so
that those who wait cost their neighbours a fraction of the thread's time."""

BRIEF_LOCK_SECONDS = 0.01
"""How long a try waits for what cannot be passed over, such as the row of a request that another session records. Many
such tries may follow each other, one for each write of a batch, since nobody knows whose row it is."""

LINGER_COMMITS = 2.0
"""How long a batch lingers, as a multiple of what the last one took, for as many writes to come as came with that one.
Whoever writes alone waits for nobody."""

LINGER_SECONDS = 0.015
"""The longest that a batch lingers. It wins over `LINGER_COMMITS` where commits are slow: then writes gather by
themselves."""
