"""The text edits between Metal source and the C++ both passes compile, and the rules checked on the text itself.

The one edit of substance turns a function's ``threadgroup T x[N];`` into a macro, which allocates in the run and
declares in the lint. A declaration the edit does not recognise stays as it is, and the lint then rejects it (an
automatic variable cannot have an address space): the edit cannot silently miss one.
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
    """Metal source with threadgroup variables as macros; every line keeps its number."""
    count = 0

    def variable(match: re.Match[str]) -> str:
        nonlocal count
        count += 1
        space, type_, name, dimensions = match.groups()
        return f"{space}EMU_THREADGROUP(({type_.strip()}), {name}, ({dimensions.strip()}), emu_variable_{count});"

    source = _THREADGROUP_ATTRIBUTE.sub("[[emu_threadgroup(", source)
    return _THREADGROUP_VARIABLE.sub(variable, source)


def places(source: str, file: str) -> list[Place]:
    """The place of every line of a text, as its ``#line`` directives say."""
    result, line = [], 0
    for text in source.split("\n"):
        line += 1
        if directive := re.match(r'\s*#\s*(?:line\s+)?(\d+)(?:\s+"([^"]*)")?', text):
            line, file = int(directive[1]) - 1, directive[2] or file
        result.append(Place(file, line))
    return result


def unqualified_parameters(source: str, file: str) -> list[Finding]:
    """Pointer and reference parameters without an address space: Apple's compiler rejects them, clang cannot."""
    text = without_comments(source)
    where = places(source, file)
    found = []
    for match in re.finditer(r"\b(\w+)\s*\(", text):
        if match[1] in _NOT_FUNCTIONS:
            continue
        end = closing(text, match.end())
        # A function's definition: its parameters are followed by a body (or a constructor's initialisers).
        if not re.match(r"\s*(const\s*)?((thread|device|threadgroup|constant)\s*)?[{:]", text[end : end + 60]):
            continue
        for parameter in split_arguments(text[match.end() : end - 1]):
            declared = re.sub(r"\[\[.*?\]\]", "", parameter, flags=re.S).split("=")[0]
            if re.search(r"[\w>]\s*[*&]", declared) and not _ADDRESS_SPACES & set(re.findall(r"\w+", declared)):
                place = where[text[: match.start()].count("\n")]
                message = f"parameter '{' '.join(declared.split())}' of {match[1]} needs an address space"
                found.append(Finding(FindingKind.LINT, place, message))
    return found
