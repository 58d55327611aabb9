"""One model for all programs of a user on this machine: ``gptoss-mac serve`` has it, and ``run``, ``chat`` and
``batch`` use it through a socket.

``protocol`` says what goes over the socket: token ids, sampling and limits, no text. ``connection`` finds the server
and talks with it. ``client`` has the faces of a runtime and of a batch, so nothing that uses those knows where the
model is. The other end is ``server.link``. Nothing here imports mlx, because a program that uses another's model starts
sooner and stays small without it.
"""
