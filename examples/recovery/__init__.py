"""The recovery demo: one runtime lives, its server is killed in the middle of a turn, and it recovers."""
