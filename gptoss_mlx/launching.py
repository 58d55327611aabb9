"""How coding agents of other makers are pointed at a server of ours: by arguments and variables of one start, never in
their own files. Knows their names of things, and starts nothing.

Each function takes a folder for files of its own, which lasts as long as the program runs.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KEY_VARIABLE = "GPTOSS_MAC_API_KEY"


@dataclass(frozen=True)
class Endpoint:
    """A server and one of its models, with what ``/v1/models`` says of it in the form that Codex reads. ``url`` is
    without ``/v1``."""

    url: str
    key: str | None
    model: str
    about: Mapping[str, Any]

    @property
    def context(self) -> int:
        """Return how many tokens a conversation may have."""
        return self.about["context_window"]


@dataclass(frozen=True)
class Start:
    """How to start a program: ``arguments`` before the user's own, and ``variables`` beside those of this process."""

    arguments: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


def codex(to: Endpoint, folder: Path) -> Start:
    """Start OpenAI's Codex. The provider is one of our own, because its built-in ones first look for the programs they
    are named after. Only of those it asks for the models, so it is given a file of them."""
    catalogue = folder / "models.json"
    catalogue.write_text(json.dumps({"models": [dict(to.about)]}))
    provider = {"name": "gptoss-mac", "base_url": f"{to.url}/v1", "wire_api": "responses"}
    if to.key is not None:
        provider["env_key"] = KEY_VARIABLE
    settings = {f"model_providers.gptoss-mac.{name}": value for name, value in provider.items()}
    settings |= {"model_provider": "gptoss-mac", "model": to.model, "model_catalog_json": str(catalogue)}
    arguments = [argument for name, value in settings.items() for argument in ("-c", f"{name}={json.dumps(value)}")]
    return Start(tuple(arguments), {KEY_VARIABLE: to.key} if to.key is not None else {})


def claude(to: Endpoint, folder: Path) -> Start:
    """Start Anthropic's Claude Code. Its settings can name another server too, so the address is given in a form that
    outranks them. The key is not: other users can read a program's arguments."""
    sizes = (f"ANTHROPIC_DEFAULT_{size}_MODEL" for size in ("OPUS", "SONNET", "HAIKU"))
    names = ("ANTHROPIC_MODEL", "ANTHROPIC_SMALL_FAST_MODEL", "CLAUDE_CODE_SUBAGENT_MODEL", *sizes)
    windows = ("CLAUDE_CODE_MAX_CONTEXT_TOKENS", "CLAUDE_CODE_AUTO_COMPACT_WINDOW")
    variables = {"ANTHROPIC_BASE_URL": to.url, "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
    variables |= dict.fromkeys(names, to.model) | dict.fromkeys(windows, str(to.context))
    arguments = ("--settings", json.dumps({"env": variables}))
    return Start(arguments, variables | {"ANTHROPIC_AUTH_TOKEN": to.key or "none"})


def opencode(to: Endpoint, folder: Path) -> Start:
    """Start opencode. It reads a whole configuration from a variable, which outranks its files."""
    limit = {"context": to.context, "output": min(32_768, to.context // 2)}
    model = {"name": to.model, "reasoning": True, "tool_call": True, "limit": limit}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "gptoss-mac",
        "options": {"baseURL": f"{to.url}/v1", "apiKey": to.key or "none"},
        "models": {to.model: model},
    }
    name = f"gptoss-mac/{to.model}"
    config = {"provider": {"gptoss-mac": provider}, "model": name, "small_model": name, "autoupdate": False}
    return Start((), {"OPENCODE_CONFIG_CONTENT": json.dumps(config)})


CLIENTS: Mapping[str, tuple[Callable[[Endpoint, Path], Start], str]] = {
    "codex": (codex, "@openai/codex"),
    "claude": (claude, "@anthropic-ai/claude-code"),
    "opencode": (opencode, "opencode-ai"),
}
"""How each program is started, and the package of npm that brings it."""
