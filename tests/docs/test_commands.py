"""The page of commands says what the program says."""

import re

from gptoss_mlx import errors
from gptoss_mlx.cli.signals import code
from tests.support.cli_reference import PAGE, with_reference


def test_the_page_has_what_help_prints():
    page = PAGE.read_text()
    assert page == with_reference(page), "run `make commands`"


def test_the_page_has_every_exit_code():
    def below(kind):
        return {kind.exit_code}.union(*map(below, kind.__subclasses__()))

    rows = re.findall(r"^\| ([\d, ]+) \|", PAGE.read_text(), re.MULTILINE)
    listed = {int(number) for row in rows for number in row.split(",")}
    assert listed == below(errors.GptOssError) | {0} | {code(number) for number in (1, 2, 15)}
