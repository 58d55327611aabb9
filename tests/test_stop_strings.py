"""The stop string that is complete first ends a text, however the text is cut into pieces."""

import random

from gptoss_mlx.stop_strings import StopStrings


def ended(stops, pieces):
    """Return what is given out of a text in pieces, and what ended it."""
    looking = StopStrings(stops)
    said = [looking.before(piece) for piece in pieces]
    return "".join(said) + looking.rest(), looking.found


def test_the_text_before_the_stop_string_that_ends_first_is_given_out():
    """The judge tries every end of the text in turn, and there the longest stop string."""
    rng = random.Random(4)
    found = 0
    for _ in range(2000):
        text = "".join(rng.choices("ab\n", k=rng.randrange(12)))
        stops = tuple({"".join(rng.choices("ab\n", k=rng.randrange(1, 5))) for _ in range(rng.randrange(4))})
        ends = (text[:end] for end in range(len(text) + 1))
        longest = sorted(stops, key=len, reverse=True)
        first = next(((one, stop) for one in ends for stop in longest if one.endswith(stop)), None)
        want = (text, None) if first is None else (first[0].removesuffix(first[1]), first[1])
        cuts = sorted(rng.sample(range(len(text) + 1), min(len(text), 3)))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert ended(stops, pieces) == ended(stops, text) == want, (text, stops)
        found += first is not None
    assert found > 500


def test_what_may_begin_a_stop_string_is_held_back_until_it_does_not():
    looking = StopStrings(("</s>",))
    assert [looking.before(piece) for piece in ("a<", "/", "b", "c</s", ">", "more")] == ["a", "", "</b", "c", "", ""]
    assert looking.found == "</s>"
    assert looking.rest() == ""


def test_without_stop_strings_nothing_is_held_back():
    assert StopStrings(()).before("any") == "any"
    assert ended((), ["any ", "text"]) == ("any text", None)
