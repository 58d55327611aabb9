"""One message, one answer, and the names that a Python caller finds at the top."""

import subprocess
import sys

import pytest

import gptoss_mlx
from gptoss_mlx.answer import answer_to
from gptoss_mlx.errors import CutOffError, NoAnswerError
from tests.test_conversation import FINAL, THINK, saying, tokenizer  # noqa: F401
from tests.test_imports import ROOT


def test_the_answer_comes_alone(saying):  # noqa: F811
    chat = saying(THINK + "Hm.<|end|><|start|>assistant" + FINAL + "Four.<|return|>")
    assert answer_to(chat, "2 + 2?") == "Four."


def test_what_is_no_whole_answer_is_an_error(saying):  # noqa: F811
    with pytest.raises(NoAnswerError, match="length"):
        answer_to(saying(THINK + "Hm hm hm"), "2 + 2?")
    with pytest.raises(CutOffError, match="length") as raised:
        answer_to(saying(FINAL + "Four is"), "2 + 2?")
    assert raised.value.answer == "Four is"


def test_every_name_at_the_top_is_there_and_importing_it_is_cheap():
    assert all(hasattr(gptoss_mlx, name) for name in gptoss_mlx.__all__)
    code = "import sys; from gptoss_mlx import UsageError; print(*{'mlx', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "\n"
