"""Between a conversation under way and what is kept of it. What the model has read lies among the runtime's prefixes;
where that is lost the model reads the text again."""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, cast

from gptoss_mlx.conversation import Conversation
from gptoss_mlx.errors import SessionError, UsageError
from gptoss_mlx.harmony import Message
from gptoss_mlx.harmony.messages import Effort
from gptoss_mlx.history import Kept, Program
from gptoss_mlx.installed import lasting_name

if TYPE_CHECKING:
    from gptoss_mlx.link.client import AnyRuntime


def kept(conversation: Conversation, program: Program, before: Kept | None = None) -> Kept:
    """Return what is kept of ``conversation``, without its pending calls. ``before`` is how it was kept last."""
    now = Kept(
        model=lasting_name(conversation.runtime.folder.path),
        model_hash=conversation.runtime.hash,
        reasoning=conversation.reasoning,
        instructions=conversation.instructions,
        temperature=conversation.sampling.temperature,
        date=conversation.date,
        messages=[asdict(message) for message in conversation.settled_messages()],
        program=program,
    )
    if before is None:
        return now
    return replace(now, name=before.name, id=before.id, began=before.began, changed=before.changed)


def reopened(kept: Kept, runtime: "AnyRuntime", **options: Any) -> Conversation:
    """Return the conversation to go on with. ``options`` are further arguments of Conversation. Raises SessionError if
    it cannot be read."""
    conversation = Conversation(
        runtime,
        reasoning=cast(Effort, kept.reasoning),
        instructions=kept.instructions,
        date=kept.date,
        **options,
    )
    # Without its ids a message is rendered again from its text, because another model may have other ids.
    foreign = {} if kept.model_hash == runtime.hash else {"ids": None}
    try:
        conversation.messages = [_message(raw | foreign) for raw in kept.messages]
    except (TypeError, ValueError) as error:
        raise SessionError(
            f"conversation {kept.id} is damaged; remove it with `gptoss-mac logs rm {kept.id}`"
        ) from error
    return conversation


def check_name(name: str) -> None:
    """Raise UsageError if ``name`` cannot name a conversation. A number is the id of one."""
    if not name.isprintable() or name != name.strip() or not name or len(name) > 64 or name.isdecimal():
        raise UsageError(f"'{name}' cannot name a conversation; use up to 64 characters, not only digits")


def _message(raw: dict[str, Any]) -> Message:
    message = Message(**raw)
    if not isinstance(message.content, str) or message.role not in ("user", "assistant", "tool"):
        raise ValueError("not a message of a conversation")
    return message if message.ids is None else replace(message, ids=tuple(map(int, message.ids)))
