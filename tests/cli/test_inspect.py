"""``gptoss-mac inspect`` shows a text's experts and its tokens' surprise, as a table, as JSON and as a picture."""

import json
import sys

import numpy as np
import pytest

from gptoss_mlx.inspection import Candidate, ExpertUse, Seen
from tests.support.cli import run_cli


@pytest.fixture(scope="module")
def of_experts():
    return run_cli("inspect", "experts", "--model", "tiny", "--json", "--text", "-", stdin="12 + 30 = 42.")


def test_experts_are_listed_by_layer_with_their_load_and_entropy(of_experts):
    code, out, err = of_experts
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["model"], found["experts"], len(found["layers"])) == ("tiny", 8, 4)
    for layer in found["layers"]:
        assert sum(layer["load"]) == pytest.approx(1, abs=1e-5)
        assert 0 < layer["routing_entropy_bits"] < 3
        assert 4 <= layer["experts_in_use"] <= 8


def test_tokens_of_a_reply_are_listed_with_what_was_expected():
    code, out, err = run_cli("inspect", "tokens", "--model", "tiny", "What is 5 + 6?", "--top", "2")
    assert (code, err) == (0, "")
    header, *lines, last = out.splitlines()
    assert "bits" in header
    assert lines[0].endswith("'<|channel|>'  ← '<|channel|>' 100%")
    assert "'<|return|>'" in lines[-1]
    assert last == f"tiny: {len(lines)} tokens, perplexity 1.000"


def test_a_files_tokens_and_perplexity_are_json_and_only_surprising_ones_are_listed(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("3 + 4 = 7\n", encoding="utf-16")
    code, out, _ = run_cli("inspect", "tokens", "--model", "tiny", "--text", file, "--json")
    assert code == 0
    found = json.loads(out)
    assert "".join(token["text"] for token in found["tokens"]) == "3 + 4 = 7\n"
    bits = [token["surprise_bits"] for token in found["tokens"]]
    assert bits[0] is None
    assert found["perplexity"] == pytest.approx(2 ** np.mean(bits[1:]))
    above = sorted(bits[1:])[len(bits) // 2]
    code, out, _ = run_cli("inspect", "tokens", "--model", "tiny", "--text", file, "--above", above)
    assert len(out.splitlines()) - 2 == sum(one > above for one in bits[1:])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["Hello", "--text", "-"], "do not go together"),
        (["--text", "missing.txt"], "missing.txt: cannot be read"),
        (["--text", "-"], "two or more"),
        (["--text", "/dev/zero"], "10,000,000 bytes are more than a model reads"),
        (["--text", ""], "--text: cannot be read"),
        (["  "], "the question is empty"),
        (["--out", "map.jpg"], "give a file that ends so"),
    ],
)
def test_what_cannot_be_inspected_is_refused(arguments, said):
    code, out, err = run_cli("inspect", "experts", "--model", "tiny", *arguments)
    assert (code, out) == (2, "")
    assert said in err


def test_a_picture_without_matplotlib_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = run_cli("inspect", "experts", "--model", "tiny", "--out", "map.png")
    assert code == 2
    assert "pip install 'gptoss-mac[plots]'" in err


@pytest.mark.parametrize("out", ["folder.png", "file.txt/map.png", "file.txt/new/map.png"])
def test_a_picture_that_cannot_be_written_is_refused_before_the_model_is_loaded(out, tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file.txt").touch()
    code, _, err = run_cli("inspect", "experts", "--model", "missing", "--out", tmp_path / out)
    assert code == 5
    assert "choose another place" in err


def test_a_map_shows_busy_experts_red_and_idle_ones_blue(tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    from gptoss_mlx.pictures import draw_experts

    counts = np.full((8, 16), 50)
    counts[:, :4], counts[:, 12:] = 99, 1
    out = tmp_path / "new" / "map.png"
    draw_experts(ExpertUse(200, counts, np.ones(8)), "title", out)
    red, _, blue, opaque = np.moveaxis(imread(out), -1, 0)
    assert opaque[0].max() == 0, "no ground of its own"
    columns = range(red.shape[1])
    busy = [x for x in columns if (red[:, x] - blue[:, x] > 0.4).mean() > 0.5]
    idle = [x for x in columns if (blue[:, x] - red[:, x] > 0.4).mean() > 0.5]
    assert len(busy) > 50
    assert len(idle) > 50
    assert max(busy) < min(idle)


def test_a_page_of_tokens_is_redder_for_more_surprise(tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    from gptoss_mlx.pictures import draw_tokens

    def redness(bits):
        out = tmp_path / f"{bits}.png"
        seen = [Seen(at, 1, "word ", bits, (Candidate(1, "word ", 0.5),)) for at in range(40)]
        draw_tokens(seen, "title", out)
        image = imread(out)
        return float((image[..., 0] - image[..., 2]).mean())

    assert redness(0.0) < redness(4.0) < redness(9.0)
