"""What every call passes through, from its arrival to its last byte: the way is in `call`."""
