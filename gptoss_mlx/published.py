"""The published models: their names here and on the Hub, and the command that downloads one. Runs no command."""

HUB_IDS = {"20b": "openai/gpt-oss-20b", "120b": "openai/gpt-oss-120b"}


def download_command(name: str) -> str:
    """Return the shell command that fetches a checkpoint into a folder ``gpt-oss-NAME``. Raises KeyError. Each
    repository holds the weights three times, and the command excludes two copies. Each pattern needs its own
    ``--exclude``, because ``hf`` takes a second word after it for a file to fetch."""
    folder = f"gpt-oss-{name}"
    return f"hf download {HUB_IDS[name]} --exclude 'original/*' --exclude 'metal/*' --local-dir {folder}"
