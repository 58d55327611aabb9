"""What a rank from 1 on does: what rank 0 says. It is given its layers, and then orders, each a list of steps:

    ["new", n]               cache n has seen nothing
    ["mark", a, n]           n is a mark of a
    ["share", a, n]          n is a second cache in the state of a
    ["rewind", a, n]         a returns to its mark n
    ["drop", n]              forget n
    ["read", [a], shape]     a's next positions pass through the layers: [B, L, H] come from the rank before, and go on
    ["step", [a, ...], shape]    the same for the next positions of several sequences, [T, H]

They are done in the order in which they come.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx

import metal_kernels  # noqa: F401  (loads a BLAS before mlx is imported)
from gptoss_mlx.distributed.group import free_address, join, received, sent_on, wait_for
from gptoss_mlx.distributed.parts import Part, about, opened
from gptoss_mlx.errors import RankError
from gptoss_mlx.model.cache import KVCache
from gptoss_mlx.model.decoder import Decoder


def take_part(job: dict[str, Any], say: Callable[[Any], None], told: Callable[[], Any]) -> None:
    """Say what this rank is, load what is told, and follow. Ends only by an exception: what loading or a step raises,
    and what ``told`` raises when rank 0 has ended."""
    folder = opened(job["model"])
    addresses = [free_address(ip) for ip in job["ips"]]
    say(about(folder, job["memory"], job["sharing"]) | {"addresses": addresses})
    plan = told()
    group = join(plan["backend"], job["rank"], plan["addresses"], plan["rdma"])
    decoder = Part(**plan["parts"][job["rank"]]).load(folder, ends=False)
    say("ready")
    follow(decoder, group, told)


def follow(decoder: Decoder, group: mx.distributed.Group, told: Callable[[], Any]) -> None:
    """Do what rank 0 says, until ``told`` raises."""
    caches: dict[int, KVCache] = {}
    while True:
        for name, *rest in told():
            match name, rest:
                case "new", [n]:
                    caches[n] = decoder.cache()
                case "mark", [a, n]:
                    caches[n] = caches[a].mark()
                case "share", [a, n]:
                    caches[n] = caches[a].shared()
                case "rewind", [a, n]:
                    caches[a].rewind(caches[n])
                case "drop", [n]:
                    del caches[n]
                case "read" | "step", [numbers, shape]:
                    _pass_on(decoder, group, name == "read", [caches[n] for n in numbers], shape)
                case _:
                    raise RankError(f"rank 0 says {name!r:.40}, which is no step")


def _pass_on(
    decoder: Decoder, group: mx.distributed.Group, prompt: bool, caches: list[KVCache], shape: list[int]
) -> None:
    x = received(shape, group)
    if prompt:
        wait_for(x)
        x = decoder.read(x, caches[0])
    else:
        step = decoder.step(x, caches)
        while step.repeat():
            pass
        x = step.x
    mx.eval(sent_on(x, group), [cache.arrays() for cache in caches])
