"""The documents of the contract, one module a thing: its check on the way in, its message on the way out, its limit.

`session`, `input`, `receipt`, `ops` and `oauth` are the things, `runtime_state` is the value that is none; `limits`
holds what this server's settings forbid, `json` reads envelopes, `nesting` takes apart what is nested too deep for
that, `hurry` leaves to a worker what takes long, `identifiers` reads ids.

A document is checked where the store depends on it and passes untouched everywhere else, because payloads change with
nearly every release of the runtimes. On the way out a digest vouches for a document, and the document for the columns
beside it. Neither way depends on how deep a document is nested, but for what the runtimes themselves could not read.

What takes a transaction runs on a reader thread, for to look into a large document may take long.
"""
