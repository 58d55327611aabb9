"""Arrays and objects as rules: how their parts are joined, and where whitespace may stand. Knows no schema."""

from collections.abc import Sequence

from gptoss_mlx.grammars.rules import Rules, Way

_INDENT = r"(?:\n {0,12}| )?"
_OPEN, _CLOSE, _COMMA, COLON = rf"\{{{_INDENT}", rf"{_INDENT}\}}", rf",{_INDENT}", ": ?"
_OPEN_ARRAY, _CLOSE_ARRAY = rf"\[{_INDENT}", rf"{_INDENT}\]"


def array(rules: Rules, items: Sequence[str]) -> Way:
    """Return an array of ``items`` in their order, which are rules."""
    opened, comma, close = (rules.terminal(text) for text in (_OPEN_ARRAY, _COMMA, _CLOSE_ARRAY))
    return Way(f"{opened} {f' {comma} '.join(items)} {close}", tuple(items))


def longer_array(rules: Rules, items: Sequence[str], item: str, least: int, most: int | None) -> Way:
    """Return an array of ``items`` and then ``least`` to ``most`` times ``item``. ``least`` is 1 or more."""
    opened, comma, close = (rules.terminal(text) for text in (_OPEN_ARRAY, _COMMA, _CLOSE_ARRAY))
    if items:
        more = f"({comma} {item}){_times(least, most)}"
        return Way(f"{opened} {f' {comma} '.join(items)} {more} {close}", (*items, item))
    more = f"({comma} {item}){_times(least - 1, None if most is None else most - 1)}" if most != 1 else ""
    return Way(f"{opened} {item} {more} {close}", (item,))


def chain(rules: Rules, members: list[tuple[str, str, bool]], extras: list[Way], filled: bool) -> list[Way]:
    """Return an object of ``members`` in their order, each its text, its rule and whether it is required, and then
    of ``extras``; with at least one property if ``filled``."""
    comma, close = rules.terminal(_COMMA), rules.terminal(_CLOSE)
    after = rules.name()  # what may follow the last property
    rules.ways[after] = [Way(close)]
    rules.ways[after] += [Way(f"{comma} {one.text} {after}", (*one.needs, after)) for one in extras]
    begin = [Way(f"{one.text} {after}", (*one.needs, after)) for one in extras] + ([] if filled else [Way(close)])
    for text, rule, needed in reversed(members):
        first = [Way(f"{text} {after}", (rule, after))]
        begin = first if needed else first + begin
        before = rules.name()
        rules.ways[before] = [Way(f"{comma} {text} {after}", (rule, after))]
        if not needed:
            rules.ways[before].append(Way(after, (after,)))
        after = before
    opened = rules.terminal(_OPEN)
    return [Way(f"{opened} {way.text}", way.needs) for way in begin]


def mapping(rules: Rules, extras: list[Way], least: int, most: int | None) -> list[Way]:
    """Return an object without declared properties, of ``least`` to ``most`` of ``extras``: no way if none is there."""
    opened, comma, close = (rules.terminal(text) for text in (_OPEN, _COMMA, _CLOSE))
    ways = [] if least else [Way(f"{opened} {close}")]
    if extras and most != 0:
        entry = rules.name()
        rules.ways[entry] = extras
        times = _times(max(least - 1, 0), None if most is None else most - 1)
        ways.append(Way(f"{opened} {entry} {f'({comma} {entry}){times}' if most != 1 else ''} {close}", (entry,)))
    return ways


def _times(least: int, most: int | None) -> str:
    if most is None:
        return "*" if least == 0 else f"{{{least},}}"
    return f"{{{least},{most}}}"
