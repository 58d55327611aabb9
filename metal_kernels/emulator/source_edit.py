"""Edits Metal source into the C++ that both passes compile, and checks the rules that need only the text.

The main edit turns a function's ``threadgroup T x[N];`` into a macro, which allocates in the run and declares in the
lint. If the edit does not recognise a declaration, the lint rejects it, because an automatic variable cannot have an
address space. So the edit cannot miss one silently.
"""

import re

from metal_kernels.emulator.report import Finding, FindingKind, Place
from metal_kernels.source import closing, split_arguments, without_comments

_THREADGROUP_VARIABLE = re.compile(
    r"(?m)(?<=[;{}\n])(\s*)threadgroup\s+([\w:<>, ]+?)\s+(\w+)\s*((?:\[[^\]\n;]*\]\s*)*);"
)
_THREADGROUP_ATTRIBUTE = re.compile(r"\[\[\s*threadgroup\s*\(")
_ADDRESS_SPACES = {"device", "constant", "threadgroup", "thread"}
_NOT_FUNCTIONS = {"if", "for", "while", "switch", "return", "sizeof", "decltype", "defined", "alignas", "asm"}


def edit(source: str) -> str:
    """Return Metal source with threadgroup variables as macros. Every line keeps its number."""
    count = 0

    def variable(match: re.Match[str]) -> str:
        nonlocal count
        count += 1
        space, type_, name, dimensions = match.groups()
        return f"{space}EMU_THREADGROUP(({type_.strip()}), {name}, ({dimensions.strip()}), emu_variable_{count});"

    source = _THREADGROUP_ATTRIBUTE.sub("[[emu_threadgroup(", source)
    return _THREADGROUP_VARIABLE.sub(variable, source)


def places(source: str, file: str) -> list[Place]:
    """Return the place of every line of a text, by its ``#line`` directives."""
    result = []
    line = 0
    for text in source.split("\n"):
        line += 1
        if directive := re.match(r'\s*#\s*(?:line\s+)?(\d+)(?:\s+"([^"]*)")?', text):
            line = int(directive[1]) - 1
            file = directive[2] or file
        result.append(Place(file, line))
    return result


def unqualified_parameters(source: str, file: str) -> list[Finding]:
    """Return a finding for each pointer or reference parameter without an address space, which clang cannot reject."""
    text = without_comments(source)
    where = places(source, file)
    found = []
    for match in re.finditer(r"\b(\w+)\s*\(", text):
        if match[1] in _NOT_FUNCTIONS:
            continue
        end = closing(text, match.end())
        # In a definition, a body or a constructor's initialisers follow the parameters.
        if not re.match(r"\s*(const\s*)?((thread|device|threadgroup|constant)\s*)?[{:]", text[end : end + 60]):
            continue
        for parameter in split_arguments(text[match.end() : end - 1]):
            declared = re.sub(r"\[\[.*?\]\]", "", parameter, flags=re.S).split("=")[0]
            if re.search(r"[\w>]\s*[*&]", declared) and not _ADDRESS_SPACES & set(re.findall(r"\w+", declared)):
                place = where[text[: match.start()].count("\n")]
                message = f"parameter '{' '.join(declared.split())}' of {match[1]} needs an address space"
                found.append(Finding(FindingKind.LINT, place, message))
    return found


_CHOSEN = re.compile(r"\?\s*(\w+)\s*\[[^\[\]?:;]*\]\s*:\s*\1\s*\[")


def chosen_elements(source: str, file: str) -> list[Finding]:
    """Return a finding for each ``?:`` between two elements of one private array. It is an address that the thread
    chooses, so the array leaves the registers where the compiler does not see through it, as clang 16 and 19 do not."""
    text = without_comments(source)
    where = places(source, file)
    found = []
    for match in _CHOSEN.finditer(text):
        elsewhere = rf"\b(?:device|constant|threadgroup)\b[^;(){{}},]*[\s*&]{match[1]}\b"
        if not re.search(elsewhere, text):
            message = f"`?:` between elements of {match[1]} makes an address: load both before choosing"
            found.append(Finding(FindingKind.LINT, where[text[: match.start()].count("\n")], message))
    return list(dict.fromkeys(found))
