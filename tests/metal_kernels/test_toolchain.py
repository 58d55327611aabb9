"""Compilers are found on the PATH and in ziglang, and asked in a way that their answers can be read."""

import pytest

from metal_kernels import toolchain


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Return a function that puts a shell script of this name on the PATH, which has nothing else."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def put(name, script="exit 0"):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return put


def test_compilers_come_in_the_order_of_the_names_and_ziglang_last(programs):
    paths = [programs("zz"), programs("aa")]
    found = list(toolchain.candidates(["zz", "missing", "aa"]))
    assert [each.driver[0] for each in found[:2]] == paths
    assert [each.name for each in found] == ["zz", "aa", "ziglang"]


def test_nothing_is_found_where_nothing_is(programs, monkeypatch):
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    assert list(toolchain.candidates(["first"])) == []


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
