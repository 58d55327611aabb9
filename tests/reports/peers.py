"""``make bench-peers``: run ``gptoss-mac bench`` beside llama.cpp and beside mlx-lm on equal random weights, two layers
of 20b's true shape, and write bench-report.md.

Ours and llama.cpp have 8-bit dense weights: our q8, and ggml's Q8_0. Beside mlx-lm ours has bf16 weights, as mlx-lm has
them. Times on a CPU say nothing about a Mac.

Usage: python -m tests.reports.peers LLAMA_PYTHON [--keep FOLDER] [--quick]
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from gptoss_mlx.bench.harness import Spread
from tests.compare.__main__ import weights, work_folder

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "bench-report.md"

# mlx-lm reads a prompt on a CPU many times slower than it is written for.
FOR_MLX_LM = ("--prompt", "128", "--depth", "0", "--rows", "1", "--rows", "4", "--generate", "32", "--turns", "3")
FOR_LLAMA = ("--rows", "1", "--rows", "4", "--rows", "16")
QUICK = ("--quick", "--generate", "16")

BEGINNING = """\
# Beside llama.cpp and mlx-lm

`make bench-peers` wrote this page. Two layers of 20b's true shape with random weights, the same for all programs of a
table, in turns on the same machine. A time over 1 means that the other program takes longer. Nothing here was measured
on a Mac, and times on a CPU say nothing about one.
"""


def measured(folder: Path, *words: object) -> dict[str, Any]:
    """Run the bench with its progress and tables on the terminal, and return the record. Raises CalledProcessError."""
    file = folder / "record.json"
    subprocess.run([sys.executable, "-m", "gptoss_mlx.cli", "bench", *map(str, words), "--json", str(file)], check=True)
    return json.loads(file.read_text())


def table(record: dict[str, Any]) -> str:
    """Return a record's results in Markdown."""
    lines = ["| test | program | tokens/s, or seconds | quartiles | n | peak memory | time, ours = 1 | quartiles |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for each in record["results"]:
        spread = Spread(**each["tokens_per_second"]) if each["tokens"] else Spread.of(each["seconds"])
        ratio = each["times_ours"]
        cells = [each["label"], each["program"], f"{spread.median:.4g}", f"{spread.low:.3g} to {spread.high:.3g}"]
        cells += [str(spread.count), f"{each['peak_memory'] / 1e9:.2f} GB"]
        cells += [f"{ratio['median']:.2f}", f"{ratio['low']:.2f} to {ratio['high']:.2f}"] if ratio else ["", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def page(records: dict[str, dict[str, Any]]) -> str:
    """Return the text of the report."""
    text = BEGINNING
    for title, record in records.items():
        machine = record["machine"]
        text += f"\n## {title}\n\n{machine['chip']}, {machine['system']}, {record['made'][:10]}.\n\n"
        text += "".join(f"- {name}: {how}\n" for name, how in record["programs"].items())
        if waits := [each["waiting"] for each in record["results"] if each["waiting"] is not None]:
            text += f"- Some thread waited for a core in up to {max(waits):.0%} of the time.\n"
        text += "".join(f"- Left out: {each['label']} ({each['reason']})\n" for each in record["left_out"])
        text += f"\n{table(record)}\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(prog="peers")
    parser.add_argument("llama_python", help="a Python that has llama_cpp")
    parser.add_argument("--keep", type=Path, help="folder to keep the weights in, 10 GB, for the next run")
    parser.add_argument("--quick", action="store_true", help="only look whether everything runs; write no report")
    given = parser.parse_args()
    with work_folder(given.keep) as folder:
        made = weights(folder)
        llama = ("--against", "llama.cpp", "--peer-model", made["gguf"], "--peer-python", given.llama_python)
        mlx_lm = ("--against", "mlx-lm", "--peer-model", made["checkpoint"])
        records = {
            "llama.cpp": measured(folder, "--model", made["q8"], *llama, *(QUICK if given.quick else FOR_LLAMA)),
            "mlx-lm": measured(folder, "--model", made["bf16"], *mlx_lm, *(QUICK if given.quick else FOR_MLX_LM)),
        }
    if not given.quick:
        PAGE.write_text(page(records))


if __name__ == "__main__":
    main()
