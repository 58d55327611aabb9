"""Convert the conversation in a request to harmony messages.

The module knows harmony's rules for a conversation. It knows nothing of JSON or of either endpoint's fields.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from gptoss_mlx.errors import RequestError
from gptoss_mlx.harmony import Developer, Function, Message, ResponseFormat, System, text_call, tool_call, tool_result
from gptoss_mlx.harmony.messages import Effort
from gptoss_mlx.reply import BETWEEN, Reply


@dataclass(frozen=True)
class Carried:
    """A finished exchange that another request may continue: its instructions, except those of the request's own field,
    its messages without system and developer message, and calls that have no result yet, by id."""

    instructions: tuple[str, ...] = ()
    messages: tuple[Message, ...] = ()
    awaited: Mapping[str, Message] = field(default_factory=dict)

    def after(self, reply: Reply, call_id: Callable[[int], str]) -> "Carried":
        """Return what is carried on after ``reply``, whose calls have got the ids that ``call_id`` returns for their
        numbers. A call of the reply goes into the history when its result comes."""
        calls = {id(call.message): call_id(number) for number, call in enumerate(reply.calls)}
        said = [message for message in reply.messages if id(message) not in calls]
        awaited = {calls[id(message)]: message for message in reply.messages if id(message) in calls}
        return Carried(self.instructions, (*self.messages, *said), awaited)


@dataclass(frozen=True)
class Recalled:
    """A call as the model wrote it, and its messages ``before`` the call: what it thought and what it said."""

    before: tuple[Message, ...]
    call: Message


Recall = Callable[[str], Recalled | None]
"""Returns what is remembered of the call with an id."""


def recalled(reply: Reply) -> list[Recalled]:
    """Return what to remember of each of the reply's calls."""
    calls = [call.message for call in reply.calls]
    before = list(takewhile(lambda message: message not in calls, reply.messages))
    if reply.messages[len(before) :] != tuple(calls):
        return []  # something stands between them
    return [Recalled(tuple(before), call) for call in calls]


class History:
    """Collects messages in the order of the request.

    A client may send back a call without the thought before it, which the model needs until its turn is finished. With
    ``recall`` what the model wrote takes the place of what the client sends, if that says the same.

    Each method takes the message's path in the request as ``where``, and raises RequestError with it.
    """

    def __init__(self, recall: Recall = lambda id: None) -> None:
        self._recall = recall
        self._begun = 0  # where the assistant's present messages begin
        self._instructions: list[str] = []
        self._messages: list[Message] = []
        self._awaited: dict[str, Message] = {}  # calls that have no result yet, by id

    def go_on(self, carried: Carried) -> None:
        """Begin with an earlier exchange."""
        self._instructions += carried.instructions
        self._messages += carried.messages
        self._awaited |= carried.awaited
        self._begun = len(self._messages)

    def carried(self, own: int) -> Carried:
        """Return what a later request continues: all but the first ``own`` instructions."""
        return Carried(tuple(self._instructions[own:]), tuple(self._messages))

    def instruct(self, text: str, where: str) -> None:
        """Add a system or developer message. Those before all other messages are joined into one."""
        self._check_settled(where)
        if self._messages:
            self._messages.append(Message("developer", Developer(text)))
            self._begun = len(self._messages)
        elif text.strip():
            self._instructions.append(text)

    def user(self, text: str, where: str, *, empty: bool = False) -> None:
        """Add a user message. It may be ``empty`` only if that is said."""
        self._check_settled(where)
        if not text.strip() and not empty:
            raise RequestError(f"{where} is empty", where)
        self._messages.append(Message("user", text))
        self._begun = len(self._messages)

    def thought(self, text: str) -> None:
        """Add what the assistant thought, if anything."""
        if text:
            self._messages.append(Message("assistant", text, channel="analysis"))

    def said(self, text: str, where: str, *, before_a_call: bool = False) -> None:
        """Add what the assistant said, if anything: an answer, or the preamble of a call."""
        self._check_settled(where)
        if text:
            self._messages.append(Message("assistant", text, channel="commentary" if before_a_call else "final"))

    def called(self, id: str, name: str, arguments: str, where: str, *, custom: bool = False) -> None:
        """Add a call that the assistant made. A ``name`` with a dot has its own namespace, others are ``functions``.
        A ``custom`` tool was given text, which is not JSON."""
        if id in self._awaited:
            raise RequestError(f"{where}: the call id {id[:80]!r} occurs twice", where)
        recipient = name if "." in name else f"functions.{name}"
        if custom:
            call = text_call(recipient, arguments)
        else:
            call = tool_call(recipient, arguments if arguments.strip() else "{}")
        own = self._recall(id)
        if own is not None and own.call.recipient == recipient and _same(own.call.content, call.content):
            call = own.call
            given = self._messages[self._begun :]
            thought = _texts(given, thoughts=True)
            if _texts(given) == _texts(own.before) and thought in ("", _texts(own.before, thoughts=True)):
                self._messages[self._begun :] = own.before
        self._awaited[id] = call

    def result(self, id: str, output: str, where: str, name: str | None = None) -> None:
        """Add the call ``id`` and its result together, because the model was trained on one call at a time.

        ``name``, if given, must be the called function's.
        """
        call = self._awaited.pop(id, None)
        if call is None:
            raise RequestError(f"{where}: there is no call {id[:80]!r} before it", where)
        if name is not None and f"functions.{name}" != call.recipient and name != call.recipient:
            raise RequestError(f"{where}.name is {name[:80]!r}; the call was of '{call.recipient}'", f"{where}.name")
        self._messages += [call, tool_result(call, output)]
        self._begun = len(self._messages)

    def finish(
        self,
        where: str,
        *,
        instructions: str | None,
        reasoning: Effort,
        date: str | None,
        functions: Sequence[Function],
        response_format: ResponseFormat | None,
    ) -> tuple[Message, ...]:
        """Return all messages from the system message on. ``instructions`` are used if the request has none."""
        self._check_settled(where)
        own = "\n\n".join(self._instructions) or instructions or None
        if not self._messages and not self._instructions:
            raise RequestError(f"{where} contains nothing to answer", where)
        if self._messages and self._messages[-1].role == "assistant":
            raise RequestError(f"{where} ends with the assistant's own message, so there is nothing to answer", where)
        head = [Message("system", System(reasoning, date))]
        if own or functions or response_format:
            head.append(Message("developer", Developer(own, tuple(functions), response_format)))
        return (*head, *self._messages)

    def _check_settled(self, where: str) -> None:
        if self._awaited:
            raise RequestError(f"{where}: the call {next(iter(self._awaited))[:80]!r} has no result yet", where)


def _texts(messages: Sequence[Message], *, thoughts: bool = False) -> str:
    """Return what the assistant's messages say to the user, or what they think."""
    return BETWEEN.join(str(one.content) for one in messages if (one.channel == "analysis") == thoughts)


def _same(written: object, sent: object) -> bool:
    """Return whether two texts of arguments say the same. Clients that keep JSON write it again in their own way."""
    if written == sent:
        return True
    try:
        return bool(json.loads(str(written)) == json.loads(str(sent)))
    except (ValueError, RecursionError):
        return False
