"""Ranks as processes: what they say together, how they are started, and how the loss of one ends all.

``ssh`` is a script that runs here what it is told to run there. ``make distributed-report`` does more of the same.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

import gptoss_mlx
from gptoss_mlx.bounded_folder import BoundedFolder
from gptoss_mlx.distributed.group import check_backend
from gptoss_mlx.distributed.hosts import read_hosts
from gptoss_mlx.distributed.ranks import Ranks
from gptoss_mlx.distributed.starting import check_alike
from gptoss_mlx.engine.prefix_cache import PrefixCache
from gptoss_mlx.engine.snapshot import Snapshots
from gptoss_mlx.errors import RankError, UsageError
from tests.distributed.losses import lose

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def macs(tmp_path, monkeypatch):
    """Return a function that makes a file of two hosts, the second reached by an ``ssh`` that does what is given."""

    def made(remote: str) -> Path:
        ssh = tmp_path / "bin/ssh"
        ssh.parent.mkdir()
        ssh.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\nfor last; do :; done\n{remote}\n')
        ssh.chmod(0o755)
        monkeypatch.setenv("PATH", f"{ssh.parent}:{os.environ['PATH']}")
        file = tmp_path / "macs.json"
        file.write_text(json.dumps([{"ssh": name, "ips": ["127.0.0.1"]} for name in ("127.0.0.1", "mac-2")]))
        return file

    return made


def test_two_ranks_say_what_one_process_says():
    ran = subprocess.run([sys.executable, "-m", "tests.distributed.beside", "2"], cwd=ROOT, capture_output=True)
    assert ran.returncode == 0, ran.stderr.decode()
    found = json.loads(ran.stdout)
    assert found.pop("layers") == 2
    assert not found.pop("paged")
    assert found.pop("start_seconds") > 0
    assert (found.pop("difference"), found.pop("difference_of_two_rows")) == (0, 0)
    assert found
    assert found == dict.fromkeys(found, True)


def test_a_prompt_is_answered_by_a_host_that_ssh_reaches(macs, tmp_path):
    file = macs('exec sh -c "$last"')
    question = ["run", "--model", "tiny", "--temperature", "0", "--no-log", "--distributed", file, "What is 5 + 6?"]
    ran = subprocess.run([sys.executable, "-m", "gptoss_mlx.cli", *question], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "11" in ran.stdout
    assert "mac-2 exec" in (tmp_path / "asked").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
def test_the_loss_of_a_rank_ends_all(tmp_path):
    ended = lose(tmp_path, 2, signal.SIGKILL, None, rank_0=False)
    assert ended.fine, str(ended)
    assert ended.code == RankError.exit_code, str(ended)
    assert "rank 1 (127.0.0.1) has ended" in ended.said


def test_an_ssh_that_hangs_is_given_up_and_ended(macs, monkeypatch, tmp_path):
    monkeypatch.setattr("gptoss_mlx.distributed.ranks.START_SECONDS", 0.5)
    file = macs(f"echo $$ > {tmp_path}/pid; exec sleep 100")
    with pytest.raises(RankError, match="has not connected"):
        gptoss_mlx.load("tiny", distributed=file)
    pid = int((tmp_path / "pid").read_text())
    with suppress(ChildProcessError):  # somebody has waited for it before
        assert os.waitpid(pid, 0)[1] == signal.SIGTERM


def test_a_host_that_ssh_does_not_reach_is_named_with_what_ssh_says(macs):
    file = macs("echo 'ssh: Could not resolve hostname mac-2' >&2; exit 255")
    with pytest.raises(RankError, match=r"rank 1 \(mac-2\) has ended: ssh: Could not resolve hostname mac-2") as caught:
        gptoss_mlx.load("tiny", distributed=file)
    assert caught.value.exit_code == 14


def test_a_host_without_the_model_is_named_with_its_own_error(macs, tmp_path):
    file = macs(f'GPTOSS_MAC_HOME={tmp_path}/empty exec sh -c "$last"')
    with pytest.raises(RankError, match=r"rank 1 \(mac-2\) failed: no model 'mine'") as caught:
        Ranks.start(read_hosts(file), {"model": "mine", "memory": None})
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("what", ["gptoss-mac", "MLX", "what computes", "weights"])
def test_a_rank_that_is_unlike_rank_0_is_refused(what):
    own = {"gptoss-mac": "1", "MLX": "1", "what computes": "cpu", "weights": "ab"}
    ranks = Ranks(read_hosts(3))
    check_alike(ranks, own, [own, own])
    with pytest.raises(RankError, match=rf"rank 2 \(127.0.0.1\) has other {what}"):
        check_alike(ranks, own, [own, own | {what: "2"}])


def test_a_setting_with_which_ranks_may_hang_is_refused(monkeypatch):
    monkeypatch.setenv("MLX_METAL_FAST_SYNCH", "1")
    with pytest.raises(UsageError, match="MLX_METAL_FAST_SYNCH"):
        check_backend("ring")
    monkeypatch.setenv("MLX_METAL_FAST_SYNCH", "0")
    check_backend("ring")


@pytest.mark.parametrize(
    "kept", [{"prefix_disk": "1GB"}, {"slots": 4}, {"trace_experts": "trace.jsonl"}, {"prefixes": "on disk"}]
)
def test_what_other_ranks_have_no_part_of_is_refused(kept, tmp_path):
    if "prefixes" in kept:
        kept = {"prefixes": PrefixCache(1 << 20, Snapshots(BoundedFolder(tmp_path, 1 << 20)))}
    with pytest.raises(UsageError, match="do not go with distributed"):
        gptoss_mlx.load("tiny", distributed=2, **kept)


def test_a_guard_kills_rank_0_where_it_does_not_run():
    stopped = """
import json, os, signal, subprocess, sys
guard = subprocess.Popen([sys.executable, "-m", "gptoss_mlx.distributed.guard"], stdin=subprocess.PIPE)
guard.stdin.write(json.dumps({"pid": os.getpid()}).encode() + b"\\n..")
guard.stdin.flush()
os.kill(os.getpid(), signal.SIGSTOP)
"""
    ran = subprocess.run([sys.executable, "-c", stopped], cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert ran.returncode == -signal.SIGKILL
    assert "rank 0 has said nothing for 8 s" in ran.stderr
