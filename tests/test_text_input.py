"""Decode bytes to text: how an encoding is recognised, and that other bytes are refused."""

import itertools
import json

import pytest

from gptoss_mlx.errors import UsageError
from gptoss_mlx.text_input import (
    Decoder,
    LineReader,
    argument,
    decoded,
    encoding_of,
    json_without_surrogates,
    without_surrogates,
)

TEXT = "What is 22 + 33?\nÜbermaß 🙂 你好\n"
MARKED = {
    "utf-8": b"\xef\xbb\xbf",
    "utf-16-le": b"\xff\xfe",
    "utf-16-be": b"\xfe\xff",
    "utf-32-le": b"\xff\xfe\0\0",
    "utf-32-be": b"\0\0\xfe\xff",
}


@pytest.mark.parametrize("name", MARKED)
@pytest.mark.parametrize("text", [TEXT, "你好", "7", "", "\U0001f642"])
def test_a_byte_order_mark_decides_and_is_no_text(name, text):
    assert decoded(MARKED[name] + text.encode(name), "it") == text


@pytest.mark.parametrize("name", MARKED)
@pytest.mark.parametrize(
    "text", [TEXT, "7\n", "Сколько будет 2 + 3? Ответь.", "\n\n", "Ā, ā 一 and 2 + 3, in words please"]
)
def test_without_a_mark_zero_bytes_decide(name, text):
    assert decoded(text.encode(name), "it") == text


@pytest.mark.parametrize("text", ["What is 2 + 3?\0", "What is 2 + 3? \0", "\0", "a\0b", "ab\0" * 50, "\0" * 9])
def test_utf8_may_hold_zero_bytes(text):
    assert decoded(text.encode(), "it") == text


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"What?\r\n\xff\xfe", ["byte 0xff at offset 7, on line 2", "is not UTF-8", "byte order mark", "UTF-16"]),
        (b"a\rb\nc\r\n\xe9t\xe9", ["byte 0xe9 at offset 7, on line 4"]),
        (
            b"\xef\xbb\xbf\xed\xa0\xbd",
            ["byte 0xed at offset 3, on line 1"],
        ),  # half a surrogate pair, which UTF-8 forbids
        (b"\xff\xfea\0\n\0\x3d\xd8b\0", ["byte 0x3d at offset 6, on line 2", "UTF-16-LE", "byte order mark"]),
        (b"\xff\xfea\0b", ["byte 0x62 at offset 4", "truncated"]),
        ("abcd".encode("utf-16-be") + b"\xd8\0\0a", ["byte 0xd8 at offset 8", "UTF-16-BE", "zero bytes"]),
        ("abcd\n".encode("utf-32-le") + b"\0\xd8\0\0", ["byte 0x00 at offset 20, on line 2", "UTF-32-LE"]),
    ],
)
def test_what_cannot_be_decoded_is_refused_naming_the_byte_its_line_and_what_was_tried(data, words):
    with pytest.raises(UsageError) as raised:
        decoded(data, "in.txt")
    assert str(raised.value).startswith("in.txt: byte 0x")
    assert all(word in str(raised.value) for word in words), raised.value


@pytest.mark.parametrize("name", MARKED)
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_pieces_of_any_size_decode_alike_and_name_the_same_fault(name, size):
    data = MARKED[name] + f"{TEXT}\r\n\r\nend".encode(name)
    bad = data + {"utf-8": b"\xff", "utf-16-le": b"\0\xdc"}.get(name, b"\xdc\0\0\0" if "be" in name else b"\0\xdc\0\0")
    for content in (data, bad):
        said = []
        for step in (size, len(content)):
            decoder = Decoder("it", encoding_of(content))
            try:
                pieces = [decoder.feed(content[at : at + step]) for at in range(0, len(content), step)]
                said.append("".join(pieces) + decoder.feed(b"", last=True))
            except UsageError as error:
                said.append(str(error))
        assert said[0] == said[1]
        assert ("on line 5" in said[0]) == (content is bad)


def test_lines_end_with_lf_crlf_or_cr_wherever_the_pieces_are_cut():
    data = "a\r\nb\rc\n\n\r\n🙂\r".encode()
    for cuts in itertools.combinations(range(1, len(data)), 2):
        pieces = [data[at:to] for at, to in zip((0, *cuts), (*cuts, len(data)), strict=True)]
        arriving = [*pieces, b""]
        reader = LineReader(lambda _, arriving=arriving: arriving.pop(0), "it")
        assert list(iter(reader.readline, None)) == ["a", "b", "c", "", "", "🙂"]


def test_a_line_is_given_out_as_soon_as_it_is_there():
    arrived = [b"a\n", b"b\r"]
    reader = LineReader(lambda _: arrived.pop(0), "it")
    assert [reader.readline(), reader.readline()] == ["a", "b"]


def test_of_what_arrives_together_nothing_is_given_out_when_some_of_it_is_no_text():
    arrived = [b"good\n", b"good\nbad \xff\n"]
    reader = LineReader(lambda _: arrived.pop(0), "it")
    assert reader.readline() == "good"
    with pytest.raises(UsageError, match="byte 0xff at offset 14, on line 3"):
        reader.readline()


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1"])
def test_an_argument_is_its_bytes_whatever_the_locale_made_of_them(encoding, monkeypatch):
    monkeypatch.setattr("os.fsencode", lambda text: text.encode(encoding, "surrogateescape"))
    assert argument("Übermaß 🙂".encode().decode(encoding, "surrogateescape"), "it") == "Übermaß 🙂"
    with pytest.raises(UsageError, match="--system: byte 0xff at offset 1"):
        argument(b"a\xff".decode(encoding, "surrogateescape"), "--system")
    with pytest.raises(UsageError, match="the prompt"):
        argument("\ud83d", "the prompt")


def test_halves_of_pairs_in_json_are_joined_or_replaced_in_strings_and_names():
    parsed = json.loads(r'{"\ud83d": ["\ud83d\ude42", "a \udc00", 1, null, {"x": "\ud800\ud800"}], "é": "\u0000"}')
    assert json_without_surrogates(parsed) == {"�": ["🙂", "a �", 1, None, {"x": "��"}], "é": "\0"}
    assert without_surrogates("\ud83d" + "\ude42") == "🙂"
