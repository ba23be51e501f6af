"""Carries every call from its arrival to its last byte: the way is in `call`."""
