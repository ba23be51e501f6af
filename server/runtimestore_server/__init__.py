"""The server of RuntimeStore: fifteen RPCs over SQLite or Postgres."""
