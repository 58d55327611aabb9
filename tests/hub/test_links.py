"""A link is asked for once, however many ranges need it, and again only by who had the one that failed."""

import asyncio

import pytest

from gptoss_mlx.errors import HubError
from gptoss_mlx.hub import list_files
from gptoss_mlx.hub.links import Links

WEIGHTS = "model-00000-of-00001.safetensors"


def links(hub, name=WEIGHTS):
    plan = list_files("openai/gpt-oss-20b", endpoint=hub.address)
    return Links(plan, next(file for file in plan.files if file.name == name))


def test_ranges_share_a_link_and_its_renewal(hub):
    async def ask():
        ours = links(hub)
        first = {id(link): link for link in await asyncio.gather(*(ours.get() for _ in range(4)))}
        assert len(first) == 1
        (old,) = first.values()
        ours.drop(old)
        new = await ours.get()
        assert new is not old
        ours.drop(old)  # another range had it too
        assert await ours.get() is new

    asyncio.run(ask())
    assert len(hub.asked("hub", "HEAD")) == 2


@pytest.mark.parametrize(("name", "from_hub"), [(WEIGHTS, False), ("config.json", True)])
def test_only_the_hub_is_shown_the_token(hub, monkeypatch, name, from_hub):
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    link = asyncio.run(links(hub, name).get())
    assert link.from_hub is from_hub
    assert link.url.startswith(hub.address if from_hub else hub.storage)
    assert ("hf_x" in str(link.headers)) is from_hub


def test_a_file_of_another_size_has_no_link(hub):
    ours = links(hub, "config.json")
    hub.files["config.json"].data += b" "
    with pytest.raises(HubError, match=r"config\.json has changed"):
        asyncio.run(ours.get())


@pytest.mark.parametrize("address", ["http://a:99999/", "http://[a/"])
def test_a_link_that_is_no_address_is_named(hub, monkeypatch, address):
    monkeypatch.setattr(type(hub), "link", lambda self, file: address)
    with pytest.raises(HubError, match="check HF_ENDPOINT"):
        asyncio.run(links(hub).get())
