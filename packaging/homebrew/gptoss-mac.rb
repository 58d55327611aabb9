# The formula, without what a release has: homepage, url, sha256 and a resource for each package. A release adds these, for
# a tap to take, and `make formula` does so for the files in dist/. Nobody has run brew on it: this project was made
# without a Mac.
class GptossMac < Formula
  include Language::Python::Virtualenv

  desc "Run OpenAI's gpt-oss-20b and gpt-oss-120b on a Mac"
  license "Apache-2.0"

  depends_on "rust" => :build # for hf-xet, llguidance, pydantic-core and tiktoken
  depends_on arch: :arm64
  depends_on "certifi" => :no_linkage
  depends_on "libyaml"
  depends_on macos: :sonoma
  # MLX has no source distribution, so it is Homebrew's. Homebrew has pip look at no dependencies, so compare its version
  # with pyproject.toml's.
  depends_on "mlx"
  depends_on "numpy"
  depends_on "python@3.14"

  def install
    virtualenv_install_with_resources
    generate_completions_from_executable(bin/"gptoss-mac", "completion")
  end

  def caveats
    <<~EOS
      The service serves the default model at http://127.0.0.1:8080/v1. Choose and install one first:
        gptoss-mac chat --model 20b
    EOS
  end

  service do
    run [opt_bin/"gptoss-mac", "serve"]
    keep_alive successful_exit: false
    log_path var/"log/gptoss-mac.log"
    error_log_path var/"log/gptoss-mac.log"
  end

  test do
    ENV["GPTOSS_MAC_HOME"] = testpath
    assert_match version.to_s, shell_output("#{bin}/gptoss-mac --version")
    assert_match "5", shell_output("#{bin}/gptoss-mac run --model tiny --temperature 0 'What is 2 + 3?'")
  end
end
