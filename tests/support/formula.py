"""The Homebrew formula: packaging/homebrew/gptoss-mac.rb with what only a release knows.

``python -m tests.support.formula UV SDIST FILE`` resolves with uv what a server needs on a Mac, and writes the formula
that installs this source distribution, and the source of each of these packages, to FILE. With ``--project URL`` it
installs what is attached to the project's release on GitHub.
"""

import argparse
import hashlib
import os
import re
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FORMULA = ROOT / "packaging/homebrew/gptoss-mac.rb"

HOMEBREW = {"certifi", "mlx", "mlx-metal", "numpy"}
"""Packages that the formula takes from formulae of Homebrew's own."""

MACOS = "14.0"
"""The oldest macOS that MLX has wheels for: ``:sonoma`` in the formula."""


@dataclass(frozen=True)
class Source:
    """A source distribution. The package ``name`` is Homebrew's name of a resource too."""

    name: str
    url: str
    sha256: str


def sources(lock: str) -> list[Source]:
    """Return the sources in a pylock.toml (PEP 751), without those that Homebrew has. Raises ValueError for a package
    that has none."""
    found = []
    for package in tomllib.loads(lock)["packages"]:
        if package["name"] in HOMEBREW:
            continue
        if "sdist" not in package:
            raise ValueError(f"{package['name']} {package['version']} has no source distribution")
        found.append(Source(package["name"], package["sdist"]["url"], package["sdist"]["hashes"]["sha256"]))
    return found


def resolved(uv: str) -> str:
    """Return what uv locks for the formula's Python on a Mac, as pylock.toml."""
    found = re.search(r'"python@(\S+)"', FORMULA.read_text())
    assert found is not None
    command = (uv, "pip", "compile", "--quiet", "--extra", "serve", "--format", "pylock.toml", "pyproject.toml")
    target = ("--python-platform", "aarch64-apple-darwin", "--python-version", found[1])
    environment = os.environ | {"MACOSX_DEPLOYMENT_TARGET": MACOS}
    done = subprocess.run([*command, *target], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def whole(formula: str, own: Source, packages: list[Source], homepage: str | None = None) -> str:
    """Return a formula that installs ``own`` with ``packages``."""
    origin = f'  url "{own.url}"\n  sha256 "{own.sha256}"\n'
    if homepage is not None:
        origin = f'  homepage "{homepage}"\n{origin}'
    resources = "".join(
        f'  resource "{one.name}" do\n    url "{one.url}"\n    sha256 "{one.sha256}"\n  end\n\n' for one in packages
    )
    for line, added in (("  license ", origin), ("  def install\n", resources)):
        before, after = formula.split(line)
        formula = f"{before}{added}{line}{after}"
    return formula


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("uv")
    parser.add_argument("sdist", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--project")
    options = parser.parse_args()
    sdist = options.sdist.absolute()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    url = f"{options.project}/releases/download/v{version}/{sdist.name}" if options.project else sdist.as_uri()
    own = Source("gptoss-mac", url, hashlib.sha256(sdist.read_bytes()).hexdigest())
    options.file.parent.mkdir(parents=True, exist_ok=True)
    options.file.write_text(whole(FORMULA.read_text(), own, sources(resolved(options.uv)), options.project))


if __name__ == "__main__":
    main()
