"""``make clients``: other people's client libraries talk to the real server on the bundled model.

``python -m tests.clients PYTHON`` runs each check of ``checks`` with that Python, in which the libraries are installed.
It writes clients-report.md, and exits with 1 if a check fails.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.served import ROOT, serving

CHECKS = Path(__file__).parent / "checks.py"
SECONDS = 180

HEAD = """# Client libraries

`make clients` has each of these talk to `gptoss-mac serve` on the bundled model, in an environment of its own.

| check | versions | result |
|---|---|---|
"""


def main() -> None:
    python = sys.argv[1]
    names = output(python, CHECKS).split()
    rows = []
    failed = 0
    with serving("--model", "tiny") as server, tempfile.TemporaryDirectory() as home:
        nowhere = {"HTTPS_PROXY": "", "HTTP_PROXY": "", "LLM_USER_PATH": home, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        for name in names:
            done = subprocess.run(
                [python, str(CHECKS), name, server.url],
                capture_output=True,
                text=True,
                timeout=SECONDS,
                env=os.environ | nowhere,
                cwd=home,
                check=False,
            )
            failed += done.returncode != 0
            result = "passes" if done.returncode == 0 else "fails"
            rows.append(f"| {name} | {versions(python, name)} | {result} |")
            print(rows[-1], flush=True)
            if done.returncode:
                print(done.stderr[-3000:], file=sys.stderr)
    (ROOT / "clients-report.md").write_text(HEAD + "\n".join(rows) + "\n")
    sys.exit(1 if failed else 0)


def versions(python: str, check: str) -> str:
    """Return the package of a check with its version, and that of the vendor's client, on which it is built."""
    lines = output(python, "-m", "pip", "freeze").splitlines()
    listed = dict(line.split("==") for line in lines if "==" in line)
    own = max((name for name in listed if check.startswith(name)), key=len)
    vendor = "anthropic" if "anthropic" in check else "openai"
    return ", ".join(f"{name} {listed[name]}" for name in dict.fromkeys((own, vendor)))


def output(*command: object) -> str:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=True).stdout


main()
