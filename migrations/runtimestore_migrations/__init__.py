"""The migrations of RuntimeStore's schema: one tree for SQLite and Postgres, forward only."""
