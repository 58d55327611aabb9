"""The published models: their names, here and on the Hub, and the command that downloads one. Runs nothing."""

HUB_IDS = {"20b": "openai/gpt-oss-20b", "120b": "openai/gpt-oss-120b"}


def download_command(name: str) -> str:
    """What a shell runs to fetch a checkpoint into a folder ``gpt-oss-NAME``; raises KeyError for another name.

    Each repository holds the weights three times, once in the layout that conversion prefers. ``hf`` takes one pattern
    after ``--exclude``, and what follows it for the name of a file to fetch.
    """
    folder = f"gpt-oss-{name}"
    return f"hf download {HUB_IDS[name]} --exclude 'original/*' --exclude 'metal/*' --local-dir {folder}"
