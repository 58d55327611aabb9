"""``make clients``: other people's programs talk to the real server on the bundled model.

``python -m tests.clients FOLDER`` uses what ``make`` has installed in FOLDER: an environment with Python libraries, in
``npm`` packages of npm, and in ``evals`` an environment with OpenAI's gpt-oss. Names after it choose among the checks.
It writes clients-report.md if all were run, and exits with 1 if a check fails.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.clients.coding_agents import AGENTS, on_a_script, on_the_bundled_model
from tests.support.served import ROOT, Process, serving

HERE = Path(__file__).parent
SECONDS = 180

HEAD = """# Other people's programs

`make clients` has each of these talk to `gptoss-mac serve` on the bundled model. The agents run headless and without a
network. Scripted means that each reply of the bundled model is forced: it reads a file, edits it, runs a command
and finishes; the file is compared, and the share of the prompt that the server had read before is that of the turns
after the first.

| program | versions | result |
|---|---|---|
"""

TAIL = """
## Not run

These need a network, for the questions or for a model that grades. With 20b behind `gptoss-mac serve --model 20b`:

    pip install gpt-oss jinja2 numpy pandas openai tqdm blobfile requests
    python -m gpt_oss.evals --eval gpqa,aime25 --model gpt-oss-20b --base-url http://127.0.0.1:8080/v1 --n-threads 8
    python -m gpt_oss.evals --eval healthbench --model gpt-oss-20b --base-url http://127.0.0.1:8080/v1 --n-threads 8
    git clone https://github.com/openai/gpt-oss && cd gpt-oss/compatibility-test && npm install
    sed -i.bak s#http://localhost:8000/v1#http://127.0.0.1:8080/v1# providers.ts
    SOME_API_KEY=none npm start -- --provider vllm -k 5
"""


class Check(NamedTuple):
    """A program and its versions, and a function that returns what it did, or raises."""

    name: str
    versions: str
    run: Callable[[], str]


def main() -> None:
    folder, wanted = Path(sys.argv[1]).absolute(), sys.argv[2:]
    rows = []
    failed = 0
    with serving("--model", "tiny") as server:
        for check in checks(folder, server):
            if wanted and check.name not in wanted:
                continue
            try:
                result = check.run()
            except (AssertionError, OSError, subprocess.SubprocessError) as error:
                failed += 1
                result = "fails"
                print(error, getattr(error, "stderr", "")[-3000:], file=sys.stderr)
            rows.append(f"| {check.name} | {check.versions} | {result} |")
            print(rows[-1], flush=True)
    if not wanted:
        (ROOT / "clients-report.md").write_text(HEAD + "\n".join(rows) + "\n" + TAIL)
    sys.exit(1 if failed else 0)


def checks(folder: Path, server: Process) -> Iterator[Check]:
    python, npm, evals = folder / "bin" / "python", folder / "npm", folder / "evals" / "bin" / "python"
    packages = npm / "node_modules"
    listed = frozen(python)
    for name in output(python, HERE / "checks.py").split():
        yield Check(name, versions(listed, name), partial(library, python, name, server.url))
    script = shutil.copy(HERE / "agent.mjs", npm)  # Node looks for packages beside the script
    about = ", ".join(f"{name} {installed(packages, name)}" for name in ("@openai/agents", "openai"))
    yield Check("@openai/agents and openai for JavaScript", about, lambda: silent("node", script, server.url))
    own = f"gpt-oss {frozen(evals)['gpt-oss']}"
    for sampler in ("responses", "chat_completions"):
        name = f"gpt_oss.evals --eval basic --sampler {sampler}"
        yield Check(name, own, partial(evaluate, evals, sampler, server.url))
    for name in AGENTS:
        package = {"codex": "@openai/codex", "claude": "@anthropic-ai/claude-code", "opencode": "opencode-ai"}[name]
        about = f"{package} {installed(packages, package)}"
        programs = packages / ".bin"
        yield Check(f"launch {name}", about, partial(on_the_bundled_model, name, programs, server))
        yield Check(f"{name}, scripted", about, partial(on_a_script, name, programs))


def library(python: Path, name: str, url: str) -> str:
    """Run a check of a Python library."""
    with tempfile.TemporaryDirectory() as home:
        return silent(python, HERE / "checks.py", name, url, home=home)


def evaluate(python: Path, sampler: str, url: str) -> str:
    """Run the evaluation of OpenAI's own that needs no network."""
    with tempfile.TemporaryDirectory() as home:
        options = ("--eval", "basic", "--model", "gpt-oss-20b", "--reasoning-effort", "low", "--n-threads", "4")
        where = ("--sampler", sampler, "--base-url", f"{url}/v1")
        told = output(python, "-m", "gpt_oss.evals", *options, *where, home=home)
    assert "'score': np.float64(1.0)" in told, told
    return "passes, score 1.0"


def silent(*command: object, home: str | None = None) -> str:
    output(*command, home=home)
    return "passes"


def output(*command: object, home: str | None = None) -> str:
    """Return what a program prints. It knows no proxies and no keys, and has a home of its own if it gets one."""
    own = {"HTTPS_PROXY": "", "HTTP_PROXY": "", "OPENAI_API_KEY": "none", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    if home is not None:
        own |= {"LLM_USER_PATH": home, "TMPDIR": home}
    done = subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={name: value for name, value in (os.environ | own).items() if name != "PYTHONPATH"},
        cwd=home,
        check=True,
    )
    return done.stdout


def frozen(python: Path) -> dict[str, str]:
    """Return the versions of an environment's packages."""
    return dict(line.split("==") for line in output(python, "-m", "pip", "freeze").splitlines() if "==" in line)


def versions(listed: dict[str, str], check: str) -> str:
    """Return the package of a check with its version, and that of the vendor's client, on which it is built."""
    own = max((name for name in listed if check.startswith(name)), key=len)
    vendor = "anthropic" if "anthropic" in check else "openai"
    return ", ".join(f"{name} {listed[name]}" for name in dict.fromkeys((own, vendor)))


def installed(packages: Path, name: str) -> str:
    """Return the version of a package of npm."""
    return json.loads((packages / name / "package.json").read_text())["version"]


main()
