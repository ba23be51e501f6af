"""The forms in which a client sends: whole, what changed where that saves something, or edits wherever they can be.

What comes of a call is the same in each: so the tests of what the service promises run over all of them.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Literal
from unittest.mock import patch

from runtimestore import _edits, _forms
from runtimestore._known import DEFAULT_KNOWN_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

Form = Literal["whole", "changed", "edits"]

WHOLE: Form = "whole"
"""Everything is sent and fetched: the client remembers nothing."""
CHANGED: Form = "changed"
"""As clients are by default: what changed, partial inputs and known digests, where that saves something."""
EDITS: Form = "edits"
"""The same, but sessions as edits also where they save nothing, as all small ones do."""

FORMS = (WHOLE, CHANGED, EDITS)


@contextlib.contextmanager
def sending(form: Form) -> Iterator[int]:
    """Have the clients of this process send in a form; what they are to remember at most, in bytes."""
    if form == EDITS:
        with patch.object(_forms, "find_edits", _edits.edits_between):
            yield DEFAULT_KNOWN_BYTES
    else:
        yield 0 if form == WHOLE else DEFAULT_KNOWN_BYTES
