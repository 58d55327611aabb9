"""The tables of the documentation's pages that follow from the code."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from gptoss_mlx.config import PUBLISHED
from tests.metal_kernels import mutate
from tests.support import house, make_targets
from tests.support.diagrams import facts
from tests.support.diagrams.facts import GB, MB
from tests.support.diagrams.numbers import numbers
from tests.support.page_parts import DOCS, ROOT

CHAT = 8192


def reads() -> str:
    """Return what a decoded token reads of each model."""
    names = tuple(PUBLISHED)
    lines = [f"| | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    configs = list(PUBLISHED.values())

    def row(what: str, *cells: str) -> None:
        lines.append(f"| {what} | {' | '.join(cells)} |")

    layer = [sum(facts.read_by(operation, config) for operation in facts.OPERATIONS) for config in configs]
    row("weights of a layer", *(f"{nbytes / MB:.0f} MB" for nbytes in layer))
    pairs = zip(layer, configs, strict=True)
    row("of all layers", *(f"{nbytes * config.num_hidden_layers / GB:.2f} GB" for nbytes, config in pairs))
    row("head", *(f"{facts.head_bytes(config) / GB:.2f} GB" for config in configs))
    row("a token, context empty", *(f"**{facts.token_bytes(config, 0) / GB:.2f} GB**" for config in configs))
    caches = (facts.token_bytes(config, CHAT) - facts.token_bytes(config, 0) for config in configs)
    row(f"keys and values of {CHAT:,} positions", *(f"{nbytes / GB:.2f} GB" for nbytes in caches))
    row(f"a token after {CHAT:,}", *(f"**{facts.token_bytes(config, CHAT) / GB:.2f} GB**" for config in configs))
    return "\n".join(lines)


CHANGES = {
    "offset": "two positions in an array, or two variables that positions are made of, are exchanged",
    "bound": "the limit of a loop or an array is moved by one",
    "term": "a term or a factor is dropped",
    "guard": "one side of `min`, `max`, a clamp or a condition is removed",
    "exchange": "two operands are exchanged",
    "constant": "a constant is changed",
    "barrier": "a barrier is removed",
}


def mutants() -> str:
    """Return how many mutants of each kind the shaders have."""
    found = Counter(mutant.kind for mutant in mutate.all_mutants())
    assert set(found) == set(CHANGES)
    rows = [f"| {kind} | {what} | {found[kind]:,} |" for kind, what in CHANGES.items()]
    last = f"| all | of which {len(mutate.EQUIVALENT)} compute the same | {found.total():,} |"
    return "\n".join(("| kind | what is changed | mutants |", "|---|---|---|", *rows, last))


PARTS: tuple[tuple[Path, str, Callable[[], str]], ...] = (
    (DOCS / "how-it-works.md", "reads", reads),
    (DOCS / "shaders.md", "mutants", mutants),
    (DOCS / "limits.md", "numbers", numbers),
    (house.PAGE, "rooms", house.table),
    (ROOT / "CONTRIBUTING.md", "targets", make_targets.table),
)
"""A page, the name of a part of it, and what writes that part."""
