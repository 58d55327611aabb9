"""What is listed of a repository, and what is said if it cannot be."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gptoss_mlx.errors import HubError
from gptoss_mlx.hub import list_files
from tests.support.fake_hub import COMMIT, Fault, Stored

REPO = "openai/gpt-oss-20b"
NAMES = (
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "model-00000-of-00001.safetensors",
    "tokenizer.json",
)


def listed(hub, repo=REPO, revision="main", **options):
    pauses = []
    return list_files(repo, revision, endpoint=hub.address, sleep=pauses.append, **options), pauses


def test_only_a_checkpoints_files_are_listed(hub):
    plan, pauses = listed(hub)
    assert (plan.repo_id, plan.commit, plan.endpoint, pauses) == (REPO, COMMIT, hub.address, [])
    assert tuple(file.name for file in plan.files) == NAMES
    assert plan.nbytes == sum(len(hub.files[name].data) for name in NAMES)
    for file in plan.files:
        stored = hub.files[file.name]
        assert (file.size, file.digest, file.lfs) == (
            len(stored.data),
            stored.sha256 if stored.lfs else stored.blob_id,
            stored.lfs,
        )


def test_a_files_digest_is_that_of_its_bytes(hub):
    for file in listed(hub)[0].files:
        hasher = file.hasher()
        hasher.update(hub.files[file.name].data)
        assert hasher.hexdigest() == file.digest


@pytest.mark.parametrize("name", ["a b.safetensors", "-x.safetensors", "\x1b.safetensors", "a/../b.safetensors"])
def test_odd_names_are_not_listed(hub, name):
    hub.files[name] = Stored(b"x", True)
    assert tuple(file.name for file in listed(hub)[0].files) == NAMES


@pytest.mark.parametrize("missing", ["config.json", "model-00000-of-00001.safetensors"])
def test_a_repository_without_a_checkpoint_is_refused(hub, missing):
    del hub.files[missing]
    with pytest.raises(HubError, match="no checkpoint that can be converted"):
        listed(hub)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"repo": "openai/gpt-oss-21b"}, "no such repository.*check the spelling.*HF_TOKEN"),
        ({"revision": "v9"}, "no revision 'v9'"),
        ({"repo": "a/b/c"}, "'a/b/c' is no id on the Hub; write OWNER/NAME"),
        ({"repo": "../x"}, "is no id on the Hub"),
    ],
)
def test_what_is_misspelt_is_named(hub, asked, says):
    with pytest.raises(HubError, match=says) as raised:
        listed(hub, **asked)
    assert "\n" not in str(raised.value)


def test_a_token_is_sent_and_a_wrong_one_named(hub, monkeypatch):
    hub.token = "hf_right"
    with pytest.raises(HubError, match="HF_TOKEN"):
        listed(hub)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HubError, match="the token is not valid"):
        listed(hub)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert listed(hub)[0].files


@pytest.mark.parametrize(
    ("headers", "pauses"),
    [
        ({}, [1, 2]),
        ({"Retry-After": "7"}, [7, 7]),
        ({"ratelimit": '"api";r=0;t=55'}, [55, 55]),
        ({"ratelimit": '"api";r=3;t=55'}, [1, 2]),
    ],
)
def test_too_many_requests_wait_as_asked(hub, headers, pauses):
    hub.faults = [Fault("hub", status=429, headers=headers, times=2)]
    assert listed(hub)[1] == pauses


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504])
def test_failures_of_the_server_pass(hub, status):
    hub.faults = [Fault("hub", status=status, times=3)]
    assert listed(hub)[1] == [1, 2, 4]


@pytest.mark.parametrize(
    ("fault", "says", "times"),
    [
        (Fault("hub", status=500, times=99), "answered 500.*run the command again later", 4),
        (Fault("hub", status=429, times=99, headers={"Retry-After": "4000"}), "asks to wait 4,000 s.*HF_TOKEN", 1),
        (Fault("hub", status=403, times=99, headers={"X-Error-Message": "no \x7f scope"}), "403.*HF_TOKEN", 1),
        (Fault("hub", status=418, times=99), "answered 418", 1),
        (Fault("hub", cut=20, times=99), "check the connection", 4),
    ],
)
def test_what_does_not_pass_is_one_line(hub, fault, says, times):
    hub.faults = [fault]
    with pytest.raises(HubError, match=says) as raised:
        listed(hub)
    assert "\n" not in str(raised.value)
    assert len(hub.asked("hub")) == times


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>Sign in</html>",
        b"[]",
        b"{}",
        b'{"id": "x", "siblings": [{}]}',
        b'{"id": "x", "siblings": 3}',
        b"[" * 100_000,
    ],
)
def test_an_answer_that_is_not_the_hubs_is_named(hub, answer, monkeypatch):
    monkeypatch.setattr("tests.support.fake_hub._Hub._model", lambda self, hub, query: self.reply(200, {}, answer))
    with pytest.raises(HubError, match=r"HF_ENDPOINT|no checkpoint") as raised:
        listed(hub)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("field", ["size", "blobId", "lfs", "sha"])
def test_a_mirror_that_does_not_tell_digests_is_refused(hub, field, monkeypatch):
    from tests.support import fake_hub

    reply = fake_hub._Hub.reply

    def without(self, status, headers, body=b"", start=0):
        answer = json.loads(body)
        answer.pop(field, None)
        for sibling in answer["siblings"]:
            sibling.pop(field, None)
        reply(self, status, headers, json.dumps(answer).encode(), start)

    monkeypatch.setattr("tests.support.fake_hub._Hub.reply", without)
    if field == "lfs":  # then it says that git has the file itself, and git's digest is there
        assert not any(file.lfs for file in listed(hub)[0].files)
        return
    with pytest.raises(HubError, match="unset HF_ENDPOINT"):
        listed(hub)


def test_a_server_that_is_not_there_is_named():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(HubError, match=r"127.0.0.1 cannot be reached.*HTTPS_PROXY and HF_ENDPOINT"):
            list_files(REPO, endpoint=endpoint, sleep=lambda seconds: None)


LIST = "from gptoss_mlx.hub import list_files; print(list_files('openai/gpt-oss-20b', attempts=1).nbytes)"


def run(**environment):
    command = [sys.executable, "-c", LIST]
    root = Path(__file__).parent.parent.parent
    return subprocess.run(command, capture_output=True, text=True, cwd=root, env={"PATH": "/bin"} | environment)


def test_the_environment_says_where_the_hub_is_and_who_asks(hub, tmp_path):
    hub.token = "hf_right"
    (tmp_path / "token").write_text("hf_right\n")
    done = run(HF_ENDPOINT=hub.address, HF_HOME=str(tmp_path))
    assert done.stdout.strip() == str(sum(len(hub.files[name].data) for name in NAMES)), done.stderr


def test_offline_mode_is_obeyed(hub, tmp_path):
    done = run(HF_ENDPOINT=hub.address, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert "HubError: HF_HUB_OFFLINE is set" in done.stderr
    assert hub.requests == []
