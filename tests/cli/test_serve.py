"""``gptoss-mac serve`` before it serves: what it refuses, in one line each."""

import socket
import subprocess
import sys

import pytest

from tests.support.cli import run_cli


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--host", "0.0.0.0"), "needs a key; add --api-key"),
        (("--host", "no.such.host.invalid", "--api-key", "k"), "choose another --host"),
        (("--idle-unload", "0"), "--idle-unload is 0.0"),
        (("--api-key", " "), "the API key must be printable"),
        (("--context", "0"), "context"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(arguments, words):
    code, out, err = run_cli("serve", "--model", "tiny", "--port", "0", *arguments)
    assert code == 2
    assert out == ""
    assert words in err.splitlines()[-1]


def test_a_port_in_use_is_refused_with_the_remedy():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, err = run_cli("serve", "--model", "tiny", "--port", taken.getsockname()[1])
    assert code == 2
    assert "cannot be used (Address already in use); choose another --port" in err


def test_without_its_packages_it_says_how_to_get_them():
    program = (
        "import sys\n"
        "sys.modules['uvicorn'] = None\n"
        "sys.argv = ['gptoss-mac', 'serve', '--model', 'tiny']\n"
        "from gptoss_mlx.cli import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'gptoss-mac[serve]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
