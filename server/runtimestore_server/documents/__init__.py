"""The documents of the contract, one module a thing: its check on the way in, its message on the way out, its limit.

`session`, `input`, `receipt`, `ops` and `oauth` are the things, `runtime_state` is the value that is none; `limits`
holds what this server's settings forbid, `json` reads envelopes, `identifiers` reads ids.

A document is checked where the store depends on it and passes untouched everywhere else, because payloads change with
nearly every release of the runtimes. On the way out a digest vouches for a document, and the document for the columns
beside it. How deep a document may nest there depends on the thread that reads it, and must never keep one from its
owner: where it is too deep, the stored id is believed.

What takes a transaction runs on a reader thread, for to look into a large document may take long.
"""
