"""What can go wrong between the Hub and this machine: whether it may pass by itself, and one line with a remedy."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import httpx2
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import parse_ratelimit_headers

from gptoss_mlx.errors import one_line, quoted

LONGEST_PAUSE = 300.0
"""Seconds. A server that asks for more is not waited for."""

RESUMES = "run the command again later, it goes on where it stopped"


class RefusedError(Exception):
    """A server answered a request for bytes with a status that is none of success."""

    def __init__(self, status: int, headers: Mapping[str, str], host: str, from_hub: bool) -> None:
        super().__init__(f"{host} answered {status}")
        self.status, self.headers, self.host, self.from_hub = status, headers, host, from_hub


class ShortError(Exception):
    """A server ended an answer before its end, or did not give the range that was asked for."""


ON_THE_WAY = (
    RefusedError,
    ShortError,
    httpx2.HTTPError,  # also what huggingface_hub raises for a status
    httpx2.InvalidURL,
    HFValidationError,
    OfflineModeIsEnabled,
)
"""What a request raises. ``fault_of`` can put it into words."""

IN_AN_ANSWER = (json.JSONDecodeError, KeyError, TypeError, AttributeError, RecursionError)
"""What huggingface_hub raises beside ON_THE_WAY for an answer that is not the Hub's."""

IN_AN_ADDRESS = (ValueError, ImportError)
"""What httpx2 raises for the address of a proxy that it cannot use."""


@dataclass(frozen=True)
class Place:
    """What was asked for, and where."""

    repo_id: str
    endpoint: str
    revision: str
    file: str | None = None


@dataclass(frozen=True)
class Fault:
    """``text`` is for a user. ``passing``: it may be gone at the next attempt. ``wait``: seconds that the server asked
    for. ``stale``: a new link to the file may help."""

    text: str
    passing: bool = False
    wait: float = 0.0
    stale: bool = False


def pause(fault: Fault, failures: int, first: float = 1.0) -> float:
    """Return the seconds to wait after so many failures in a row: twice as many each time, up to 16 times ``first``,
    and never fewer than the server asked for. A stale link is renewed at once."""
    if fault.stale and failures == 1:
        return 0.0
    return max(fault.wait, first * 2.0 ** min(failures - 1, 4))


def fault_of(error: BaseException, place: Place) -> Fault:
    """Put one of ON_THE_WAY, IN_AN_ANSWER and IN_AN_ADDRESS into words."""
    repo = place.repo_id
    match error:
        case OfflineModeIsEnabled():
            return Fault(
                "HF_HUB_OFFLINE is set, so nothing can be downloaded; unset it, or convert a folder that you have"
            )
        case HFValidationError():
            return Fault(f"{quoted(repo)} is no id on the Hub; write OWNER/NAME, as in openai/gpt-oss-20b")
        case GatedRepoError():  # a kind of RepositoryNotFoundError
            return Fault(
                f"{repo}: its owner gives access on request; ask at {place.endpoint}/{repo}, then set HF_TOKEN or use "
                "`hf auth login`"
            )
        case RepositoryNotFoundError():
            return Fault(
                f"{repo}: {place.endpoint} has no such repository, or it is private; check the spelling, or set "
                "HF_TOKEN to a token that may read it"
            )
        case RevisionNotFoundError():
            return Fault(f"{repo}: has no revision {quoted(place.revision)}; leave it out to get the newest")
        case RemoteEntryNotFoundError():
            return Fault(f"{repo}: {place.file} is not there any more; run the command again")
        case DisabledRepoError():
            return Fault(f"{repo}: the Hub has disabled this repository; choose another")
        case HfHubHTTPError():
            return _of_status(error.response.status_code, error.response.headers, _host(place.endpoint), place, True)
        case RefusedError():
            return _of_status(error.status, error.headers, error.host, place, error.from_hub)
        case ShortError() | httpx2.RemoteProtocolError():
            return Fault(f"{_name(place)}: {one_line(error)}; check the connection and {RESUMES}", passing=True)
        case httpx2.ProxyError():
            return Fault(f"the proxy failed ({one_line(error)}); check HTTPS_PROXY and HTTP_PROXY", passing=True)
        case httpx2.TimeoutException():
            return Fault(f"{_server(error, place)} does not answer; check the connection and {RESUMES}", passing=True)
        case httpx2.NetworkError():
            return Fault(
                f"{_server(error, place)} cannot be reached ({one_line(error)}); check the connection, HTTPS_PROXY and "
                f"HF_ENDPOINT, and {RESUMES}",
                passing=True,
            )
        case json.JSONDecodeError() | KeyError() | TypeError() | AttributeError() | RecursionError():
            return Fault(
                f"{place.endpoint} gives no answer of a Hub ({one_line(error)}); check HF_ENDPOINT, and whether this "
                "network asks to sign in"
            )
        case _:
            return Fault(
                f"{place.endpoint} cannot be asked ({one_line(error)}); check HF_ENDPOINT, HTTPS_PROXY and HTTP_PROXY"
            )


def _of_status(status: int, headers: Mapping[str, str], host: str, place: Place, from_hub: bool) -> Fault:
    said = headers.get("X-Error-Message")
    answer = f"{host} answered {status}" + (f" ({quoted(said)})" if said else "")
    wait = _asked_wait(headers)
    if status == 429 or (status == 503 and wait):
        if wait > LONGEST_PAUSE:
            return Fault(f"{answer} and asks to wait {wait:,.0f} s; {RESUMES}, or set HF_TOKEN to be allowed more")
        return Fault(f"{answer}: too many requests; {RESUMES}, or set HF_TOKEN to be allowed more", True, wait)
    if status in (408, 500, 502, 503, 504):
        return Fault(f"{answer}, again and again; {RESUMES}", passing=True)
    if not from_hub and status in (400, 401, 403, 404, 410):
        # Storage refuses a link whose time is over, and each store has its own status for it.
        return Fault(
            f"{answer} for {_name(place)}, with new links too; check the clock and HTTPS_PROXY, and {RESUMES}",
            passing=True,
            stale=True,
        )
    if status == 401:
        return Fault(
            f"{answer}: the token is not valid; set HF_TOKEN to one that is, or unset it and use `hf auth logout`"
        )
    if status == 403:
        return Fault(f"{answer} for {place.repo_id}; set HF_TOKEN to a token with the permission to read it")
    return Fault(f"{answer} for {_name(place)}; check HF_ENDPOINT, and {RESUMES}")


def _asked_wait(headers: Mapping[str, str]) -> float:
    """Return how many seconds the headers ask to wait, 0.0 if they do not."""
    limits = parse_ratelimit_headers(headers)
    if limits is not None and limits.remaining == 0:
        return float(limits.reset_in_seconds)
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return 0.0


def _name(place: Place) -> str:
    return f"{place.repo_id}: {place.file}" if place.file else place.repo_id


def _host(url: str) -> str:
    return urlsplit(url).netloc or url


def _server(error: httpx2.TransportError, place: Place) -> str:
    try:
        return error.request.url.host
    except RuntimeError:  # it has none
        return _host(place.endpoint)
