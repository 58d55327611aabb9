"""Compilers are found on the PATH and in ziglang, and asked in a way that their answers can be read."""

import platform

import pytest

from metal_kernels import toolchain

HERE = list(toolchain.candidates(["g++", "clang++"]))


def test_compilers_come_in_the_order_of_the_names_and_ziglang_last(programs):
    paths = [programs("zz"), programs("aa")]
    found = list(toolchain.candidates(["zz", "missing", "aa"]))
    assert [each.driver[0] for each in found[:2]] == paths
    assert [each.name for each in found] == ["zz", "aa", "ziglang"]


def test_nothing_is_found_where_nothing_is(programs, monkeypatch):
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    assert list(toolchain.candidates(["g++"])) == []


def test_a_compiler_answers_in_english_and_gets_no_input(programs, monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_DE.ISO-8859-1")
    programs("cc", "printf 'in %s, input <' \"$LC_ALL\" >&2; read line; printf '%s> \\374' \"$line\" >&2; exit 3")
    (found, *_) = toolchain.candidates(["cc"])
    done = found.drive("x.cpp")
    assert (done.returncode, done.stderr) == (3, "in C, input <> \ufffd")


def test_a_trial_gives_the_source_before_the_flags(programs):
    programs("cc", 'read line < "$1"; echo "$line"; shift; echo "$@"')
    (found, *_) = toolchain.candidates(["cc"])
    source, arguments = toolchain.trial(found.drive, "int x;\n", "-shared", "-lm").stdout.splitlines()
    assert source == "int x;"
    assert arguments.startswith("-shared -lm -o ")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="asks for a feature of x86")
@pytest.mark.parametrize("found", HERE, ids=lambda found: found.name)
def test_code_is_for_any_machine_of_this_kind(found):
    done = toolchain.trial(found.drive, "#ifdef __SSE3__\n#error more than every x86-64 has\n#endif\nint x;\n", "-c")
    assert done.returncode == 0, done.stderr
