"""Backup and restore of a whole store: one file, consistent, checked when it is written and before it is used."""

from runtimestore_server.backup.create import CannotBackUp, create
from runtimestore_server.backup.restore import CannotRestore, restore

__all__ = ["CannotBackUp", "CannotRestore", "create", "restore"]
