"""The documentation's pictures: what stands in them, and where. Their numbers come from ``facts``, their rooms from
``house``."""

from gptoss_mlx.config import PUBLISHED
from gptoss_mlx.engine.context import PREFILL_CHUNK
from tests.support import house
from tests.support.diagrams import facts
from tests.support.diagrams.facts import GB, MB
from tests.support.diagrams.svg import SMALL, WIDTH, Picture, text_width

MARGIN = 24
TWENTY = PUBLISHED["20b"]


def from_prompt_to_screen() -> Picture:
    """Return the data's way: messages, ids, keys and values, logits, ids, events."""
    picture = Picture("The data's way from a prompt to the screen", 406)
    left, middle, right, width = MARGIN, 268, 512, 224
    top = 24
    picture.box(left, top, width, 72, "messages", ["settings, history, your text", "`conversation`"], style="grey")
    picture.box(middle, top, width, 72, "ids of a prompt", ["markers are ids, text is text", "`harmony.render`"])
    picture.box(right, top, width, 72, "what is read already", ["the longest known beginning", "`engine.prefix_cache`"])
    picture.arrow((left + width, top + 36), (middle, top + 36))
    picture.arrow((middle + width, top + 36), (right, top + 36))

    top = 140
    lines = [f"{PREFILL_CHUNK} positions at a time,", "only those that are new", "`engine.context`"]
    picture.box(right, top, width, 92, "read the prompt", lines, style="green")
    picture.arrow((right + width / 2, 96), (right + width / 2, top))
    lines = ["all rows together, an id each:", "embed, layers, head, draw", "`engine.stepping`"]
    picture.box(middle, top, width, 92, "decode step", lines, style="green")
    picture.arrow((right, top + 46), (middle + width, top + 46))
    lines = ["keys and values of", "every position read", "`model.cache`"]
    picture.box(left, top, width, 92, "KV cache", lines, style="violet")
    picture.arrow((middle, top + 34), (left + width, top + 34))
    picture.arrow((left + width, top + 58), (middle, top + 58))

    top = 290
    picture.arrow((middle + width / 2 - 40, 232), (middle + width / 2 - 40, top))
    picture.text(middle + width / 2 - 48, 266, "an id a row", size=SMALL, style="soft", anchor="end")
    picture.arrow(
        (middle + width / 2 + 40, 232),
        (middle + width / 2 + 40, 262),
        (middle + width + 16, 262),
        (middle + width + 16, top - 82),
        (middle + width, top - 82),
    )
    picture.text(middle + width + 24, 266, "the next step reads it on the device", size=SMALL, style="soft")
    lines = ["ids to thought, answer, calls;", "knows when it is over", "`reply.ReplyReader`"]
    picture.box(middle, top, width, 92, "read the reply", lines)
    lines = ["thought, text, call, done:", "to a terminal, a file, HTTP", "`cli, batch, server`"]
    picture.box(left, top, width, 92, "events", lines, style="grey")
    picture.arrow((middle, top + 46), (left + width, top + 46))
    lines = ["a call's result is a message;", "the model goes on from it", "`tools`"]
    picture.box(right, top, width, 92, "tools", lines, style="warm")
    picture.arrow((middle + width, top + 46), (right, top + 46))
    return picture


DOES = {
    "norm_qkv_rope": ("norm, queries, keys and values, rotation", "x [T, H]  to  q [T, N, D], kv [T, 2, M, D]"),
    "decode_attention": ("attention with sinks; appends the new keys", "q, kv, cache  to  [T, N * D]"),
    "output_residual": ("output projection, added to the stream", "[T, N * D]  to  x [T, H]"),
    "norm_router": ("norm, a score for every expert", "x [T, H]  to  normed [T, H], scores [T, E]"),
    "expert_gate_up": ("first product of the K best experts, SwiGLU", "[T, H]  to  [T, K, I]"),
    "expert_down_residual": ("second product, weighted, added to the stream", "[T, K, I]  to  x [T, H]"),
}


def six_dispatches() -> Picture:
    """Return a layer of a decode step: its operations in order, and what each reads of 20b."""
    row, gap, top = 66, 16, 58
    picture = Picture("The six dispatches of a layer in a decode step", top + 6 * (row + gap) + 32)
    stream, left, width = 48, 96, 420
    reads = left + width + 24
    picture.text(stream, 36, "x", style="strong", anchor="middle")
    picture.text(left, 36, "dispatch", style="strong")
    picture.text(reads, 36, "reads, of 20b in q8", style="strong")
    bottom = top + 6 * (row + gap) - gap + 8
    picture.arrow((stream, 44), (stream, bottom + 18))
    for number, (name, (does, shapes)) in enumerate(DOES.items()):
        y = top + number * (row + gap)
        style = "green" if number < 3 else "warm"
        picture.box(left, y, width, row, name, [does, shapes], style=style)
        middle = y + row / 2
        if name.endswith("_residual"):
            picture.arrow((left, middle), (stream + 8, middle))
            picture.parts.append(f'<circle cx="{stream}" cy="{middle:g}" r="9" class="{style}"/>')
            picture.text(stream, middle + 5, "+", style="strong", anchor="middle")
        elif name.startswith("norm_"):
            picture.arrow((stream, middle), (left, middle))
        if number and not name.startswith("norm_"):
            picture.arrow((left + width / 2, y - gap), (left + width / 2, y))
        picture.text(reads, middle + 5, _reads(name))
    return picture


def _reads(name: str) -> str:
    if name == "decode_attention":
        return f"{facts.key_bytes(TWENTY):,} bytes for each key"
    nbytes = facts.read_by(name, TWENTY) / MB
    k, e = TWENTY.num_experts_per_tok, TWENTY.num_local_experts
    return f"{nbytes:.1f} MB" + (f", {k} of {e} experts" if name.startswith("expert") else "")


def sixteen_gigabytes() -> Picture:
    """Return what a Mac with 16 GB holds, as bars."""
    styles = dict(zip(facts.on_sixteen()[0].groups, ("warm", "green", "violet", "box", "red"), strict=True))
    held = facts.on_sixteen()
    bar, top, each = 44, 64, 92
    height = top + len(held) * each + 82
    picture = Picture("What a Mac with 16 GB holds, predicted by the memory plan", height)
    left, width = MARGIN, WIDTH - 2 * MARGIN
    scale = width / facts.SIXTEEN
    budget = held[0].plan.budget
    end = left + budget * scale
    picture.text(left, 34, "Predicted by the memory plan, not measured on a Mac", style="strong")
    for number, one in enumerate(held):
        y = top + number * each
        asked = f"asked for a context of {one.asked:,}" if one.asked else "as many tokens as fit"
        what = f"{one.name}: {one.experts} experts a layer, context {one.plan.context:,} ({asked})"
        picture.text(left, y + 12, what)
        at = float(left)
        for name, nbytes in one.groups.items():
            long = nbytes * scale
            picture.rectangle(at, y + 22, long, bar, styles[name], radius=0)
            said = f"{nbytes / GB:.1f}"
            if text_width(said, SMALL) < long - 4:
                picture.text(at + long / 2, y + 22 + bar / 2 + 5, said, size=SMALL, anchor="middle")
            at += long
        picture.rectangle(at, y + 22, left + width - at, bar, "grey", radius=0)
        picture.line((end, y + 16), (end, y + 28 + bar))
        rest = f"{(facts.SIXTEEN - one.plan.held) / GB:.1f} for macOS and others"
        picture.text((at + left + width) / 2, y + 22 + bar / 2 + 5, rest, size=SMALL, anchor="middle")
    bottom = top + len(held) * each
    picture.line((end, bottom - 18), (end, bottom + 4))
    said = f"{budget / GB:.1f} GB: what a model may take"
    picture.text(end, bottom + 20, said, size=SMALL, anchor="middle", style="soft")
    at = float(left)
    for name, style in styles.items():
        picture.rectangle(at, bottom + 40, 16, 16, style, radius=3)
        picture.text(at + 22, bottom + 53, name, size=SMALL)
        at += 34 + text_width(name, SMALL)
    picture.text(left + width, bottom + 53, "in GB", size=SMALL, style="soft", anchor="end")
    return picture


def one_step_ahead() -> Picture:
    """Return what the device and the host do while tokens are decoded, in three cases."""
    picture = Picture("What the device and the host do in a decode step", 402)
    step, wait = 132, 88

    def lane(y: float, name: str) -> None:
        picture.text(MARGIN, y + 22, name, style="soft")

    picture.text(MARGIN, 34, "All experts in memory: the device runs a step ahead of the host", style="strong")
    picture.text(WIDTH - MARGIN, 34, "not to scale", size=SMALL, style="soft", anchor="end")
    lane(48, "device")
    lane(88, "host")
    for number in range(4):
        x = 100 + number * (step + 4)
        picture.rectangle(x, 48, step, 32, "green", radius=3)
        picture.text(x + step / 2, 69, f"step {number + 1}", anchor="middle")
        if number < 3:
            picture.rectangle(x + step + 8, 88, wait, 32, "box", radius=3)
            picture.text(x + step + 8 + wait / 2, 109, f"id {number + 1}", anchor="middle")

    said = "Experts on disk, running ahead: a step is done again from the layer that missed one"
    picture.text(MARGIN, 162, said, style="strong")
    lane(176, "device")
    lane(216, "host")
    boxes = [("step 1", 100, step, "green"), ("again", 100 + step + 112, step * 0.6, "warm")]
    boxes.append(("step 2", 100 + step + 112 + step * 0.6 + 72, step, "green"))
    for name, x, width, style in boxes:
        picture.rectangle(x, 176, width, 32, style, radius=3)
        picture.text(x + width / 2, 197, name, anchor="middle")
    for name, x, width in (("read experts", 100 + step + 4, 104), ("look", 100 + step + 112 + step * 0.6 + 4, 64)):
        picture.rectangle(x, 216, width, 32, "red" if name != "look" else "box", radius=3)
        picture.text(x + width / 2, 237, name, anchor="middle")

    said = "Experts on disk, waiting: every layer's choice is seen before its experts are used"
    picture.text(MARGIN, 290, said, style="strong")
    lane(304, "device")
    lane(344, "host")
    x = 100.0
    for number in range(4):
        width = 62
        picture.rectangle(x, 304, width, 32, "green", radius=3)
        picture.text(x + width / 2, 325, f"layer {number + 1}", anchor="middle", size=SMALL)
        long = 104 if number == 1 else 58
        picture.rectangle(x + width + 4, 344, long, 32, "red" if number == 1 else "box", radius=3)
        said = "read experts" if number == 1 else "look"
        picture.text(x + width + 4 + long / 2, 365, said, anchor="middle", size=SMALL)
        x += width + long + 8
    picture.text(x + 4, 325, "...", style="strong")
    return picture


def server_loop() -> Picture:
    """Return a server's three kinds of thread, and what goes between them."""
    picture = Picture("The server's loop: three kinds of thread, and what goes between them", 366)
    columns = (
        (20, 240, "event loop", "grey"),
        (276, 190, "helper threads", "box"),
        (482, 258, "the model's one thread", "green"),
    )
    for x, width, name, style in columns:
        picture.text(x + width / 2, 34, name, style="strong", anchor="middle")
        picture.rectangle(x, 46, width, 300, style, radius=8)

    def inner(column: int, y: float, height: float, title: str, lines: list[str]) -> None:
        x, width, _, _ = columns[column]
        picture.rectangle(x + 10, y, width - 20, height, "panel", radius=5)
        picture.text(x + width / 2, y + 20, title, style="strong", anchor="middle")
        for number, line in enumerate(lines):
            if text_width(line, SMALL) > width - 24:
                raise ValueError(f"{line!r} is too wide")
            picture.text(x + width / 2, y + 39 + 18 * number, line, size=SMALL, style="soft", anchor="middle")

    inner(0, 58, 86, "a request comes in", ["a place, or 429", "its model, or it waits"])
    inner(1, 58, 86, "prepare", ["check every field", "render, compile"])
    inner(
        2, 58, 104, "between two steps", ["orders: begin a reply, end one,", "load or unload a model,", "score a text"]
    )
    inner(2, 178, 86, "a step", ["an id for each row that decodes,", "a chunk of one prompt"])
    inner(2, 280, 56, "while nobody waits", ["write what was read to disk"])
    inner(0, 178, 86, "tell", ["text, calls and the end,", "to each reply's own stream"])
    inner(0, 280, 56, "the client left", ["its rows end"])
    picture.arrow((250, 100), (286, 100))
    picture.arrow((456, 100), (492, 100))
    picture.arrow((492, 222), (250, 222))
    picture.text(371, 214, "once a step, for all rows", size=SMALL, anchor="middle")
    picture.arrow((250, 308), (474, 308), (474, 136), (492, 136))
    picture.arrow((600, 162), (600, 178))
    picture.arrow((640, 178), (640, 162))
    return picture


def floors() -> Picture:
    """Return the house: rooms on floors, each of which imports from lower ones only."""
    rows = house.floors()
    each, box = 46, 34
    picture = Picture("The rooms of the house, by floor", 56 + each * len(rows))
    picture.text(MARGIN, 34, "A room imports from floors below it only", style="strong")
    for number, (name, style) in enumerate(house.COLOURS.items()):
        picture.rectangle(560, 56 + 28 * number, 18, 18, style, radius=3)
        picture.text(586, 70 + 28 * number, name, size=SMALL)
    for number, rooms in enumerate(reversed(rows)):
        y = 50 + number * each
        widths = [text_width(room, SMALL) + 26 for room in rooms]
        if sum(widths) + 10 * (len(rooms) - 1) > WIDTH - 2 * MARGIN:
            raise ValueError(f"the floor of {', '.join(rooms)} is too wide")
        x = float(MARGIN)
        for room, width in zip(rooms, widths, strict=True):
            picture.rectangle(x, y, width, box, house.style(room))
            picture.text(x + width / 2, y + 22, room, size=SMALL, anchor="middle")
            x += width + 10
    return picture


PICTURES = {
    "from-prompt-to-screen": from_prompt_to_screen,
    "six-dispatches": six_dispatches,
    "sixteen-gigabytes": sixteen_gigabytes,
    "one-step-ahead": one_step_ahead,
    "server-loop": server_loop,
    "floors": floors,
}
"""What makes each picture, by the name of its file in ``docs/images``."""
