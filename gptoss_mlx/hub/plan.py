"""Which files of a repository are a checkpoint's: names, sizes and digests at one commit. Fetches none of them."""

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import RevisionNotFoundError
from huggingface_hub.hf_api import ModelInfo, RepoSibling

from gptoss_mlx.errors import HubError, quoted
from gptoss_mlx.hub.faults import IN_AN_ADDRESS, IN_AN_ANSWER, ON_THE_WAY, Place, fault_of, pause

NEEDED = ("config.json", "generation_config.json", "tokenizer.json", "model.safetensors.index.json")
"""What a conversion reads beside the weights, as published by OpenAI."""

_WEIGHTS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")


class NoRevisionError(HubError):
    """The repository does not have the revision."""


@dataclass(frozen=True)
class HubFile:
    """One file. ``digest`` is the sha256 of its ``size`` bytes if Git LFS stores it (``lfs``), else git's blob sha1."""

    name: str
    size: int
    digest: str
    lfs: bool

    def hasher(self) -> Any:
        """Return a new hashlib object. Once it has read the file's bytes, its hexdigest should equal ``digest``."""
        if self.lfs:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)  # git hashes a file behind this header


@dataclass(frozen=True)
class Plan:
    """The files of a checkpoint, the small ones first. ``commit`` is the 40 digits that the revision stood for."""

    repo_id: str
    commit: str
    endpoint: str
    files: tuple[HubFile, ...]

    @property
    def nbytes(self) -> int:
        return sum(file.size for file in self.files)


def list_files(
    repo_id: str,
    revision: str = "main",
    *,
    endpoint: str | None = None,
    attempts: int = 4,
    sleep: Callable[[float], None] = time.sleep,
) -> Plan:
    """Ask the Hub at ``endpoint`` (by default HF_ENDPOINT, else huggingface.co) what a checkpoint consists of.

    Only files at the top level count: ``original/`` and ``metal/`` hold the same weights again. Raises HubError after
    ``attempts`` failures that could have passed, or at the first other one, NoRevisionError if it is that.
    """
    place = Place(repo_id, (endpoint or constants.ENDPOINT).rstrip("/"), revision)
    for attempt in range(1, attempts + 1):
        try:
            info = HfApi(endpoint=place.endpoint).model_info(
                repo_id, revision=revision, files_metadata=True, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
            )
            return _plan(info, place)
        except (*ON_THE_WAY, *IN_AN_ANSWER, *IN_AN_ADDRESS) as error:
            fault = fault_of(error, place)
            if attempt == attempts or not fault.passing:
                kind = NoRevisionError if isinstance(error, RevisionNotFoundError) else HubError
                raise kind(fault.text) from error
            sleep(pause(fault, attempt))
    raise ValueError("attempts must be at least 1")


def _plan(info: ModelInfo, place: Place) -> Plan:
    siblings = [s for s in info.siblings or () if s.rfilename in NEEDED or _WEIGHTS.fullmatch(s.rfilename)]
    names = {sibling.rfilename for sibling in siblings}
    if not any(map(_WEIGHTS.fullmatch, names)) or NEEDED[0] not in names:
        raise HubError(
            f"{place.repo_id}: has no config.json with *.safetensors at its top level, so it is no checkpoint that can "
            "be converted; get openai/gpt-oss-20b or a fine-tune that has them"
        )
    if not isinstance(info.sha, str) or not _SHA1.fullmatch(info.sha):
        raise HubError(f"{place.endpoint}: does not tell the commit of {place.repo_id}; unset HF_ENDPOINT")
    files = sorted((_file(sibling, place) for sibling in siblings), key=lambda file: (file.lfs, file.name))
    return Plan(place.repo_id, info.sha, place.endpoint, tuple(files))


def _file(sibling: RepoSibling, place: Place) -> HubFile:
    size = sibling.lfs.size if sibling.lfs else sibling.size
    digest = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
    known = isinstance(digest, str) and (_SHA256 if sibling.lfs else _SHA1).fullmatch(digest)
    if not known or not isinstance(size, int) or size < 0:
        raise HubError(
            f"{place.endpoint}: tells no size and checksum of {sibling.rfilename} ({quoted(size)}, {quoted(digest)}); "
            "unset HF_ENDPOINT"
        )
    return HubFile(sibling.rfilename, size, str(digest), sibling.lfs is not None)
