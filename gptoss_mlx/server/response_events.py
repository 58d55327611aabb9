"""A response of OpenAI's responses API while it grows: each piece of the reply becomes the events that clients expect.

An item is opened when its first piece comes, and closed when a piece of another item comes or the reply ends. So the
events, taken together, are the items of the response that ends them. Knows no HTTP.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gptoss_mlx.reply import CallPiece, Piece, Reply
from gptoss_mlx.requests import Request
from gptoss_mlx.requests import response_objects as objects
from gptoss_mlx.server.logprobs import Entry
from gptoss_mlx.server.problems import Problem

ResponseEvent = dict[str, Any]


@dataclass
class _Open:
    """The item that is being written, the ``index``th. ``number`` is the call's in its reply."""

    section: str
    index: int
    id: str
    name: str = ""
    number: int = 0
    text: str = ""
    custom: bool = False
    logprobs: list[Entry] = field(default_factory=list)


@dataclass(eq=False)
class Growing:
    """The response ``id`` to ``request``. Each method returns the next events. ``response`` is the object so far."""

    id: str
    created: int
    model: str
    request: Request
    response: dict[str, Any] = field(init=False)
    _open: _Open | None = field(default=None, init=False)
    _count: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.response = objects.response(self.id, self.created, self.model, self.request.repeated, "in_progress")

    def begin(self) -> list[ResponseEvent]:
        return self._numbered([self._whole("created"), self._whole("in_progress")])

    def wait(self, read: int, total: int) -> list[ResponseEvent]:
        """Show that ``read`` of the ``total`` ids of the prompt have been read."""
        return self._numbered([self._whole("in_progress") | {"progress": {"read": read, "total": total}}])

    def add(self, piece: Piece | CallPiece, logprobs: Sequence[Entry] = ()) -> list[ResponseEvent]:
        """Add more of the reply. ``logprobs`` say how likely the tokens of a text were."""
        if isinstance(piece, CallPiece):
            return self._numbered(self._add_to_call(piece))
        if piece.section == "thought" and self.request.thoughts == "hidden":
            return []
        events = []
        text = piece.joined
        if self._open is None or self._open.section != piece.section:
            text = piece.text
            events = [*self._close("completed"), *self._begin_text(piece.section)]
        assert self._open is not None
        self._open.text += text
        self._open.logprobs += logprobs
        return self._numbered([*events, self._text_event("delta", logprobs, delta=text)])

    def end(self, reply: Reply, logprobs: Sequence[Entry] = ()) -> list[ResponseEvent]:
        """End the response as its reply has ended."""
        if self._open is not None:
            self._open.logprobs += logprobs
        events = self._close("incomplete" if reply.cut_off else "completed")
        self.response |= objects.ended(reply)
        return self._numbered([*events, self._whole(self.response["status"])])

    def fail(self, problem: Problem) -> list[ResponseEvent]:
        """End the response with an error. Its open item is dropped from the response."""
        self._open = None
        code = "context_length_exceeded" if problem.code == "context_length_exceeded" else "server_error"
        self.response |= {"status": "failed", "error": {"code": code, "message": problem.message}}
        return self._numbered([self._whole("failed")])

    def cancel(self) -> list[ResponseEvent]:
        """End the response because somebody has asked for that."""
        events = self._close("incomplete")
        self.response["status"] = "cancelled"
        return self._numbered([*events, self._whole("incomplete")])

    def _begin_text(self, section: str) -> list[ResponseEvent]:
        self._open = opened = self._new(section)
        if section != "thought":
            item = objects.message_item(opened.id, None, section, "in_progress")
            part = objects.text_part("")
            return [self._item("added", item), self._event("content_part.added", self._place() | {"part": part})]
        item = objects.reasoning_item(opened.id, "", self.request.thoughts, False) | {"status": "in_progress"}
        if self.request.thoughts == "summary":
            begun = self._event("reasoning_summary_part.added", self._place() | {"part": objects.summary_part("")})
        else:
            begun = self._event("content_part.added", self._place() | {"part": objects.thought_part("")})
        return [self._item("added", item), begun]

    def _add_to_call(self, piece: CallPiece) -> list[ResponseEvent]:
        events = []
        if self._open is None or self._open.section != "call" or self._open.number != piece.number:
            events = self._close("completed")
            self._open = self._new("call")
            self._open.name, self._open.number, self._open.custom = piece.name, piece.number, piece.custom
            events.append(self._item("added", self._call_item(self._open, "in_progress")))
        if piece.text:
            self._open.text += piece.text
            at = {"item_id": self._open.id, "output_index": self._open.index}
            kind = "custom_tool_call_input" if piece.custom else "function_call_arguments"
            events.append(self._event(f"{kind}.delta", at | {"delta": piece.text}))
        return events

    def _close(self, status: objects.Status) -> list[ResponseEvent]:
        """Close the open item, if there is one. It then belongs to the response."""
        opened = self._open
        if opened is None:
            return []
        text = opened.text
        if opened.section == "call":
            item = self._call_item(opened, status)
            at = {"item_id": opened.id, "output_index": opened.index}
            if opened.custom:
                events = [self._event("custom_tool_call_input.done", at | {"input": text})]
            else:
                done = {"name": opened.name, "arguments": text}
                events = [self._event("function_call_arguments.done", at | done)]
        elif opened.section != "thought":
            known = opened.logprobs
            item = objects.message_item(opened.id, text, opened.section, status, known)
            part = self._event("content_part.done", self._place() | {"part": objects.text_part(text, known)})
            events = [self._text_event("done", known, text=text), part]
        else:
            item = objects.reasoning_item(opened.id, text, self.request.thoughts, self.request.sealed)
            if self.request.thoughts == "summary":
                ended = self._event("reasoning_summary_part.done", self._place() | {"part": objects.summary_part(text)})
            else:
                ended = self._event("content_part.done", self._place() | {"part": objects.thought_part(text)})
            events = [self._text_event("done", (), text=text), ended]
        self.response["output"] = [*self.response["output"], item]
        self._open = None
        return [*events, self._event("output_item.done", {"output_index": opened.index, "item": item})]

    def _call_item(self, opened: _Open, status: objects.Status) -> objects.Item:
        call_id = objects.call_id(self.id, opened.number)
        return objects.call_item(opened.id, call_id, opened.name, opened.text, status, custom=opened.custom)

    def _new(self, section: str) -> _Open:
        index = len(self.response["output"])
        return _Open(section, index, objects.item_id(self.id, section, index))

    def _place(self) -> dict[str, Any]:
        """Return where the open item's only part is."""
        assert self._open is not None
        summary = self._open.section == "thought" and self.request.thoughts == "summary"
        at = {"item_id": self._open.id, "output_index": self._open.index}
        return at | {"summary_index" if summary else "content_index": 0}

    def _text_event(self, what: str, logprobs: Sequence[Entry], **text: str) -> ResponseEvent:
        assert self._open is not None
        if self._open.section != "thought":
            return self._event(f"output_text.{what}", self._place() | text | {"logprobs": list(logprobs)})
        kind = "reasoning_summary_text" if self.request.thoughts == "summary" else "reasoning_text"
        return self._event(f"{kind}.{what}", self._place() | text)

    def _item(self, what: str, item: objects.Item) -> ResponseEvent:
        assert self._open is not None
        return self._event(f"output_item.{what}", {"output_index": self._open.index, "item": item})

    def _whole(self, what: str) -> ResponseEvent:
        return self._event(what, {"response": dict(self.response)})

    def _event(self, what: str, fields: dict[str, Any]) -> ResponseEvent:
        return {"type": f"response.{what}"} | fields

    def _numbered(self, events: list[ResponseEvent]) -> list[ResponseEvent]:
        """Return the events with their places among all."""
        first = self._count
        self._count += len(events)
        return [event | {"sequence_number": first + at} for at, event in enumerate(events)]
