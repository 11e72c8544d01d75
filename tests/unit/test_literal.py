"""Proves the text of Nix literals by cases; tests/integration/test_literal.py asks the real Nix for values back."""

import pytest

from smallkube.nix.literal import NixPath, literal


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "null"),
        (True, "true"),
        (0, "0"),
        (-1, "(-1)"),
        ('a"b\\c', '"a\\"b\\\\c"'),
        ("${x}", '"\\${x}"'),
        ("a\nb\r\t", '"a\\nb\\r\\t"'),
        ((), "[ ]"),
        ({}, "{ }"),
        (NixPath("../keys/a.age"), "../keys/a.age"),
        (NixPath("./a b${c}"), '(./. + "/a b\\${c}")'),
        ({"a": 1, "wgkube.key": 2, "if": 3}, '{\n  a = 1;\n  "wgkube.key" = 2;\n  "if" = 3;\n}'),
        (({"a": (1,)},), "[\n  {\n    a = [\n      1\n    ];\n  }\n]"),
    ],
)
def test_literals(value: object, expected: str) -> None:
    assert literal(value) == expected


def test_what_nix_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        literal("\0")
    with pytest.raises(TypeError, match="float"):
        literal(1.5)
