"""A loaded model: the one object that the command line, conversations and batches hold. Knows no messages."""

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx

import metal_kernels  # noqa: F401  (loads a BLAS before mlx is imported)
from gptoss_mlx.arguments import token_ids, whole
from gptoss_mlx.bounded_folder import BoundedFolder
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.engine.constraint import Constraint
from gptoss_mlx.engine.context import Cancelled, Context
from gptoss_mlx.engine.generate import generate
from gptoss_mlx.engine.prefix_cache import PrefixCache, PrefixView
from gptoss_mlx.engine.snapshot import Snapshots
from gptoss_mlx.errors import UsageError, quoted
from gptoss_mlx.harmony import Tokenizer
from gptoss_mlx.home import snapshots_dir
from gptoss_mlx.installed import find_model
from gptoss_mlx.kernel_check import replace_wrong_shaders
from gptoss_mlx.limits import context_limit, disk_limit, memory_limit
from gptoss_mlx.memory.allocators import limit_allocators
from gptoss_mlx.memory.here import plan_here
from gptoss_mlx.memory.plan import MemoryPlan
from gptoss_mlx.model.decoder import Decoder
from gptoss_mlx.model.weights import DTYPES, load_weights, usual_dtype
from gptoss_mlx.model_folder import ModelFolder
from gptoss_mlx.prediction.expert_trace import About, TraceWriter
from gptoss_mlx.sampling import Sampling
from gptoss_mlx.score import Score
from gptoss_mlx.scorer import Scorer, logits_of, scores_of
from gptoss_mlx.tracing import SMALL, Trace, Tracer, What, traced
from gptoss_mlx.traits import default_sampling, load_tokenizer, model_hash, stop_ids
from metal_kernels import launch

if TYPE_CHECKING:
    from gptoss_mlx.distributed.hosts import Backend
    from gptoss_mlx.engine.batching import Batch
    from gptoss_mlx.grammars import Grammar, Vocabulary


@dataclass
class Runtime:
    """A loaded model and its tokenizer, which ``gptoss_mlx.load`` returns. It turns ids into logits and generates ids.
    ``plan`` says what it may take, in bytes. Conversations and batches share what they have read through ``prefixes``.
    Use it in one thread at a time."""

    folder: ModelFolder
    model: Decoder
    plan: MemoryPlan
    prefixes: PrefixCache = field(default_factory=lambda: PrefixCache(budget=0))

    @property
    def config(self) -> ModelConfig:
        """Return the sizes of the whole model, of which this process may hold a part. Its context is what fits."""
        return replace(self.folder.config, max_position_embeddings=self.model.config.max_position_embeddings)

    @property
    def chunk(self) -> int:
        """Return how many positions of a prompt are read at a time."""
        return self.plan.chunk

    @cached_property
    def hash(self) -> str:
        """Return what identifies the weights and the vocabulary, as ``traits.model_hash`` does."""
        return model_hash(self.folder.path)

    @cached_property
    def model_key(self) -> str:
        """Return the name of these weights in this dtype. A cache read under another name cannot be used here."""
        layers = self.model.config.num_hidden_layers
        part = "" if layers == self.folder.config.num_hidden_layers else f" the first {layers} layers"
        return f"{self.hash} {self.model.weights.dtype}{part}"

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Load the checkpoint's tokenizer. Raises ModelFolderError if the folder was converted without one."""
        return load_tokenizer(self.folder)

    @cached_property
    def vocabulary(self) -> "Vocabulary":
        """Return what the tokenizer's tokens spell, to make constraints with. Its first use builds it, in a thread.
        Raises ModelFolderError without a tokenizer."""
        from gptoss_mlx.grammars import Vocabulary

        return Vocabulary(self.tokenizer)

    def prepare_constraints(self) -> "Future[Any]":
        """Begin to build what the first ``constraint`` waits for, in a thread, and return when it is done."""
        return self.vocabulary.build()

    def constraint(self, grammar: "Grammar") -> Constraint:
        """Return what holds one row to ``grammar``. Waits for ``vocabulary``. Raises GrammarError where following the
        grammar takes too much work, and ModelFolderError without a tokenizer."""
        from gptoss_mlx.grammars.budget import constraint

        return constraint(self.vocabulary, grammar, self.tokenizer)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Return the ids that end generation, as ``traits.stop_ids`` does."""
        return stop_ids(self.folder, self.tokenizer.special if self.folder.tokenizer_path else {})

    def sampling(
        self,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        seed: int | None = None,
    ) -> Sampling:
        """Return a Sampling of the given values, with the folder's generation defaults in place of None. Temperature 0
        takes the likeliest token each time. ``seed`` repeats the draws; without one they differ. Raises UsageError for
        values out of range."""
        given = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p}
        return default_sampling(self.folder, given, seed)

    def context(self) -> Context:
        """Return a new context that has read nothing."""
        return Context.empty(self.model)

    @property
    def prefix_view(self) -> PrefixView:
        """Return this model's view of ``prefixes``: contexts resume from it and are kept in it."""
        return PrefixView(self.prefixes, self.model, self.model_key)

    def reusable(self, context: Context, prompt: list[int]) -> int:
        """Return how many ids of ``prompt`` need not be read."""
        return self.prefix_view.reusable(context, prompt)

    def go_on(self, context: Context, prompt: list[int]) -> Context:
        """Return the context to continue ``prompt`` from, which may be another one. It is then ``resumed``."""
        found = self.prefix_view.resume(context, prompt)
        found.resumed = len(found.ids)
        return found

    def continuation(
        self,
        context: Context,
        prompt: list[int],
        *,
        head: int,
        max_tokens: int,
        sampling: Sampling,
        constraint: Constraint | None = None,
        cancelled: Callable[[], bool] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Generator[int]:
        """Read ``prompt`` into ``context`` and yield the ids that follow, as ``engine.generate`` does. End early once
        ``cancelled``. The first ``head`` ids are kept for other conversations that begin with them."""
        with suppress(Cancelled):
            if len(context.ids) < head:
                report = progress and (lambda read, _: progress(read, len(prompt)))
                context.read(prompt[:head], chunk=self.chunk, cancelled=cancelled, progress=report)
                context.mark()
                self.prefix_view.keep(context)
            yield from generate(
                context,
                prompt,
                max_tokens=max_tokens,
                sampling=sampling,
                stop=self.stop_ids,
                constraint=constraint,
                prefill_chunk=self.chunk,
                cancelled=cancelled,
                progress=progress,
            )

    def save(self, context: Context) -> None:
        """Write to disk what ``context`` has read, up to its last mark, where that is kept."""
        self.prefix_view.save(context)

    def score(self, ids: list[int], top: int) -> list[Score]:
        """Return how likely each of ``ids`` but the first is, as a natural logarithm, and the ``top`` likeliest ids at
        its place with theirs. Raises EngineError."""
        return scores_of(Scorer(self.context(), ids, top, self.chunk))

    def trace(
        self, ids: list[int], *, layers: Sequence[int] | None = None, what: Collection[What] = SMALL, top: int = 5
    ) -> Trace:
        """Return as arrays what the model computes while it reads ``ids``. ``layers`` are numbers in rising order, by
        default all. ``what`` are of "router_logits", "experts", "hidden", "sink_mass", "logits", "candidates" and
        "surprise"; without it you get all but "hidden" and "logits", which take much memory. Each place has ``top``
        candidates. Raises UsageError, also where layers are distributed, ContextLengthError, EngineError, and
        MemoryBudgetError for arrays that do not fit the memory plan."""
        if self.model.config.num_hidden_layers != self.folder.config.num_hidden_layers:
            raise UsageError("a trace needs all layers in this process; load the model without distributed")
        tracer = Tracer(self.context(), token_ids("ids", ids), layers, what, top, self.chunk)
        return traced(tracer, self.row_memory)

    @property
    def row_memory(self) -> int:
        """Return the bytes that the caches of a batch's rows may take."""
        return self.plan["caches"] + self.plan.room

    def batch(self, max_rows: int, memory: int | None) -> "Batch":
        """Return an empty batch of at most ``max_rows`` rows at once, whose caches take at most ``memory`` bytes."""
        from gptoss_mlx.engine.batching import Batch

        return Batch(self.model, max_rows, memory, prefill_chunk=self.chunk, prefix_view=self.prefix_view)

    def close(self) -> None:
        """Write to disk what was read and is not there."""
        self.prefixes.close()

    def notice(self) -> str | None:
        """Return, once, why what is read is not kept on disk, or None."""
        return self.prefixes.notice()

    def logits(self, tokens: list[list[int]] | mx.array) -> mx.array:
        """Return the logits [B, L, V] float32 of token ids [B, L], read into an empty cache. Those at place t say what
        may follow the ids up to t. All rows have one length. All logits are in memory at once: 0.8 MB for each token of
        a published model. Raises UsageError if ``tokens`` is not such an array or holds an id outside the
        vocabulary."""
        return logits_of(self.context(), tokens, self.chunk)

    def warm_up(self) -> None:
        """Write two tokens that nobody reads, so that the first reply does not wait for shaders to be compiled. What
        was read before and is kept stays as it is. Raises EngineError."""
        for _ in self.generate([0], max_tokens=2, seed=0, stop=()):
            pass

    def generate(
        self,
        tokens: list[int],
        *,
        max_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        seed: int | None = None,
        stop: Collection[int] | None = None,
        constraint: "Grammar | None" = None,
    ) -> Iterator[int]:
        """Return an iterator over up to ``max_tokens`` ids that follow ``tokens``, as they are generated. There is no
        harmony in this: give it ids that ``harmony.render`` made, or those of any text.

        An id of ``stop`` (default ``stop_ids``, which end a reply) is yielded and is the last. ``temperature`` and the
        four after it are those of Sampling. With a ``constraint`` only what it allows is drawn. Raises UsageError at
        once for an argument of the wrong type or out of range, and what ``Runtime.constraint`` raises. The iterator
        raises ContextLengthError, EngineError, ConstraintError, and ModelFolderError where experts cannot be read.
        """
        prompt = token_ids("tokens", tokens)
        if not prompt or not all(0 <= token < self.config.vocab_size for token in prompt):
            raise UsageError("the prompt is empty or holds an id outside the vocabulary")
        limit = whole("max_tokens", max_tokens, 1, "a whole number, 1 or more")
        sampling = Sampling(temperature, top_p, top_k, min_p, seed)
        stops = self.stop_ids if stop is None else frozenset(token_ids("stop", stop))
        return generate(
            self.context(),
            prompt,
            max_tokens=limit,
            sampling=sampling,
            stop=stops,
            constraint=None if constraint is None else self.constraint(constraint),
            prefill_chunk=self.chunk,
        )


def load(
    model: str | Path,
    *,
    dtype: str | mx.Dtype | None = None,
    memory: int | str | None = None,
    context: int | None = None,
    prefix_disk: int | str | None = None,
    slots: int | None = None,
    trace_experts: str | Path | None = None,
    verify: bool = False,
    prefixes: PrefixCache | None = None,
    distributed: int | str | Path | None = None,
    distributed_backend: "Backend" = "ring",
    progress: Callable[[int, int], None] | None = None,
) -> Runtime:
    """Load an installed model. ``gptoss_mlx.load`` installs ``tiny`` first, and says what the arguments mean. Raises
    UsageError, ModelNotInstalledError, ModelFolderError, MemoryBudgetError, RankError, and StorageError for a trace
    that cannot be written."""
    chosen = _dtype(dtype)
    limit = memory_limit(memory)
    wanted = context_limit(context)
    on_disk = disk_limit(prefix_disk)
    folder = ModelFolder.open(find_model(model))
    try:
        launch.check()
    except ValueError as error:
        raise UsageError(str(error)) from error
    if distributed is not None:
        if slots is not None or trace_experts is not None or on_disk or (prefixes is not None and prefixes.snapshots):
            raise UsageError("slots, traces of experts and prefixes on disk do not go with distributed; leave them out")
        from gptoss_mlx.distributed.starting import start

        if verify:
            folder.verify()
        where = (distributed, distributed_backend)
        decoder, planned = start(folder, *where, memory=limit, context=wanted, dtype=chosen, progress=progress)
        kept = PrefixCache(planned["prefix cache"]) if prefixes is None else prefixes
        return Runtime(folder, decoder, planned, kept)
    planned = plan_here(folder.config, folder.dense, memory=limit, context=wanted, dtype=chosen)
    if slots is None:
        slots = planned.slots
    else:
        slots = whole("slots", slots, folder.config.num_experts_per_tok, "as many as a token chooses experts, or more")
    if verify:
        folder.verify()
    watch = None
    if trace_experts is not None:
        slots = folder.config.num_local_experts if slots is None else slots
        watch = TraceWriter(Path(trace_experts), About.of(folder, slots))
    limit_allocators(planned["allocator cache"])
    config = replace(folder.config, max_position_embeddings=planned.context)
    decoder = Decoder(config, load_weights(folder, chosen, progress, slots=slots, watch=watch))
    replace_wrong_shaders(decoder)
    if prefixes is None:
        snapshots = Snapshots(BoundedFolder(snapshots_dir(), on_disk)) if on_disk else None
        prefixes = PrefixCache(planned["prefix cache"], snapshots)
    return Runtime(folder, decoder, planned, prefixes)


def _dtype(dtype: str | mx.Dtype | None) -> mx.Dtype:
    if dtype is None:
        return DTYPES[usual_dtype(mx.metal.is_available())]
    chosen = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or chosen not in DTYPES.values():
        raise UsageError(f"dtype is {quoted(dtype, 40)}; use float32 or bfloat16")
    return chosen
