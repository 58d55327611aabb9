"""Download and convert in processes that are killed: what ``tests.hub.kills`` is for one file."""

from convert.arriving import Watch, convert_remote
from convert.remote import look
from gptoss_mlx.hub import Settings
from tests.hub.kills import CALLS, REPO, die_at, serve


def run(address, target, piece, call, half):
    settings = Settings(piece=piece, first_pause=0.01)
    remote = look(REPO, target, settings=settings, endpoint=address)
    if call is not None:
        die_at(call, half, [*CALLS, "write", "mkdir", "rmdir"])
    convert_remote(remote, Watch(), settings=settings)


if __name__ == "__main__":
    serve(run)
