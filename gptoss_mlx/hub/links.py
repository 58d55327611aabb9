"""Where the bytes of one file lie now. The Hub answers with a link to another host, and the link's time runs out."""

import asyncio
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from huggingface_hub import get_hf_file_metadata, hf_hub_url
from huggingface_hub.utils import build_hf_headers

from gptoss_mlx.errors import HubError
from gptoss_mlx.hub.faults import IN_AN_ANSWER, ON_THE_WAY, Place, fault_of
from gptoss_mlx.hub.plan import HubFile, Plan


@dataclass(frozen=True)
class Link:
    """An address, and the headers to send there: with the token only if the host is the Hub's (``from_hub``)."""

    url: str
    headers: dict[str, str]
    from_hub: bool

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc


class Links:
    """The current link to one file."""

    def __init__(self, plan: Plan, file: HubFile) -> None:
        self._plan, self._file = plan, file
        self._link: Link | None = None
        self._asking = asyncio.Lock()

    async def get(self) -> Link:
        """Return the link, from the Hub if there is none yet. Raises what huggingface_hub raises, and HubError if the
        file is no longer the one that was planned."""
        async with self._asking:
            if self._link is None:
                try:
                    self._link = await asyncio.to_thread(_ask, self._plan, self._file)
                except ON_THE_WAY:  # of which one is a ValueError
                    raise
                except (*IN_AN_ANSWER, ValueError) as error:  # for example a link to a port that cannot be
                    place = Place(self._plan.repo_id, self._plan.endpoint, self._plan.commit, self._file.name)
                    raise HubError(fault_of(error, place).text) from error
            return self._link

    def drop(self, link: Link) -> None:
        """Let the next ``get`` ask the Hub, unless another range has got a newer link meanwhile."""
        if self._link is link:
            self._link = None


def _ask(plan: Plan, file: HubFile) -> Link:
    url = hf_hub_url(plan.repo_id, file.name, revision=plan.commit, endpoint=plan.endpoint)
    metadata = get_hf_file_metadata(url, endpoint=plan.endpoint)
    # X-Linked-ETag is the sha256 of an LFS file. A mirror may send another kind of ETag instead.
    other = file.lfs and metadata.etag is not None and len(metadata.etag) == 64 and metadata.etag != file.digest
    if other or metadata.size not in (None, file.size):
        raise HubError(f"{plan.repo_id}: {file.name} has changed on {plan.endpoint}; run the command again")
    address = urljoin(url, metadata.location)
    from_hub = urlsplit(address)[:2] == urlsplit(url)[:2]
    headers = {"Accept-Encoding": "identity"} | build_hf_headers(token=None if from_hub else False)
    return Link(address, headers, from_hub)
