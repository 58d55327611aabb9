"""Text is encoded as ordinary tokens and decoded again; tokenizer files are read, or refused when damaged."""

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers

from gptoss_mlx.bundled import checkpoint
from gptoss_mlx.errors import CheckpointError, ModelFolderError, StorageError
from gptoss_mlx.harmony import Delta, StreamParser, Tokenizer
from tests.support.harmony_goldens import read_golden
from tests.support.tokenizers import SMALL_MARKERS, published_tokenizer_json, small_tokenizer_json, write_json

# Taken from openai/gpt-oss-120b's tokenizer.json:
# sha256 0614fe83cadab421296e664e1f48f4261fa8fef6e03e63bb75c20f38e37d07d3.
PUBLISHED_DIGEST = "bdf2d01eb43265ee718fb75990270563dafdcbfa3bc7332989fc0e765c4ea2c6"


def streamed(tokenizer, ids):
    """Return the pieces of text as which an answer of these ids arrives."""
    parser = StreamParser(tokenizer)
    parser.feed([tokenizer.special["<|channel|>"], *tokenizer.encode("final"), tokenizer.special["<|message|>"]])
    events = [event for id in ids for event in parser.feed(id)] + parser.finish()
    return [event.text for event in events if isinstance(event, Delta)]


def test_bundled_vocabulary_is_the_published_one(published):
    assert published.digest == PUBLISHED_DIGEST
    assert published.vocab_size == 200019
    assert [published.special[f"<|{name}|>"] for name in ("endoftext", "return", "constrain", "channel")] == [
        *(199999, 200002, 200003, 200005)
    ]
    assert [published.special[f"<|{name}|>"] for name in ("start", "end", "message", "call")] == [
        *(200006, 200007, 200008, 200012)
    ]


@pytest.fixture(scope="module")
def published_file(tmp_path_factory):
    return write_json(tmp_path_factory.mktemp("published") / "tokenizer.json", published_tokenizer_json())


def test_tokenizer_json_of_the_published_vocabulary_gives_the_same(published_file):
    assert Tokenizer.from_file(published_file).digest == PUBLISHED_DIGEST


def test_text_encodes_as_tokenizers_encodes_it_with_the_published_vocabulary(published, published_file):
    """Compare with Hugging Face's tokenizers, which reads the merges and not the ranks."""
    judge = tokenizers.Tokenizer.from_file(str(published_file))
    judge.encode_special_tokens = True
    rng = random.Random(7)
    letters = "aaaabcdeEtTh  \t\n\r.,;:'\"-_/1234567890éßñжЯ漢字かな한글🙂👩‍🚀\u0301\u200d\u3000"
    texts = ["".join(rng.choices(letters, k=rng.randrange(1, 60))) for _ in range(2000)]
    texts += [path.read_text() for path in sorted(Path(__file__).parent.glob("*.py"))]
    for text in texts:
        assert published.encode(text) == judge.encode(text, add_special_tokens=False).ids, text
    markers = "".join(published.special)
    judge.encode_special_tokens = False
    assert judge.encode(markers, add_special_tokens=False).ids == list(published.special.values())


def test_no_text_encodes_to_a_marker(published, small):
    for tokenizer in (published, small):
        text = "".join(f"{marker} {marker.upper()}{marker[:-1]} " for marker in tokenizer.special)
        ids = tokenizer.encode(text)
        assert not set(ids) & set(tokenizer.special.values())
        assert tokenizer.decode(ids) == text


def test_ids_of_another_vocabulary_come_from_its_file(small):
    assert small.encode("the cat") == [257, 32, 99, 97, 116]
    assert (small.special["<|call|>"], small.special["<|start|>"]) == (260, 263)
    assert small.vocab_size == 269


def test_ids_that_stand_for_nothing_are_allowed(tmp_path):
    raw = small_tokenizer_json()
    raw["model"]["vocab"]["abc"] = 280
    tokenizer = Tokenizer.from_file(write_json(tmp_path / "tokenizer.json", raw))
    tokenizer.save(tmp_path / "tokenizer")
    for again in (tokenizer, Tokenizer.load(tmp_path / "tokenizer")):
        assert again.encode("abc") == [280]
        assert again.decode([97, 275, 280]) == "aabc"
        assert again.vocab_size == 281


def test_markers_may_stand_in_the_vocabulary_too(small, tmp_path):
    raw = small_tokenizer_json()
    raw["model"]["vocab"] |= {added["content"]: added["id"] for added in raw["added_tokens"]}
    assert Tokenizer.from_file(write_json(tmp_path / "tokenizer.json", raw)).digest == small.digest


def with_added(tmp_path, *added, base=small_tokenizer_json):
    raw = base()
    raw["added_tokens"] += [{"special": False, **entry} for entry in added]
    return Tokenizer.from_file(write_json(tmp_path / "tokenizer.json", raw))


def test_an_added_token_that_is_not_special_is_text(small, tmp_path):
    tokenizer = with_added(tmp_path, {"id": 300, "content": "<tool>"}, {"id": 301, "content": "the cat"})
    assert tokenizer.special == small.special
    assert tokenizer.vocab_size == 302
    tokenizer.save(tmp_path / "tokenizer")
    for again in (tokenizer, Tokenizer.load(tmp_path / "tokenizer")):
        ids = again.encode("a<tool>the cat, the")
        assert ids == [97, 300, 301, 44, 32, 257]
        assert again.decode(ids) == "a<tool>the cat, the"
        assert streamed(again, ids) == ["a", "<tool>", "the cat", ",", " ", "the"]
        assert again.digest == tokenizer.digest != small.digest


def test_the_small_vocabulary_is_written_as_it_was_read(small):
    """The published one is too: the file that is compared with tokenizers above is written by ``to_json``."""
    assert small.to_json() == small_tokenizer_json()


def test_a_vocabulary_that_tokenizers_would_number_otherwise_is_not_written(small):
    special = small.special | {"<|call|>": 400}
    tokenizer = Tokenizer([small.token_bytes(id) for id in range(260)], special, r"\s+|\S+")
    with pytest.raises(ValueError, match="its ids have gaps"):
        tokenizer.to_json()


def test_a_marker_of_harmonys_stays_one_whatever_its_file_calls_it(small, tmp_path):
    raw = small_tokenizer_json()
    for entry in raw["added_tokens"]:
        entry["special"] = False
    tokenizer = Tokenizer.from_file(write_json(tmp_path / "tokenizer.json", raw))
    assert tokenizer.digest == small.digest
    assert not set(tokenizer.encode("<|start|>x<|end|>")) & set(small.special.values())


WORDS = ["hello", "ab", "abc", "bcd", " sp ", "漢字", "<tool>", "a b", "<|x|>", "\n\n", "<|end|>x", "end|", "_ _", "ll"]
MORE = [" ", "  ", "x", " \u3000", "<|end|>", "\x1d", "\u0301", "_"]


@pytest.mark.parametrize("seed", range(3))
def test_text_with_added_tokens_encodes_as_tokenizers_encodes_it(tmp_path, seed):
    """Compare with Hugging Face's tokenizers, which is told to read special tokens as text."""
    rng = random.Random(seed)
    raw = json.loads((checkpoint() / "tokenizer.json").read_text())
    for _ in range(20):
        added = [
            {"id": 1024 + number, "content": word, "special": False}
            | {flag: rng.random() < 0.3 for flag in ("normalized", "single_word", "lstrip", "rstrip")}
            for number, word in enumerate(rng.sample([w for w in WORDS if w not in raw["model"]["vocab"]], 4))
        ]
        text = json.dumps(raw | {"added_tokens": raw["added_tokens"] + added})
        judge = tokenizers.Tokenizer.from_str(text)
        judge.encode_special_tokens = True
        (tmp_path / "tokenizer.json").write_text(text)
        ours = Tokenizer.from_file(tmp_path / "tokenizer.json")
        for _ in range(25):
            some = [*WORDS, *(entry["content"] for entry in added), *MORE]
            said = "".join(rng.choices(some, k=rng.randrange(1, 9)))
            assert ours.encode(said) == judge.encode(said, add_special_tokens=False).ids, (said, added)
        written = write_json(tmp_path / "written.json", ours.to_json())
        assert Tokenizer.from_file(written).digest == ours.digest
        again = tokenizers.Tokenizer.from_file(str(written))
        again.encode_special_tokens = True
        assert again.encode(said, add_special_tokens=False).ids == ours.encode(said)
        assert again.get_vocab() == judge.get_vocab()


def test_markers_decode_only_on_request(published):
    ids = [published.special["<|start|>"], *published.encode("hi"), published.special["<|end|>"], 200_500, 999_999]
    assert published.decode(ids) == "hi"
    assert published.decode(ids, markers=True) == "<|start|>hi<|end|><|reserved_200500|><|reserved_999999|>"


def test_broken_utf8_is_replaced_wherever_the_stream_is_cut(small):
    rng = random.Random(1)
    alphabet = ["é".encode(), "漢".encode(), "🙂".encode(), b"\xff", b"\x80", b"\xf0\x9f", b"\xed\xa0\x80", b"a"]
    for _ in range(500):
        data = b"".join(rng.choices(alphabet, k=rng.randrange(12)))
        ids = [small.encode("a")[0] - 97 + byte for byte in data]
        assert "".join(streamed(small, ids)) == data.decode("utf-8", "replace") == small.decode(ids)


def test_half_a_surrogate_pair_is_replaced(published):
    assert published.decode(published.encode("a\ud800b")) == "a\ufffdb"


def test_a_million_blanks_do_not_bring_the_encoder_down(published):
    """tiktoken's regex overflows its stack on them and panics; `except Exception` does not catch that."""
    for text in (" " * 1_200_000 + "x", "x" + "\n\t" * 700_000, "\u3000" * 1_000_001):
        assert published.decode(published.encode(text)) == text


def test_a_pattern_that_explodes_or_loses_text_is_an_error_where_it_does(tmp_path):
    """A pattern may split most text well and fail on some, by endless backtracking or by skipping a part."""
    patterns = {r"((?=a)a+)+b|\s+|\S": "a" * 50, r"\s+|[^\sy]+": "xyz", "(?=#)|[^#]+": "#"}
    for pattern, text in patterns.items():
        path = write_json(tmp_path / "tokenizer.json", small_tokenizer_json(pattern))
        tokenizer = Tokenizer.from_file(path)
        assert tokenizer.decode(tokenizer.encode("short")) == "short"
        with pytest.raises(ModelFolderError, match="split pattern") as refused:
            tokenizer.encode(text)
        assert "\n" not in str(refused.value)


def test_compact_form_restores_the_vocabulary(published, small, tmp_path):
    for tokenizer in (published, small):
        tokenizer.save(tmp_path / "tokenizer")
        again = Tokenizer.load(tmp_path / "tokenizer")
        text = "The théorie, 漢字 🙂 12345\n\n  x"
        assert again.encode(text) == tokenizer.encode(text)
        assert (again.special, again.vocab_size, again.digest) == (
            *(tokenizer.special, tokenizer.vocab_size, tokenizer.digest),
        )
        assert hashlib.sha256((tmp_path / "tokenizer").read_bytes()[:-32]).hexdigest() == tokenizer.digest


def test_compact_form_opens_in_little_more_than_tiktoken_needs(published, tmp_path):
    """Compare with the time to build tiktoken's encoder alone. A ratio is stable on a busy machine, seconds are not."""
    published.save(tmp_path / "tokenizer")
    code = (
        "import sys, time, tiktoken\n"
        "from gptoss_mlx.harmony import Tokenizer\n"
        "from gptoss_mlx.tokenizer_files.formats import unpack\n"
        "begun = time.process_time()\n"
        "tokenizer = Tokenizer.load(sys.argv[1])\n"
        "loaded = time.process_time()\n"
        "tokens, _, pattern, _ = unpack(open(sys.argv[1], 'rb').read())\n"
        "ranks = {token: id for id, token in enumerate(tokens) if token}\n"
        "built = time.process_time()\n"
        "tiktoken.Encoding('', pat_str=pattern, mergeable_ranks=ranks, special_tokens={})\n"
        "print((loaded - begun) / (time.process_time() - built))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "tokenizer")]
    quotients = [float(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(3)]
    assert min(quotients) < 2.5, quotients


def damaged_copies(whole: bytes):
    rng = random.Random(2)
    yield from (b"", b"\n", whole[:10], whole[:100], whole[:-1], whole[:-32], whole + b"\0", whole[1:], b"[]" * 50)
    for _ in range(60):
        at = rng.randrange(len(whole))
        yield whole[:at] + bytes((whole[at] ^ 1 << rng.randrange(8),)) + whole[at + 1 :]


def test_damaged_compact_form_is_one_line(small, tmp_path):
    path = tmp_path / "tokenizer"
    small.save(path)
    for damaged in damaged_copies(path.read_bytes()):
        path.write_bytes(damaged)
        with pytest.raises(ModelFolderError, match="convert") as caught:
            Tokenizer.load(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_forged_compact_form_is_one_line(small, tmp_path):
    """The contents are wrong and their checksum is right."""
    path = tmp_path / "tokenizer"
    small.save(path)
    magic, head, rest = path.read_bytes()[:-32].split(b"\n", 2)
    values = json.loads(head)
    forged = [
        {**values, **change}
        for change in (
            *({"ids": ids} for ids in (-1, 0, 1, 255, 1 << 40, True, "9", None)),
            *({"pattern": pattern} for pattern in ("(", 3, None, "\ud800")),
            *(
                {"special": special}
                for special in ([], {}, dict.fromkeys(SMALL_MARKERS, 300), {**values["special"], "x": 5})
            ),
            {"special": {**values["special"], "<|end|>": 1 << 30}},
        )
    ]
    for content in [b"{}", b"[1]", b"nonsense", b"[" * 100_000, *(json.dumps(head).encode() for head in forged)]:
        whole = b"\n".join((magic, content, rest))
        path.write_bytes(whole + hashlib.sha256(whole).digest())
        with pytest.raises(ModelFolderError, match="damaged"):
            Tokenizer.load(path)


def test_newer_or_missing_compact_form_says_so(small, tmp_path):
    path = tmp_path / "tokenizer"
    with pytest.raises(ModelFolderError, match="cannot be read"):
        Tokenizer.load(path)
    small.save(path)
    path.write_bytes(path.read_bytes().replace(b"tokenizer 1\n", b"tokenizer 2\n"))
    with pytest.raises(ModelFolderError, match="another version"):
        Tokenizer.load(path)
    with pytest.raises(StorageError, match="cannot be written"):
        small.save(tmp_path / "nowhere" / "tokenizer")


def hostile_tokenizer_json():
    def changed(change):
        raw = small_tokenizer_json()
        change(raw)
        return raw

    yield from ({}, [], None, 3, "text", {"model": None}, {"model": {}, "pre_tokenizer": {"pretokenizers": []}})
    yield changed(lambda raw: raw["model"].update(type="Unigram"))
    yield changed(lambda raw: raw["model"]["vocab"].pop("a"))
    yield changed(lambda raw: raw["model"]["vocab"].update(漢=300))
    yield changed(lambda raw: raw["model"]["vocab"].update(aa=0))
    yield changed(lambda raw: raw["model"]["vocab"].update({"": 400}))
    yield changed(lambda raw: raw["model"]["vocab"].update({"x" * 300: 400}))
    yield from (changed(lambda raw, id=id: raw["model"]["vocab"].update(zz=id)) for id in (-1, 1 << 60, 1.5, "7", True))
    yield changed(lambda raw: raw["model"].update(merges=["t he", "t h"]))
    yield changed(lambda raw: raw["model"].update(merges=[["the", "th"], ["t", "h"]]))
    yield changed(lambda raw: raw["model"].update(vocab=[1]))
    yield changed(lambda raw: raw["added_tokens"].pop(0))
    yield changed(lambda raw: raw["added_tokens"][0].update(id=5))
    yield changed(lambda raw: raw["added_tokens"][0].update(id=raw["added_tokens"][1]["id"]))
    yield changed(lambda raw: raw["added_tokens"][0].update(content=["<|call|>"]))
    yield changed(lambda raw: raw["added_tokens"].append({"id": 300, "content": "the", "special": False}))
    yield changed(lambda raw: raw["added_tokens"].append({"id": 5, "content": "x y", "special": False}))
    yield changed(lambda raw: raw["added_tokens"].append({"id": 300, "content": "", "special": False}))
    yield changed(lambda raw: raw["added_tokens"].append({"id": 300, "content": "x y", "special": 0}))
    yield changed(lambda raw: raw["added_tokens"].append({"id": 300, "content": "x y", "special": False, "lstrip": 1}))
    yield changed(lambda raw: raw["added_tokens"].append({"id": 300, "content": "\ud800", "special": False}))
    yield changed(lambda raw: raw.update(normalizer={"type": "NFC"}))
    yield changed(lambda raw: raw["pre_tokenizer"]["pretokenizers"].pop())
    yield changed(lambda raw: raw["pre_tokenizer"]["pretokenizers"][0].update(pattern={"String": " "}))
    yield changed(lambda raw: raw["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": "(?<"}))
    yield changed(lambda raw: raw["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed"))
    yield changed(lambda raw: raw["pre_tokenizer"]["pretokenizers"][0].update(invert=True))
    yield changed(lambda raw: raw["pre_tokenizer"]["pretokenizers"][1].update(use_regex=True))
    for pattern in ("a*", "", "(a+)+$", r"\s+", "(?:(?:.*)*)*(?!c)$"):  # may match nothing, or loses text, or explodes
        yield changed(lambda raw, p=pattern: raw["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": p}))
    yield changed(lambda raw: raw["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True))


@pytest.mark.parametrize("raw", list(hostile_tokenizer_json()), ids=lambda raw: "")
def test_hostile_tokenizer_json_is_one_line(raw, tmp_path):
    path = write_json(tmp_path / "tokenizer.json", raw)
    with pytest.raises(CheckpointError) as caught:
        Tokenizer.from_file(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"])
def test_tokenizer_json_that_is_no_json_is_one_line(content, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: no gpt-oss tokenizer"):
        Tokenizer.from_file(tmp_path / "tokenizer.json")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Tokenizer.from_file(tmp_path / "missing.json")


def test_awkward_strings_encode_as_openai_harmony_encodes_them(published):
    golden = read_golden("strings.jsonl.xz")
    wrong = {row["text"]: row["ids"] for row in golden if published.encode(row["text"]) != row["ids"]}
    assert not wrong
    assert all(published.decode(row["ids"]) == row["text"] for row in golden)
    assert len(golden) >= 600
