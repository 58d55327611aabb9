"""One model on several Macs: each process, a *rank*, holds some of the layers, and a token passes through all of them.

Rank 0 is the process that the user started. It has the tokenizer, the embedding, the head, sampling and everything
above; the engine there sees a decoder (``first``) and knows of no others. The other ranks (``following``) do what rank
0 tells them: which caches to make, mark and rewind, and which rows pass through their layers. They see no token and no
text, and decide nothing.

Hidden states go from rank to rank over ``mx.distributed`` (``group``), what is said over connections of their own
(``wire``), which also carry the heartbeats. ``hosts`` knows where ranks run, ``plan`` which layers each holds, and
``parts`` what each says of itself and loads. ``starting`` starts all; ``ranks`` has their processes, watches and ends
them; ``follower`` is such a process, and ``guard`` ends one that does not end by itself. ``macs`` predicts.
"""
