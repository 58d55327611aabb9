"""What is timed: each shader on the published sizes at 1 and 4 rows, beside the kernels that MLX would pick on a Mac.

A scene is arrays, launches by variant, the bytes of weights that one launch reads, and what decides the right answer.
"""

from collections.abc import Iterator
from typing import Any

import mlx.core as mx

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.model.rope import attention_scale
from metal_kernels import dispatches
from metal_kernels.comparison import Shapes
from metal_kernels.operands import Attention, CacheView, Dense, Experts
from tests.gpu.plan import Array, Plan

F16, BF16, F32, U32, U8, I32 = mx.float16, mx.bfloat16, mx.float32, mx.uint32, mx.uint8, mx.int32
ROWS = (1, 4)
TAIL = 64
IN_TAIL = 40
"""Positions in the tail before a step."""
ENOUGH = 260_000_000
"""Bytes of copies that follow each other: five times the L2 of an H100."""
MOST_COPIES = 512
FP4_HEADERS = ["steel/gemm/gemm.h", "quantized_utils.h", "fp_quantized.h"]
Q8_HEADERS = ["steel/gemm/gemm.h", "quantized_utils.h", "quantized.h"]
KEYS = (1024, 8192, 131_072)
Scene = dict[str, Any]


def published(q8: bool = True) -> Shapes:
    """Return the sizes of 20b. 120b's differ in the number of experts."""
    config = ModelConfig(num_hidden_layers=0, num_local_experts=Shapes.experts)
    return Shapes(q8=q8, scale=attention_scale(config))


def scenes(plan: Plan, sizes: Shapes, keys: tuple[int, ...] = KEYS, enough: int = ENOUGH) -> Iterator[Scene]:
    """Yield every scene of a model of these sizes. ``sizes.q8`` is not looked at: both forms are timed."""
    for rows in ROWS:
        yield from experts(plan, sizes, rows)
        for q8 in (False, True):
            for operation in ("norm_qkv_rope", "output_residual", "norm_head"):
                yield dense(plan, sizes, operation, q8, rows, enough)
        if sizes.window:
            yield attention(plan, sizes, sizes.window, sizes.window, rows, enough)
        for count in keys:
            yield attention(plan, sizes, count, None, rows, enough)


def _copies(nbytes: int, enough: int) -> int:
    return max(1, min(MOST_COPIES, -(-enough // nbytes)))


def _scene(id: str, operation: str, rows: int, sizes: Shapes, nbytes: int, arrays: list[Array], **more: Any) -> Scene:
    known = {name: getattr(sizes, name) for name in ("hidden", "inter", "experts", "choices", "heads", "kv_heads")}
    known |= {name: getattr(sizes, name) for name in ("head_dim", "vocabulary", "eps", "limit", "scale")}
    records = {array.name: array.record() for array in arrays}
    return {"id": id, "operation": operation, "rows": rows, "sizes": known, "bytes": nbytes, "arrays": records} | more


def mxfp4(name: str, slots: int, rows: int, columns: int) -> Experts:
    """Return the arrays of one projection of all experts."""
    return Experts(
        Array(f"{name}.weight", (slots, rows, columns // 8), U32, ("bits",)),
        Array(f"{name}.scales", (slots, rows, columns // 32), U8, ("bytes", 112, 122)),
        Array(f"{name}.bias", (slots, rows), BF16, ("uniform", -0.5, 0.5)),
    )


def matrix(name: str, rows: int, columns: int, q8: bool, *, biased: bool = True, copies: int = 1) -> Dense:
    """Return the arrays of a dense matrix in bfloat16, or in 8 bits around zero."""
    bias = Array(f"{name}.bias", (rows,), BF16, ("uniform", -0.5, 0.5)) if biased else None
    wide = columns**-0.5
    if not q8:
        return Dense(Array(f"{name}.weight", (rows, columns), BF16, ("uniform", -wide, wide), copies), bias)
    step = wide / 128
    groups = (rows, columns // 64)
    return Dense(
        Array(f"{name}.weight", (rows, columns // 4), U32, ("bits",), copies),
        bias,
        Array(f"{name}.scales", groups, BF16, ("uniform", 0.9 * step, 1.1 * step), copies),
        Array(f"{name}.offsets", groups, BF16, ("uniform", -130 * step, -125 * step), copies),
    )


def arrays_of(*given: Any) -> list[Array]:
    """Return the arrays among arrays and named tuples of arrays."""
    found: list[Array] = []
    for each in given:
        found += [each] if isinstance(each, Array) else [array for array in each if isinstance(array, Array)]
    return found


def experts(plan: Plan, sizes: Shapes, rows: int) -> Iterator[Scene]:
    """Yield the scenes of both expert shaders. Launches that follow each other choose other experts, until all were."""
    hidden, inter, count, k = sizes.hidden, sizes.inter, sizes.experts, sizes.choices
    turns = max(1, count // (k * rows))
    every = list(range(count))
    chosen = [
        [[every[((turn * rows + row) * k + c) % count] for c in range(k)] for row in range(rows)]
        for turn in range(turns)
    ]
    slots = [(7 * e + 3) % count for e in every] if count % 7 else every
    logits = [
        [[12.0 + choice.index(e) / 8 if e in choice else -(e % 5) / 4 for e in every] for choice in turn]
        for turn in chosen
    ]
    rhs = [[slots[e] for choice in turn for e in reversed(choice)] for turn in chosen]  # the largest logit comes last
    table = Array("slots", (count,), I32, ("data", [slots]))
    routed = Array("logits", (rows, count), F32, ("data", logits), turns)
    right = Array("rhs_indices", (rows * k,), U32, ("data", rhs), turns)
    for operation, out_rows, columns in (
        ("expert_gate_up", 2 * inter, hidden),
        ("expert_down_residual", hidden, inter),
    ):
        up = operation == "expert_gate_up"
        held = mxfp4(operation, count, out_rows, columns)
        x = Array("x", (rows, hidden), F32, ("uniform", -3, 3))
        inner = (4, columns // 32, 8)
        given = Array("given", (rows, *inner) if up else (rows, k, *inner), F16, ("uniform", -1, 1))
        if up:
            made = dispatches.expert_gate_up(given, routed, table, held, k, sizes.limit)
        else:
            made = dispatches.expert_down_residual(given, routed, table, held, x)
        assert made is not None
        left = [row if up else row * k + c for row in range(rows) for c in range(k)]
        plain = Array("plain", (rows, columns) if up else (rows * k, columns), F16, ("uniform", -1, 1))
        lhs = Array("lhs_indices", (rows * k,), U32, ("data", [left]))
        out = Array("out", made.output_shapes[0], made.output_dtypes[0])
        y = Array("y", (rows * k, out_rows), F16)
        values = {
            "w": held.weight.name,  # type: ignore[attr-defined]
            "scales": held.scales.name,  # type: ignore[attr-defined]
            "global_scale": None,
            **{"x": "plain", "lhs_indices": "lhs_indices", "rhs_indices": "rhs_indices", "y": "y"},
            **{"in_vec_size": columns, "out_vec_size": out_rows, "x_batch_ndims": 1, "w_batch_ndims": 1},
            **{"x_shape": [len(plain), 1, columns], "x_strides": [columns, columns, 1]},
            **{"w_shape": [count, out_rows, columns // 8], "w_strides": [out_rows * columns // 8, columns // 8, 1]},
            "s_strides": [out_rows * columns // 32, columns // 32, 1],
            **{"batch_ndims": 1, "batch_shape": [rows * k], "lhs_strides": [1], "rhs_strides": [1]},
        }
        grid = (1, out_rows // 8, rows * k)
        stock = plan.mlx(FP4_HEADERS, "fp_gather_qmv", "float16_t, 32, 4", grid, (32, 2, 1), values)
        nbytes = sum(array.nbytes for array in arrays_of(held)) // count * k * rows
        yield _scene(
            f"{operation}/{rows}",
            operation,
            rows,
            sizes,
            nbytes,
            arrays_of(held, x, given, routed, table, right, lhs, plain, out, y),
            turns=turns,
            variants={"ours": [plan.ours(made, ["out"])], "mlx": [stock]},
        )


def dense(plan: Plan, sizes: Shapes, operation: str, q8: bool, rows: int, enough: int) -> Scene:
    """Return the scene of a dense shader. MLX's are the bare product; of several rows both of its kernels are timed."""
    hidden, heads, kv_heads, dim = sizes.hidden, sizes.heads, sizes.kv_heads, sizes.head_dim
    out_rows, columns = {
        "norm_qkv_rope": ((heads + 2 * kv_heads) * dim, hidden),
        "output_residual": (hidden, heads * dim),
        "norm_head": (sizes.vocabulary, hidden),
    }[operation]
    one = out_rows * columns * (1 if q8 else 2)
    copies = _copies(one, enough)
    held = matrix("matrix", out_rows, columns, q8, biased=operation != "norm_head", copies=copies)
    norm = Array("norm", (hidden,), BF16, ("uniform", 0.5, 1.5))
    x = Array("x", (rows, hidden), F32, ("uniform", -3, 3))
    vector = Array("vector", (rows, columns), BF16, ("uniform", -1, 1))
    used = [held, norm, x, vector]
    if operation == "norm_qkv_rope":
        cos, sin = (Array(name, (rows, dim // 2), F32, ("uniform", -1, 1)) for name in ("cosines", "sines"))
        used += [cos, sin]
        made = dispatches.norm_qkv_rope(x, norm, sizes.eps, held, cos, sin, heads=heads, kv_heads=kv_heads)
    elif operation == "output_residual":
        given = Array("attended", (rows, columns), F16, ("uniform", -1, 1))
        used.append(given)
        made = dispatches.output_residual(given, held, x)
    else:
        made = dispatches.norm_head(x, norm, sizes.eps, held)
    assert made is not None
    names = ["q", "kv"] if operation == "norm_qkv_rope" else ["out"]
    outputs = [Array(*each) for each in zip(names, made.output_shapes, made.output_dtypes, strict=True)]
    variants = {"ours": [plan.ours(made, names)], **_stock_dense(plan, held, rows, out_rows, columns, q8)}
    if operation == "norm_head":
        best = dispatches.norm_head_argmax(x, norm, sizes.eps, held)
        assert best is not None
        parts = [Array(n, s, d) for n, s, d in zip(("best", "at"), best.output_shapes, best.output_dtypes, strict=True)]
        chosen = dispatches.norm_head_argmax_combine(*parts)
        assert chosen is not None
        outputs += [*parts, Array("chosen", (rows,), U32), Array("witness", (rows,), F32)]
        variants["ours, argmax"] = [plan.ours(best, ["best", "at"]), plan.ours(chosen, ["chosen", "witness"])]
    y = Array("y", (rows, out_rows), BF16)
    return _scene(
        f"{operation} {'q8' if q8 else 'bf16'}/{rows}",
        operation,
        rows,
        sizes,
        sum(array.nbytes for array in arrays_of(held)),
        arrays_of(*used, *outputs, y),
        turns=copies,
        q8=q8,
        variants=variants,
    )


def _stock_dense(plan: Plan, held: Dense, rows: int, out_rows: int, columns: int, q8: bool) -> dict[str, list]:
    """Return MLX's kernels for the product (0.32, mlx/backend/metal/matmul.cpp and quantized.cpp)."""
    if q8:
        values: dict[str, Any] = {"w": "matrix.weight", "scales": "matrix.scales", "biases": "matrix.offsets"}
        values |= {"x": "vector", "y": "y", "in_vec_size": columns, "out_vec_size": out_rows, "M": rows}
        values |= {"x_batch_ndims": 0, "x_shape": [rows, columns], "x_strides": [columns, 1]}
        values |= {"w_batch_ndims": 0, "w_shape": [out_rows, columns // 4], "w_strides": [columns // 4, 1]}
        values |= {"s_strides": [columns // 64, 1], "b_strides": [columns // 64, 1]}
        name = "affine_qmv_fast" if columns % 512 == 0 else "affine_qmv"
        grid = (rows, out_rows // 8, 1)
        found = {"mlx": [plan.mlx(Q8_HEADERS, name, "bfloat16_t, 64, 8, false", grid, (32, 2, 1), values)]}
        if rows > 1:
            wide = "bfloat16_t, 64, 8, 4, 8, false"
            grid = (1, -(-out_rows // 8), 1)
            found["mlx wide"] = [plan.mlx(Q8_HEADERS, "affine_qmv_wide", wide, grid, (32, 2, 1), values)]
        return found
    values = {"mat": "matrix.weight", "in_vec": "vector", "bias": None, "out_vec": "y"}
    values |= {"in_vec_size": columns, "out_vec_size": out_rows, "M": rows, "alpha": 1.0, "beta": 0.0}
    values |= {"marix_ld": columns, "matrix_ld": columns, "vector_ld": columns, "batch_ndim": 1, "batch_shape": [1]}
    values |= {"vector_batch_stride": [0], "matrix_batch_stride": [0], "bias_batch_stride": [0]}
    values |= {"bias_stride": 1, "bias_ld": 0, "bias_fd": 0}
    if rows == 1:
        height = 8 if out_rows >= 4096 else 4
        template = f"bfloat16_t, {height}, 1, 1, 32, 4, 4, false, false"
        grid = (-(-out_rows // (4 * height)), 1, 1)
        return {"mlx": [plan.mlx(["gemv.h"], "gemv", template, grid, (32, 1, height), values)]}
    grid = (1, -(-out_rows // 4), 1)
    return {"mlx": [plan.mlx(["gemv.h"], "gemv_wide", "bfloat16_t, 4, 32", grid, (32, 4, 1), values)]}


def attention(plan: Plan, sizes: Shapes, keys: int, window: int | None, rows: int, enough: int) -> Scene:
    """Return the scene of attention of ``rows`` rows, the last over ``keys`` keys with its own: ours over body, tail
    and new rows, MLX's over one array of keys."""
    heads, kv_heads, dim = sizes.heads, sizes.kv_heads, sizes.head_dim
    before = keys - rows if window is None else window - 1 + IN_TAIL
    in_body = before - IN_TAIL
    capacity = in_body + TAIL
    seen = keys if window is None else window - 1 + rows
    copies = _copies(4 * kv_heads * capacity * dim, enough)
    q = Array("q", (rows, heads, dim), F32, ("uniform", -2, 2))
    kv = Array("kv", (rows, 2, kv_heads, dim), BF16, ("uniform", -1, 1))
    body = Array("body", (2, 1, kv_heads, capacity, dim), BF16, ("uniform", -1, 1), copies)
    tail = Array("tail", (2, 1, kv_heads, TAIL, dim), BF16, ("uniform", -1, 1), copies)
    counts = Array("counts", (2,), I32, ("data", [[in_body, IN_TAIL]]))
    sinks = Array("sinks", (heads,), BF16, ("uniform", -2, 2))
    layer = Attention(sinks, sizes.scale, window)
    made = dispatches.decode_attention(q, kv, CacheView(body, tail, counts, before), layer, F16)
    assert made is not None
    attended, fresh = (
        Array(n, s, d) for n, s, d in zip(("attended", "fresh"), made.output_shapes, made.output_dtypes, strict=True)
    )
    ours = [plan.ours(made, ["attended", "fresh"])]
    outputs = [attended, fresh]
    if dispatches.is_split(attended):
        joined = dispatches.decode_attention_combine(attended, sinks, F16)
        assert joined is not None
        ours.append(plan.ours(joined, ["joined"]))
        outputs.append(Array("joined", joined.output_shapes[0], F16))
    query = Array("queries", (heads, rows, dim), BF16, ("uniform", -2, 2))
    flat = [Array(name, (kv_heads, seen, dim), BF16, ("uniform", -1, 1), copies) for name in ("keys", "values")]
    variants, parts = _stock_attention(plan, sizes, seen, rows)
    y = Array("y", (heads, rows, dim), BF16)
    what = f"window of {window}" if window else f"{keys} keys"
    return _scene(
        f"decode_attention, {what}/{rows}",
        "decode_attention",
        rows,
        sizes,
        4 * kv_heads * seen * dim,
        [q, kv, body, tail, counts, sinks, *outputs, query, *flat, *parts, y],
        turns=copies,
        window=window,
        seen=seen,
        before=before,
        variants={"ours": ours, **variants},
    )


def _stock_attention(plan: Plan, sizes: Shapes, seen: int, rows: int) -> tuple[dict[str, list], list[Array]]:
    """Return MLX's kernels for it: one pass, and of many keys two, with as few and as many blocks as it may take."""
    heads, kv_heads, dim = sizes.heads, sizes.kv_heads, sizes.head_dim
    unread = dict.fromkeys(("mask_kv_seq_stride", "mask_q_seq_stride", "mask_head_stride"), 0)
    values = {
        "queries": "queries",
        "keys": "keys",
        "values": "values",
        "out": "y",
        "sinks": "sinks",
        "scale": sizes.scale,
    }
    values |= {"gqa_factor": heads // kv_heads, "N": seen, "num_q_heads": heads, "bmask": None, "fmask": None, **unread}
    values |= {"k_head_stride": seen * dim, "k_seq_stride": dim, "v_head_stride": seen * dim, "v_seq_stride": dim}
    flags = {"has_sinks": True, "do_causal": rows > 1}
    header = ["sdpa_vector.h"]
    template = f"bfloat16_t, {dim}"
    found = {}
    parts = []
    if seen < 4096:
        one = plan.mlx(header, "sdpa_vector", template, (heads, rows, 1), (1024, 1, 1), values, flags)
        found["mlx"] = [one]
    for blocks in () if seen < 1024 else (64, 128) if seen < 65_536 else (64, 1024):
        names = {"out": f"partials{blocks}", "sums": f"sums{blocks}", "maxs": f"maxs{blocks}"}
        parts.append(Array(names["out"], (heads, rows, blocks, dim), BF16))
        parts += [Array(names[name], (heads, rows, blocks), F32) for name in ("sums", "maxs")]
        grid, threads = (kv_heads, 1, blocks), (32, heads // kv_heads, rows)
        first = plan.mlx(
            header, "sdpa_vector_2pass_1", template, grid, threads, values | names, flags | {"blocks": blocks}
        )
        joined = {"partials": names["out"], "sums": names["sums"], "maxs": names["maxs"], "out": "y", "blocks": blocks}
        second = plan.mlx(header, "sdpa_vector_2pass_2", template, (heads, rows, 1), (1024, 1, 1), joined)
        found[f"mlx, {blocks} blocks"] = [first, second]
    return found, parts


def step(plan: Plan, sizes: Shapes, layers: int, keys: int) -> Scene:
    """Return one greedy decode step of a model whose layers alternate between a window and all ``keys`` keys, with
    weights for each layer, from the residual stream to the chosen token. The embedding and RoPE's tables are not in
    it. ``bytes`` are the weights and keys that it reads."""
    hidden, inter, heads, kv_heads, dim = sizes.hidden, sizes.inter, sizes.heads, sizes.kv_heads, sizes.head_dim
    arrays: dict[str, Array] = {}
    launches: list[dict[str, Any]] = []
    nbytes = 0

    def have(array: Array) -> Array:
        return arrays.setdefault(array.name, array)

    def run(made: dispatches.Dispatch | None, *names: str) -> list[Array]:
        assert made is not None
        for array in made.inputs:
            have(array)  # type: ignore[arg-type]
        launches.append(plan.ours(made, names))
        outputs = zip(names, made.output_shapes, made.output_dtypes, strict=True)
        return [have(Array(*output)) for output in outputs]

    slots = Array("slots", (sizes.experts,), I32, ("data", [list(range(sizes.experts))]))
    cos, sin = (Array(name, (1, dim // 2), F32, ("uniform", -1, 1)) for name in ("cosines", "sines"))
    x = Array("x", (1, hidden), F32, ("uniform", -3, 3))
    for number in range(layers):
        name = f"layers.{number}"
        window = sizes.window if number % 2 == 0 else None
        seen = min(window or keys, keys)
        norm, mlp_norm = (Array(f"{name}.{n}", (hidden,), BF16, ("uniform", 0.5, 1.5)) for n in ("norm", "mlp_norm"))
        qkv = matrix(f"{name}.qkv", (heads + 2 * kv_heads) * dim, hidden, sizes.q8)
        o = matrix(f"{name}.o", hidden, heads * dim, sizes.q8)
        router = Dense(
            Array(f"{name}.router", (sizes.experts, hidden), BF16, ("uniform", -0.05, 0.05)),
            Array(f"{name}.router.bias", (sizes.experts,), BF16, ("uniform", -1, 1)),
        )
        gate_up = mxfp4(f"{name}.gate_up", sizes.experts, 2 * inter, hidden)
        down = mxfp4(f"{name}.down", sizes.experts, hidden, inter)
        before = seen - 1 if window is None else window - 1 + IN_TAIL
        capacity = before - IN_TAIL + TAIL
        body = Array(f"{name}.body", (2, 1, kv_heads, capacity, dim), BF16, ("uniform", -1, 1))
        tail = Array(f"{name}.tail", (2, 1, kv_heads, TAIL, dim), BF16, ("uniform", -1, 1))
        counts = Array(f"counts {before}", (2,), I32, ("data", [[before - IN_TAIL, IN_TAIL]]))
        sinks = Array(f"{name}.sinks", (heads,), BF16, ("uniform", -2, 2))

        q, kv = run(
            dispatches.norm_qkv_rope(x, norm, sizes.eps, qkv, cos, sin, heads=heads, kv_heads=kv_heads),
            "q",
            f"{name}.kv",
        )
        layer = Attention(sinks, sizes.scale, window)
        made = dispatches.decode_attention(q, kv, CacheView(body, tail, counts, before), layer, F16)
        attended, _ = run(made, "parts" if window is None else "window", f"{name}.fresh")
        if dispatches.is_split(attended):
            (attended,) = run(dispatches.decode_attention_combine(attended, sinks, F16), "joined")
        (x,) = run(dispatches.output_residual(attended, o, x), f"{name}.x")
        normed, logits = run(dispatches.norm_router(x, mlp_norm, sizes.eps, router, F16), "normed", f"{name}.logits")
        k = sizes.choices
        (activated,) = run(dispatches.expert_gate_up(normed, logits, slots, gate_up, k, sizes.limit), "activated")
        (x,) = run(dispatches.expert_down_residual(activated, logits, slots, down, x), f"{name}.out")
        nbytes += sum(array.nbytes for array in arrays_of(qkv, o, router)) + 4 * kv_heads * seen * dim
        nbytes += sum(array.nbytes for array in arrays_of(gate_up, down)) // sizes.experts * k
    norm = Array("norm", (hidden,), BF16, ("uniform", 0.5, 1.5))
    head = matrix("head", sizes.vocabulary, hidden, sizes.q8, biased=False)
    best = run(dispatches.norm_head_argmax(x, norm, sizes.eps, head), "best", "at")
    run(dispatches.norm_head_argmax_combine(*best), "chosen", "witness")
    nbytes += sum(array.nbytes for array in arrays_of(head))
    what = f"{layers} layers, {'q8' if sizes.q8 else 'bf16'}, {keys} keys"
    return _scene(what, "step", 1, sizes, nbytes, list(arrays.values()), turns=1, variants={"ours": launches})
