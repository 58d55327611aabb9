"""Drawing never waits for the decoder's next token, nor the decoder for the terminal, and it costs little."""

import threading
import time

import pytest

from gptoss_mlx.screen.drawing import Drawing
from gptoss_mlx.screen.page import Page
from gptoss_mlx.screen.style import Paint
from tests.screen.answers import code_answer, list_answer, mixed_answer, paragraph_answer


def cost(text, rate=300, draws=15):
    """Seconds of one core and bytes written for an answer that arrives at ``rate`` tokens a second, each in units of
    what the decoder takes and of the answer's own bytes."""
    page = Page(Paint(), lambda: 100, "fold")
    tokens = [text[at : at + 4] for at in range(0, len(text), 4)]
    began = time.process_time()
    written = 0
    for at in range(0, len(tokens), rate // draws):
        for token in tokens[at : at + rate // draws]:
            page.answer(token)
        written += len(page.draw().encode())
    written += len(page.draw(last=True).encode())
    return (time.process_time() - began) / (len(tokens) / rate), written / len(text.encode())


@pytest.mark.parametrize("kind", [code_answer, list_answer, mixed_answer, paragraph_answer])
def test_an_answer_costs_a_tenth_of_a_core_and_three_times_its_bytes_at_most(kind):
    share, bytes_written = cost(kind(400))  # `make chat-report` has 2,000 lines
    assert share < 0.1
    assert bytes_written < 3


class Slow:
    """A terminal that takes no more text until it is told to."""

    def __init__(self):
        self.open = threading.Event()
        self.text = ""

    def write(self, text):
        self.open.wait(10)
        self.text += text

    def flush(self):
        pass


def test_a_terminal_that_takes_nothing_does_not_stop_the_decoder():
    page = Page(Paint(attributes=False), lambda: 80, "fold")
    out = Slow()
    drawing = Drawing(lambda last: page.draw(last=last), out)
    began = time.monotonic()
    for n in range(1000):
        drawing.put(lambda n=n: page.answer(f"{n}\n"))
    assert time.monotonic() - began < 5
    out.open.set()
    drawing.close()
    assert out.text.split() == [str(n) for n in range(1000)]


def test_it_draws_fifteen_times_a_second_at_most_and_the_end_at_once():
    draws = []
    drawing = Drawing(lambda last: draws.append(last) or "", Slow())
    began = time.monotonic()
    while time.monotonic() - began < 0.5:
        drawing.put(lambda: None)
        time.sleep(0.001)
    drawing.close()
    assert time.monotonic() - began < 1
    assert len(draws) <= 9
    assert draws == [False] * (len(draws) - 1) + [True]


def test_drawing_that_is_slow_happens_less_often():
    def draw(last):
        draws.append(last)
        busy = time.thread_time() + 0.01
        while time.thread_time() < busy:
            pass
        return ""

    draws = []
    drawing = Drawing(draw, Slow())
    began = time.monotonic()
    while time.monotonic() - began < 0.5:
        drawing.put(lambda: None)
        time.sleep(0.001)
    drawing.close()
    assert len(draws) <= 5, "10 ms in 170"


def test_a_terminal_that_is_gone_is_the_decoders_error():
    def write(text):
        raise OSError(5, "Input/output error")

    out = Slow()
    out.write = write
    drawing = Drawing(lambda last: "x", out)
    drawing.put(lambda: None)
    with pytest.raises(OSError, match="Input/output"):
        drawing.close()
