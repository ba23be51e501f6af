"""The largest integers that the protos, the trait's Rust and the engines' columns hold."""

UINT32_MAX = 2**32 - 1
UINT64_MAX = 2**64 - 1
INT64_MAX = 2**63 - 1
