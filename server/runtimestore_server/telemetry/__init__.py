"""Shows a server from outside: counts, metrics, readiness, and how many lines the log takes of one kind."""
