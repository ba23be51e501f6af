"""Stands before the package of this name where a server is measured: a tool of the benchmark's that no server brings.

structlog loads it where it finds it, and it takes 5 MB.
"""
# ruff: noqa: INP001 - found by the path alone, as the package that it stands for

raise ImportError("a server that is installed alone has no rich")
