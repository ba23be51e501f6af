"""A document taken apart by its nesting is JSON exactly if all of it is."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runtimestore_server.documents import json, nesting

_any = msgspec.json.Decoder(msgspec.Raw)

tokens = st.sampled_from(
    [
        "[",
        "]",
        "{",
        "}",
        '"',
        ",",
        ":",
        "\\",
        " ",
        "0",
        "1",
        "e",
        '"a"',
        '"\\""',
        '"["',
        '"\\\\"',
        "[]",
        "{}",
        '{"a":',
        "[1",
    ]
)
scalars = st.sampled_from(["1", '"x"', '"]"', '"\\\\"', '"\\"["', "null", '"\\ud800"'])


def _object(members: list[str]) -> str:
    named = (f'"{number}[":{member}' for number, member in enumerate(members))
    return "{" + ",".join(named) + "}"


values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda some: f"[{','.join(some)}]"),
        st.lists(inner, max_size=2).map(_object),
    ),
    max_leaves=30,
)


def _is_json(body: bytes) -> bool:
    try:
        json.lenient(_any, body)
    except msgspec.DecodeError:
        return False
    return True


def _is_json_in_layers(body: bytes) -> bool:
    try:
        json.lenient(_any, json.shallow(body))
    except msgspec.DecodeError:
        return False
    return True


@given(st.one_of(values, st.lists(tokens, max_size=14).map("".join)), st.integers(0, 200), tokens, st.integers(0, 2))
@example("[[[1[]]]]", 0, "", 0)
@example('[[[["]]]]', 0, "", 0)
def test_a_document_is_json_exactly_if_each_of_its_layers_is(text: str, at: int, put: str, gone: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nesting, "LAYER_LEVELS", 3)
        for body in (text.encode(), (text[:at] + put + text[at + gone :]).encode()):
            assert _is_json_in_layers(body) == _is_json(body)


@given(values)
def test_no_layer_is_deeper_than_a_layer_may_be(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nesting, "LAYER_LEVELS", 3)
        for layer in nesting.layers(text.encode()):
            depth = deepest = 0
            for token in nesting._TOKENS.findall(layer):
                if not token.startswith(b'"'):
                    depth += token.count(b"[") + token.count(b"{") - token.count(b"]") - token.count(b"}")
                    deepest = max(deepest, depth)
            assert deepest <= nesting.LAYER_LEVELS
            assert depth == 0


@given(st.lists(st.sampled_from(['\\"', "\\\\", "[", "]", "{", "a"])).map("".join))
def test_a_string_that_does_not_end_is_read_once(text: str) -> None:
    rest = f'"{text}'.encode()

    assert nesting._TOKENS.findall(b"[[" + rest) == [b"[[", rest]
    assert not _is_json_in_layers(b"[[" + rest)
