"""The README's table of settings is the settings class, row by row."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from runtimestore_server.settings import MIB, Settings

README = Path(__file__).resolve().parents[2] / "README.md"
BEGIN, END = "<!-- settings: begin -->\n", "<!-- settings: end -->\n"


def _default(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, int) and value >= MIB and value % MIB == 0:
        return f"`{value}` ({value // MIB} MiB)"
    return f"`{value}`"


def settings_table() -> str:
    """The table as it must stand in the README."""
    rows = [
        f"| `{name}` | {_default(field.default)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| setting | default | meaning |", "|---|---|---|", *rows, ""])


def test_the_readme_lists_every_setting_with_its_default_and_meaning() -> None:
    readme = README.read_text(encoding="utf-8")
    table = readme.partition(BEGIN)[2].partition(END)[0]

    assert table == settings_table(), f"the README's table must be:\n{settings_table()}"


def test_every_setting_has_a_sentence_that_says_what_it_is() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
