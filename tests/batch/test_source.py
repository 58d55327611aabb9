"""Files of prompts as people write them: each line is read, or refused with a reason."""

import io
import json
import math
import os
import sys
from types import SimpleNamespace

import pytest

from gptoss_mlx.batch.source import BadLine, Line, open_source
from gptoss_mlx.errors import StorageError, UsageError


@pytest.fixture
def read(tmp_path):
    """Return the lines of a file with this content, each as (number, id, prompt) or (number, id, problem)."""

    def read(content, name="in.jsonl", form=None):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with open_source(str(path), form) as source:
            return [
                (line.number, line.id, line.problem if isinstance(line, BadLine) else line.body.get("prompt"))
                for line in source.lines()
            ]

    return read


def openai_line(**other):
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}
    return {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body} | other


def test_openai_batch_lines_give_their_body_and_endpoint(tmp_path):
    """The example in OpenAI's reference, and one for the other endpoint."""
    path = tmp_path / "in.jsonl"
    lines = [openai_line(), openai_line(custom_id="b", url="/v1/responses", body={"input": "Hi"})]
    path.write_text("\n".join(map(json.dumps, lines)))
    with open_source(str(path)) as source:
        assert list(source.lines()) == [
            Line(1, "a", "chat", lines[0]["body"]),
            Line(2, "b", "responses", {"input": "Hi"}),
        ]
        assert source.notices == ()


def test_plain_lines_with_and_without_ids_and_blank_lines_between(read):
    text = '\ufeff{"prompt": "a"}\n\n{"id": 7, "prompt": "b\\u2028c"}\r\n{"id": null, "prompt": "d"}'
    assert read(text) == [(1, "line-1", "a"), (3, 7, "b\u2028c"), (4, "line-4", "d")]


@pytest.mark.parametrize(
    ("line", "id", "words"),
    [
        (b'{"id": "x", "prompt": "a"', "line-1", "not JSON"),
        (b"[1]", "line-1", "not an object"),
        (b'"just text"', "line-1", "not an object"),
        (b'{"id": "x"}', "x", "prompt or messages"),
        (b'{"id": "x", "prompt": "a", "messages": []}', "x", "either"),
        (b'{"id": true, "prompt": "a"}', "line-1", "id must be"),
        (b'{"id": 1.5, "prompt": "a"}', "line-1", "id must be"),
        (b'{"id": "", "prompt": "a"}', "line-1", "id must be"),
        (b'{"id": "\\ud800", "prompt": "a"}', "line-1", "surrogate"),
        (b'{"prompt": "\xff"}', "line-1", "not UTF-8"),
        (b"[" * 100_000, "line-1", "nested"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "line-1", "more digits"),
        (json.dumps(openai_line(method="GET")).encode(), "a", "method"),
        (json.dumps(openai_line(url="/v1/embeddings")).encode(), "a", "/v1/responses"),
        (json.dumps(openai_line(url={})).encode(), "a", "/v1/chat/completions"),
        (json.dumps(openai_line(url=["/v1/responses"])).encode(), "a", "url"),
        (json.dumps(openai_line(method={"POST": 1})).encode(), "a", "method"),
        (json.dumps(openai_line(body="Hi")).encode(), "a", "body"),
        (json.dumps(openai_line(body={"input": "Hi", "metadata": {"a": math.nan}})).encode(), "a", "NaN"),
        (json.dumps(openai_line(body={"messages": 7})).replace("7", "1e999").encode(), "a", "infinite"),
        (json.dumps(openai_line(custom_id={"a": 1})).encode(), "line-1", "id must be"),
        (b'{"id": "x", "prompt": "a", "deep": ' + b"[" * 200 + b"]" * 200 + b"}", "x", "nested"),
    ],
)
def test_a_bad_line_has_its_number_and_a_reason_and_the_next_is_read(read, line, id, words):
    bad, good = read(line + b'\n{"prompt": "good"}\n')
    assert bad[:2] == (1, id)
    assert words in bad[2]
    assert good == (2, "line-2", "good")


def test_a_hundred_levels_are_read(read):
    deep = '{"prompt": "a", "other": ' + "[" * 99 + "1" + "]" * 99 + "}"
    assert read(deep)[0][2] == "a"
    assert "nested" in read(deep.replace("[1]", "[[1]]"))[0][2]


def test_a_line_too_long_to_hold_is_passed_over(read, monkeypatch):
    monkeypatch.setattr("gptoss_mlx.batch.source.MAX_LINE", 1000)
    for name, long, good in (
        ("in.jsonl", b'{"prompt": "' + b"x" * 5000 + b'"}', b'{"prompt": "good"}'),
        ("in.txt", b"x" * 5000, b"good"),
        ("in.csv", b"prompt\n" + b"x" * 5000, b"good"),
    ):
        bad, last = read(long + b"\n" + good + b"\n", name)
        assert "longer than" in bad[2]
        assert last[2] == "good"


def test_csv_with_quotes_lines_within_fields_and_other_columns(read):
    text = 'ID,Prompt ,note\n1,"a, ""b""\nc",x\n,d,\n2,e\n"3"x,f,\n\n4,g,\n'
    lines = read(text, "in.csv")
    assert lines[0] == (2, "1", 'a, "b"\nc')
    assert lines[1] == (4, "line-4", "d")
    assert lines[2][:2] == (5, "line-5")
    assert "2 fields, the header 3" in lines[2][2]
    assert lines[3][:2] == (6, "line-6")
    assert lines[4] == (8, "4", "g")
    assert read("prompt\tid\na, b\tx\n", "in.tsv") == [(2, "x", "a, b")]
    with pytest.raises(UsageError, match="has question"):
        read("question\nwhy?\n", "in.csv")


def test_one_prompt_a_line(read):
    assert read("a, b\r\n\n  {c}  \n", "in.txt") == [(1, "line-1", "a, b"), (3, "line-3", "{c}")]


@pytest.mark.parametrize(
    ("name", "content", "form", "noted"),
    [
        ("in.jsonl", '{"prompt": "a"}', "jsonl", False),
        ("in.csv", "prompt\na", "csv", False),
        ("in.txt", "What?", "text", False),
        ("in.csv", 'id,"prompt"\n1,a', "csv", False),
        ("in.json", '{"prompt": "a"}', "jsonl", True),
        ("in", '\n {"prompt": "a"}', "jsonl", True),
        ("in", "id,prompt\n1,a", "csv", True),
        ("in.dat", "What?", "text", True),
        ("in.txt", '{"prompt": "a"}', "text", True),
        ("in.jsonl", "What?", "jsonl", True),
    ],
)
def test_the_form_is_told_by_name_then_content_and_doubt_is_said(tmp_path, name, content, form, noted):
    (tmp_path / name).write_text(content)
    with open_source(str(tmp_path / name)) as source:
        assert source.form == form
        assert bool(source.notices) == noted
        assert all(form in notice and "--format" in notice for notice in source.notices)
    with open_source(str(tmp_path / name), "text") as source:
        assert (source.form, source.notices) == ("text", ())


def test_an_array_is_refused_with_the_way_out(read):
    with pytest.raises(UsageError, match="jq"):
        read('[{"prompt": "a"}]', "in.json")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_in_any_encoding_and_with_any_line_ends_the_lines_are_the_same(read, encoding, end):
    for name, text in (
        ("in.txt", "What is 22 + 33?\nÜ 🙂\n"),
        ("in.jsonl", '{"prompt": "What is 22 + 33?"}\n{"prompt": "Ü 🙂"}\n'),
        ("in.csv", 'prompt\nWhat is 22 + 33?\n"Ü 🙂"\n'),
        ("in", '{"prompt": "What is 22 + 33?"}\n{"prompt": "Ü 🙂"}\n'),
    ):
        lines = read(text.replace("\n", end).encode(encoding), name)
        first = 2 if name == "in.csv" else 1
        assert lines == [(first, f"line-{first}", "What is 22 + 33?"), (first + 1, f"line-{first + 1}", "Ü 🙂")]


@pytest.mark.parametrize("name", ["in.txt", "in.csv"])
def test_text_that_cannot_be_decoded_is_refused_whole(read, name):
    with pytest.raises(UsageError, match="byte 0xff at offset 2000007, on line 3, is not UTF-8"):
        read(b"prompt\n" + b"x" * 1_999_999 + b"\n\xff\n", name)


@pytest.mark.parametrize(
    ("encoding", "bad", "at"),
    [
        ("utf-8", b"\xff", 12),
        ("utf-16-le", b"\x00\xdc", 24),
        ("utf-16-be", b"\xd8\x00", 24),
        ("utf-32-le", b"\0\xd8\0\0", 48),
    ],
)
def test_a_line_of_json_that_cannot_be_decoded_is_an_error_of_its_own(read, encoding, bad, at):
    content = '{"prompt": "a"}\n{"prompt": "X"}\n{"prompt": "b"}\n'.encode(encoding)
    first, second, third = read(content.replace("X".encode(encoding), bad))
    assert (first[2], third[2]) == ("a", "b")
    assert f"it is not {encoding.upper()}" in second[2]
    assert f"from its byte {at} on" in second[2]


def test_an_odd_byte_at_the_end_is_of_the_last_line_alone(read):
    good, bad = read('{"prompt": "a"}\n{"prompt": "b"}'.encode("utf-16") + b"\n")
    assert good[2] == "a"
    assert "not UTF-16" in bad[2]


def test_half_a_surrogate_pair_in_json_is_read_as_the_replacement_character(read):
    assert read(r'{"prompt": "a \ud83d b \ud83d\ude42 \u0000"}') == [(1, "line-1", "a � b 🙂 \0")]


@pytest.mark.parametrize("change", ["grow", "shrink", "edit", "remove"])
def test_what_was_surveyed_is_answered_whatever_becomes_of_the_file(tmp_path, change):
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"id": f"p{n}", "prompt": "x" * n}) + "\n" for n in range(3)))
    with open_source(str(path)) as source:
        before = list(source.lines())
        assert source.survey() == 3
        match change:
            case "grow":
                path.write_text(path.read_text() + '{"id": "p0", "prompt": "again"}\n')
            case "shrink":
                path.write_text('{"id": "p0"')
            case "edit":
                path.write_text(path.read_text().replace("p1", "p2"))
            case "remove":
                path.unlink()
        assert list(source.lines()) == before


def test_no_room_for_the_copy_is_one_line(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(28, "No space left on device")

    (tmp_path / "in.txt").write_text("a\n")
    monkeypatch.setattr("tempfile.TemporaryFile", Full)
    with pytest.raises(StorageError, match=r"No space left.*TMPDIR"), open_source(str(tmp_path / "in.txt")):
        pass


def test_ids_that_occur_twice_are_refused_naming_both_lines(tmp_path):
    path = tmp_path / "in.jsonl"
    for second in ('{"id": 1, "prompt": "b"}', '{"id": "1"}', '{"id": "line-1", "prompt": "b"}'):
        first = '{"prompt": "a"}' if "line-1" in second else '{"id": "1", "prompt": "a"}'
        path.write_text(f"{first}\n\n{second}\n")
        with open_source(str(path)) as source, pytest.raises(UsageError, match="lines 1 and 3"):
            source.survey()


def test_an_empty_input_is_refused(tmp_path):
    (tmp_path / "in.txt").write_text("\n \n")
    with open_source(str(tmp_path / "in.txt")) as source, pytest.raises(UsageError, match="no prompts"):
        source.survey()
    for name in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(UsageError, match="cannot be read"), open_source(str(name)):
            pass


def test_what_cannot_be_read_twice_is_copied(tmp_path, monkeypatch):
    reading, writing = os.pipe()
    os.write(writing, b'{"prompt": "a"}\n{"prompt": "b"}\n')
    os.close(writing)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=os.fdopen(reading, "rb")))
    with open_source("-") as source:
        assert source.survey() == 2
        assert [line.body for line in source.lines()] == [{"prompt": "a"}, {"prompt": "b"}]
        assert "standard input" in source.notices[0]
