"""HTTP: programs that speak OpenAI's or Anthropic's API use a model on this machine.

One thread owns the model and steps the engine's batch (``owner``). Everything else runs in one event loop: which model
is in memory (``residence``), what a connection may do (``guard``, ``exchange``), and a module for each endpoint, which
only translates: a body into a request, and what comes of it into the endpoint's own events.
"""
