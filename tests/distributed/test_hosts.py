"""Which hosts a number or a file means, and which files mean none."""

import json

import pytest
from mlx._distributed_utils.common import Host as MlxHost
from mlx._distributed_utils.common import Hostfile

from gptoss_mlx.distributed.hosts import Host, read_hosts
from gptoss_mlx.errors import UsageError

TWO = [{"ssh": "mac-1", "ips": ["10.0.0.1", "10.0.1.1"]}, {"ssh": "mac-2", "ips": ["10.0.0.2", "10.0.1.2"]}]


def test_a_number_means_ranks_on_this_machine():
    assert read_hosts(3) == read_hosts("3") == [Host("127.0.0.1", ("127.0.0.1",))] * 3
    assert all(host.here for host in read_hosts(2))


def test_a_file_of_mlx_launch_means_its_hosts(tmp_path):
    (tmp_path / "macs.json").write_text(json.dumps(TWO))
    first, second = read_hosts(tmp_path / "macs.json")
    assert first == Host("mac-1", ("10.0.0.1", "10.0.1.1"))
    assert second.ips == ("10.0.0.2", "10.0.1.2")
    assert not second.here


def test_a_file_that_mlx_writes_and_reads_means_the_same_hosts_here(tmp_path):
    file = tmp_path / "macs.json"
    written = Hostfile([MlxHost(n, f"mac-{n}", [f"10.0.0.{n}"], [None, "rdma_en5"][:: 1 - 2 * n]) for n in range(2)])
    for content in (written.to_json(), written.to_json()["hosts"]):
        file.write_text(json.dumps(content))
        theirs = Hostfile.from_file(file).hosts
        assert [(host.ssh, [*host.ips], [*host.rdma]) for host in read_hosts(file, "jaccl")] == [
            (host.ssh_hostname, host.ips, host.rdma) for host in theirs
        ]


def test_jaccl_needs_the_devices_between_all_hosts(tmp_path):
    file = tmp_path / "macs.json"
    file.write_text(json.dumps(TWO))
    with pytest.raises(UsageError, match="rdma"):
        read_hosts(file, "jaccl")
    file.write_text(json.dumps([TWO[0] | {"rdma": [None, "rdma_en5"]}, TWO[1] | {"rdma": ["rdma_en5", None]}]))
    assert read_hosts(file, "jaccl")[1].rdma == ("rdma_en5", None)
    file.write_text(json.dumps([TWO[0] | {"rdma": ["rdma_en5", None]}, TWO[1] | {"rdma": ["rdma_en5", None]}]))
    with pytest.raises(UsageError, match="null for itself"):
        read_hosts(file, "jaccl")
    with pytest.raises(UsageError, match="give a file of hosts"):
        read_hosts(2, "jaccl")


@pytest.mark.parametrize("given", [0, 1, 65, True, "1", "-2", "macs", ""])
def test_no_other_number_and_no_missing_file_will_do(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="a file of hosts"):
        read_hosts(given)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[" * 100_000,
        "{}",
        json.dumps(TWO[:1]),
        json.dumps([TWO[0], 5]),
        json.dumps([TWO[0], {"ips": ["10.0.0.2"]}]),
        json.dumps([TWO[0], {"ssh": "-oProxyCommand=evil", "ips": ["10.0.0.2"]}]),
        json.dumps([TWO[0], {"ssh": "a\nb", "ips": ["10.0.0.2"]}]),
        json.dumps([TWO[0], {"ssh": "mac-2", "ips": []}]),
        json.dumps([TWO[0], {"ssh": "mac-2", "ips": [7]}]),
        json.dumps([TWO[0], {"ssh": "mac-2", "ips": ["fe80::1", "10.0.1.2"]}]),
        json.dumps([TWO[0], {"ssh": "mac-2", "ips": ["mac-2", "10.0.1.2"]}]),
        json.dumps([TWO[0], TWO[1] | {"rdma": "rdma_en5"}]),
        json.dumps([TWO[0], TWO[1] | {"python": 3}]),
    ],
)
def test_what_is_no_list_of_hosts_is_refused_with_its_form(content, tmp_path):
    (tmp_path / "macs.json").write_text(content)
    with pytest.raises(UsageError, match=r'macs.json.*\[{"ssh": HOST'):
        read_hosts(tmp_path / "macs.json")


def test_hosts_with_different_numbers_of_addresses_cannot_be_joined_in_a_ring(tmp_path):
    (tmp_path / "macs.json").write_text(json.dumps([TWO[0], {"ssh": "mac-2", "ips": ["10.0.0.2"]}]))
    with pytest.raises(UsageError, match="different numbers of ips"):
        read_hosts(tmp_path / "macs.json")
