"""Works are named as llama-bench names them, and each does what its name says."""

from dataclasses import dataclass, field

from gptoss_mlx.bench.works import Generation, Prefill, random_ids


@dataclass
class Noted:
    """A program that notes what it is asked."""

    asked: list = field(default_factory=list)

    def prefill(self, tokens, *, timed=True):
        self.asked.append(("prefill", [len(row) for row in tokens], timed))
        self.tokens = tokens
        return 2.0

    def generate(self, count):
        self.asked.append(("generate", count))
        return 3.0


def done(work):
    peer = Noted()
    work.ready(peer)
    return work.step(peer), peer


def test_names_are_those_of_llama_bench():
    assert Prefill(512, 100).label == "pp512"
    assert Generation(128, 100).label == "tg128"
    assert Generation(128, 100, 8192).label == "tg128@d8192"
    assert Generation(128, 100, 0, 4).label == "tg128 B4"


def test_a_prompt_is_read_and_timed():
    seconds, peer = done(Prefill(512, 100))
    assert (seconds, peer.asked) == (2.0, [("prefill", [512], True)])
    assert (Prefill(512, 100).tokens, Prefill(512, 100).positions) == (512, 512)


def test_only_generation_is_timed_and_not_what_it_follows():
    seconds, peer = done(Generation(128, 100, 2048, 2))
    assert (seconds, peer.asked) == (3.0, [("prefill", [2048, 2048], False), ("generate", 128)])
    assert peer.tokens[0] != peer.tokens[1]
    assert (Generation(128, 100, 2048, 2).tokens, Generation(128, 100, 2048, 2).positions) == (256, 2177)


def test_at_depth_0_a_sequence_begins_with_one_id():
    assert done(Generation(128, 100))[1].asked[0] == ("prefill", [1], False)


def test_ids_are_the_same_for_the_same_seed_and_within_the_vocabulary():
    assert random_ids(1, 50, 7) == random_ids(1, 50, 7) != random_ids(2, 50, 7)
    assert set(random_ids(1, 500, 7)) == set(range(7))
