"""What is remembered of replies: responses that may be asked for again or continued, and calls that come back.

They are kept in memory, and the oldest are forgotten.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from gptoss_mlx.requests import Carried
from gptoss_mlx.requests.history import Recall, Recalled

MOST = 512
"""Responses kept."""

MOST_CALLS = 4096
"""Calls remembered, with what was thought before them."""

MOST_BYTES = 64 << 20
"""Bytes of the bodies that asked for them."""


@dataclass(frozen=True)
class Stored:
    """A response, the items it was asked with, and what a request that continues it begins with. Only the model
    ``model`` knows the ids of ``carried``. ``size`` is in bytes."""

    response: dict[str, Any]
    items: list[dict[str, Any]]
    carried: Carried
    model: str
    size: int

    def carried_for(self, model: str) -> Carried:
        """Return what a request to ``model`` continues: another model reads the text, not the ids."""
        if model == self.model:
            return self.carried
        messages = tuple(replace(message, ids=None) for message in self.carried.messages)
        awaited = {id: replace(message, ids=None) for id, message in self.carried.awaited.items()}
        return Carried(self.carried.instructions, messages, awaited)


@dataclass(eq=False)
class Calls:
    """Calls as models wrote them, by model and key. The oldest are forgotten."""

    _kept: "OrderedDict[tuple[str, str], Recalled]" = field(default_factory=OrderedDict)

    def keep(self, model: str, key: str, call: Recalled) -> None:
        self._kept[model, key] = call
        if len(self._kept) > MOST_CALLS:
            self._kept.popitem(last=False)

    def of(self, model: str) -> Recall:
        """Return what finds the calls of one model. A key is found by any id that ends with it, behind a prefix."""
        return lambda id: self._kept.get((model, id.partition("_")[2]))


@dataclass(eq=False)
class Responses:
    """The responses that have ended, by id, and how to cancel those that are under way, which
    returns what there is of them."""

    running: dict[str, Callable[[], dict[str, Any]]] = field(default_factory=dict)
    _kept: "OrderedDict[str, Stored]" = field(default_factory=OrderedDict)

    def keep(self, stored: Stored) -> None:
        """Keep a response. Forget the oldest while there are too many."""
        self._kept[stored.response["id"]] = stored
        while len(self._kept) > MOST or sum(one.size for one in self._kept.values()) > MOST_BYTES:
            self._kept.popitem(last=False)

    def find(self, id: str) -> Stored | None:
        return self._kept.get(id)

    def forget(self, id: str) -> bool:
        """Forget a response. Return whether it was there."""
        return self._kept.pop(id, None) is not None
