"""The Homebrew formula has the source of every package that a server on a Mac needs, and Ruby reads it."""

import hashlib
import json
import re
import shutil
import subprocess

import pytest

from tests.packaging.conftest import PROJECT
from tests.packaging.test_installers import tool
from tests.support.formula import FORMULA, HOMEBREW, Source, resolved, sources, whole

LOCK = """
lock-version = "1.0"
[[packages]]
name = "h11"
version = "0.16.0"
sdist = { url = "https://index.invalid/h11-0.16.0.tar.gz", hashes = { sha256 = "aa" } }
[[packages]]
name = "mlx"
version = "0.32.4"
wheels = [{ url = "https://index.invalid/mlx.whl", hashes = { sha256 = "bb" } }]
"""

SAID = """
class Formula
  def self.method_missing(name, *given, &block)
    @kept ||= {}
    if name == :resource
      inner = Class.new(Formula)
      inner.class_eval(&block)
      (@kept[:resources] ||= []) << [given[0], inner.kept]
    elsif name == :service
      inner = Class.new(Formula) { def self.opt_bin = "bin/"; def self.var = "var/" }
      inner.class_eval(&block)
      @kept[:service] = inner.kept
    else
      @kept[name] = given
    end
  end
  def self.kept = @kept
  def self.test = nil  # which Kernel has too
end
class String; def /(other) = self + other; end
module Language; module Python; module Virtualenv; end; end; end
load ARGV[0]
require "json"
puts JSON.generate(GptossMac.kept)
"""
"""A stand-in for Homebrew's language, which prints what a formula says in it."""


def test_packages_that_homebrew_has_are_left_to_it():
    assert sources(LOCK) == [Source("h11", "https://index.invalid/h11-0.16.0.tar.gz", "aa")]


def test_a_package_without_a_source_is_refused():
    with pytest.raises(ValueError, match=r"other 0\.32\.4 has no source"):
        sources(LOCK.replace('"mlx"', '"other"'))


def test_a_release_installs_its_own_source_with_that_of_each_package():
    own = Source("gptoss-mac", "https://project.invalid/gptoss_mac-1.0.tar.gz", "cc")
    formula = whole(FORMULA.read_text(), own, sources(LOCK), "https://project.invalid")
    assert re.findall(r' url "(\S+)"\n +sha256 "(\S+)"', formula) == [
        (own.url, own.sha256),
        ("https://index.invalid/h11-0.16.0.tar.gz", "aa"),
    ]
    assert 'homepage "https://project.invalid"' in formula
    assert formula.index('resource "h11" do') < formula.index("  def install\n")


@pytest.mark.slow
def test_ruby_reads_the_formula_that_is_made_of_what_uv_resolves(source_distribution, tmp_path):
    if not shutil.which("ruby"):
        pytest.skip("no ruby")
    own = Source(
        "gptoss-mac", source_distribution.as_uri(), hashlib.sha256(source_distribution.read_bytes()).hexdigest()
    )
    file = tmp_path / "gptoss-mac.rb"
    file.write_text(whole(FORMULA.read_text(), own, sources(resolved(tool("uv"))), "https://project.invalid"))
    (tmp_path / "said.rb").write_text(SAID)
    done = subprocess.run(["ruby", tmp_path / "said.rb", file], capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    assert said["license"] == [PROJECT["license"]]
    assert said["service"]["run"] == [["bin/gptoss-mac", "serve"]]
    assert said["service"]["keep_alive"] == [{"successful_exit": False}]
    names = {name for name, _ in said["resources"]}
    needed = (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["serve"])
    declared = {re.match(r"[\w.-]+", one)[0].replace("_", "-") for one in needed if "linux" not in one}
    assert declared <= names | HOMEBREW
    for _, source in said["resources"]:
        assert re.fullmatch(r"[0-9a-f]{64}", source["sha256"][0])
        assert source["url"][0].endswith(".tar.gz")
