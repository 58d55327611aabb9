"""Convert the conversation in a request to harmony messages.

The module knows harmony's rules for a conversation. It knows nothing of JSON or of either endpoint's fields.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from gptoss_mlx.errors import RequestError
from gptoss_mlx.harmony import Developer, Function, Message, ResponseFormat, System, tool_call, tool_result
from gptoss_mlx.harmony.messages import Effort
from gptoss_mlx.reply import Reply


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


class History:
    """Collects messages in the order of the request.

    Each method takes the message's path in the request as ``where``, and raises RequestError with it.
    """

    def __init__(self) -> None:
        self._instructions: list[str] = []
        self._messages: list[Message] = []
        self._awaited: dict[str, Message] = {}  # calls that have no result yet, by id

    def go_on(self, carried: Carried) -> None:
        """Begin with an earlier exchange."""
        self._instructions += carried.instructions
        self._messages += carried.messages
        self._awaited |= carried.awaited

    def carried(self, own: int) -> Carried:
        """Return what a later request continues: all but the first ``own`` instructions."""
        return Carried(tuple(self._instructions[own:]), tuple(self._messages))

    def instruct(self, text: str, where: str) -> None:
        """Add a system or developer message. Those before all other messages are joined into one."""
        self._check_settled(where)
        if self._messages:
            self._messages.append(Message("developer", Developer(text)))
        elif text.strip():
            self._instructions.append(text)

    def user(self, text: str, where: str, *, empty: bool = False) -> None:
        """Add a user message. It may be ``empty`` only if that is said."""
        self._check_settled(where)
        if not text.strip() and not empty:
            raise RequestError(f"{where} is empty", where)
        self._messages.append(Message("user", text))

    def thought(self, text: str) -> None:
        """Add what the assistant thought, if anything."""
        if text:
            self._messages.append(Message("assistant", text, channel="analysis"))

    def said(self, text: str, where: str, *, before_a_call: bool = False) -> None:
        """Add what the assistant said, if anything: an answer, or the preamble of a call."""
        self._check_settled(where)
        if text:
            self._messages.append(Message("assistant", text, channel="commentary" if before_a_call else "final"))

    def called(self, id: str, name: str, arguments: str, where: str) -> None:
        """Add a call that the assistant made. A ``name`` with a dot has its own namespace, others are ``functions``."""
        if id in self._awaited:
            raise RequestError(f"{where}: the call id {id[:80]!r} occurs twice", where)
        recipient = name if "." in name else f"functions.{name}"
        self._awaited[id] = tool_call(recipient, arguments if arguments.strip() else "{}")

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
