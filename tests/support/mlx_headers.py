"""MLX's own Metal kernels, from the macOS wheel of mlx-metal, which is fetched once into the user's cache."""

import functools
import importlib.metadata
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

from metal_kernels import build_cache
from metal_kernels.emulator.signature import Function, read_signature

KERNELS = "mlx/backend/metal/kernels"
"""Where the kernels are in the include folder."""

REPLACED = {
    f"{KERNELS}/bf16_math.h": "",
    f"{KERNELS}/complex.h": """
        template <class T> struct complex_t { T real, imag; constexpr complex_t(T r, T i = 0) : real(r), imag(i) {} };
        typedef complex_t<float> complex64_t;""",
}
"""Replacements of headers that only Apple's compiler takes. One uses private builtins for functions that the emulator's
bfloat has. The other overloads constructors by address space, for a type that no kernel here uses."""

ONCE_PER_SPACE = re.compile(
    r"template <typename T>\nstruct pointer_element<(?:device|constant|threadgroup) T\*> \{[^}]*\};"
)
"""Specialisations that are the same where address spaces are erased. The one for `thread` stays."""


@functools.cache
def include_folder() -> Path:
    """Return the wheel's include folder. Skip the test if no package index can be reached."""
    version = importlib.metadata.version("mlx")
    folder = build_cache.folder(f"mlx-metal-{version}")
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            fetched = _pip(
                "download",
                "--no-deps",
                "--only-binary=:all:",
                "--platform",
                "macosx_14_0_arm64",
                "--dest",
                scratch,
                f"mlx-metal=={version}",
            )
            if fetched.returncode:
                if _pip("index", "versions", "mlx").returncode:
                    pytest.skip("no package index can be reached, and MLX's headers are not in the cache")
                pytest.fail(
                    f"the index can be reached, but mlx-metal {version} could not be fetched:\n{fetched.stderr}"
                )
            (wheel,) = Path(scratch).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(f"{scratch}/wheel", [n for n in archive.namelist() if n.startswith("mlx/include/")])
            try:
                Path(f"{scratch}/wheel/mlx/include").rename(folder)
            except OSError:  # another process was faster
                assert folder.is_dir()
    return folder


def _pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def kernel(headers: list[str], name: str, template: str) -> Function:
    """Return a kernel function from MLX's headers as MLX assembles them: utilities first, includes pasted."""
    seen: set[str] = set()
    source = "\n".join(_paste(f"{KERNELS}/{header}", seen) for header in ["utils.h", *headers])
    return Function(source, f"{name}<{template}>", read_signature(source, name))


def _paste(path: str, seen: set[str]) -> str:
    if path in seen:
        return ""
    seen.add(path)
    if path in REPLACED:
        return REPLACED[path]
    lines = [f'#line 1 "{path}"']
    text = ONCE_PER_SPACE.sub(lambda match: "\n" * match[0].count("\n"), (include_folder() / path).read_text())
    for number, line in enumerate(text.split("\n"), 1):
        if include := re.match(r'\s*#\s*include\s*"(mlx/[^"]+)"', line):
            lines += [_paste(include[1], seen), f'#line {number + 1} "{path}"']
        elif not re.match(r"\s*#\s*pragma once", line):
            lines.append(line)
    return "\n".join(lines)


def after_utilities(function: Function) -> Function:
    """Return the function as MLX compiles it, after its utilities: defining a name of theirs is then an error."""
    return Function(
        f"{_paste(f'{KERNELS}/utils.h', set())}\n{function.source}", function.expression, function.parameters
    )
