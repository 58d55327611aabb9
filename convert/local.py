"""Checkpoints on this machine: those that a download has kept, and those that other programs have put into the
Hugging Face cache, LM Studio's and ollama's folders.

Knows how these programs name and lay out their folders, and asks ``open_checkpoint`` which copies can be converted.
Their files are not trusted: a manifest is bounded, and what it names is looked for in one folder only.
"""

import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.sources import open_checkpoint
from convert.sources.gguf import is_first_part
from gptoss_mlx.errors import CheckpointError
from gptoss_mlx.home import checkpoints_dir
from gptoss_mlx.published import is_hub_id

OLLAMA = "ollama:"
"""Before the name of a model in ollama, where a source is named."""

_PUBLISHERS = ("openai", "ggml-org", "lmstudio-community", "mlx-community", "unsloth", "bartowski")
"""Who publishes the same weights in several forms. Others publish fine-tunes under similar names."""
_FORMS = r"(openai_)?gpt-oss-{}([-_](gguf|mlx|mxfp4|bf16|f16|fp16|q\d+|\d+-?bit))*"
"""Names of repositories that add no more than a number format to the model's."""
_MOST_SMALL = 1 << 20
_MODEL_LAYER = "application/vnd.ollama.image.model"
_OLLAMA_DEFAULTS = ("registry.ollama.ai", "library")
_OLLAMA_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_OLLAMA_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")


@dataclass(frozen=True)
class Found:
    """A checkpoint on this machine that can be converted. ``kind`` says in words whose and in which form.

    ``nbytes`` is the size of its weights. ``losses`` says how they differ from those published, a line for each.
    """

    path: Path
    kind: str
    nbytes: int
    losses: tuple[str, ...]


def find_local(name: str) -> list[Found]:
    """Return the copies of a published model, "20b" or "120b", that can be converted, those without losses first."""
    candidates = [*_kept(name), *_in_hub_cache(name), *_in_lm_studio(name), *_in_ollama(name)]
    return _usable(candidates)


def resolve_source(text: str) -> Path | None:
    """Return the path of the checkpoint that ``text`` names on this machine, or None.

    It is a path; or a model in ollama, as ``ollama:NAME``, or as a name with a tag such as ``gpt-oss:20b``; or
    OWNER/NAME in the Hugging Face cache or LM Studio's folders. Raises CheckpointError for an ``ollama:NAME`` that
    ollama does not have.
    """
    if os.path.exists(text):  # Path.exists raises for a name that is too long
        return Path(text)
    if text.startswith(OLLAMA):
        wanted = text.removeprefix(OLLAMA)
        if (blob := ollama_model(wanted)) is None:
            raise CheckpointError(f"ollama has no model {wanted!r:.100} in {_ollama_dir()}; run: ollama pull NAME")
        return blob
    if ":" in text:
        return ollama_model(text)
    if not is_hub_id(text):
        return None
    owner, _, repo = text.partition("/")
    folders = [*_snapshots(_hub_cache() / f"models--{owner}--{repo}"), *(d / owner / repo for d in _lm_studio_dirs())]
    found = _usable((copy, text) for folder in folders for copy in _copies_in(folder))
    return found[0].path if found else None


def ollama_model(name: str) -> Path | None:
    """Return the file with the weights of a model in ollama, or None if it has none, or not in one file.

    ``name`` is [[HOST/]NAMESPACE/]MODEL[:TAG], as for ollama's own commands.
    """
    rest, _, tag = name.rpartition(":") if ":" in name.rpartition("/")[2] else (name, "", "latest")
    parts = rest.split("/")
    if len(parts) > 3:
        return None
    parts = [*_OLLAMA_DEFAULTS[: 3 - len(parts)], *parts]
    if not _OLLAMA_HOST.fullmatch(parts[0]) or not all(_OLLAMA_PART.fullmatch(part) for part in (*parts[1:], tag)):
        return None
    layers = _small_json(_ollama_dir().joinpath("manifests", *parts, tag)).get("layers")
    layers = [layer for layer in layers if isinstance(layer, dict)] if isinstance(layers, list) else []
    digests = [str(layer.get("digest")) for layer in layers if layer.get("mediaType") == _MODEL_LAYER]
    if len(digests) != 1 or not (found := re.fullmatch(r"sha256[:-]([0-9a-f]{64})", digests[0])):
        return None
    blob = _ollama_dir() / "blobs" / f"sha256-{found[1]}"
    try:
        return blob if stat.S_ISREG(os.lstat(blob).st_mode) else None
    except OSError:
        return None


def _usable(candidates: Iterable[tuple[Path, str]]) -> list[Found]:
    found: dict[str, Found] = {}
    for path, where in candidates:
        try:
            checkpoint = open_checkpoint(path)
        except CheckpointError:
            continue
        copy = Found(path, f"{where} ({checkpoint.layout})", checkpoint.nbytes, checkpoint.losses({}))
        found.setdefault(os.path.realpath(path), copy)
    return sorted(found.values(), key=lambda copy: bool(copy.losses))


def _kept(name: str) -> Iterator[tuple[Path, str]]:
    for copy in _copies_in(checkpoints_dir() / name):
        yield copy, f"{name}, kept by an earlier download"


def _in_hub_cache(name: str) -> Iterator[tuple[Path, str]]:
    for owner in _PUBLISHERS:
        for folder in _folders(_hub_cache()):
            prefix, _, repo = folder.name.rpartition("--")
            if prefix == f"models--{owner}" and _is_form(repo, name):
                for snapshot in _snapshots(folder)[:1]:
                    for copy in _copies_in(snapshot):
                        yield copy, f"{owner}/{repo} in the Hugging Face cache"


def _in_lm_studio(name: str) -> Iterator[tuple[Path, str]]:
    for models in _lm_studio_dirs():
        for owner in _PUBLISHERS:
            for folder in _folders(models / owner):
                if _is_form(folder.name, name):
                    for copy in _copies_in(folder):
                        yield copy, f"{owner}/{folder.name} in LM Studio"


def _in_ollama(name: str) -> Iterator[tuple[Path, str]]:
    manifests = _ollama_dir() / "manifests"
    names = [f"gpt-oss:{name}", *(["gpt-oss:latest"] if name == "20b" else [])]
    for host in ("hf.co", "huggingface.co"):
        for owner in _PUBLISHERS:
            for repo in _folders(manifests / host / owner):
                if _is_form(repo.name, name):
                    names += [f"{host}/{owner}/{repo.name}:{tag}" for tag in _names_in(repo)]
    for wanted in names:
        if blob := ollama_model(wanted):
            yield blob, f"{wanted} in ollama"


def _is_form(repo: str, name: str) -> bool:
    return re.fullmatch(_FORMS.format(re.escape(name)), repo, re.IGNORECASE) is not None


def _copies_in(folder: Path) -> Iterator[Path]:
    """Yield the checkpoints in a repository's folder: itself, and each GGUF model in it or its folders."""
    if _names_in(folder, ".safetensors") or _names_in(folder / "original", ".safetensors"):
        yield folder
    for place in (folder, *_folders(folder)):
        for name in _names_in(place, ".gguf"):
            if is_first_part(name):
                yield place / name


def _snapshots(repository: Path) -> list[Path]:
    """Return the revisions of a repository in the Hub's cache: that of the branch main first, then the newest."""
    main = _small_text(repository / "refs" / "main").strip()
    return sorted(_folders(repository / "snapshots"), key=lambda folder: (folder.name != main, -_time(folder)))


def _time(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0


def _hub_cache() -> Path:
    """Return huggingface_hub's cache, as its ``constants`` do."""
    below_of = {
        "HF_HUB_CACHE": "",
        "HUGGINGFACE_HUB_CACHE": "",
        "HF_HOME": "hub",
        "XDG_CACHE_HOME": "huggingface/hub",
    }
    for variable, below in below_of.items():
        if given := os.environ.get(variable):
            return Path(os.path.expandvars(os.path.expanduser(given))) / below
    return _user_home() / ".cache" / "huggingface" / "hub"


def _lm_studio_dirs() -> list[Path]:
    """Return the folders of models that LM Studio has, or has had. Its settings may name another than its own."""
    user = _user_home()
    homes = [user / ".lmstudio", user / ".cache" / "lm-studio"]
    if pointed := _small_text(user / ".lmstudio-home-pointer").strip():
        homes.insert(0, Path(pointed))
    found = []
    for home in (*homes, user / "Library" / "Application Support" / "LM Studio"):
        chosen = _small_json(home / "settings.json").get("downloadsFolder")
        if isinstance(chosen, str) and os.path.isabs(chosen) and "\0" not in chosen:
            found.append(Path(chosen))
    found += [home / "models" for home in homes if home.is_absolute()]
    return list(dict.fromkeys(found))


def _ollama_dir() -> Path:
    given = os.environ.get("OLLAMA_MODELS", "").strip(" \"'")
    return Path(given) if given else _user_home() / ".ollama" / "models"


def _user_home() -> Path:
    return Path(os.path.expanduser("~"))


def _small_json(path: Path) -> dict[str, Any]:
    """Return a small file's JSON object, or an empty one for what is missing, damaged, or no plain file."""
    try:
        raw = json.loads(_small_text(path))
    except (ValueError, RecursionError):
        return {}
    return raw if isinstance(raw, dict) else {}


def _small_text(path: Path) -> str:
    """Return a small file's text, or none for what is missing, large, or no plain file."""
    try:
        return path.read_text(errors="replace") if path.is_file() and path.stat().st_size <= _MOST_SMALL else ""
    except (OSError, ValueError):
        return ""


def _folders(folder: Path) -> list[Path]:
    return [folder / name for name in _names_in(folder) if os.path.isdir(folder / name)]


def _names_in(folder: Path, ending: str = "") -> list[str]:
    """Return the names in a folder, sorted, or those with an ending. There are none in a folder that cannot be read."""
    try:
        return sorted(name for name in os.listdir(folder) if name.endswith(ending) and not name.startswith("."))
    except (OSError, ValueError):
        return []
