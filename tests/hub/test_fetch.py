"""A file arrives whole and right through every fault, or one line says why not. No byte comes again without need."""

import errno
import os
import random
import signal
import threading
import time

import pytest

from gptoss_mlx.errors import HubError, StorageError
from gptoss_mlx.hub import Settings, fetch, list_files
from gptoss_mlx.hub.faults import Fault as Problem
from gptoss_mlx.hub.faults import pause
from tests.hub.conftest import QUICK, SIZE
from tests.support.fake_hub import Fault, Stored

REPO = "openai/gpt-oss-20b"
WEIGHTS = "model-00000-of-00001.safetensors"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


def get(hub, folder, name=WEIGHTS, *, plan=None, settings=QUICK, **options):
    """Fetch one file. Return how many bytes came, and what was said."""
    plan = plan or list_files(REPO, endpoint=hub.address)
    file = next(file for file in plan.files if file.name == name)
    said = []
    received = fetch(plan, file, folder / name, say=said.append, settings=settings, **options)
    assert (folder / name).read_bytes() == hub.files[name].data
    return received, said


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_arrives_byte_for_byte(hub, folder):
    plan = list_files(REPO, endpoint=hub.address)
    reports = []
    for file in plan.files:
        reports.clear()
        received, said = get(hub, folder, file.name, plan=plan, progress=lambda *report: reports.append(report))
        assert (received, said) == (file.size, [])
        assert reports[-1] == (file.name, file.size, file.size)
    assert names(folder) == sorted(file.name for file in plan.files)
    assert hub.sent() == plan.nbytes


def test_several_ranges_come_at_once(hub, folder):
    hub.rate = 500_000
    begun = time.monotonic()
    get(hub, folder)
    assert time.monotonic() - begun < 0.8 * SIZE / hub.rate
    asked = hub.asked("cdn")
    assert len(asked) == -(-SIZE // QUICK.piece)
    assert all("If-Range" in request.headers for request in asked[QUICK.ranges :])


@pytest.mark.parametrize("seed", range(3))
def test_thirty_dropped_connections_cost_no_byte(hub, folder, seed):
    rng = random.Random(seed)
    hub.faults = [Fault("cdn", cut=rng.randrange(30_000)) for _ in range(30)]
    received, said = get(hub, folder)
    assert not any(fault.times for fault in hub.faults)
    assert (received, hub.sent(), said) == (SIZE, SIZE, [])
    assert names(folder) == [WEIGHTS]


def test_a_connection_that_gives_no_byte_six_times_is_given_up(hub, folder):
    hub.faults = [Fault("cdn", cut=0, times=999)]
    with pytest.raises(HubError, match=f"{WEIGHTS}: .*check the connection and run the command again") as raised:
        get(hub, folder)
    assert "\n" not in str(raised.value)
    assert len(hub.asked("cdn")) <= QUICK.attempts * QUICK.ranges
    assert names(folder) == []


def test_links_are_renewed_when_their_time_is_over(hub, folder):
    hub.link_seconds, hub.rate = 0.15, 400_000
    received, said = get(hub, folder)
    assert (received, said) == (SIZE, [])
    renewed = len(hub.asked("hub", "HEAD"))
    refused = sum(request.status == 403 for request in hub.asked("cdn"))
    assert 2 <= renewed <= refused + 1


def test_links_that_are_never_good_are_given_up(hub, folder):
    hub.link_seconds = -1
    with pytest.raises(HubError, match=r"answered 403 .*with new links too; check the clock"):
        get(hub, folder)
    assert len(hub.asked("hub", "HEAD")) <= QUICK.attempts * QUICK.ranges


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 410, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("skip", [0, 5])
def test_storage_may_fail_for_a_time(hub, folder, status, skip):
    hub.faults = [Fault("cdn", status=status, times=4, skip=skip)]
    received, said = get(hub, folder)
    assert (received, said) == (SIZE, [])
    assert sum(request.status == status for request in hub.asked("cdn")) == 4


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_the_hub_may_fail_for_a_time(hub, folder, status):
    plan = list_files(REPO, endpoint=hub.address)
    hub.faults = [Fault(server="hub", method=method, status=status, times=3) for method in ("HEAD", "GET")]
    assert get(hub, folder, plan=plan) == (SIZE, [])
    assert get(hub, folder, "config.json", plan=plan)[0] == len(hub.files["config.json"].data)
    assert not any(fault.times for fault in hub.faults)


def refused(status, **said):
    """Return the fault of a Hub that will not tell where a file lies, in its headers X-Error-Code and -Message."""
    headers = {f"X-Error-{name.capitalize()}": text for name, text in said.items()}
    return Fault("hub", method="HEAD", status=status, headers=headers)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (refused(401, message="Invalid credentials in Authorization header"), "the token is not valid; set HF_TOKEN"),
        (refused(401, code="GatedRepo"), r"gives access on request.*HF_TOKEN"),
        (refused(403, message="Access to this resource is disabled."), "has disabled"),
        (refused(403), r"403.*permission"),
        (refused(404, code="EntryNotFound"), "is not there any more"),
        (refused(404, code="RepoNotFound"), "no such repository"),
        (Fault("hub", method="HEAD", status=429, headers={"Retry-After": "999"}), "asks to wait 999 s"),
        (Fault("cdn", status=429, headers={"Retry-After": "999"}), "asks to wait 999 s"),
        (Fault("cdn", status=451), "answered 451.*check HF_ENDPOINT"),
    ],
)
def test_what_waiting_does_not_help_ends_at_once(hub, folder, fault, says):
    hub.faults = [fault]
    fault.times = 99
    begun = time.monotonic()
    with pytest.raises(HubError, match=says) as raised:
        get(hub, folder)
    assert "\n" not in str(raised.value)
    assert time.monotonic() - begun < 2
    assert sum(request.status == fault.status for request in hub.requests) <= QUICK.ranges
    assert names(folder) == []


def test_an_error_keeps_what_is_there(hub, folder):
    hub.faults = [Fault("cdn", status=451, skip=6)]
    with pytest.raises(HubError):
        get(hub, folder)
    assert names(folder) == [f"{WEIGHTS}.part", f"{WEIGHTS}.part.state"]
    got = hub.sent()
    received, _ = get(hub, folder)
    assert received < SIZE
    assert got + received <= 1.05 * SIZE + 4 * (64 << 10)  # ranges that were cut off may have been on their way
    assert names(folder) == [WEIGHTS]


def test_a_silent_server_is_asked_again(hub, folder):
    hub.faults = [Fault("cdn", silent=3, times=2)]
    begun = time.monotonic()
    assert get(hub, folder, settings=Settings(piece=96 << 10, first_pause=0.01, timeout=0.3))[0] == SIZE
    assert time.monotonic() - begun < 2.5


def test_pauses_double_up_to_sixteen_fold_and_obey_the_server():
    assert [pause(Problem("", True), n) for n in range(1, 8)] == [1, 2, 4, 8, 16, 16, 16]
    assert [pause(Problem("", True, wait=5), n) for n in (1, 4)] == [5, 8]
    assert [pause(Problem("", True, stale=True), n) for n in (1, 2)] == [0, 2]


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_a_damaged_file_is_fetched_once_more(hub, folder, name):
    server = "cdn" if name == WEIGHTS else "hub"
    path = "" if server == "cdn" else name
    hub.faults = [Fault(server, path=path, flip=True)]
    received, said = get(hub, folder, name)
    assert received == 2 * len(hub.files[name].data)
    assert said == [f"{name}: arrived damaged (its checksum is wrong), starting over"]
    assert names(folder) == [name]


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_a_file_damaged_twice_is_an_error_and_leaves_nothing(hub, folder, name):
    server, path = ("cdn", "") if name == WEIGHTS else ("hub", name)
    hub.faults = [Fault(server, path=path, flip=True, times=99)]
    with pytest.raises(HubError, match=f"{name} arrived damaged twice"):
        get(hub, folder, name)
    assert names(folder) == []


@pytest.mark.parametrize("skip", [0, 5])
def test_a_file_that_changes_between_two_requests_starts_over_and_says_so(hub, folder, skip):
    other = random.Random(9).randbytes(SIZE)
    hub.faults = [Fault("cdn", body=other, times=3, skip=skip)]
    received, said = get(hub, folder)
    assert received >= SIZE
    assert said
    assert all(line.startswith(f"{WEIGHTS}: has changed on the server (") for line in said)
    assert names(folder) == [WEIGHTS]


@pytest.mark.parametrize("size", [SIZE - 400_000, SIZE + 1])
def test_a_file_of_another_size_is_an_error(hub, folder, size):
    hub.faults = [Fault("cdn", body=bytes(size), times=999)]
    with pytest.raises(HubError, match="changes again and again") as raised:
        get(hub, folder)
    assert "\n" not in str(raised.value)
    assert names(folder) == []


def test_storage_that_has_no_such_range_starts_over(hub, folder):
    hub.faults = [Fault("cdn", status=416, skip=6)]
    received, said = get(hub, folder)
    assert len(said) == 1
    assert "has no bytes" in said[0]
    assert received < 2 * SIZE


@pytest.mark.parametrize("given", [f"bytes 0-98303/{SIZE}", "bytes */*", ""])
def test_other_bytes_than_were_asked_for_are_not_kept(hub, folder, given):
    hub.faults = [Fault("cdn", skip=5, times=3, headers={"Content-Range": given})]
    assert get(hub, folder) == (SIZE, [])
    assert len(hub.asked("cdn")) == -(-SIZE // QUICK.piece) + 3


def test_more_bytes_than_were_asked_for_are_not_kept(hub, folder):
    hub.faults = [Fault("cdn", past=200_000, times=3)]
    received, said = get(hub, folder)
    assert said == []
    assert received < SIZE + 3 * (64 << 10)


def test_a_file_that_is_another_one_than_was_listed_is_not_fetched(hub, folder):
    plan = list_files(REPO, endpoint=hub.address)
    hub.files[WEIGHTS] = Stored(bytes(SIZE), True)
    with pytest.raises(HubError, match=r"has changed on .*; run the command again"):
        get(hub, folder, plan=plan)
    assert hub.asked("cdn") == []
    assert names(folder) == []


def test_the_token_never_reaches_storage(hub, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.token = "hf_secret"
    hub.faults = [Fault("cdn", status=403, times=2)]
    get(hub, folder)
    get(hub, folder, "config.json")
    assert all(request.headers["Authorization"] == "Bearer hf_secret" for request in hub.asked("hub"))
    assert hub.asked("cdn")
    assert not any("hf_secret" in str(request.headers) for request in hub.asked("cdn"))


def test_proxies_are_obeyed(hub, folder, monkeypatch):
    """The Hub has a name that nobody knows, so only a proxy can be asked for it: the same server plays it."""
    monkeypatch.setenv("HTTP_PROXY", hub.address)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")  # of storage
    import huggingface_hub

    huggingface_hub.close_session()  # it has read the environment
    plan = list_files(REPO, endpoint="http://hub.invalid")
    assert get(hub, folder, "config.json", plan=plan)[0] == len(hub.files["config.json"].data)
    assert get(hub, folder, plan=plan)[0] == SIZE
    monkeypatch.setenv("HTTP_PROXY", "gopher://x")
    huggingface_hub.close_session()
    with pytest.raises(HubError, match=r"cannot be asked .*HTTP_PROXY"):
        list_files(REPO, endpoint="http://hub.invalid")
    huggingface_hub.close_session()


def test_a_mirror_without_ranges_gives_files_of_one_piece_only(hub, folder):
    hub.serves_ranges = False
    hub.faults = [Fault("cdn", cut=300_000, times=2)]
    received, _ = get(hub, folder, settings=Settings(first_pause=0.01))
    assert received == SIZE + 600_000
    (folder / WEIGHTS).unlink()
    with pytest.raises(HubError, match="cannot send a part of a file"):
        get(hub, folder)


def test_what_is_there_already_is_not_fetched(hub, folder):
    plan = list_files(REPO, endpoint=hub.address)
    (folder / WEIGHTS).write_bytes(hub.files[WEIGHTS].data)
    (folder / f"{WEIGHTS}.part.state").write_bytes(b"left by a kill")
    before = len(hub.requests)
    assert get(hub, folder, plan=plan) == (0, [])
    assert len(hub.requests) == before
    assert names(folder) == [WEIGHTS]


@pytest.mark.parametrize("content", [b"mine", bytes(SIZE), None])
def test_another_file_is_never_replaced(hub, folder, content):
    target = folder / WEIGHTS
    if content is None:
        target.symlink_to("nowhere")
    else:
        target.write_bytes(content)
    with pytest.raises(StorageError, match="is not the file on the Hub; remove it"):
        get(hub, folder)
    assert target.is_symlink() if content is None else target.read_bytes() == content


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit(143), RuntimeError("mine")])
def test_progress_may_stop_it_and_nothing_is_lost(hub, folder, error):
    hub.rate = 300_000

    def stop(name, done, size):
        if done > size // 3:
            raise error

    kind = error if isinstance(error, type) else type(error)
    with pytest.raises(kind):
        get(hub, folder, progress=stop)
    assert names(folder) == [f"{WEIGHTS}.part", f"{WEIGHTS}.part.state"]
    hub.rate = None
    time.sleep(0.1)
    received, _ = get(hub, folder)
    assert received < 0.67 * SIZE
    assert hub.sent() <= 1.05 * SIZE + 4 * (64 << 10)


def test_ctrl_c_stops_it_while_nothing_comes(hub, folder):
    hub.faults = [Fault("cdn", silent=2, times=99)]
    threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGINT)).start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        get(hub, folder)
    assert time.monotonic() - begun < 1.5
    assert names(folder) == []


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(hub, folder, monkeypatch):
    pwrite, room = os.pwrite, [400_000]

    def full(descriptor, data, offset):
        if len(data) > room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room[0] -= len(data)
        return pwrite(descriptor, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(StorageError, match=r"No space left.*free some space") as raised:
            get(hub, folder)
    assert "\n" not in str(raised.value)
    received, _ = get(hub, folder)
    assert received <= SIZE - 400_000 + (64 << 10) + 4096
