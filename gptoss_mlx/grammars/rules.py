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
        missing = {(name, at): set(way.needs) for name, ways in self.ways.items() for at, way in enumerate(ways)}
        needing: dict[str, list[tuple[str, int]]] = {}
        for place, needs in missing.items():
            for need in needs:
                needing.setdefault(need, []).append(place)
        found = {name for (name, _), needs in missing.items() if not needs}
        left = list(found)
        while left:
            one = left.pop()
            for place in needing.get(one, ()):
                missing[place].discard(one)
                if not missing[place] and place[0] not in found:
                    found.add(place[0])
                    left.append(place[0])
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

    def depth(self, start: str) -> int:
        """Return how deep a compiler recurses that goes from each rule into those it names, once into each."""
        seen, stack, most = {start}, [iter(self._named(start))], 1
        while stack:
            for name in stack[-1]:
                if name not in seen:
                    seen.add(name)
                    stack.append(iter(self._named(name)))
                    most = max(most, len(stack))
                    break
            else:
                stack.pop()
        return most

    def _named(self, rule: str) -> list[str]:
        return [name for way in self.ways[rule] for name in way.needs]

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
