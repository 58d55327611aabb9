"""Fetch a published checkpoint's files from the Hugging Face Hub.

``list_files`` tells what a repository holds of a checkpoint, and ``read_beginnings`` reads the headers of its files.
``fetch`` brings one file to this machine, and goes on where it was when it is called again after any kind of end. The
caller decides how many files lie on the disk at once, where they lie, and when they are removed.

``plan`` knows which files are a checkpoint's, ``links`` where the bytes of one lie, ``transfer`` how they come in
ranges, ``part`` how an unfinished file lies on the disk, and ``faults`` what can go wrong on the way, in words. Only
this package imports huggingface_hub and httpx2. Nothing here knows what a checkpoint means.
"""

from gptoss_mlx.hub.beginning import measure_rate, read_beginnings
from gptoss_mlx.hub.fetch import fetch
from gptoss_mlx.hub.plan import HubFile, Plan, list_files
from gptoss_mlx.hub.transfer import Settings

__all__ = ["HubFile", "Plan", "Settings", "fetch", "list_files", "measure_rate", "read_beginnings"]
