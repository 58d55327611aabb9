"""Convert the requests of OpenAI's endpoints to harmony messages, sampling and limits, and replies to responses.

The package knows JSON bodies, harmony and sampling. It knows nothing of where a body comes from or how a model runs.
"""

from gptoss_mlx.reply import Call, Reply, ReplyReader
from gptoss_mlx.requests import chat_completions, completions, messages, responses
from gptoss_mlx.requests.history import Carried
from gptoss_mlx.requests.request import Defaults, Request

__all__ = [
    "Call",
    "Carried",
    "Defaults",
    "Reply",
    "ReplyReader",
    "Request",
    "chat_completions",
    "completions",
    "messages",
    "responses",
]
