"""Pictures and tables of the documentation are what the code says, and what they say is so."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

import gptoss_mlx
from metal_kernels import launch
from tests.support import house
from tests.support.diagrams import facts
from tests.support.diagrams.pictures import DOES, PICTURES
from tests.support.diagrams.svg import SMALL, STYLE, Picture
from tests.support.diagrams.tables import PARTS
from tests.support.page_parts import DOCS, part_of
from tests.test_imports import ALLOWED

IMAGES = DOCS / "images"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_the_one_that_the_code_draws(name):
    assert (IMAGES / f"{name}.svg").read_text() == PICTURES[name]().svg(), "run `make diagrams`"


@pytest.mark.parametrize("name", PICTURES)
def test_a_pictures_text_is_not_tiny_and_lies_inside(name):
    drawn = ElementTree.parse(IMAGES / f"{name}.svg").getroot()
    texts = drawn.findall(f"{SVG}text")
    assert texts
    for text in texts:
        assert int(text.attrib["font-size"]) >= SMALL
        assert 0 < float(text.attrib["y"]) < float(drawn.attrib["height"])
        assert 0 < float(text.attrib["x"]) < float(drawn.attrib["width"])


def brightness(colour):
    """Return the relative luminance of a colour such as #1f2328, as WCAG defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("number", [0, 1], ids=["light", "dark"])
def test_text_stands_out_from_whatever_it_stands_on(number):
    """By WCAG's 4.5 to 1 for text, in both settings of the reader."""
    rules = STYLE.split("@media")[number]
    fills = dict(re.findall(r"^\s*\.?(\w+) \{.*?fill: (#\w{6})", rules, re.MULTILINE))
    letters = [brightness(fills[name]) for name in ("text", "soft")]
    grounds = {name: brightness(fills[name]) for name in ("panel", "box", "warm", "green", "violet", "grey", "red")}
    for name, ground in grounds.items():
        for letter in letters:
            light, dark = max(letter, ground), min(letter, ground)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, name


@pytest.mark.parametrize(("page", "name", "make"), PARTS, ids=lambda part: part if isinstance(part, str) else "")
def test_a_part_of_a_page_is_what_the_code_writes(page, name, make):
    assert part_of(page, name) == make(), "run `make diagrams`"


def test_every_picture_is_shown_with_a_text_for_those_who_do_not_see_it():
    shown = [
        found for page in DOCS.glob("*.md") for found in re.findall(r"!\[([^\]]+)\]\(images/(\S+)\)", page.read_text())
    ]
    assert {f"{name}.svg" for name in PICTURES} <= {file for _, file in shown}


def test_a_text_that_does_not_fit_into_its_box_is_refused():
    picture = Picture("none", 100)
    with pytest.raises(ValueError, match="width"):
        picture.box(0, 0, 50, 60, "a title", ["a line that is far too long"])
    with pytest.raises(ValueError, match="height"):
        picture.box(0, 0, 500, 30, "a title", ["a line"])


def test_a_decode_step_runs_the_six_operations_of_the_picture_in_its_order(monkeypatch):
    runtime = gptoss_mlx.load("tiny")
    seen = []

    def watched(name, operation):
        def watching(*arguments, **options):
            seen.append(name)
            return operation(*arguments, **options)

        return watching

    for name in DOES:
        monkeypatch.setattr(launch, name, watched(name, getattr(launch, name)))
    list(runtime.generate([0], max_tokens=1, temperature=0, stop=()))
    assert seen == list(DOES) * runtime.config.num_hidden_layers
    assert list(DOES) == list(facts.OPERATIONS)


def test_the_operations_together_read_all_weights_of_a_layer():
    """So no tensor is forgotten: with every expert chosen they read what the layer holds."""
    config = gptoss_mlx.load("tiny").config
    every = type(config)(**{**vars(config), "num_experts_per_tok": config.num_local_experts})
    shard = facts.layout.shards(every, "q8")[1]
    whole = sum(facts.nbytes_of(spec.dtypes[0], spec.shape) for spec in shard.tensors.values())
    assert sum(facts.read_by(operation, every) for operation in facts.OPERATIONS) == whole


def test_the_table_of_rooms_says_what_the_test_of_imports_allows():
    assert house.read_table(house.PAGE.read_text()) == ALLOWED


def test_rooms_of_the_picture_stand_above_all_that_they_import():
    floor = {room: number for number, rooms in enumerate(house.floors()) for room in rooms}
    assert set(floor) == {*house.SHOWN, *house.ABOVE}
    for room in house.SHOWN:
        lower = {house.short(other) for other in ALLOWED[house.full(room)]} & set(floor)
        assert all(floor[other] < floor[room] for other in lower), room


def test_the_paths_that_the_page_names_exist():
    text = house.PAGE.read_text()
    named = re.findall(r"`((?:gptoss_mlx|metal_kernels|convert|tests)/[\w/.]+)`", text)
    assert len(named) > 10
    assert [path for path in named if not (Path(__file__).parents[2] / path).exists()] == []
