"""The reader of replies: what is shown, called and left out, alike for a conversation and a batch."""

import pytest

from gptoss_mlx.conversation import TOOL_ROUNDS
from gptoss_mlx.errors import UsageError
from gptoss_mlx.events import Done, Text, ToolCall, ToolError
from gptoss_mlx.harmony import Tokenizer, tool_result
from gptoss_mlx.reply import CallPiece, Piece, ReplyReader
from tests.reports.fuzz_replies import fuzz
from tests.reports.sequences import difference, read
from tests.support import scripted, token_classes
from tests.support.harmony_goldens import read_golden
from tests.support.harmony_streams import CALL, CHANNEL, CONSTRAIN, END, MESSAGE, RETURN, START, encode

NEXT = [END, START, "assistant"]
THOUGHT = [CHANNEL, "analysis", MESSAGE, "Let me see."]
ANSWER = [CHANNEL, "final", MESSAGE, "It is 4."]


def calling(name, arguments="{}"):
    return [CHANNEL, f"commentary to={name} ", CONSTRAIN, "json", MESSAGE, arguments]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.bundled()


@pytest.fixture
def ids(tokenizer):
    return lambda *pieces: encode(list(pieces), tokenizer.special, tokenizer.encode)


@pytest.fixture
def reply(tokenizer, ids):
    """Make a function that reads a reply's ids. It returns the reply and the pieces given out on the way."""

    def reply(*pieces, ended="stop", **options):
        reader = ReplyReader(tokenizer, **options)
        given = []
        for id in ids(*pieces):
            given += reader.feed(id)
            if reader.over:
                break
        given += reader.end(ended)
        return reader.finish(ended), given

    return reply


@pytest.mark.parametrize(
    "junk",
    [
        [CHANNEL, "??", *NEXT],
        [CHANNEL, "commentary?commentary?", *NEXT],
        [CHANNEL, "thinking", *NEXT],
        [CHANNEL, "final?", *NEXT],
        [*THOUGHT, END, " and so", START, "assistant"],
        [*THOUGHT, END, "assistant", START, "assistant"],
        ["Sure", START, "assistant"],
        [*THOUGHT, END, START, "some words", END, START, "assistant"],
    ],
)
def test_what_stands_outside_of_messages_is_not_shown_and_is_counted(reply, junk):
    got, _ = reply(*junk, *ANSWER, RETURN)
    assert got.content == "It is 4."
    assert sum(got.repairs.values()) > 0


def test_text_behind_the_answer_is_not_shown_but_may_be_the_answer_where_there_is_none(reply):
    got, _ = reply(*ANSWER, END, "So much for that.", RETURN)
    assert got.content == "It is 4."
    for silence in (THOUGHT, [CHANNEL, "final", MESSAGE]):
        got, _ = reply(*silence, END, "It is 4.", RETURN)
        assert got.content == "It is 4."


@pytest.mark.parametrize("role", ["tool", "user", "functions.f to=assistant", "narrator"])
def test_a_reply_is_over_where_the_model_speaks_for_somebody_else(reply, role):
    got, _ = reply(*ANSWER, END, START, role, MESSAGE, "An invented result", *NEXT, *ANSWER, RETURN)
    assert (got.content, got.reason) == ("It is 4.", "stop")
    assert got.repairs["speaks for others"] == 1


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("finally, yes", "finally, yes"),
        ("The user wants it", "The user wants it"),
        ("final It is", "It is"),
        ("finalIt is", "It is"),
        ("final42", "42"),
        ("final assistant", ""),
        ("finalto=all It is", "It is"),
        ("finaljson {}", "{}"),
        ("antidisestablishmentarianism", ""),
        ("Prosewithoutblanksislongerthananyname", "Prosewithoutblanksislongerthananyname"),
    ],
)
def test_a_body_that_begins_unannounced_is_shown_from_its_first_letter(reply, header, text):
    got, _ = reply(CHANNEL, header, RETURN)
    assert got.content == text


def test_two_messages_of_a_section_are_apart_and_the_pieces_add_up(reply):
    said = [CHANNEL, "commentary", MESSAGE]
    got, given = reply(
        *THOUGHT, *NEXT, *THOUGHT, *NEXT, *said, "One.", *NEXT, *said, "Two.", *NEXT, *ANSWER, *NEXT, *ANSWER, RETURN
    )
    assert got.thought == "Let me see.\n\nLet me see."
    assert (got.preamble, got.text) == ("One.\n\nTwo.", "It is 4.\n\nIt is 4.")
    assert got.content == "One.\n\nTwo.\n\nIt is 4.\n\nIt is 4."
    assert got.parts == (Piece("thought", got.thought), Piece("preamble", got.preamble), Piece("answer", got.text))
    assert "".join(piece.joined for piece in given if piece.section == "thought") == got.thought
    assert "".join(piece.joined for piece in given if piece.section != "thought") == got.content


@pytest.mark.parametrize("arguments", ['{"a": 1}', " {\n}", "no JSON", "", " \n "])
def test_a_call_comes_piece_by_piece_and_the_pieces_add_up(reply, arguments):
    """The first piece has the name and no text. Blanks alone become ``{}``, as in the whole call."""
    two = [*calling("functions.f", arguments), END, START, "assistant", *calling("functions.fjson", "{}"), CALL]
    got, given = reply(*THOUGHT, *NEXT, *two, functions={"f"})
    pieces = [piece for piece in given if isinstance(piece, CallPiece)]
    for number, call in enumerate(got.calls):
        own = [piece for piece in pieces if piece.number == number]
        assert own[0] == CallPiece(number, "f", "")
        assert "".join(piece.text for piece in own) == call.arguments
        assert all(piece.text for piece in own[1:])
    assert len(got.calls) == 2
    assert got.parts == (Piece("thought", got.thought), *got.calls)


def test_a_call_of_a_tool_that_is_not_offered_has_no_pieces(reply):
    got, given = reply(*calling("functions.g"), CALL, functions={"f"})
    assert [call.name for call in got.unknown_calls] == ["g"]
    assert given == []
    assert got.parts == ()


def test_text_without_harmony_is_read_as_an_answer(tokenizer, ids):
    reader = ReplyReader(tokenizer, 3, stop=("four",))
    reader.expect_text()
    given = [piece for id in ids("One two ", "three four five") for piece in reader.feed(id)]
    got = reader.finish("stop")
    assert got.content == "".join(piece.text for piece in given) == "One two three "
    assert got.completion_tokens == len(ids("One two ", "three four five"))
    assert (got.repairs, got.thought_tokens) == ({}, 0)


def test_text_that_may_begin_a_stop_string_is_held_back_until_it_is_known(reply):
    for stop, text in [(("4.!",), "It is 4."), (("s 4",), "It i"), (("is 4.", "t is"), "I"), (("It",), "")]:
        got, given = reply(*ANSWER, RETURN, stop=stop)
        assert got.text == text
        assert "".join(piece.text for piece in given) == text
        assert got.stopped_by == (stop[-1] if text != "It is 4." else None)
        assert not got.no_answer, "a stop string is no failure of the model"


@pytest.mark.parametrize(
    ("stop", "text", "by"),
    [
        (("abcd", "bc"), "xa", "bc"),
        (("abc", "b"), "xa", "b"),
        (("bcd", "cd"), "xa", "bcd"),
        (("cdz", "dy"), "xabc", "dy"),
    ],
)
def test_which_stop_string_ends_an_answer_does_not_depend_on_how_it_came_in_pieces(tokenizer, ids, stop, text, by):
    byte = {tokenizer.token_bytes(id): id for id in range(256)}
    for body in (tokenizer.encode("xabcdyz"), [byte[bytes((one,))] for one in b"xabcdyz"]):
        reader = ReplyReader(tokenizer, stop=stop)
        given = [piece.text for id in [*ids(CHANNEL, "final", MESSAGE), *body] for piece in reader.feed(id)]
        assert reader.over
        assert ("".join(given), reader.finish("stop").stopped_by) == (text, by)


@pytest.mark.parametrize(
    ("pieces", "cut"),
    [
        ([*ANSWER, *NEXT, *THOUGHT], False),
        ([CHANNEL, "commentary", MESSAGE, "One.", *NEXT, *THOUGHT], True),
        ([*THOUGHT, *NEXT], True),
    ],
)
def test_a_thought_cut_off_behind_an_answer_takes_nothing_from_it(reply, pieces, cut):
    got, _ = reply(*pieces, ended="length")
    assert (got.reason, got.cut_in_thought) == ("length", cut)


@pytest.mark.parametrize(
    "pieces",
    [[*THOUGHT, RETURN], [RETURN], [*THOUGHT, *NEXT, CHANNEL, "final", MESSAGE, RETURN], [*THOUGHT, END, " ", RETURN]],
)
def test_a_reply_that_says_nothing_to_anybody_is_no_answer(reply, pieces):
    got, _ = reply(*pieces)
    assert got.no_answer
    assert not got.cut_in_thought


@pytest.mark.parametrize("arguments", ["", " ", "\n"])
def test_a_call_without_arguments_has_an_empty_object(reply, arguments):
    got, _ = reply(*calling("functions.f", arguments), CALL, functions=["f"])
    assert [call.arguments for call in got.calls] == ["{}"]
    assert [message.content for message in got.messages] == ["{}"], "so that another vocabulary renders it too"


@pytest.mark.parametrize(
    "written",
    ["functions.f", "functions.fjson", "functions.fcode", "functions.fcommentary", "functions.fcommentaryjson", "f"],
)
def test_a_word_glued_to_a_declared_name_is_not_part_of_it(reply, written):
    got, _ = reply(*calling(written, '{"a": 1}'), CALL, functions=["f"])
    (call,) = got.calls
    assert (call.name, call.arguments) == ("f", '{"a": 1}')
    assert tool_result(call.message, "x").name in ("functions.f", "f")


@pytest.mark.parametrize("written", ["python", "functions.g", "functions.f2", "browser.search", "functions.jsonf"])
def test_a_tool_that_is_not_offered_is_no_call(reply, written):
    got, _ = reply(*calling(written, "not JSON"), CALL, functions=["f"])
    assert got.calls == ()
    assert [call.arguments for call in got.unknown_calls] == ["not JSON"]
    assert got.reason == "stop"


def test_a_call_that_an_id_of_the_folders_own_ends_is_whole_and_one_that_the_limit_cuts_is_none(reply):
    assert len(reply(*calling("functions.f"), ended="stop")[0].calls) == 1
    assert reply(*calling("functions.f"), ended="length")[0].calls == ()


def test_a_declared_name_that_ends_in_json_is_itself(reply):
    got, _ = reply(*calling("functions.to_json"), CALL, functions=["to_", "to_json"])
    assert [call.name for call in got.calls] == ["to_json"]


TWO = [*calling("functions.f", '{"n": 1}'), *NEXT, *calling("functions.f", '{"n": 2}'), CALL]
F = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


def history(chat):
    """Return the role, the addressee or author, and the content of each message of ``chat`` but the thoughts."""
    return [(m.role, m.recipient or m.name, m.content) for m in chat.messages if m.channel != "analysis"]


def test_all_calls_of_a_reply_are_handed_out_and_answered_in_order(tokenizer, ids):
    with scripted.conversation(tokenizer, ids(*TWO), ids(*ANSWER, RETURN), functions=[F]) as chat:
        *calls, done = chat.send("?")
        assert [call.arguments for call in calls] == [{"n": 1}, {"n": 2}]
        assert done.reason == "tool_calls"
        assert list(chat.send_tool_result(calls[0], "one")) == []
        assert any(isinstance(event, Text) for event in chat.send_tool_result(calls[1], "two"))
        roles = [role for role, *_ in history(chat)]
        assert roles == ["user", "assistant", "assistant", "tool", "tool", "assistant"]
        assert [text for role, _, text in history(chat) if role == "tool"] == ["one", "two"]


@pytest.mark.parametrize("then", ["the last is answered", "another message comes"])
def test_an_unanswered_call_is_removed_from_the_history(tokenizer, ids, then):
    with scripted.conversation(tokenizer, ids(*TWO), ids(*ANSWER, RETURN), functions=[F]) as chat:
        first, last, _ = chat.send("?")
        list(chat.send_tool_result(last, "two") if then == "the last is answered" else chat.send("well?"))
        called = [text for role, to, text in history(chat) if role == "assistant" and to]
        assert called == (['{"n": 2}'] if then == "the last is answered" else [])
        with pytest.raises(UsageError, match="awaiting"):
            chat.send_tool_result(first, "one")


def test_of_two_calls_the_one_that_cannot_be_made_is_answered_at_once(tokenizer, ids):
    mixed = [*calling("python", "1+1"), *NEXT, *calling("functions.f"), CALL]
    with scripted.conversation(tokenizer, ids(*mixed), ids(*ANSWER, RETURN), functions=[F]) as chat:
        error, call, done = chat.send("?")
        assert isinstance(error, ToolError)
        assert "no tool 'python'" in error.problem, "the tool comes before its arguments, which are no JSON either"
        assert isinstance(call, ToolCall)
        assert done.reason == "tool_calls"
        list(chat.send_tool_result(call, "ok"))
        assert [to for role, to, _ in history(chat) if role == "tool"] == ["assistant", "assistant"]


def test_a_reply_cancelled_between_two_calls_leaves_neither(tokenizer, ids):
    with scripted.conversation(tokenizer, ids("Hm.", END, START, "assistant", *TWO), functions=[F]) as chat:
        events = chat.send("?")
        next(events)
        chat.cancel()
        assert isinstance(list(events)[-1], Done)
        assert [to for _, to, _ in history(chat)] == [None] * len(chat.messages)


def test_a_message_written_on_from_a_dropped_call_gets_a_beginning(tokenizer, ids):
    """Without <|end|> between the two, the second's ids begin in the first's."""
    leaning = [*calling("functions.f"), CHANNEL, "final", MESSAGE, "Done.", END, START, "assistant"]
    with scripted.conversation(
        tokenizer, ids(*leaning, *calling("functions.f"), CALL), ids(*ANSWER, RETURN), functions=[F]
    ) as chat:
        *_, call, _ = chat.send("?")
        assert isinstance(call, ToolCall)
        list(chat.send("never mind"))
        shown = tokenizer.decode(chat.next_prompt(), markers=True)
        assert "<|start|>assistant<|channel|>final<|message|>Done.<|end|>" in shown
        assert "to=functions.f" not in shown


SAID = [CHANNEL, "commentary", MESSAGE, "One."]


@pytest.mark.parametrize(
    "pieces",
    [
        [*SAID, *NEXT, *THOUGHT, *ANSWER, RETURN],
        [*SAID, *NEXT, *THOUGHT, END, *ANSWER, RETURN],
        [*SAID, *NEXT, CHANNEL, "analysis", MESSAGE, *ANSWER, RETURN],
        [*SAID, *NEXT, *ANSWER, CALL],
        [*SAID, *NEXT, *ANSWER, START, "user", MESSAGE, "And I say so.", END],
        [*SAID, *NEXT, *ANSWER, START, "assistant", *calling("functions.f", '{"cut')],
        [*SAID, *NEXT, *ANSWER, *calling("functions.f"), CALL],
    ],
)
def test_what_was_said_has_a_beginning_and_an_end_in_the_history_whatever_is_dropped_beside_it(tokenizer, ids, pieces):
    with scripted.conversation(tokenizer, ids(*pieces), ids(*ANSWER, RETURN), functions=[F]) as chat:
        list(chat.send("?"))
        list(chat.send("more"))
        shown = tokenizer.decode(chat.next_prompt(), markers=True)
    assert (
        "<|start|>user<|message|>?<|end|><|start|>assistant<|channel|>commentary<|message|>One.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>It is 4.<|end|><|start|>user<|message|>more<|end|>"
    ) in shown


def test_a_call_whose_result_the_model_invents_ends_before_the_real_one(tokenizer, ids):
    invented = [*calling("functions.f"), START, "functions.f to=assistant", MESSAGE, "Invented", END]
    with scripted.conversation(tokenizer, ids(*invented), ids(*ANSWER, RETURN), functions=[F]) as chat:
        call, _ = chat.send("?")
        list(chat.send_tool_result(call, "real"))
        shown = tokenizer.decode(chat.next_prompt(), markers=True)
    assert (
        "json<|message|>{}<|call|><|start|>functions.f to=assistant<|channel|>commentary<|message|>real<|end|>" in shown
    )


def test_a_result_for_a_call_that_is_none_leaves_the_reply_under_way_alone(tokenizer, ids):
    with scripted.conversation(
        tokenizer, ids(*calling("functions.f"), CALL), ids(*ANSWER, RETURN), functions=[F]
    ) as chat:
        call, _ = chat.send("?")
        events = chat.send_tool_result(call, "x")
        next(events)
        with pytest.raises(UsageError, match="awaiting"):
            chat.send_tool_result(ToolCall("f", {}, call.message), "y")
        assert list(events)[-1].reason == "stop"
        assert chat.messages[-1].content == "It is 4."


def test_a_tool_that_is_not_there_is_named_in_one_line(tokenizer, ids):
    with scripted.conversation(tokenizer, ids(*calling("functions.g\x1b[31m"), CALL), ids(*ANSWER, RETURN)) as chat:
        (problem,) = [event.problem for event in chat.send("?") if isinstance(event, ToolError)]
    assert problem.isprintable()


@pytest.mark.parametrize("then", ["another message comes", "the last is answered"])
def test_a_message_between_two_dropped_calls_has_a_beginning_behind_another_of_the_models(tokenizer, ids, then):
    leaning = [*SAID, *NEXT, *calling("functions.f"), CHANNEL, "final", MESSAGE, "Done.", *NEXT]
    with scripted.conversation(
        tokenizer, ids(*leaning, *calling("functions.f"), CALL), ids(*ANSWER, RETURN), functions=[F]
    ) as chat:
        *_, call, _ = chat.send("?")
        list(chat.send("never mind") if then == "another message comes" else chat.send_tool_result(call, "x"))
        shown = tokenizer.decode(chat.next_prompt(), markers=True)
    assert "<|message|>One.<|end|><|start|>assistant<|channel|>final<|message|>Done.<|end|><|start|>" in shown


def test_calls_count_through_the_results_and_not_twice_when_a_result_is_sent_again(tokenizer, ids):
    """Once TOOL_ROUNDS calls were made, a call that cannot be made ends the turn."""
    made = ids(*calling("functions.f"), CALL)
    not_made = ids(*calling("functions.g"), CALL)
    replies = [*[made] * (TOOL_ROUNDS - 2), *[not_made] * 4]
    with scripted.conversation(tokenizer, *replies, functions=[F]) as chat:
        events = chat.send("?")
        for _ in range(TOOL_ROUNDS - 2):
            call, _ = events
            events = chat.send_tool_result(call, "x")
        assert isinstance(next(events), ToolError)
        events.close()
        *errors, done = chat.send_tool_result(call, "x")
    assert (len(errors), done.reason) == (2, "tool_limit")


def test_every_result_is_text_that_can_be_written(tokenizer, ids):
    with scripted.conversation(tokenizer, ids(*TWO), ids(*ANSWER, RETURN), functions=[F]) as chat:
        *calls, _ = chat.send("?")
        for call in calls:
            list(chat.send_tool_result(call, "half \ud83d"))
        assert [message.content for message in chat.messages if message.role == "tool"] == ["half \ufffd"] * 2


def test_conversations_and_batches_read_random_replies_alike():
    assert fuzz(300, seed=11) == 0


def test_short_sequences_are_read_as_openai_harmony_reads_them_but_for_known_reasons(tokenizer):
    byte_ids = {tokenizer.token_bytes(id): id for id in range(256)}
    equal = 0
    for pieces, theirs in zip(token_classes.sequences(3), read_golden("sequences.jsonl.xz"), strict=True):
        ids = token_classes.encode(
            pieces, tokenizer.special, tokenizer.encode, lambda raw: [byte_ids[bytes((byte,))] for byte in raw]
        )
        ours = read(tokenizer, ids)
        assert not any("<|" in text for _, text in ours), pieces
        if theirs is not None:
            why = difference(pieces, ours, theirs)
            assert why != "WRONG", (pieces, ours, theirs)
            equal += why == "equal"
    assert equal > 100
