"""A context-free grammar that is being made: named rules and terminals, and its text in Lark. Knows no JSON."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple


class Way(NamedTuple):
    """One way to match a rule: a right-hand side in Lark, and the rules that it cannot do without."""

    text: str
    needs: tuple[str, ...] = ()


def regex(pattern: str) -> str:
    """Return a regex as Lark writes it."""
    return "/" + pattern.replace("/", r"\/").replace("\n", r"\n") + "/"


@dataclass
class Rules:
    """Rules by name. A rule may be named before it is defined."""

    ways: dict[str, list[Way]] = field(default_factory=dict)
    terminals: dict[str, str] = field(default_factory=dict)

    def name(self) -> str:
        """Return a new rule's name."""
        name = f"r{len(self.ways)}"
        self.ways[name] = []
        return name

    def terminal(self, *patterns: str, other_than: Iterable[str] = ()) -> str:
        """Return the name of what matches all of the regexes ``patterns``, and none of ``other_than``."""
        parts = [regex(f"(?:{pattern})") for pattern in patterns]
        definition = " & ".join([*parts, *(f"~{regex(f'(?:{pattern})')}" for pattern in other_than)])
        return self.terminals.setdefault(definition, f"T{len(self.terminals)}")

    def fruitful(self) -> set[str]:
        """Return the rules that match some text: those of which a way needs only such rules."""
        found: set[str] = set()
        while more := {
            name
            for name, ways in self.ways.items()
            if name not in found and any(found.issuperset(way.needs) for way in ways)
        }:
            found |= more
        return found

    def lark(self, start: str) -> str | None:
        """Return the grammar's text, or None if ``start`` matches nothing. Ways that lead nowhere are left out."""
        fruitful = self.fruitful()
        if start not in fruitful:
            return None
        lines = ["%llguidance {}", f"start: {start}"]
        for name in self._reached(start, fruitful):
            ways = [way.text for way in self.ways[name] if fruitful.issuperset(way.needs)]
            lines.append(f"{name}: {' | '.join(dict.fromkeys(ways))}")
        lines += [f"{name}: {definition}" for definition, name in self.terminals.items()]
        return "\n".join(lines) + "\n"

    def _reached(self, start: str, fruitful: set[str]) -> list[str]:
        reached, left = {start: None}, [start]
        while left:
            for way in self.ways[left.pop()]:
                if fruitful.issuperset(way.needs):
                    for name in way.needs:
                        if name not in reached:
                            reached[name] = None
                            left.append(name)
        return list(reached)
