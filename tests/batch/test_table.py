"""Prompts made of a table's columns, and the table that answers become."""

import csv
import json
from contextlib import closing

import pytest

from gptoss_mlx.batch.answers import Answers, Errors
from gptoss_mlx.batch.source import open_source
from gptoss_mlx.batch.table import check_table, fields_of, header_of, write_table
from gptoss_mlx.batch.template import Template
from gptoss_mlx.errors import StorageError, UsageError

SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}, "more": {"type": "array"}}}


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("Translate to {lang}: {text}", "Translate to fr: a {b} c"),
        ("{ Lang }{LANG}", "frfr"),
        ("{{lang}} is {lang}", "{lang} is fr"),
        ("nothing", "nothing"),
    ],
)
def test_a_template_is_filled_with_a_line_s_columns(template, prompt):
    assert Template.of(template).fill({"lang": "fr", "text": "a {b} c"}) == prompt


@pytest.mark.parametrize("wrong", ["{", "}", "{}", "{a!r}", "{a:5}", '{"a": 1}', "{a} {"])
def test_a_template_that_cannot_be_read_is_refused_in_one_line(wrong):
    with pytest.raises(UsageError, match="--prompt") as caught:
        Template.of(wrong)
    assert "\n" not in str(caught.value)


@pytest.fixture
def opened(tmp_path):
    """Open a table as a source whose prompts are made by a template."""

    def opened(text, template, name="in.csv"):
        (tmp_path / name).write_text(text)
        return open_source(str(tmp_path / name), template=Template.of(template))

    return opened


def test_any_columns_will_do_for_a_template(opened):
    with opened("Lang,text\nfr,a\nde,\nit\n", "{lang}: {text}", "in.data") as source:
        good, blank, bad = source.lines()
    assert (good.body, good.columns) == ({"prompt": "fr: a"}, ("fr", "a"))
    assert blank.body == {"prompt": "de: "}
    assert "1 fields, the header 2" in bad.problem


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("a,b\n1,2\n", "in.csv", "no column 'text'"),
        ("text,Text\n1,2\n", "in.csv", "several columns 'text'"),
        ("text\n1\n", "in.txt", "is read as text"),
        ("id,ID,text\n1,2,3\n", "in.csv", "several columns 'id'"),
        ("", "in.csv", "its first line is empty"),
        ("\ntext\n1\n", "in.csv", "its first line is empty"),
    ],
)
def test_a_template_without_its_columns_is_refused(opened, text, name, words):
    with pytest.raises(UsageError, match=words), opened(text, "{text}", name) as source:
        source.survey()


def test_answers_stand_beside_the_columns_they_are_to(opened, tmp_path):
    out = tmp_path / "out.jsonl"
    text = 'id,Text\na,"x, ""y"""\nb,z\nc\nd,later\n'
    values = {"a": {"text": 'say "1, 2"', "more": [1, {"é": None}]}, "b": {"more": None}}
    with opened(text, "{text}") as source, closing(Answers(out, {}, {})) as answers, closing(Errors(out)) as errors:
        for id, value in values.items():
            answers.append({"id": id, "answer": value})
        errors.append({"line": 4, "id": "line-4", "error": {"code": "invalid_line", "message": "1 field"}})
        answers.reread()
        fields = fields_of(SCHEMA)
        write_table(tmp_path / "out.csv", source, answers, errors, fields, None)
        write_table(tmp_path / "two.csv", source, answers, errors, fields, 2)
    with (tmp_path / "out.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["id", "Text", "text", "more", "error"]
    assert rows[0] == ["a", 'x, "y"', 'say "1, 2"', '[1, {"é": null}]', ""]
    assert rows[1:] == [["b", "z", "", "", ""], ["c", "", "", "", "1 field"], ["d", "later", "", "", ""]]
    assert json.loads(rows[0][3]) == values["a"]["more"]
    assert (tmp_path / "two.csv").read_text().count("\n") == 3


def test_a_name_that_both_have_is_told_apart():
    assert header_of(["text", "error"], ["text", "more"]) == ["text", "error", "answer.text", "more", "answer.error"]
    assert header_of(["answer", "answer.answer"], ["answer", "error"])[2:] == [
        "answer.answer.answer",
        "error",
        "answer.error",
    ]
    assert fields_of(None) == fields_of({"type": "array"}) == ["answer"]


def test_another_s_file_is_not_overwritten(tmp_path):
    path = tmp_path / "out.csv"
    check_table(path, ["a"])
    path.write_text("a,b\nmine,1\n")
    check_table(path, ["a", "b"])
    with pytest.raises(StorageError, match="move it away"):
        check_table(path, ["a"])
