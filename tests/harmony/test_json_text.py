"""Values that openai-harmony 0.0.8 writes otherwise than Python. The goldens have more."""

import pytest

from gptoss_mlx.harmony.json_text import json_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-5, "0.00001"),
        (1.5e-5, "0.000015"),
        (1e-6, "1e-6"),
        (2.5e-7, "2.5e-7"),
        (5e-324, "5e-324"),
        (-0.0, "-0.0"),
        (1.0, "1.0"),
        (1e15, "1000000000000000.0"),
        (1e16, "1e16"),
        (123456789012345680.0, "1.2345678901234568e17"),
        (1.7976931348623157e308, "1.7976931348623157e308"),
        (2**64 - 1, "18446744073709551615"),
        (2**64, "1.8446744073709552e19"),
        (-(2**63), "-9223372036854775808"),
        (-(2**63) - 1, "-9.223372036854776e18"),
        (10**30, "1e30"),
        (True, "true"),
    ],
)
def test_numbers(value, text):
    assert json_text(value) == text


def test_digits_are_those_that_openai_harmony_reads():
    """openai-harmony rounds once too often. The prompt must have its last digit, which is another float's."""
    assert json_text(-0.012727645242527421) == "-0.01272764524252742"
    assert json_text(3.6712383142708806e-301) == "3.671238314270881e-301"


def test_text_is_compact_and_unicode():
    assert json_text({"é": [None, 'a"\n\x01', (1e-5,)], "": {}}) == '{"é":[null,"a\\"\\n\\u0001",[0.00001]],"":{}}'
