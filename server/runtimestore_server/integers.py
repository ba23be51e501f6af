"""Bounds of the integers in protos, Rust's types and database columns, and the variable-length encoding of them."""

UINT32_MAX = 2**32 - 1
UINT64_MAX = 2**64 - 1
INT64_MAX = 2**63 - 1

_ONE_BYTE = 0x80
"""A smaller number takes one byte."""

_SHORT = tuple(bytes([number]) for number in range(_ONE_BYTE))


def varint(number: int) -> bytes:
    """Encode a number, seven bits a byte, the lowest first; the high bit says that more follow."""
    if number < _ONE_BYTE:
        return _SHORT[number]
    if number < _ONE_BYTE**2:  # two bytes, as the lengths of nearly all inputs take
        return bytes((number & 0x7F | 0x80, number >> 7))
    encoded = bytearray()
    while number >= _ONE_BYTE:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
