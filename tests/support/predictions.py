"""The page of predictions and the file of their number, made from the speed model.

``python -m tests.support.predictions`` writes ``docs/predictions.md``, and a file that ``benchmarks/predictions`` does
not have. It never changes one that is there: predictions are superseded by a higher number, in ``prediction/macs.py``.
"""

import json
from pathlib import Path

from gptoss_mlx.prediction.macs import Predictions, Rows, error_lines, errors_rows, macs_rows, predictions

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "predictions.md"
FOLDER = ROOT / "benchmarks" / "predictions"

BEGINNING = """\
# Predictions

{0}

You see what the speed model says of each Mac, before anyone has measured one. `gptoss-mac bench --predict` prints the
same, and `make predictions` writes this page. The numbers are kept for ever in `benchmarks/predictions/{1}.json`: they
are only superseded, by predictions with a higher number, so a later measurement can be held against them.

```text
gptoss-mac bench --predict
```

{2}

{3}

{4}

{5}

{6}

What slows a Mac is not in it: heat and power modes moved published speeds by up to 3.8 times. Where not all experts fit
in memory, `gptoss-mac doctor` predicts what reading them costs ([memory and paging](memory.md)).
"""


def as_json(found: Predictions) -> str:
    """Return the text of a file of predictions."""
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def page(found: Predictions) -> str:
    """Return the text of the page."""
    text = BEGINNING.format(error_lines(found)[0], found["version"], *error_lines(found)[1:])
    for model in found["models"]:
        text += f"\n## Predictions for {model}\n\n{_table(macs_rows(found, model))}"
    return text + f"\n## Predictions of chips left out of the fit\n\n{_table(errors_rows(found))}"


def _table(table: Rows) -> str:
    head, rows = table
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def main() -> None:
    found = predictions()
    PAGE.write_text(page(found))
    file = FOLDER / f"{found['version']}.json"
    if not file.exists():
        file.write_text(as_json(found))


if __name__ == "__main__":
    main()
