"""The imitation is held to the real client: huggingface_hub reads it as it reads the Hub."""

import subprocess
import sys
import urllib.request

import pytest
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.support.fake_hub import COMMIT, Fault

REPO = "openai/gpt-oss-20b"
WEIGHTS = "model-00000-of-00001.safetensors"


def url(hub, name=WEIGHTS, revision="main", repo=REPO):
    return hf_hub_url(repo, name, revision=revision, endpoint=hub.address)


def test_the_real_client_downloads_every_file(hub, tmp_path):
    for name, file in hub.files.items():
        path = hf_hub_download(REPO, name, endpoint=hub.address, local_dir=tmp_path / "out", token=False)
        with open(path, "rb") as stream:
            assert stream.read() == file.data, name


def test_the_real_client_reads_what_each_file_is(hub):
    info = HfApi(endpoint=hub.address).model_info(REPO, files_metadata=True)
    assert info.sha == COMMIT
    assert {s.rfilename: s.size for s in info.siblings} == {n: len(f.data) for n, f in hub.files.items()}
    assert {s.rfilename: s.lfs.sha256 for s in info.siblings if s.lfs} == {
        n: f.sha256 for n, f in hub.files.items() if f.lfs
    }
    large = get_hf_file_metadata(url(hub), endpoint=hub.address)
    weights = hub.files[WEIGHTS]
    assert (large.commit_hash, large.etag, large.size) == (COMMIT, weights.sha256, len(weights.data))
    assert large.location.startswith(hub.storage)
    small = get_hf_file_metadata(url(hub, "config.json"), endpoint=hub.address)
    assert (small.etag, small.size) == (hub.files["config.json"].blob_id, len(hub.files["config.json"].data))
    assert small.location == url(hub, "config.json")


@pytest.mark.parametrize(
    ("asked", "token", "error"),
    [
        ({"name": "none.json"}, "right", RemoteEntryNotFoundError),
        ({"revision": "none"}, "right", RevisionNotFoundError),
        ({}, False, RepositoryNotFoundError),
        ({"repo": "openai/none"}, False, RepositoryNotFoundError),
        ({"repo": "openai/none"}, "right", RepositoryNotFoundError),
        ({}, "wrong", HfHubHTTPError),
    ],
)
def test_the_real_client_knows_its_errors(hub, asked, token, error):
    hub.token = "right"
    with pytest.raises(HfHubHTTPError) as raised:
        get_hf_file_metadata(url(hub, **asked), token=token, endpoint=hub.address)
    assert type(raised.value) is error


def test_the_real_client_knows_a_gated_repository(hub):
    hub.gated = True
    with pytest.raises(GatedRepoError):
        get_hf_file_metadata(url(hub), token=False, endpoint=hub.address)


def ask(link, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(link, headers=headers)) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), b""


def test_storage_serves_ranges(hub):
    file = hub.files[WEIGHTS]
    link, size = hub.link(file), len(file.data)
    status, headers, body = ask(link, Range="bytes=10-19")
    assert (status, headers["Content-Range"], body) == (206, f"bytes 10-19/{size}", file.data[10:20])
    assert ask(link, Range="bytes=10-19", **{"If-Range": headers["ETag"]})[0] == 206
    assert ask(link, Range="bytes=10-19", **{"If-Range": '"other"'})[::2] == (200, file.data)
    assert ask(link, Range=f"bytes={size}-")[:1] == (416,)


def test_storage_refuses_old_links_forged_ones_and_tokens(hub):
    link = hub.link(hub.files[WEIGHTS])
    assert ask(link)[0] == 200
    assert ask(link[:-1] + ("0" if link[-1] != "0" else "1"))[0] == 403
    assert ask(link, Authorization="Bearer x")[0] == 400
    hub.link_seconds = -1
    assert ask(hub.link(hub.files[WEIGHTS]))[0] == 403


def test_faults_come_as_often_as_planned(hub):
    hub.faults = [Fault("cdn", skip=1, times=2, status=500)]
    assert [ask(hub.link(hub.files[WEIGHTS]))[0] for _ in range(4)] == [200, 500, 500, 200]


def test_it_serves_a_folder_from_the_command_line(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    command = [sys.executable, "-m", "tests.support.fake_hub", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        address = server.stdout.readline().strip()
        info = HfApi(endpoint=address).model_info(REPO)
        server.terminate()
    assert [s.rfilename for s in info.siblings] == ["config.json"]
