"""Where ranks run: a number of processes here, or the hosts of a file. The file has the form of ``mlx.launch``'s.

``[{"ssh": "mac-1.local", "ips": ["10.0.0.1"]}, {"ssh": "mac-2.local", "ips": ["10.0.0.2"]}]``: the first host is this
machine. For Thunderbolt's RDMA each also has ``rdma``, the device that leads to each host, null for itself. ``python``
is where that host's Python is, if it is not where this one's is. The list may also be the ``hosts`` of an object.
"""

import json
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Literal

from gptoss_mlx.errors import UsageError, quoted

Backend = Literal["ring", "jaccl"]
"""How hidden states travel: over TCP, or over Thunderbolt 5 by RDMA."""

MOST = 64
HERE = ("127.0.0.1", "localhost")
FORM = 'it must be [{"ssh": HOST, "ips": [ADDRESS]}, ...], this machine first'


@dataclass(frozen=True)
class Host:
    """One rank's place. ``ssh`` is what ``ssh`` calls it, or one of HERE. ``ips`` are its IPv4 addresses on the
    network that joins the ranks; several are used side by side, as many of each host."""

    ssh: str
    ips: tuple[str, ...]
    rdma: tuple[str | list[str] | None, ...] = ()
    python: str | None = None

    @property
    def here(self) -> bool:
        """Return whether the rank runs on this machine, without ssh."""
        return self.ssh in HERE


def read_hosts(given: int | str | Path, backend: Backend = "ring") -> list[Host]:
    """Return the hosts of so many local ranks, or those of a file. Raises UsageError."""
    if isinstance(given, bool):
        raise UsageError(f"distributed is {given}; it must be a number of ranks, or a file of hosts")
    if isinstance(given, str) and given.removeprefix("-").isdecimal() and len(given) < 9:
        given = int(given)
    if given == "":
        raise UsageError("distributed is empty; give a number of ranks, or a file of hosts")
    if isinstance(given, int):
        if not 2 <= given <= MOST:
            raise UsageError(f"distributed is {given}; it must be from 2 to {MOST} ranks, or a file of hosts")
        if backend != "ring":
            raise UsageError(f"{backend} joins several Macs; give a file of hosts")
        return [Host(HERE[0], (HERE[0],))] * given
    try:
        raw = json.loads(Path(given).expanduser().read_bytes())
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise UsageError(f"{given}: {problem}; give a number of ranks, or a file of hosts") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{given}: is no JSON; {FORM}") from error
    if isinstance(raw, dict):  # as mlx.distributed_config writes it, with a backend and variables that are not ours
        raw = raw.get("hosts")
    if not isinstance(raw, list) or not 2 <= len(raw) <= MOST:
        raise UsageError(f"{given}: must list from 2 to {MOST} hosts; {FORM}")
    hosts = [_host(str(given), number, entry, backend) for number, entry in enumerate(raw)]
    if backend == "ring" and len({len(host.ips) for host in hosts}) > 1:
        raise UsageError(f"{given}: the hosts have different numbers of ips; list as many for each")
    if backend == "jaccl" and any(
        len(host.rdma) != len(hosts) or host.rdma[number] is not None for number, host in enumerate(hosts)
    ):
        needed = 'each host needs "rdma": the device that leads to each host, null for itself'
        raise UsageError(f"{given}: for jaccl {needed}")
    return hosts


def _host(where: str, number: int, entry: Any, backend: Backend) -> Host:
    def need(condition: bool, what: str) -> None:
        if not condition:
            raise UsageError(f"{where}: host {number} {what}; {FORM}")

    need(isinstance(entry, dict), f"is {quoted(entry, 40)}")
    name, ips, rdma, python = (entry.get(key) for key in ("ssh", "ips", "rdma", "python"))
    # A name that begins with a dash would be an option to ssh.
    need(isinstance(name, str) and name.isprintable() and not name.startswith("-") and name != "", "has no ssh name")
    need(isinstance(ips, list) and all(isinstance(ip, str) for ip in ips), "has no list of ips")
    need(all(_is_ipv4(ip) for ip in ips), "has an ip that is no IPv4 address, such as 10.0.0.1")
    need(bool(ips) or (backend == "jaccl" and number > 0), "has no address in ips")
    need(rdma is None or isinstance(rdma, list), "has an rdma that is no list")
    need(python is None or isinstance(python, str), "has a python that is no path")
    return Host(name, tuple(ips), tuple(rdma or ()), python)


def _is_ipv4(text: str) -> bool:
    try:
        IPv4Address(text)
    except ValueError:
        return False
    return True
