"""Finds settings: in the file that `config` names, and in the variables that are one, or nearly one."""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_settings import PydanticBaseSettingsSource

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic.fields import FieldInfo
    from pydantic_settings import BaseSettings

PREFIX = "RUNTIMESTORE_"
CLIENT_PREFIX = f"{PREFIX}CLIENT_"
"""How the variables begin that tell commands how to call a server."""

MOST_FILE_BYTES = 1024 * 1024
"""How large a file of settings may be."""

_OF_A_SERVICE = re.compile(
    r"RUNTIMESTORE_(\w+_)?(PORT(_\d+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)?|SERVICE_(HOST|PORT)(_\w+)?)$"
)
"""What Kubernetes sets in each container for a service that is called runtimestore, or begins so."""

_OF_A_STORE = re.compile(r"(?i)(URL|URI|DSN|DATABASE|DB|SQLITE|POSTGRES)")
_OF_OTHER_PROGRAMS = frozenset({"DATABASE_URL", "DB_URL", "DATABASE_URI", "POSTGRES_URL", "POSTGRESQL_URL"})


class BadSource(Exception):
    """The file that `config` names cannot be read, or a variable is mistyped; the message names it."""


def read_file(path: Path) -> dict[str, Any]:
    """Return what a file of settings holds.

    Raises:
        BadSource: it cannot be read.
    """
    try:
        if not path.is_file():  # a pipe would wait for who writes into it
            raise BadSource(f"--config {path}: {'is no file' if path.exists() else 'no such file'}")
        if path.stat().st_size > MOST_FILE_BYTES:
            raise BadSource(f"--config {path}: it is larger than {MOST_FILE_BYTES} bytes, and no file of settings")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadSource(f"--config {path}: {error.strerror}") from None
    except RecursionError:
        raise BadSource(f"--config {path}: not a TOML file: it is nested too deeply") from None
    except ValueError as error:  # also of what is no UTF-8, and of numbers of thousands of digits
        raise BadSource(f"--config {path}: not a TOML file: {error}") from None


class SettingsFile(PydanticBaseSettingsSource):
    """The TOML file that a source before this one names as `config`, if any does."""

    def __call__(self) -> dict[str, Any]:
        """Return what the file holds, and none but settings."""
        name = self.current_state.get("config")
        if not name:
            return {}
        path = Path(name)
        read = read_file(path)
        read.pop("client", None)  # for commands that call a server
        known = self.settings_cls.model_fields
        for name in read:
            if name not in known:
                close = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1)
                cure = f"did you mean {close[0]}?" if close else "see `runtimestore serve --help`"
                raise BadSource(f"--config {path}: setting {name}: there is no such setting; {cure}")
        return read

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Find nothing: the file is read as a whole."""
        del field
        return None, field_name, False


def refuse_mistyped(environment: Mapping[str, str], settings: Iterable[str]) -> None:
    """Refuse environment variables that nearly name a setting: a typo would serve another store than was meant.

    Raises:
        BadSource: one is. What is not near to any is let be: others name variables after a service too.
    """
    known = [f"{PREFIX}{name.upper()}" for name in settings]
    # Those of commands that call a server have the client's prefix, and names that are near to ours.
    others = [
        name
        for name in environment
        if name.upper().startswith(PREFIX) and not name.upper().startswith(CLIENT_PREFIX) and name.upper() not in known
    ]
    for name in others:
        if close := difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.9):
            raise BadSource(f"the variable {name} is no setting; did you mean {close[0]}? Rename or unset it")


def near_misses(environment: Mapping[str, str], settings: BaseSettings) -> list[str]:
    """Return a sentence for each variable that may have been meant as a setting, without its value.

    Those are told and not refused: another program may mean them, as Kubernetes does by those of a service's address.
    """
    known = {f"{PREFIX}{name.upper()}" for name in type(settings).model_fields}
    told = [
        f"the variable {name} is no setting of this server and changes nothing; "
        f"{'the store is named by RUNTIMESTORE_DATABASE_URL' if _OF_A_STORE.search(name) else 'see --help'}"
        for name in sorted(environment)
        if name.upper().startswith(PREFIX) and name.upper() not in known and not _OF_A_SERVICE.match(name)
    ]
    if "database_url" not in settings.model_fields_set:
        told += [
            f"the variable {name} is not read; if it names the store, set RUNTIMESTORE_DATABASE_URL"
            for name in sorted(environment)
            if name in _OF_OTHER_PROGRAMS
        ]
    return told
