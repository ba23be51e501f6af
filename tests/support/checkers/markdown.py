"""The fenced blocks of a Markdown file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: the words after its fence, its text and where it begins."""

    language: str
    words: tuple[str, ...]
    text: str
    line: int

    @property
    def is_run(self) -> bool:
        """Whether the fence says that the block is to be run: ```sh run."""
        return "run" in self.words

    @property
    def is_secure(self) -> bool:
        """Whether each line of it is to be run against servers with TLS that ask who calls: ```sh secure."""
        return "secure" in self.words


def blocks(file: Path) -> list[Block]:
    """All fenced blocks of `file`, from its top to its end."""
    content = file.read_text(encoding="utf-8")
    found = []
    for fence in _FENCE.finditer(content):
        language, *words = fence["info"].split() or [""]
        found.append(Block(language, tuple(words), fence["text"], content.count("\n", 0, fence.start()) + 1))
    return found
