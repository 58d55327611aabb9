"""The answer to one message as a text, for who needs no events."""

from gptoss_mlx.conversation import Conversation
from gptoss_mlx.errors import CutOffError, NoAnswerError
from gptoss_mlx.events import Done, Text


def answer_to(conversation: Conversation, message: str) -> str:
    """Send ``message`` and return the answer. Raises NoAnswerError if there is none, or not all of one under a schema,
    and CutOffError, whose ``answer`` is what there is of it."""
    answer = ""
    done: Done | None = None
    for event in conversation.send(message):
        answer += event.text if isinstance(event, Text) else ""
        done = event if isinstance(event, Done) else done
    assert done is not None
    if done.reason == "stop" and not done.no_answer and not done.invalid:
        return answer
    why = done.invalid or done.reason
    if not answer or done.cut_in_thought or conversation.schema is not None:
        raise NoAnswerError(f"the reply ended without an answer ({why}); raise max_tokens, or ask again")
    raise CutOffError(f"the answer was cut off ({why}); raise max_tokens", answer)
