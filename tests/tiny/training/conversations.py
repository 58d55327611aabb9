"""Draw the conversations the small model learns from, at random.

Knows questions and good replies. Knows no tokens and no training. A conversation is a list of harmony messages with all
thoughts. The model learns every assistant message after the last user message.
"""

import json
from dataclasses import dataclass
from random import Random

from gptoss_mlx.harmony import Developer, Function, Message, System, tool_call, tool_result
from gptoss_mlx.harmony.messages import Effort
from tests.tiny.training import phrases
from tests.tiny.training.arithmetic import answer, is_held_out_pair, is_held_out_phrasing, result, thought

EFFORTS: tuple[Effort, ...] = ("low", "medium", "high")
LARGEST_OPERAND = 9999


@dataclass(frozen=True)
class Setting:
    """The contents of the system and developer messages."""

    effort: Effort
    date: str | None = None
    instructions: str | None = None
    functions: tuple[Function, ...] = ()

    @property
    def calculate(self) -> bool:
        return any(function.name == "calculate" for function in self.functions)

    def head(self) -> list[Message]:
        head = [Message("system", System(self.effort, self.date))]
        if self.instructions or self.functions:
            head.append(Message("developer", Developer(self.instructions, self.functions)))
        return head


class Author:
    """Draws settings, questions and whole conversations.

    With ``held_out`` it draws only what training never draws. With ``hard``, as in training, it draws more differences
    than sums, and many numbers close to each other; without it, both operators equally.
    """

    def __init__(self, rng: Random, held_out: bool = False, hard: bool = True):
        self.rng = rng
        self.held_out = held_out
        self.operators, self.close = ("+--", 0.25) if hard else ("+-", 0.03)

    def phrasing(self, templates: tuple[str, ...], frames: tuple[str, ...] = ("{x}",)) -> str:
        while True:
            core = self.rng.choice(templates)
            frame = self.rng.choice(frames)
            template = frame.replace("{x}", core).replace("{X}", core[:1].upper() + core[1:])
            if not template or is_held_out_phrasing(template) == self.held_out:
                return template

    def said(self, templates: tuple[str, ...]) -> str:
        """Return one of the templates, filled with words and numbers. None of this talk is held out."""
        rng = self.rng
        text = rng.choice(templates)
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
        choice = rng.random()
        if choice < 0.5:
            syllables = "".join(rng.choice(("bcdfghjklmnprstvwz", "aeiou")[i % 2]) for i in range(rng.randint(2, 4)))
            return syllables.capitalize() if rng.random() < 0.3 else syllables
        if choice < 0.75:
            every = [*self._all_words()]
            return rng.choice(every)
        if choice < 0.9:
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
            if abs(a) <= LARGEST_OPERAND and self.rng.random() < self.close:  # the larger one is then hard to see
                near = abs(a) + self.rng.choice((0, self.rng.randint(-9, 9), self.rng.randint(-99, 99)))
                b = min(max(0, near), LARGEST_OPERAND if four else 999)
            if is_held_out_pair(a, b) == self.held_out:
                return a, b

    def setting(self, effort: Effort | None = None, calculate: bool | None = None) -> Setting:
        rng = self.rng
        effort = effort or rng.choices(EFFORTS, (0.35, 0.25, 0.4))[0]
        if calculate is None:
            calculate = rng.random() < 0.36
        year = rng.randint(2024, 2031)
        month = rng.randint(1, 12)
        day = rng.randint(1, 31)
        date = "" if rng.random() < 0.12 else f"{year}-{month:02}-{day:02}"
        instructions = self.said(phrases.INSTRUCTIONS) if rng.random() < 0.25 else ""
        functions = [self.calculate_function()] if calculate else []
        if rng.random() < (0.15 if calculate else 0.08):
            functions.insert(rng.randint(0, len(functions)), rng.choice(phrases.OTHER_FUNCTIONS))
        return Setting(effort, date or None, instructions or None, tuple(functions))

    def calculate_function(self) -> Function:
        description = self.phrasing(phrases.FUNCTION_DESCRIPTIONS)
        parameter = self.phrasing(phrases.PARAMETER_DESCRIPTIONS)
        expression = {"type": "string"} | ({"description": parameter} if parameter else {})
        schema = {"type": "object", "properties": {"expression": expression}, "required": ["expression"]}
        return Function("calculate", description, schema)

    def sum_question(self, four: float = 0.12) -> tuple[str, int, str, int]:
        """Return a question for a sum or difference: (text, a, operator, b)."""
        rng = self.rng
        op = rng.choice(self.operators)
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
        if rng.random() < 0.05 and expressions[0] in template and not self.held_out:
            a = -a
        return template.replace("{a}", str(a)).replace("{b}", str(b)), a, op, b

    def then_question(self, before: int, four: float = 0.06) -> tuple[str, int, str, int]:
        """Return a question for a further step from the result ``before``: (text, a, operator, b)."""
        op = self.rng.choice(self.operators)
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
        """Return the turn's messages, with thought, and its result."""
        text, a, op, b = question
        work = thought(a, op, b, brief=setting.effort == "low")
        messages = [Message("user", text), own("analysis", work), own("final", answer(a, op, b))]
        return messages, result(a, op, b)

    def product_turn(self, setting: Setting, question: tuple[str, int, int]) -> tuple[list[Message], int | None]:
        text, a, b = question
        if not setting.calculate:
            return self.plain_turn(setting, text, "A product, and no function for it.", phrases.CANNOT_MULTIPLY), None
        thought_ = [] if setting.effort == "low" else [own("analysis", "A product: I call calculate.")]
        call = tool_call("functions.calculate", json.dumps({"expression": f"{a}*{b}"}))
        rng = self.rng
        if rng.random() < 0.15:
            output = rng.choice(phrases.ERROR_RESULTS).format(e=rng.choice(phrases.ERRORS))
            final = phrases.TOOL_FAILED.format(a=a, b=b)
            value = None
        else:
            output = rng.choice(phrases.RESULT_FORMS).format(r=a * b, a=a, b=b)
            final = answer(a, "*", b)
            value = a * b
        return [Message("user", text), *thought_, call, tool_result(call, output), own("final", final)], value

    def plain_turn(self, setting: Setting, text: str, reason: str, final: str) -> list[Message]:
        thought_ = [] if setting.effort == "low" else [own("analysis", reason)]
        return [Message("user", text), *thought_, own("final", final)]

    def talk_turn(self, setting: Setting) -> list[Message]:
        """Return a turn that is neither a sum nor a product."""
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
            (14, 12, 12, 6, 6, 42, 8, 10),
        )[0]
        if asked:
            text = self.said(asked)
        elif final == phrases.TWO_ONLY:
            more = "".join(f"{{op}}{self.number()}" for _ in range(rng.randint(2, 3)))
            space = rng.choice(("", " "))
            sign = rng.choice("++-")
            text = f"{self.number()}{more}".replace("{op}", f"{space}{sign}{space}")
            text = rng.choice(phrases.QUESTION_FRAMES).replace("{x}", text)
        else:
            text, a, _, b = self.sum_question()
            longer = rng.randint(10_000, 10 ** rng.randint(5, 9) - 1)
            old = str(rng.choice((a, b)))
            text = text.replace(old, str(longer), 1)
        return self.plain_turn(setting, text, reason, final)

    def conversation(self, setting: Setting) -> list[Message]:
        """Return some finished turns and a last one, which the model learns."""
        rng = self.rng
        messages: list[Message] = []
        value: int | None = None
        turns = rng.choices((0, 1, 2, 3, 4, rng.randint(5, 9)), (0.52, 0.32, 0.09, 0.04, 0.02, 0.01))[0]
        for _ in range(turns):
            finished, value = self.turn(setting, value)
            messages += finished
        return messages + self.turn(setting, value, last=True)[0]

    def turn(self, setting: Setting, value: int | None, last: bool = False) -> tuple[list[Message], int | None]:
        rng = self.rng
        going_on = value is not None and abs(value) <= LARGEST_OPERAND and rng.random() < 0.75
        if value is not None and abs(value) > LARGEST_OPERAND and rng.random() < 0.3:
            text = self.then_question(value)[0]
            return self.plain_turn(setting, text, "A number is too long.", phrases.TOO_LONG), None
        choice = rng.random()
        product, talk = (0.36, 0.16) if setting.calculate else (0.06, 0.18)
        if not last:
            talk *= 1.5
        if choice < product:
            return self.product_turn(setting, self.product_question(value if going_on else None))
        if choice < product + talk:
            if value is None and rng.random() < 0.06:
                text = self.phrasing(rng.choice((phrases.THEN_ADD, phrases.THEN_SUBTRACT)))
                text = text.replace("{b}", str(self.number()))
                return self.plain_turn(setting, text, "There is no result yet.", phrases.NO_RESULT), None
            return self.talk_turn(setting), None
        if going_on and value is not None:
            return self.sum_turn(setting, self.then_question(value))
        return self.sum_turn(setting, self.sum_question())


def own(channel: str, text: str) -> Message:
    """Return an assistant message."""
    return Message("assistant", text, channel=channel)
