"""Where the first of several stop strings stands in a text that comes in pieces. Knows no ids and no messages."""

from dataclasses import dataclass, field


@dataclass
class StopStrings:
    """Looks for ``stop``. The one that is complete first counts, and the longest of several. So it does not matter how
    the text is cut into pieces. ``found`` is None until then."""

    stop: tuple[str, ...]
    found: str | None = field(default=None, init=False)
    _held: str = field(default="", init=False)

    def before(self, text: str) -> str:
        """Take more text and return what is now certain: what stands before a stop string, and no beginning of one."""
        if self.found is not None:
            return ""
        text = self._held + text
        places = [(at + len(stop), at, stop) for stop in self.stop if (at := text.find(stop)) >= 0]
        if places:
            _, kept, self.found = min(places)
            self._held = ""
        else:
            kept = len(text) - max((_overlap(text, stop) for stop in self.stop), default=0)
            self._held = text[kept:]
        return text[:kept]

    def rest(self) -> str:
        """Return what was held back, where the text ends. What follows is searched for itself."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of ``text`` begin ``stop``."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
