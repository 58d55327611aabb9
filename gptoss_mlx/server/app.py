"""The routes, and what stands before them."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from gptoss_mlx.server import chat_completions, completions, listings, messages, page, responses
from gptoss_mlx.server.exchange import Answer, Exchange
from gptoss_mlx.server.guard import Guard, dialect_of
from gptoss_mlx.server.service import Service

Face = Callable[[Exchange, Service], Awaitable[None]]


def build(service: Service, *, host: str, key: str | None = None, origins: Sequence[str] = ()) -> ASGIApp:
    """Return the application for a server that is bound to ``host``. ``key`` and ``origins`` are as for Guard."""
    started = int(time.time())

    def answer(face: Face, path: str, body: bool = False) -> Answer:
        return Answer(lambda exchange: face(exchange, service), dialect_of(path), body=body, started=started)

    def route(path: str, *, get: Face | None = None, post: Face | None = None, delete: Face | None = None) -> Route:
        faces = {"GET": get, "POST": post, "DELETE": delete}
        own = {method: answer(face, path, method == "POST") for method, face in faces.items() if face is not None}
        return Route(path, Methods(own, answer(listings.here, path), answer(listings.no_such_method, path)))

    routes = [
        route("/v1/chat/completions", post=chat_completions.create),
        route("/v1/completions", post=completions.create),
        route("/v1/responses", post=responses.create),
        route("/v1/responses/{id}", get=responses.retrieve, delete=responses.delete),
        Route("/v1/responses/{id}/cancel", answer(responses.cancel, "")),
        route("/v1/responses/{id}/input_items", get=responses.input_items),
        route("/v1/messages", post=messages.create),
        route("/v1/messages/count_tokens", post=messages.count_tokens),
        route("/v1/models", get=listings.models),
        route("/v1/models/{name:path}", get=listings.model),
        route("/health", get=listings.health),
        route("/api/tags", get=listings.tags),
        route("/api/version", get=listings.version),
        route("/", get=page.home),
    ]
    router: ASGIApp = Router(routes, default=answer(listings.missing, ""))
    if origins:
        router = CORSMiddleware(router, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
    return Guard(router, host, key, origins)


class Methods:
    """What answers each method of a path. ``head`` answers clients that only look whether there is something."""

    def __init__(self, answers: Mapping[str, ASGIApp], head: ASGIApp, refuse: ASGIApp) -> None:
        self._answers = {"HEAD": head} | dict(answers)
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._answers.get(scope["method"], self._refuse)(scope, receive, send)
