"""``gptoss-mac serve``: let other programs use a model, through OpenAI's and Anthropic's API."""

import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptoss_mlx.cli import agent, constraints, options
from gptoss_mlx.cli.awake import awake
from gptoss_mlx.cli.batch import AUTO_ROWS
from gptoss_mlx.cli.signals import code
from gptoss_mlx.errors import UsageError, shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gptoss_mlx.server.residence import Loaded

PORT = 8080


def serve(
    command: typer.Context,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{options.MODEL_HELP} Give it several times to serve several, one of them in memory at a time.",
            show_default=options.DEFAULT_MODEL,
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at. One that other machines reach needs a key.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port to listen at. 0 takes a free one.", min=0, max=65535)] = PORT,
    api_key: Annotated[
        str | None,
        typer.Option(help="Answer only clients that have this key.", envvar="GPTOSS_MAC_API_KEY", show_default=False),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Answer only clients that have the key in this file.", show_default=False),
    ] = None,
    max_concurrency: Annotated[
        int, typer.Option(help="Replies generated at once. Memory may admit fewer.", min=1, max=1024)
    ] = AUTO_ROWS,
    idle_unload: Annotated[
        float | None,
        typer.Option(metavar="MINUTES", help="Unload a model that nobody has used for so long.", show_default="never"),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Let pages of this origin use the server.", show_default="none"),
    ] = None,
    memory: options.Memory = None,
    context: options.ContextTokens = None,
    prefix_disk: options.PrefixDisk = options.PREFIX_DISK,
    no_repeat_guard: constraints.NoRepeatGuard = False,
    distributed: options.Distributed = None,
    distributed_backend: options.DistributedBackend = "ring",
    yes: options.Yes = False,
    install: Annotated[
        bool, typer.Option("--install", help="Have macOS run the server with these options, now and at each login.")
    ] = False,
    uninstall: Annotated[
        bool, typer.Option("--uninstall", help="End the server that --install has installed, and forget it.")
    ] = False,
) -> None:
    """Let other programs use a model.

    They use it through the APIs of OpenAI and Anthropic. Ctrl-C or SIGTERM ends the server when the replies under way
    have ended. A second one stops them.
    """
    if uninstall:
        _uninstall(install)
        return
    if install:
        agent.check_platform()
    api_key = _key(command, api_key, api_key_file, install)
    if idle_unload is not None and idle_unload <= 0:
        raise UsageError(f"--idle-unload is {idle_unload}; give minutes, more than 0")
    if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key.strip() == api_key != ""):
        raise UsageError("the API key must be printable ASCII without blanks around it")
    from gptoss_mlx.installed import find_model

    if distributed is not None and (idle_unload is not None or len(model or ()) > 1):
        raise UsageError(
            "--distributed serves one model, as long as the server runs; give one --model, no --idle-unload"
        )
    loading = options.Loading(
        *(None, yes, memory, context),
        prefix_disk=prefix_disk,
        distributed=distributed,
        distributed_backend=distributed_backend,
    )
    options.check_values(None, None, loading)
    try:
        from gptoss_mlx.server.process import Settings, check_reach, serve
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn", "h11"):
            raise
        raise UsageError(f"serve needs {error.name}; run: pip install 'gptoss-mac[serve]'") from None
    check_reach(host, api_key)
    chosen: list[str | None] = [*model] if model else [None]
    sources = {_served_name(source): source for source in (options.obtained(name, yes) for name in chosen)}
    if install:
        _install([*_models(sources.values()), *_given(command)], host, port)
        return
    settings = Settings(
        names=list(sources),
        load=lambda name: _load(sources[name], loading, max_concurrency),
        unload=_unload,
        folder=lambda name: find_model(sources[name]),
        say=_say,
        host=host,
        port=port,
        key=api_key,
        origins=allow_origin or (),
        max_rows=max_concurrency,
        idle_unload=None if idle_unload is None else idle_unload * 60,
        working=awake,
        guarded=not no_repeat_guard,
    )
    _say(f"loading {settings.names[0]}")
    ended = serve(settings, lambda address: _say(f"serving {', '.join(settings.names)} at {address}"))
    if ended is not None:
        sys.exit(code(ended))


def _key(command: typer.Context, key: str | None, file: Path | None, install: bool) -> str | None:
    """Return the key that clients must have, or None. Raises UsageError for a file that others can read, and for a key
    that would have to stand in an agent's file."""
    if file is None:
        if install and key is not None:
            raise UsageError("an agent's file is no place for a key; write the key to a file, and give --api-key-file")
        return key
    if key is not None and _is_typed(command, "api_key"):
        raise UsageError("--api-key and --api-key-file exclude each other; give one of them")
    try:
        with open(file, encoding="ascii") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            found = opened.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no ASCII text"
        raise UsageError(f"--api-key-file {file}: cannot be read ({why}); give a file that holds the key") from error
    if stat.S_ISREG(mode) and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(f"--api-key-file {file}: others can read it; run: chmod 600 {file}")
    return found


def _is_typed(command: typer.Context, name: str) -> bool:
    source = command.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _given(command: typer.Context) -> list[str]:
    """Return the options that were typed, as an agent is to have them, whose folder is another. Models are left out."""
    given: list[str] = []
    for parameter in command.command.params:
        name = parameter.name or ""
        if not _is_typed(command, name) or name in ("model", "yes", "install"):
            continue
        option = max(parameter.opts, key=len)
        value = command.params[name]
        for one in value if isinstance(value, list | tuple) else [value]:
            given += [option] if one is True else [option, os.path.abspath(one) if isinstance(one, Path) else str(one)]
    return given


def _models(sources: "Iterable[str]") -> list[str]:
    from gptoss_mlx.home import BUNDLED
    from gptoss_mlx.installed import find_model, lasting_name

    return [
        word
        for source in sources
        for word in ("--model", source if source == BUNDLED else lasting_name(find_model(source)))
    ]


def _install(arguments: list[str], host: str, port: int) -> None:
    """Have launchd run the server. The agent that runs is replaced."""
    from gptoss_mlx.home import server_log_file
    from gptoss_mlx.server.process import listening

    agent.stop()
    with listening(host, port):
        pass  # the agent could only write to its log that the port is taken
    agent.start(agent.description(["serve", *arguments]))
    _say(f"the server runs now and from each login on; its log is {server_log_file()}")
    _say("`gptoss-mac serve --uninstall` ends it")


def _uninstall(install: bool) -> None:
    if install:
        raise UsageError("--install and --uninstall exclude each other; give one of them")
    agent.check_platform()
    _say("the server has ended and is forgotten" if agent.remove() else "no server is installed")


def _served_name(source: str) -> str:
    """Return what clients call a model: its name, or that of its folder."""
    from gptoss_mlx.published import published_name

    return published_name(source) or Path(source).name or source


def _load(name: str, loading: options.Loading, max_rows: int) -> "Loaded":
    """Load a model. It is called on the thread that will own it."""
    import gptoss_mlx
    from gptoss_mlx.records import note_use
    from gptoss_mlx.server.residence import Loaded

    with options.told_of_the_server():
        runtime = gptoss_mlx.load(
            name,
            memory=loading.memory,
            context=loading.context,
            prefix_disk=loading.kept_on_disk,
            distributed=loading.distributed,
            distributed_backend=loading.distributed_backend,
        )
    for notice in runtime.plan.notices:
        _say(notice)
    runtime.warm_up()
    note_use(runtime.folder.path)
    caches = runtime.row_memory
    return Loaded(
        runtime,
        runtime.batch(max_rows, caches),
        caches,
        runtime.plan.peak,
        leave=lambda: options.close_prefixes(runtime),
    )


def _unload() -> None:
    """Give back the memory of a model that nothing holds any more."""
    import gc

    import mlx.core as mx

    gc.collect()
    mx.clear_cache()


def _say(text: str) -> None:
    print(shown(text), file=sys.stderr, flush=True)
