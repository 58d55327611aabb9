"""Arrows in the house run down only, and start-up imports nothing heavy."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("gptoss_mlx", "metal_kernels", "convert")
NETWORK = {"huggingface_hub", "httpx2"}
HEAVY = {"mlx", "mlx.core", "numpy", "tiktoken", "llguidance", "transformers", "torch"} | NETWORK

JUDGES = ("metal_kernels.emulator", "metal_kernels.cuda")

# Each floor may import itself and what stands to its right.
ALLOWED = {
    "gptoss_mlx.errors": set(),
    "metal_kernels": set(),
    "gptoss_mlx.arguments": {"gptoss_mlx.errors"},
    "gptoss_mlx.config_fields": {"gptoss_mlx.errors"},
    "gptoss_mlx.config": {"gptoss_mlx.errors", "gptoss_mlx.config_fields"},
    "gptoss_mlx.tokenizer_files": {"gptoss_mlx.errors"},
    "gptoss_mlx.harmony": {"gptoss_mlx.errors", "gptoss_mlx.tokenizer_files"},
    "gptoss_mlx.sampling": {"gptoss_mlx.errors", "gptoss_mlx.arguments"},
    "gptoss_mlx.limits": {"gptoss_mlx.errors", "gptoss_mlx.arguments"},
    "gptoss_mlx.score": set(),
    "gptoss_mlx.launching": set(),
    "gptoss_mlx.traits": {"gptoss_mlx.errors", "gptoss_mlx.harmony", "gptoss_mlx.sampling"},
    "gptoss_mlx.fastest": set(),
    "gptoss_mlx.model_folder": {"gptoss_mlx.errors", "gptoss_mlx.config", "gptoss_mlx.fastest", "gptoss_mlx.files"},
    "gptoss_mlx.files": {"gptoss_mlx.errors"},
    "gptoss_mlx.bounded_folder": {"gptoss_mlx.errors", "gptoss_mlx.files"},
    "gptoss_mlx.folder_writer": {"gptoss_mlx.errors", "gptoss_mlx.files", "gptoss_mlx.bounded_folder"},
    "gptoss_mlx.text_input": {"gptoss_mlx.errors"},
    "gptoss_mlx.published": set(),
    "gptoss_mlx.home": {"gptoss_mlx.errors", "gptoss_mlx.published"},
    "gptoss_mlx.installed": {"gptoss_mlx.errors", "gptoss_mlx.files", "gptoss_mlx.home", "gptoss_mlx.published"},
    "gptoss_mlx.model": {
        "gptoss_mlx.errors",
        "gptoss_mlx.config",
        "gptoss_mlx.fastest",
        "gptoss_mlx.model_folder",
        "metal_kernels",
    },
}
ALLOWED["convert"] = ALLOWED["gptoss_mlx.model"] | {
    "gptoss_mlx.files",
    "gptoss_mlx.home",
    "gptoss_mlx.harmony",
    "gptoss_mlx.tokenizer_files",
    "gptoss_mlx.published",
    "gptoss_mlx.__version__",
}
ALLOWED["gptoss_mlx.engine"] = ALLOWED["gptoss_mlx.model"] | {
    "gptoss_mlx.model",
    "gptoss_mlx.bounded_folder",
    "gptoss_mlx.files",
    "gptoss_mlx.folder_writer",
    "gptoss_mlx.arguments",
    "gptoss_mlx.sampling",
    "gptoss_mlx.score",
}
ALLOWED["gptoss_mlx.machine"] = set()
ALLOWED["gptoss_mlx.screen"] = set()
ALLOWED["gptoss_mlx.memory"] = ALLOWED["gptoss_mlx.engine"] | {"gptoss_mlx.engine", "gptoss_mlx.machine"}
# Rows that decode together are admitted by the bytes of their caches.
ALLOWED["gptoss_mlx.engine.batching"] = ALLOWED["gptoss_mlx.memory"] | {"gptoss_mlx.memory"}
ALLOWED["gptoss_mlx.tracing"] = ALLOWED["gptoss_mlx.memory"] | {"gptoss_mlx.memory", "gptoss_mlx.scorer"}
ALLOWED["gptoss_mlx.scorer"] = ALLOWED["gptoss_mlx.engine"] | {"gptoss_mlx.engine"}
ALLOWED["gptoss_mlx.prediction"] = ALLOWED["gptoss_mlx.model"] | {"gptoss_mlx.model"}
# What installs the bundled model is the only product module but the command line that may convert.
ALLOWED["gptoss_mlx.records"] = {"gptoss_mlx.files", "gptoss_mlx.installed"}
ALLOWED["gptoss_mlx.bundled"] = ALLOWED["convert"] | {"convert", "gptoss_mlx.home", "gptoss_mlx.records"}
ALLOWED["gptoss_mlx.kernel_check"] = ALLOWED["gptoss_mlx.model"] | {
    "gptoss_mlx.files",
    "gptoss_mlx.home",
    "gptoss_mlx.model",
}
ALLOWED["gptoss_mlx.grammars"] = {"gptoss_mlx.errors", "gptoss_mlx.harmony"}
# Other ranks are processes of their own, which open and load a model by themselves.
ALLOWED["gptoss_mlx.distributed"] = ALLOWED["gptoss_mlx.memory"] | {
    "gptoss_mlx.__version__",
    "gptoss_mlx.bundled",
    "gptoss_mlx.home",
    "gptoss_mlx.installed",
    "gptoss_mlx.kernel_check",
    "gptoss_mlx.memory",
    "gptoss_mlx.prediction",
    "gptoss_mlx.traits",
}
ALLOWED["gptoss_mlx.runtime"] = ALLOWED["gptoss_mlx.memory"] | {
    "gptoss_mlx.memory",
    "gptoss_mlx.engine.batching",
    "gptoss_mlx.distributed",
    "gptoss_mlx.prediction",
    "gptoss_mlx.scorer",
    "gptoss_mlx.tracing",
    "gptoss_mlx.grammars",
    "gptoss_mlx.kernel_check",
    "gptoss_mlx.limits",
    "gptoss_mlx.traits",
    "gptoss_mlx.harmony",
    "gptoss_mlx.home",
    "gptoss_mlx.installed",
}
ALLOWED["gptoss_mlx.inspection"] = ALLOWED["gptoss_mlx.runtime"] | {"gptoss_mlx.runtime"}
# Only mlx-lm's programs import it.
ALLOWED["gptoss_mlx.mlx_lm_adapter"] = (
    ALLOWED["gptoss_mlx.runtime"] | ALLOWED["gptoss_mlx.bundled"] | {"gptoss_mlx.runtime", "gptoss_mlx.bundled"}
)
ALLOWED["gptoss_mlx.figures"] = {"gptoss_mlx.errors", "gptoss_mlx.files"}
ALLOWED["gptoss_mlx.pictures"] = {"gptoss_mlx.errors", "gptoss_mlx.figures", "gptoss_mlx.inspection"}
ALLOWED["gptoss_mlx.repetition"] = set()
ALLOWED["gptoss_mlx.stop_strings"] = set()
ALLOWED["gptoss_mlx.reply"] = {
    "gptoss_mlx.errors",
    "gptoss_mlx.harmony",
    "gptoss_mlx.repetition",
    "gptoss_mlx.stop_strings",
}
ALLOWED["gptoss_mlx.forms"] = {"gptoss_mlx.grammars", "gptoss_mlx.harmony"}
# Names the runtime for its types only: a program whose model is in a server does without it.
ALLOWED["gptoss_mlx.link"] = ALLOWED["gptoss_mlx.runtime"] | {"gptoss_mlx.runtime"}
ALLOWED["gptoss_mlx.conversation"] = ALLOWED["gptoss_mlx.link"] | {
    "gptoss_mlx.forms",
    "gptoss_mlx.link",
    "gptoss_mlx.reply",
    "gptoss_mlx.text_input",
    "gptoss_mlx.tools",
    "gptoss_mlx.events",
    "gptoss_mlx.turns",
    "gptoss_mlx.usage",
}
ALLOWED["gptoss_mlx.turns"] = {"gptoss_mlx.events", "gptoss_mlx.harmony"}
ALLOWED["gptoss_mlx.answer"] = ALLOWED["gptoss_mlx.conversation"] | {"gptoss_mlx.conversation"}
ALLOWED["gptoss_mlx.attachments"] = {"gptoss_mlx.errors", "gptoss_mlx.text_input"}
ALLOWED["gptoss_mlx.templates"] = {"gptoss_mlx.errors", "gptoss_mlx.home"}
ALLOWED["gptoss_mlx.typed_lines"] = {"gptoss_mlx.home"}
ALLOWED["gptoss_mlx.old_sessions"] = {"gptoss_mlx.errors"}
ALLOWED["gptoss_mlx.history"] = {"gptoss_mlx.errors", "gptoss_mlx.home", "gptoss_mlx.old_sessions"}
ALLOWED["gptoss_mlx.sessions"] = ALLOWED["gptoss_mlx.conversation"] | {
    "gptoss_mlx.conversation",
    "gptoss_mlx.history",
}
ALLOWED["gptoss_mlx.requests"] = ALLOWED["gptoss_mlx.engine"] | {
    "gptoss_mlx.engine",
    "gptoss_mlx.grammars",
    "gptoss_mlx.harmony",
    "gptoss_mlx.reply",
}
ALLOWED["gptoss_mlx.batch"] = ALLOWED["gptoss_mlx.link"] | {
    "gptoss_mlx.files",
    "gptoss_mlx.link",
    "gptoss_mlx.reply",
    "gptoss_mlx.requests",
    "gptoss_mlx.text_input",
}
ALLOWED["gptoss_mlx.hub"] = {"gptoss_mlx.errors", "gptoss_mlx.files", "gptoss_mlx.model_folder"}
# What converts a folder does not need the network.
ALLOWED["convert.remote"] = ALLOWED["convert"] | {"convert", "gptoss_mlx.hub"}
ALLOWED["convert.arriving"] = ALLOWED["convert.remote"] | {"convert.remote"}
ALLOWED["gptoss_mlx.events"] = {"gptoss_mlx.errors", "gptoss_mlx.harmony", "gptoss_mlx.reply", "gptoss_mlx.usage"}
ALLOWED["gptoss_mlx.usage"] = {"gptoss_mlx.reply"}
ALLOWED["gptoss_mlx.tools"] = {"gptoss_mlx.errors", "gptoss_mlx.harmony", "gptoss_mlx.reply"}
ALLOWED["gptoss_mlx.diagnosis"] = ALLOWED["gptoss_mlx.runtime"]
ALLOWED["gptoss_mlx.bench"] = {"gptoss_mlx.errors"}
ALLOWED["gptoss_mlx.bench.replay"] = ALLOWED["gptoss_mlx.memory"] | {
    "gptoss_mlx.memory",
    "gptoss_mlx.prediction",
    "gptoss_mlx.limits",
}
ALLOWED["gptoss_mlx.bench.worker"] = ALLOWED["gptoss_mlx.runtime"] | {"gptoss_mlx.runtime", "gptoss_mlx.bench"}
ALLOWED["gptoss_mlx.bench.mlx_lm_worker"] = {"gptoss_mlx.bench", "metal_kernels"}
ALLOWED["gptoss_mlx.bench.suite"] = ALLOWED["gptoss_mlx.bench.worker"] | {"gptoss_mlx.__version__"}
ALLOWED["gptoss_mlx.bench.plots"] = ALLOWED["gptoss_mlx.prediction"] | {
    "gptoss_mlx.prediction",
    "gptoss_mlx.bench",
    "gptoss_mlx.figures",
}


def floor_of(module: str) -> str | None:
    fits = [floor for floor in ALLOWED if module == floor or module.startswith(floor + ".")]
    return max(fits, key=len) if fits else None


@functools.cache
def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def modules() -> list[str]:
    paths = [p for package in PACKAGES for p in (ROOT / package).rglob("*.py")]
    return sorted(str(path.relative_to(ROOT)) for path in paths)


@pytest.mark.parametrize("file", modules())
def test_imports_run_downwards(file):
    module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    own = floor_of(module)
    if own is None:  # the package's own front door, the command line and the server stand above all
        assert module == "gptoss_mlx" or module.startswith(("gptoss_mlx.cli", "gptoss_mlx.server")), module
        return
    names = {name for name in imports(ROOT / file) if name.split(".")[0] in PACKAGES}
    ours = {floor_of(name) or name for name in names}
    assert ours <= ALLOWED[own] | {own}, f"{file} imports {ours - ALLOWED[own] - {own}}"


def test_replies_are_read_in_one_place():
    """Who reads the parser's events beside ``reply`` would come to read some of them otherwise."""
    outside = [file for file in modules() if not file.startswith("gptoss_mlx/harmony/")]
    readers = {file for file in outside if "StreamParser" in (ROOT / file).read_text()}
    assert readers == {"gptoss_mlx/reply.py"}


def test_only_launch_reaches_the_machines_that_judge_shaders():
    """And only when it is asked to, so what users install starts without them."""
    folders = tuple(f"{judge.replace('.', '/')}/" for judge in JUDGES)
    users = {
        file
        for file in modules()
        if not file.startswith(folders) and any(name.startswith(JUDGES) for name in imports(ROOT / file))
    }
    assert users == {"metal_kernels/launch.py"}
    top = ast.parse((ROOT / "metal_kernels/launch.py").read_text()).body
    early = {node.module for node in top if isinstance(node, ast.ImportFrom) and node.module}
    assert not any(name.startswith(JUDGES) for name in early)


def test_a_model_runs_without_the_machines_that_judge_shaders():
    """Whatever the source says of imports, here is a process that has written a token."""
    code = (
        "import sys, gptoss_mlx\n"
        "list(gptoss_mlx.load('tiny').generate([0], max_tokens=2, stop=()))\n"
        "print(*(name for name in sys.modules if name.startswith('metal_kernels.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split()
    assert "metal_kernels.launch" in loaded
    assert [name for name in loaded if name.startswith(JUDGES)] == []


def test_the_network_is_reached_from_one_package():
    """So nothing else can send what a user has, and a chat works without a connection."""
    users = {f for f in modules() if {name.split(".")[0] for name in imports(ROOT / f)} & NETWORK}
    assert users
    assert all(file.startswith("gptoss_mlx/hub/") for file in users), users


@pytest.mark.parametrize("command", ["", "bench"])
def test_help_imports_nothing_heavy(command):
    words = ["gptoss-mac", *command.split(), "--help"]
    code = (
        "import sys\n"
        "from gptoss_mlx.cli import main\n"
        f"sys.argv = {words}\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        f"print(*sorted(set(sys.modules) & {HEAVY}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
    assert done.stderr.strip() == ""
