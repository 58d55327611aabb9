"""What there is: the models, in the shapes that OpenAI's, Anthropic's and Ollama's clients and Codex read, and whether
the server is well."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import gptoss_mlx
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.machine import model_bytes
from gptoss_mlx.published import HUB_IDS
from gptoss_mlx.server.exchange import Exchange
from gptoss_mlx.server.problems import Problem
from gptoss_mlx.server.service import Service

OLLAMA_VERSION = "0.13.4"
"""The first version of Ollama with ``/v1/responses``. Codex asks for the version before it uses that."""

CODEX_INSTRUCTIONS = (
    "You are a coding agent that works in the user's terminal. Read what you need before you change it. Use the tools "
    "you are given: run commands with the shell, and change files with apply_patch. Keep changes small, check them by "
    "running what the project has for that, and end with a short summary of what you did."
)
"""Replaces Codex's own instructions, which describe tools that it does not offer this model."""


async def models(exchange: Exchange, service: Service) -> None:
    """List the models. OpenAI's and Anthropic's clients read ``data``, Codex reads ``models``."""
    names = _names(service.residence.names)
    data = [_model(name, exchange.started) for name in names]
    configs = service.residence.configs
    catalogue = [_codex_model(name, configs.get(own), order) for order, (name, own) in enumerate(names.items())]
    ids = list(names)
    await exchange.reply(
        {"object": "list", "data": data, "models": catalogue}
        | {"first_id": ids[0], "last_id": ids[-1], "has_more": False}
    )


async def model(exchange: Exchange, service: Service) -> None:
    """Describe one model, under any of its names."""
    wanted = exchange.params["name"]
    service.residence.resolve(wanted)
    await exchange.reply(_model(wanted[:200], exchange.started))


async def health(exchange: Exchange, service: Service) -> None:
    """Say that the server runs, and how much it has to do."""
    memory = {"used": model_bytes(), "planned": service.residence.planned}
    state = {
        "model": service.residence.present,
        "memory": memory,
        "running": service.owner.running,
        "requests": service.taken,
    }
    await exchange.reply({"status": "ok", "tokens": service.owner.tokens} | state)


async def tags(exchange: Exchange, service: Service) -> None:
    """List the models as Ollama does."""
    when = _iso(exchange.started)
    details = {"format": "mlx", "family": "gptoss", "families": ["gptoss"], "quantization_level": "MXFP4"}
    about = {"modified_at": when, "size": 0, "digest": "", "details": details}
    names = [f"gpt-oss:{name}" if name in HUB_IDS else name for name in service.residence.names]
    await exchange.reply({"models": [{"name": name, "model": name} | about for name in names]})


async def version(exchange: Exchange, service: Service) -> None:
    """Say which version of Ollama this stands for, and our own."""
    await exchange.reply({"version": OLLAMA_VERSION, "gptoss_mac": gptoss_mlx.__version__})


async def missing(exchange: Exchange, service: Service) -> None:
    """Refuse a path that is none of ours."""
    raise Problem(404, f"there is nothing at {exchange.path[:80]!r}", "not_found")


async def no_such_method(exchange: Exchange, service: Service) -> None:
    """Refuse a method that a path does not have."""
    raise Problem(405, f"{exchange.path[:80]!r} cannot be asked that way; see the API's documentation", "bad_method")


async def here(exchange: Exchange, service: Service) -> None:
    """Answer a client that only looks whether there is a server."""
    await exchange.reply({"gptoss_mac": gptoss_mlx.__version__})


def _names(served: Sequence[str]) -> dict[str, str]:
    """Return the names to list, and the served model that each means: a published model is also listed by its id on the
    Hub, which clients ask for by default."""
    return {name: own for own in served for name in (own, HUB_IDS.get(own, own))}


def _model(name: str, created: int) -> dict[str, Any]:
    openai = {"id": name, "object": "model", "created": created, "owned_by": "gptoss-mac"}
    return openai | {"type": "model", "display_name": name, "created_at": _iso(created)}


def _codex_model(name: str, config: ModelConfig | None, order: int) -> dict[str, Any]:
    efforts = {"low": "Thinks briefly", "medium": "Thinks as long as is usual", "high": "Thinks thoroughly"}
    return {
        "slug": name,
        "display_name": name,
        "description": "gpt-oss on this machine",
        "default_reasoning_level": "medium",
        "supported_reasoning_levels": [{"effort": effort, "description": text} for effort, text in efforts.items()],
        "shell_type": "shell_command",
        "visibility": "list",
        "supported_in_api": True,
        "priority": order,
        "upgrade": None,
        "base_instructions": CODEX_INSTRUCTIONS,
        "supports_reasoning_summaries": True,
        "support_verbosity": False,
        "default_verbosity": None,
        "apply_patch_tool_type": "freeform",
        "truncation_policy": {"mode": "bytes", "limit": 10_000},
        "supports_parallel_tool_calls": False,
        "context_window": config.max_position_embeddings if config else None,
        "experimental_supported_tools": [],
        "input_modalities": ["text"],
    }


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
