"""The routes, and what stands before them."""

import time
from collections.abc import Awaitable, Callable, Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from gptoss_mlx.server import chat_completions, completions, listings, messages, responses
from gptoss_mlx.server.exchange import Answer, Dialect, Exchange
from gptoss_mlx.server.guard import Guard, dialect_of
from gptoss_mlx.server.service import Service

Face = Callable[[Exchange, Service], Awaitable[None]]


def build(service: Service, *, host: str, key: str | None = None, origins: Sequence[str] = ()) -> ASGIApp:
    """Return the application for a server that is bound to ``host``. ``key`` and ``origins`` are as for Guard."""
    started = int(time.time())

    def answer(face: Face, path: str, body: bool) -> Answer:
        dialect: Dialect = dialect_of(path)
        return Answer(lambda exchange: face(exchange, service), dialect, body=body, started=started)

    def get(path: str, face: Face) -> Route:
        return Route(path, answer(face, path, False), methods=["GET"])

    def post(path: str, face: Face, body: bool = True) -> Route:
        return Route(path, answer(face, path, body), methods=["POST"])

    routes = [
        Route("/{path:path}", answer(listings.here, "", False), methods=["HEAD"]),
        post("/v1/chat/completions", chat_completions.create),
        post("/v1/completions", completions.create),
        post("/v1/responses", responses.create),
        get("/v1/responses/{id}", responses.retrieve),
        Route("/v1/responses/{id}", answer(responses.delete, "", False), methods=["DELETE"]),
        post("/v1/responses/{id}/cancel", responses.cancel, body=False),
        get("/v1/responses/{id}/input_items", responses.input_items),
        post("/v1/messages", messages.create),
        post("/v1/messages/count_tokens", messages.count_tokens),
        get("/v1/models", listings.models),
        get("/v1/models/{name:path}", listings.model),
        get("/health", listings.health),
        get("/api/tags", listings.tags),
        get("/api/version", listings.version),
        get("/", listings.here),
    ]
    router: ASGIApp = Router(routes, default=answer(listings.missing, "", False))
    if origins:
        router = CORSMiddleware(router, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
    return Guard(router, host, key, origins)
