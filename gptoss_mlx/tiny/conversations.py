"""The conversations the small model learns from, drawn at random, in harmony.

Knows what is asked and what a good reply is; knows nothing of tokens or of training. Text is kept as pieces, markers
apart from ordinary text, so that no text can be mistaken for a marker. ``learn`` tells which pieces are the model's own.
"""

import json
from dataclasses import dataclass
from random import Random

from gptoss_mlx.tiny import phrases
from gptoss_mlx.tiny.arithmetic import answer, is_held_out_pair, is_held_out_phrasing, result, thought

EFFORTS = ("low", "medium", "high")
LONGEST = 9999  # the largest operand the model is taught


@dataclass(frozen=True)
class Piece:
    """A marker, or a stretch of ordinary text that is encoded as a whole."""

    text: str
    marker: bool
    learn: bool


@dataclass(frozen=True)
class Message:
    """A harmony message. ``learn``: the model is to write it; otherwise it is history."""

    role: str
    text: str
    channel: str = ""
    recipient: str = ""
    learn: bool = False


@dataclass(frozen=True)
class Setting:
    """What the system and developer messages say. ``functions`` is the TypeScript inside the namespace, or empty."""

    effort: str
    date: str = ""
    instructions: str = ""
    functions: str = ""
    calculate: bool = False

    def pieces(self) -> list[Piece]:
        system = "You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06"
        if self.date:
            system += f"\nCurrent date: {self.date}"
        system += f"\n\nReasoning: {self.effort}\n\n# Valid channels: analysis, commentary, final."
        system += " Channel must be included for every message."
        if self.functions:
            system += "\nCalls to these tools must go to the commentary channel: 'functions'."
        parts = []
        if self.instructions:
            parts.append(f"# Instructions\n\n{self.instructions}")
        if self.functions:
            inside = f"namespace functions {{\n\n{self.functions}\n\n}} // namespace functions"
            parts.append(f"# Tools\n\n## functions\n\n{inside}")
        pieces = _wrapped("system", system)
        return pieces + _wrapped("developer", "\n\n".join(parts)) if parts else pieces


def _wrapped(header: str, text: str, end: str = "<|end|>") -> list[Piece]:
    return [
        Piece("<|start|>", True, False),
        Piece(header, False, False),
        Piece("<|message|>", True, False),
        Piece(text, False, False),
        Piece(end, True, False),
    ]


def pieces_of(messages: list[Message], called_as_emitted: bool = True) -> list[Piece]:
    """A conversation after its system and developer messages, ending in ``<|return|>`` if the model is to end it.

    ``called_as_emitted``: write the calls of history the way the model emits them; otherwise as a request's history is
    rendered, recipient before the channel.
    """
    pieces: list[Piece] = []
    for index, message in enumerate(messages):
        if message.role == "user":
            pieces += _wrapped("user", message.text)
            continue
        if message.role == "tool":
            pieces += [
                Piece("<|start|>", True, False),
                Piece("functions.calculate to=assistant", False, False),
                Piece("<|channel|>", True, False),
                Piece("commentary", False, False),
                Piece("<|message|>", True, False),
                Piece(message.text, False, False),
                Piece("<|end|>", True, False),
            ]
            continue
        learn = message.learn
        own_start = learn and messages[index - 1].role == "assistant"
        before = f" to={message.recipient}" if message.recipient and not called_as_emitted else ""
        after = f" to={message.recipient} " if message.recipient and called_as_emitted else ""
        if before:
            after = " "
        pieces += [
            Piece("<|start|>", True, own_start),
            Piece("assistant" + before, False, own_start),
            Piece("<|channel|>", True, learn),
            Piece(message.channel + after, False, learn),
        ]
        if message.recipient:
            pieces += [Piece("<|constrain|>", True, learn), Piece("json", False, learn)]
        last = index == len(messages) - 1
        end = "<|call|>" if message.recipient else "<|return|>" if last and learn else "<|end|>"
        pieces += [Piece("<|message|>", True, learn), Piece(message.text, False, learn), Piece(end, True, learn)]
    return pieces


class Author:
    """Draws settings, questions and whole conversations. With ``held_out`` only what training never draws."""

    def __init__(self, rng: Random, held_out: bool = False):
        self.rng = rng
        self.held_out = held_out

    # Words and numbers

    def phrasing(self, templates: tuple[str, ...], frames: tuple[str, ...] = ("{x}",)) -> str:
        while True:
            core, frame = self.rng.choice(templates), self.rng.choice(frames)
            template = frame.replace("{x}", core).replace("{X}", core[:1].upper() + core[1:])
            if not template or is_held_out_phrasing(template) == self.held_out:
                return template

    def said(self, templates: tuple[str, ...]) -> str:
        """One of the templates, filled with words and numbers."""
        rng = self.rng
        text = self.phrasing(templates)
        for name, words in phrases.WORDS.items():
            while "{" + name + "}" in text:
                text = text.replace("{" + name + "}", rng.choice(words), 1)
        while "{word}" in text:
            text = text.replace("{word}", self.strange_word(), 1)
        for name in "abn":
            text = text.replace("{" + name + "}", str(self.number()))
        return text

    def strange_word(self) -> str:
        rng = self.rng
        kind = rng.random()
        if kind < 0.5:
            syllables = ("".join(rng.choice(("bcdfghjklmnprstvwz", "aeiou")[i % 2]) for i in range(rng.randint(2, 4))))
            return syllables.capitalize() if rng.random() < 0.3 else syllables
        if kind < 0.75:
            every = [*self._all_words()]
            return rng.choice(every)
        if kind < 0.9:
            return "".join(chr(rng.randint(33, 126)) for _ in range(rng.randint(1, 6)))
        start = rng.choice((0xC0, 0x391, 0x410, 0x5D0, 0x627, 0x905, 0x3042, 0x30A2, 0x4E00, 0xAC00, 0x1F600, 0x2190))
        return "".join(chr(start + rng.randint(0, 24)) for _ in range(rng.randint(1, 3)))

    @staticmethod
    def _all_words() -> tuple[str, ...]:
        return tuple(word for words in phrases.WORDS.values() for word in words)

    def number(self, four: float = 0.12) -> int:
        digits = self.rng.choices((1, 2, 3, 4), (0.13, 0.27, 0.6 - four, four))[0]
        return self.rng.randint(10 ** (digits - 1) if digits > 1 else 0, 10**digits - 1)

    def pair(self, four: float = 0.12, first: int | None = None) -> tuple[int, int]:
        while True:
            a = self.number(four) if first is None else first
            b = self.number(four)
            if self.rng.random() < 0.03:
                b = abs(a) if abs(a) <= LONGEST else b
            if is_held_out_pair(a, b) == self.held_out:
                return a, b

    # Settings

    def setting(self, effort: str | None = None, calculate: bool | None = None) -> Setting:
        rng = self.rng
        effort = effort or rng.choices(EFFORTS, (0.35, 0.25, 0.4))[0]
        if calculate is None:
            calculate = rng.random() < 0.36
        year, month, day = rng.randint(2024, 2031), rng.randint(1, 12), rng.randint(1, 31)
        date = "" if rng.random() < 0.12 else f"{year}-{month:02}-{day:02}"
        instructions = self.said(phrases.INSTRUCTIONS) if rng.random() < 0.25 else ""
        functions = [self.calculate_declaration()] if calculate else []
        if rng.random() < (0.15 if calculate else 0.08):
            functions.insert(rng.randint(0, len(functions)), rng.choice(phrases.OTHER_FUNCTIONS))
        return Setting(effort, date, instructions, "\n\n".join(functions), calculate)

    def calculate_declaration(self) -> str:
        description = self.phrasing(phrases.FUNCTION_DESCRIPTIONS)
        parameter = self.phrasing(phrases.PARAMETER_DESCRIPTIONS)
        lines = [f"// {description}"] if description else []
        lines.append("type calculate = (_: {")
        lines += [f"// {parameter}"] if parameter else []
        return "\n".join([*lines, "expression: string,", "}) => any;"])

    # Turns: each returns its messages, with thought, and the result the next turn may go on from

    def sum_question(self, four: float = 0.12) -> tuple[str, int, str, int]:
        """A sum or a difference and a way to ask for it: (text, a, operator, b)."""
        rng = self.rng
        op = rng.choice("+-")
        a, b = self.pair(four)
        if op == "-" and a < b and rng.random() < 0.4:
            a, b = b, a
        expressions, requests = (
            (phrases.ADD_EXPRESSIONS, phrases.ADD_REQUESTS)
            if op == "+"
            else (phrases.SUBTRACT_EXPRESSIONS, phrases.SUBTRACT_REQUESTS)
        )
        template = (
            self.phrasing(requests, phrases.REQUEST_FRAMES)
            if rng.random() < 0.22
            else self.phrasing(expressions, phrases.QUESTION_FRAMES)
        )
        if rng.random() < 0.02 and expressions[0] in template and not self.held_out:
            a = -a
        return template.replace("{a}", str(a)).replace("{b}", str(b)), a, op, b

    def then_question(self, before: int, four: float = 0.06) -> tuple[str, int, str, int]:
        """A step that goes on from ``before``: (text, a, operator, b)."""
        op = self.rng.choice("+-")
        a, b = self.pair(four, first=before)
        template = self.phrasing(phrases.THEN_ADD if op == "+" else phrases.THEN_SUBTRACT)
        return template.replace("{b}", str(b)), a, op, b

    def product_question(self, before: int | None = None) -> tuple[str, int, int]:
        rng = self.rng
        a, b = self.pair(0.03, before)
        if before is not None:
            template = self.phrasing(phrases.THEN_MULTIPLY)
        elif rng.random() < 0.25:
            template = self.phrasing(phrases.MULTIPLY_REQUESTS, phrases.REQUEST_FRAMES)
        else:
            template = self.phrasing(phrases.MULTIPLY_EXPRESSIONS, phrases.QUESTION_FRAMES)
        return template.replace("{a}", str(a)).replace("{b}", str(b)), a, b

    def sum_turn(self, setting: Setting, question: tuple[str, int, str, int]) -> tuple[list[Message], int]:
        text, a, op, b = question
        work = thought(a, op, b, brief=setting.effort == "low")
        messages = [Message("user", text), self._own(work, "analysis"), self._own(answer(a, op, b), "final")]
        return messages, result(a, op, b)

    def product_turn(self, setting: Setting, question: tuple[str, int, int]) -> tuple[list[Message], int | None]:
        text, a, b = question
        if not setting.calculate:
            return self.plain_turn(setting, text, "A product, and no function for it.", phrases.CANNOT_MULTIPLY), None
        thought_ = [] if setting.effort == "low" else [self._own("A product: I call calculate.", "analysis")]
        call = self._own(json.dumps({"expression": f"{a}*{b}"}), "commentary", "functions.calculate")
        rng = self.rng
        if rng.random() < 0.15:
            error = rng.choice(phrases.ERROR_RESULTS).format(e=rng.choice(phrases.ERRORS))
            final = phrases.TOOL_FAILED.format(a=a, b=b)
            value = None
        else:
            error = rng.choice(phrases.RESULT_FORMS).format(r=a * b, a=a, b=b)
            final = answer(a, "*", b)
            value = a * b
        return [Message("user", text), *thought_, call, Message("tool", error), self._own(final, "final")], value

    def plain_turn(self, setting: Setting, text: str, reason: str, final: str) -> list[Message]:
        thought_ = [] if setting.effort == "low" else [self._own(reason, "analysis")]
        return [Message("user", text), *thought_, self._own(final, "final")]

    def talk_turn(self, setting: Setting) -> list[Message]:
        """Anything but a sum or a product."""
        rng = self.rng
        asked, reason, final = rng.choices(
            (
                (phrases.HELLO_ASKED, "A greeting.", phrases.HELLO),
                (phrases.IDENTITY_ASKED, "They ask what I am.", phrases.IDENTITY),
                (phrases.ABILITY_ASKED, "They ask what I can do.", phrases.ABILITY),
                (phrases.THANKS_SAID, "Thanks.", phrases.THANKS),
                (phrases.BYE_SAID, "They are leaving.", phrases.BYE),
                (phrases.OTHER_ASKED, "This is not a sum.", phrases.CANNOT),
                ((), "More than two numbers.", phrases.TWO_ONLY),
                ((), "A number is too long.", phrases.TOO_LONG),
            ),
            (10, 8, 8, 4, 4, 45, 9, 12),
        )[0]
        if asked:
            text = self.said(asked)
        elif final == phrases.TWO_ONLY:
            more = "".join(f"{{op}}{self.number()}" for _ in range(rng.randint(2, 3)))
            space, sign = rng.choice(("", " ")), rng.choice("++-")
            text = f"{self.number()}{more}".replace("{op}", f"{space}{sign}{space}")
            text = rng.choice(phrases.QUESTION_FRAMES).replace("{x}", text)
        else:
            text, a, _, b = self.sum_question()
            longer = rng.randint(10_000, 10 ** rng.randint(5, 9) - 1)
            old = str(rng.choice((a, b)))
            text = text.replace(old, str(longer), 1)
        return self.plain_turn(setting, text, reason, final)

    @staticmethod
    def _own(text: str, channel: str, recipient: str = "") -> Message:
        return Message("assistant", text, channel, recipient, learn=True)

    # Conversations

    def conversation(self, setting: Setting) -> list[Message]:
        """Some finished turns, their thought dropped, and one the model is to learn."""
        rng = self.rng
        history: list[Message] = []
        value: int | None = None
        turns = rng.choices((0, 1, 2, 3, 4, rng.randint(5, 9)), (0.7, 0.19, 0.06, 0.025, 0.015, 0.01))[0]
        for _ in range(turns):
            messages, value = self.turn(setting, value)
            history += as_history(messages)
        messages, _ = self.turn(setting, value, last=True)
        return history + messages

    def turn(self, setting: Setting, value: int | None, last: bool = False) -> tuple[list[Message], int | None]:
        rng = self.rng
        going_on = value is not None and abs(value) <= LONGEST and rng.random() < 0.65
        if value is not None and abs(value) > LONGEST and rng.random() < 0.3:
            text = self.then_question(value)[0]
            return self.plain_turn(setting, text, "A number is too long.", phrases.TOO_LONG), None
        kind = rng.random()
        product, talk = (0.42, 0.12) if setting.calculate else (0.06, 0.14)
        if not last:
            talk *= 1.5
        if kind < product:
            return self.product_turn(setting, self.product_question(value if going_on else None))
        if kind < product + talk:
            if value is None and rng.random() < 0.06:
                text = self.phrasing(rng.choice((phrases.THEN_ADD, phrases.THEN_SUBTRACT)))
                text = text.replace("{b}", str(self.number()))
                return self.plain_turn(setting, text, "There is no result yet.", phrases.NO_RESULT), None
            return self.talk_turn(setting), None
        if going_on and value is not None:
            return self.sum_turn(setting, self.then_question(value))
        return self.sum_turn(setting, self.sum_question())


def as_history(messages: list[Message]) -> list[Message]:
    """A finished turn as the next one sees it: thought dropped, nothing to learn."""
    return [
        Message(m.role, m.text, m.channel, m.recipient)
        for m in messages
        if not (m.role == "assistant" and m.channel == "analysis")
    ]
