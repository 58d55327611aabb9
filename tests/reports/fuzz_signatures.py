"""Compare signatures with openai-harmony's, on valid and invalid declarations (``tests.support.schemas``).

``python -m tests.reports.fuzz_signatures .venv-oracle/bin/python --count 3000 --seed 1``; exits with 1 on a difference.
The argument is the python that has openai-harmony.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter

from gptoss_mlx.errors import HarmonyError
from gptoss_mlx.harmony import Developer, Function, Message, Tokenizer, render_messages
from tests.support.schemas import CONTINUED, declarations, with_bare_lines


def ours(declaration: dict, tokenizer: Tokenizer) -> list[int] | str:
    """Return our ids, or why we refuse the declaration."""
    functions = tuple(Function(**function) for function in declaration["functions"])
    try:
        return render_messages([Message("developer", Developer(declaration["instructions"], functions))], tokenizer)
    except HarmonyError as error:
        return str(error)


def verdict(own: list[int] | str, theirs: list[int] | str, tokenizer: Tokenizer) -> str:
    if isinstance(theirs, str):
        return "refused by both" if isinstance(own, str) else "refused by openai-harmony only"
    if isinstance(own, str):
        return "DIFFERENT"
    if own == theirs:
        return "equal ids"
    texts = [with_bare_lines(tokenizer.decode(ids, markers=True)) for ids in (own, theirs)]
    return "equal but for comments of several lines" if CONTINUED in texts[0] and texts[0] == texts[1] else "DIFFERENT"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("oracle_python")
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    made = declarations(options.count, options.seed)
    command = [options.oracle_python, "-m", "tests.oracle.signatures"]
    done = subprocess.run(command, input=json.dumps(made), stdout=subprocess.PIPE, text=True, check=True)
    tokenizer = Tokenizer.bundled()
    verdicts = Counter()
    for declaration, theirs in zip(made, json.loads(done.stdout), strict=True):
        own = ours(declaration, tokenizer)
        verdicts[found := verdict(own, theirs, tokenizer)] += 1
        if found == "DIFFERENT" and verdicts[found] == 1:
            print(json.dumps(declaration))
            for name, ids in (("ours", own), ("openai-harmony", theirs)):
                print(f"--- {name}\n{ids if isinstance(ids, str) else tokenizer.decode(ids, markers=True)}")
    print(f"signatures: {options.count} declarations of seed {options.seed}: ", end="")
    print(", ".join(f"{count} {name}" for name, count in verdicts.most_common()))
    return 1 if verdicts["DIFFERENT"] else 0


if __name__ == "__main__":
    sys.exit(main())
