"""``gptoss-mac run`` with a schema, a regex or a grammar, and what is said of bad ones."""

import json
import os
import re
import subprocess

import jsonschema
import pytest

from gptoss_mlx.cli.constraints import read_constraint
from gptoss_mlx.errors import GptOssError
from tests.cli.test_chat_and_run import COMMAND, ROOT
from tests.support.cli import run_cli

SCHEMA = {"type": "object", "properties": {"sum": {"type": "integer", "maximum": 999}}, "required": ["sum"]}
HOT = ["--model", "tiny", "--temperature", "1.5", "--seed", "2", "--think-tokens", "20", "--max-tokens", "300"]


@pytest.fixture
def run(tmp_path):
    def call(*arguments):
        environment = os.environ | {"GPTOSS_MAC_HOME": str(tmp_path / "home"), "COLUMNS": "80"}
        command = [*COMMAND, "run", *HOT, *map(str, arguments), "What is 12 + 30?"]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)

    return call


def test_the_value_is_printed_and_nothing_else(run, tmp_path):
    done = run("--schema", json.dumps(SCHEMA))
    assert (done.returncode, done.stderr) == (0, "")
    jsonschema.validate(json.loads(done.stdout), SCHEMA)
    (tmp_path / "sum.lark").write_text('start: "=" DIGITS ("," DIGITS)? "."\nDIGITS: /[0-9]{1,4}/\n')
    result = json.loads(run("--grammar", tmp_path / "sum.lark", "--json").stdout)
    assert re.fullmatch(r"=[0-9]{1,4}(,[0-9]{1,4})?\.", result["answer"])
    assert result["valid"] is True
    assert result["finish_reason"] == "stop"


def test_a_value_that_is_cut_off_is_not_printed(run):
    done = run("--schema", json.dumps(SCHEMA), "--max-tokens", 27)
    assert (done.returncode, done.stdout) == (8, "")
    assert "cut off after 27 tokens" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_value_that_only_repeats_itself_is_said_to(run):
    done = run("--regex", "(ab){2000}", "--max-tokens", 600)
    assert (done.returncode, done.stdout) == (8, "")
    assert "only repeated itself" in done.stderr
    assert "--no-repeat-guard" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"schema": "{bad"}, "--schema: it is not JSON"),
        ({"schema": "absent.json"}, "absent.json"),
        ({"schema": "true.json"}, "'true.json': cannot be read"),
        ({"schema": ""}, "--schema: it is not JSON"),
        ({"schema": "[]"}, "#: [] is no schema"),
        ({"schema": "{\udcff}"}, "--schema: byte 0xff"),
        ({"regex": "\udcff"}, "half a surrogate pair"),
        ({"schema": '{"type": "odd"}'}, "#/type: 'odd' is no type"),
        ({"schema": '{"properties": {"a": {"if": {}}}}'}, "#/properties/a: if cannot be enforced"),
        ({"schema": '{"$ref": "#"}'}, "#: nothing finite"),
        ({"schema": '{"items":' * 5000 + "{}" + "}" * 5000}, "#: the schema nests too deep"),
        ({"regex": "(?=a)"}, "the regex cannot be enforced"),
        ({"regex": "a", "schema": "true"}, "exclude one another"),
        ({"schema": '{"description": "' + "x" * 1_100_000 + '"}'}, "#: the schema has more than"),
    ],
)
def test_what_cannot_be_enforced_is_one_line_that_names_it(options, words):
    with pytest.raises(GptOssError) as caught:
        read_constraint(**{"schema": None, "regex": None, "grammar": None} | options)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 300
    assert caught.value.exit_code == 2


def test_a_format_that_only_annotates_is_named_once(capsys):
    schema = json.dumps({"type": "string", "format": "x-odd"})
    assert read_constraint(schema, None, None) == json.loads(schema)
    assert "x-odd" in capsys.readouterr().err


def test_what_cannot_be_read_ends_the_command_before_a_model_is_loaded():
    code, out, err = run_cli("run", "--model", "nothing", "--schema", '{"not": {}}', "hi")
    assert (code, out, err) == (2, "", "gptoss-mac: #: not cannot be enforced\n")
