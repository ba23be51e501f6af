"""Takes a JSON document apart by its nesting, so that a parser that recurses can read it however deep it is nested."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LAYER_LEVELS = 256
"""How many levels a layer has: more than the runtimes' types read, and fewer than any thread's recursion allows."""

_TOKENS = re.compile(rb'[\[{]++|[\]}]++|"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
"""Brackets side by side, and strings, in which brackets are text.

A string that does not end takes all that is left. Else each quote in it would be tried as the beginning of another one,
each time up to the end of the document.
"""
_OPENING = b"[{"
_QUOTE = ord('"')
_INSTEAD = b" 0 "
"""What stands in the place of a deeper layer; between blanks it is no part of a number."""


def layers(body: bytes) -> Iterator[bytes]:
    """Yield a document in layers, the deeper ones before those around them: it is JSON exactly if each of them is.

    In a layer a number stands in the place of each deeper one, and the outermost, which comes last, is the document but
    for that. A layer that no bracket closes is yielded too.
    """
    around: list[list[bytes]] = []
    parts: list[bytes] = []
    start = depth = 0
    for token in _TOKENS.finditer(body):
        at, end = token.span()
        if body[at] == _QUOTE:
            continue
        opening = body[at] in _OPENING
        while at < end:
            if not opening:
                step = min(end - at, depth)
                if not step:
                    break  # one bracket too many: the outermost layer has it, and is no JSON
                at, depth = at + step, depth - step
                if not depth and around:
                    yield b"".join((*parts, body[start:at]))
                    parts, start, depth = around.pop(), at, LAYER_LEVELS
                continue
            if depth == LAYER_LEVELS:
                parts += body[start:at], _INSTEAD
                around.append(parts)
                parts, start, depth = [], at, 0
            step = min(end - at, LAYER_LEVELS - depth)
            at, depth = at + step, depth + step
    rest = body[start:]
    while around:
        yield b"".join((*parts, rest))
        parts, rest = around.pop(), b""
    yield b"".join((*parts, rest))
