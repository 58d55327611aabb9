"""The published models: their names here and on the Hub, and the command that downloads one. Runs no command."""

HUB_IDS = {"20b": "openai/gpt-oss-20b", "120b": "openai/gpt-oss-120b"}


def published_name(text: str) -> str | None:
    """Return "20b" or "120b" if ``text`` is what people or other programs call that model, in any case, else None."""
    spelled = text.lower()
    for name, hub_id in HUB_IDS.items():
        if spelled in (name, f"gpt-oss-{name}", f"gpt-oss:{name}", hub_id):
            return name
    return None


def download_command(name: str) -> str:
    """Return the shell command that fetches a checkpoint into a folder ``gpt-oss-NAME``. Raises KeyError. Each
    repository holds the weights three times, and the command excludes two copies. Each pattern needs its own
    ``--exclude``, because ``hf`` takes a second word after it for a file to fetch."""
    folder = f"gpt-oss-{name}"
    return f"hf download {HUB_IDS[name]} --exclude 'original/*' --exclude 'metal/*' --local-dir {folder}"
