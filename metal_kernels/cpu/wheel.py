"""Puts the native library into a wheel that is built where a compiler is.

This is the wheel command of setuptools; pyproject.toml names it, and nothing in the product imports it. Without a
library the wheel serves every platform, and its users build one at first use if they have a compiler.
"""

import sys
from pathlib import Path

from setuptools.command.bdist_wheel import bdist_wheel

ROOT = Path(__file__).resolve().parents[2]


class Wheel(bdist_wheel):
    """A wheel for this platform and any Python if the library could be built, else for any platform."""

    def run(self) -> None:
        """Build the library among the built files, then the wheel from these."""
        sys.path.insert(0, str(ROOT))  # setuptools loads this file alone
        from metal_kernels.cpu import build

        target = Path(self.get_finalized_command("build").build_lib, "metal_kernels", "cpu", build.PACKAGED.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # of an earlier build in this folder
        try:
            build.compile_library(target)
        except (build.Absent, OSError) as reason:
            print(f"native CPU library: none, {reason}")
        else:
            self.root_is_pure = False
            self.distribution.has_ext_modules = lambda: True  # decides between the two folders that pip installs into
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        """Return the Python, ABI and platform that the wheel is for. The library depends on the platform only."""
        tag = super().get_tag()
        return tag if self.root_is_pure else ("py3", "none", tag[2])
