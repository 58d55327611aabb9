"""A regex or a grammar becomes a constraint of the published vocabulary, which is built once, when it is wanted."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from gptoss_mlx.errors import ConstraintError, GrammarError
from gptoss_mlx.grammars import Grammar, Vocabulary, from_lark, from_regex, from_schema
from gptoss_mlx.grammars.reply import PYTHON, reply
from gptoss_mlx.harmony import Tokenizer
from tests.grammars.walks import walk
from tests.support.tokenizers import small_tokenizer_json, write_json
from tests.test_imports import ROOT

CHAIN = "start: r0\n" + "".join(f'r{n}: "a" r{n + 1}\n' for n in range(5000)) + 'r5000: "b"\n'
"""llguidance recurses along it, and would end the process."""
SUM = 'start: number ("+" number)* ";"\nnumber: /[1-9][0-9]{0,2}/ | "(" number ")"\n'


@pytest.mark.parametrize("pattern", ["[a-f]{3}/[0-9]{1,5}x", "(yes|no)(, (yes|no)){0,3}", r"\p{Lu}{1,5}\n?"])
def test_what_is_drawn_under_a_regex_matches_it_whole(pattern, vocabulary, tokenizer):
    ended = 0
    for seed in range(4):
        ids, complete = walk(vocabulary, from_regex(pattern), seed, most=80)
        if complete:
            assert re.fullmatch(pattern.replace(r"\p{Lu}", r"[^\W\d_]"), tokenizer.decode(ids))
            ended += 1
    assert ended


def test_what_is_drawn_under_a_grammar_is_a_sentence_of_it(vocabulary, tokenizer):
    for seed in range(4):
        ids, complete = walk(vocabulary, from_lark(SUM), seed)
        assert complete
        assert re.fullmatch(r"[\d()+]+;", text := tokenizer.decode(ids))
        assert eval(text[:-1]) > 0


@pytest.mark.parametrize("make", [from_regex, from_lark])
@pytest.mark.parametrize(
    "text", ["(", CHAIN, "(" * 100_000, "start: nothing", "start: /(?=a)/", "[z-a]", "(?!x)y", "x" * (1 << 20) + "("]
)
def test_what_cannot_be_read_is_one_line(make, text):
    if make is from_regex and text.startswith(("start: n", "start: r0")):
        pytest.skip("a regex of text")
    with pytest.raises(GrammarError) as caught:
        make(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_what_is_forced_is_given_in_whole_tokens(vocabulary, tokenizer):
    grammar = from_regex('answer = "[ab]" and nothing else')
    constraint = vocabulary.constraint(grammar)
    forced = constraint.forced()
    assert 'answer = "'.startswith(tokenizer.decode(forced))
    assert len(forced) >= 2
    for id in tokenizer.encode('answer = "a" and nothing else'):
        constraint.accept(id)
    assert constraint.complete
    assert constraint.forced() == [vocabulary.end]


def test_no_marker_is_allowed_but_the_end(vocabulary, tokenizer):
    constraint = vocabulary.constraint(from_regex("(?s:.*)"))
    allowed = np.flatnonzero(np.unpackbits(constraint.mask().view(np.uint8), bitorder="little"))
    assert set(allowed) & set(tokenizer.special.values()) == {vocabulary.end}


def test_a_constraint_is_rewound_to_any_length(vocabulary, tokenizer):
    grammar = from_schema({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
    ids, complete = walk(vocabulary, grammar, 3)
    assert complete
    constraint = vocabulary.constraint(grammar)
    masks = []
    for id in ids:
        masks.append(constraint.mask())
        constraint.accept(id)
    for length in (len(ids) - 1, 2, 0):
        constraint.rewind(length)
        assert constraint.length == length
        assert (constraint.mask() == masks[length]).all()
    for id in ids:
        constraint.accept(id)
    assert constraint.complete


def test_an_id_that_is_not_allowed_is_an_error(vocabulary, tokenizer):
    constraint = vocabulary.constraint(from_regex("[0-9]+"))
    with pytest.raises(ConstraintError, match="cannot go on"):
        constraint.accept(tokenizer.encode("x")[0])


def test_rows_of_one_grammar_do_not_share_their_state(vocabulary, tokenizer):
    grammar = from_regex("ab[0-9]{2}")
    one, other = vocabulary.constraint(grammar), vocabulary.constraint(grammar)
    for id in tokenizer.encode("ab12"):
        one.accept(id)
    assert one.complete
    assert other.length == 0
    assert not other.complete


@pytest.fixture
def small(tmp_path):
    """The vocabulary of a small tokenizer, not built."""
    return Vocabulary(Tokenizer.from_file(write_json(tmp_path / "tokenizer.json", small_tokenizer_json())))


def test_grammars_are_kept_by_their_content_and_only_so_many(small, monkeypatch):
    from gptoss_mlx.grammars import vocabulary as module

    made = []
    real = module.LLMatcher
    monkeypatch.setattr(module, "LLMatcher", lambda *given, **more: made.append(given[1]) or real(*given, **more))
    monkeypatch.setattr(module, "KEPT", 2)
    for pattern in ("a", "b", "a", "c", "a", "b"):
        small.constraint(from_regex(pattern))
    assert [re.search("/(.)/", json.loads(one)["grammars"][0]["lark_grammar"])[1] for one in made] == [
        "a",
        "b",
        "c",
        "b",
    ]


def test_it_is_built_once_and_not_before_it_is_wanted(small, monkeypatch):
    from gptoss_mlx.grammars import vocabulary as module

    built = []
    real = module._Tokens
    monkeypatch.setattr(module, "_Tokens", lambda *given: built.append(1) or real(*given))
    assert not built
    first = small.build()
    for _ in range(2):
        small.constraint(from_regex("a"))
    assert small.build() is first
    assert first.done()
    assert built == [1]


def test_what_fails_while_it_is_built_is_raised_where_it_is_wanted(small, monkeypatch):
    from gptoss_mlx.grammars import vocabulary as module

    monkeypatch.setattr(module, "LLTokenizer", None)
    with pytest.raises(TypeError):
        small.constraint(from_regex("a"))


def test_a_grammar_travels_as_text(vocabulary):
    grammar = replace(reply(from_schema({"type": "integer"}), [PYTHON]), thought=3)
    again = Grammar.from_text(grammar.to_text())
    assert again == grammar
    assert again.llguidance == grammar.llguidance
    wrong = ('{"lark": 1, "parts": [], "thought": null}', '{"lark": "", "parts": [1]}')
    for text in ("", "{}", "[]", "[" * 100_000, *wrong):
        with pytest.raises(GrammarError) as caught:
            Grammar.from_text(text)
        assert len(str(caught.value)) < 120


def test_who_has_no_constraint_does_not_import_what_makes_them(tmp_path):
    code = (
        "import sys\n"
        "import gptoss_mlx\n"
        "runtime = gptoss_mlx.load('tiny')\n"
        "list(gptoss_mlx.Conversation(runtime).send('What is 1 + 2?'))\n"
        "from gptoss_mlx.requests import Defaults, chat_completions\n"
        "from gptoss_mlx.server import app\n"
        "import gptoss_mlx.batch.run, gptoss_mlx.cli.run\n"
        "body = {'messages': [{'role': 'user', 'content': 'hi'}], 'tool_choice': 'auto'}\n"
        "chat_completions.read(body, Defaults(runtime.sampling()))\n"
        "assert 'mlx.core' in sys.modules\n"
        "assert not [name for name in sys.modules if name.startswith(('llguidance', 'gptoss_mlx.grammars'))]\n"
    )
    environment = {"GPTOSS_MAC_HOME": str(tmp_path), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr


def test_patterns_whose_states_rows_share_do_not_wear_out(vocabulary):
    """The names of a published schema of a build service. With llguidance's own bound the fifth row failed."""
    names = {
        f"^(.*){word}$": {"type": "string", "maxLength": 9} for word in ("task", "pipe", "script", "cache", "docker")
    }
    grammar = from_schema({"type": "object", "patternProperties": names, "maxProperties": 3})
    for seed in range(8):
        walk(vocabulary, grammar, seed, most=60)


def test_a_grammar_is_compiled_again_after_many_rows(small, monkeypatch):
    from gptoss_mlx.grammars import vocabulary as module

    monkeypatch.setattr(module, "USES", 3)
    compiled = []
    real = module.LLMatcher
    monkeypatch.setattr(module, "LLMatcher", lambda *given, **more: compiled.append(1) or real(*given, **more))
    for _ in range(7):
        small.constraint(from_regex("a"))
    assert len(compiled) == 3
