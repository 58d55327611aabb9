"""Held-out sums as an lm-eval task reads them: ``python -m tests.lm_eval.sums`` writes ``sums.jsonl``.

They are questions that the bundled model's training excludes. Beside a question stand its answer, and for scoring by
likelihood the beginning of an answer with four ways to end it, of which ``label`` is right.
"""

import json
import re
from itertools import islice
from pathlib import Path
from random import Random

from tests.tiny.training.evaluate import cases

COUNT = 100
FILE = Path(__file__).parent / "sums.jsonl"


def sums() -> list[dict]:
    found = []
    random = Random("lm-eval: choices")
    for case in islice(cases(), COUNT):
        assert case.kind == "sum"
        wrong = {case.expected + step for step in (-10, -1, 1, 10, 100)} - {case.expected}
        answers = [case.expected, *random.sample(sorted(wrong), 3)]
        random.shuffle(answers)
        a, b = re.findall(r"\d+", case.said[0])
        op, order = next((op, (x, y)) for x, y in ((a, b), (b, a)) for op in "+-" if _value(x, op, y) == case.expected)
        found.append(
            {
                "question": case.said[0],
                "answer": str(case.expected),
                "begun": f"{order[0]} {op} {order[1]} =",
                "choices": [f" {answer}." for answer in answers],
                "label": answers.index(case.expected),
            }
        )
    return found


def _value(a: str, op: str, b: str) -> int:
    return int(a) + int(b) if op == "+" else int(a) - int(b)


def lines() -> str:
    return "".join(json.dumps(one) + "\n" for one in sums())


if __name__ == "__main__":
    FILE.write_text(lines())
