"""Regexes of the numbers between two bounds, as JSON spells them. All are bounded in length.

A number has at most DIGITS significant digits: more do not change a double. Knows no schema.
"""

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

DIGITS = 17
EXACT_DIGITS = 15
"""Two decimals of so many digits are never the same double. So one below a bound is below it as a double too."""
EXPONENT = 307
"""The largest exponent that any first digit may have in a double."""
MOST_VALUES = 512
"""Multiples that are listed one by one."""


@dataclass(frozen=True)
class Range:
    """Bounds, None where there is none; ``above`` and ``below`` are exclusive."""

    minimum: Decimal | None = None
    maximum: Decimal | None = None
    above: Decimal | None = None
    below: Decimal | None = None

    @property
    def bounds(self) -> list[Decimal]:
        """Return those there are."""
        return [bound for bound in (self.minimum, self.maximum, self.above, self.below) if bound is not None]

    def __contains__(self, value: Decimal) -> bool:
        low = (self.minimum is None or value >= self.minimum) and (self.above is None or value > self.above)
        return low and (self.maximum is None or value <= self.maximum) and (self.below is None or value < self.below)


def integer(limits: Range, multiple: int = 1) -> list[str] | None:
    """Return regexes of which an integer matches all, or None if no integer does. Raises ValueError for multiples that
    no regex of ours describes."""
    least = [_up(limits.minimum)] if limits.minimum is not None else []
    least += [_down(limits.above) + 1] if limits.above is not None else []
    most = [_down(limits.maximum)] if limits.maximum is not None else []
    most += [_up(limits.below) - 1] if limits.below is not None else []
    low, high = max(least, default=None), min(most, default=None)
    if low is not None and high is not None:
        first, last = -(-low // multiple), high // multiple
        if first > last:
            return None
        if last - first < MOST_VALUES:
            return ["|".join(str(number * multiple) for number in range(first, last + 1))]
    digits = max([DIGITS, *(len(str(abs(bound))) for bound in (low, high) if bound is not None)])
    parts = [f"0|-?[1-9][0-9]{{0,{digits - 1}}}"]
    parts += [_at_least(Decimal(low), strict=False)] if low is not None else []
    parts += [_at_most(Decimal(high), strict=False)] if high is not None else []
    return parts + ([_last_digits(multiple)] if multiple > 1 else [])


def number(limits: Range) -> list[str] | None:
    """Return regexes of which a number matches all, or None if no number does."""
    low = max([bound for bound in (limits.minimum, limits.above) if bound is not None], default=None)
    high = min([bound for bound in (limits.maximum, limits.below) if bound is not None], default=None)
    if low is None and high is None:
        return [_ANY]
    if low is not None and high is not None and (low > high or (low == high and low in (limits.above, limits.below))):
        return None
    digits = DIGITS if limits.above is None and limits.below is None else EXACT_DIGITS
    digits = max([digits, *(len(bound.as_tuple().digits) + 1 for bound in limits.bounds)])
    whole = max([digits, *(len(f"{abs(bound):f}".partition(".")[0]) for bound in limits.bounds)])
    parts = [f"-?(?:{_plain(digits, whole)})"]
    if low is not None:
        parts.append(_at_least(low, strict=low == limits.above))
    if high is not None:
        parts.append(_at_most(high, strict=high == limits.below))
    return parts


def _plain(digits: int, whole: int) -> str:
    """Return the unsigned numbers without an exponent of up to ``digits`` digits, integers of up to ``whole``."""
    mixed = "|".join(f"[1-9][0-9]{{{n - 1}}}\\.[0-9]{{1,{digits - n}}}" for n in range(1, digits))
    return f"0(?:\\.[0-9]{{1,{digits}}})?|[1-9][0-9]{{0,{whole - 1}}}|{mixed}"


_ANY = (
    f"-?(?:{_plain(DIGITS, DIGITS)}|[1-9](?:\\.[0-9]{{1,{DIGITS - 1}}})?"
    r"[eE](?:\+?(?:[0-9]|[1-9][0-9]|[12][0-9][0-9]|30[0-7])|-(?:[0-9]|[1-9][0-9]|[12][0-9][0-9]|30[0-7])))"
)


def _at_least(bound: Decimal, strict: bool) -> str:
    """Return a regex of the well-formed plain numbers from ``bound`` on, beyond it where ``strict``."""
    if bound > 0:
        return _beyond(bound, strict)
    if bound == 0:
        return _beyond(Decimal(0), strict) if strict else r"-?0(?:\.0+)?|[0-9].*"
    return f"-(?:{_within(-bound, strict)})|[0-9].*"


def _at_most(bound: Decimal, strict: bool) -> str:
    if bound > 0:
        return f"-.*|{_within(bound, strict)}"
    if bound == 0:
        return f"-(?:{_beyond(Decimal(0), True)})" if strict else r"-.*|0(?:\.0+)?"
    return f"-(?:{_beyond(-bound, strict)})"


def _within(bound: Decimal, strict: bool) -> str:
    """Return a regex of unsigned numbers up to a positive ``bound``."""
    whole, fraction = _parts(bound)
    ways = []
    if len(whole) > 1:
        ways.append(f"[0-9]{{1,{len(whole) - 1}}}(?:\\..*)?")
    ways += [f"{lower}[0-9]{{{len(whole) - len(stem) - 1}}}(?:\\..*)?" for stem, lower in _lower(whole)]
    ways += [f"{whole}\\.{lower}[0-9]*" for _, lower in _lower(fraction)]
    ways += [f"{whole}\\.{fraction[:n]}" for n in range(1, len(fraction))]
    if fraction:
        ways.append(whole)
    if not strict:
        ways.append(f"{whole}\\.{fraction}0*" if fraction else f"{whole}(?:\\.0+)?")
    return "|".join(ways) or "[^\\x00-\\x{10FFFF}]"


def _beyond(bound: Decimal, strict: bool) -> str:
    """Return a regex of unsigned numbers from ``bound`` on, which is not negative."""
    whole, fraction = _parts(bound)
    ways = [f"[1-9][0-9]{{{len(whole)},}}(?:\\..*)?"]
    ways += [f"{higher}[0-9]{{{len(whole) - len(stem) - 1}}}(?:\\..*)?" for stem, higher in _higher(whole)]
    ways += [f"{whole}\\.{higher}[0-9]*" for _, higher in _higher(fraction)]
    ways.append(f"{whole}\\.{fraction}0*[1-9][0-9]*")
    if not strict:
        ways.append(f"{whole}\\.{fraction}0*" if fraction else f"{whole}(?:\\.0+)?")
    return "|".join(ways)


def _parts(bound: Decimal) -> tuple[str, str]:
    whole, _, fraction = f"{bound:f}".partition(".")
    return whole, fraction.rstrip("0")


def _lower(digits: str) -> list[tuple[str, str]]:
    """Return for each place the digits before it, and those with a lower digit there, as a regex."""
    return [(digits[:n], f"{digits[:n]}[0-{int(d) - 1}]") for n, d in enumerate(digits) if d != "0"]


def _higher(digits: str) -> list[tuple[str, str]]:
    return [(digits[:n], f"{digits[:n]}[{int(d) + 1}-9]") for n, d in enumerate(digits) if d != "9"]


def _last_digits(multiple: int) -> str:
    """Return a regex of multiples by their last digits. Raises ValueError if these do not tell them."""
    for places in range(1, len(str(multiple)) + 3):
        power = 10**places
        if power % multiple == 0 and power // multiple <= MOST_VALUES:
            ends = "|".join(f"{end:0{places}d}" for end in range(0, power, multiple))
            short = "|".join(str(end) for end in range(0, power // 10, multiple))
            return f"-?(?:[0-9]*(?:{ends})|{short})"
    raise ValueError(f"multiples of {multiple} need a minimum and a maximum with at most {MOST_VALUES} of them between")


def _up(bound: Decimal) -> int:
    return int(bound.to_integral_value(ROUND_CEILING))


def _down(bound: Decimal) -> int:
    return int(bound.to_integral_value(ROUND_FLOOR))


def decimal(value: int | float) -> Decimal:
    """Return the number that JSON spelled. Raises ValueError where it is not finite or of absurd size."""
    exact = Decimal(repr(value))
    if not exact.is_finite() or abs(exact.adjusted()) > EXPONENT:
        raise ValueError("must be a finite number")
    return exact
