"""How long the digests are that are stored."""

SHA256_BYTES = 32
SEAL_BYTES = 16
"""What is kept of the digest that seals a row, so that any damage to the row shows."""
