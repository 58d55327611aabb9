// The dense operations: norms, projections, rotary positions, the router and the head. All rows are float32.

// T rows of one weight: a list of pointers, and jobs. Room for their values and `extra` bytes is behind it in the shared arena.
struct List {
    const float** rows = nullptr;  // null without memory
    Job* jobs;
    long count = 0;
    float* values;
    char* extra;

    // Points at T rows of `length` values at `from`, or in the arena if that is null.
    List(const Matrix& m, long T, long length, const float* from, size_t bytes = 0) {
        const long most = m.rows < BLOCK * threads.count() ? SPLIT_ROWS : MOST_ROWS;
        const size_t pointers = rounded_up(T * sizeof(float*), 64), all = rounded_up((T / most + 1) * sizeof(Job), 64);
        const size_t own = from ? 0 : rounded_up(T * length * sizeof(float), 64);
        char* base = (char*)threads.shared.reserve(pointers + all + own + bytes + 64);
        if (!base) return;
        rows = (const float**)base;
        jobs = (Job*)(base + pointers);
        values = (float*)(base + pointers + all);
        extra = base + pointers + all + own;
        for (long t = 0; t < T; ++t) rows[t] = (from ? from : values) + t * length;
        for (long first = 0; first < T; first += most) jobs[count++] = {0, first, lesser(T - first, most)};
    }
};

// Divides a row by the root of its mean square, and multiplies it by the norm's weight.
static void norm_row(const float* x, const float* weight, float eps, long H, float* out) {
    vf squares = {};
    for (long h = 0; h < H; h += WIDTH) squares += load(x + h) * load(x + h);
    const vf scale = splat(1.0f / sqrtf(sum(squares) / float(H) + eps));
    for (long h = 0; h < H; h += WIDTH) store(out + h, load(x + h) * scale * load(weight + h));
}

static void norm_rows(const float* x, const float* weight, float eps, long T, long H, float* out) {
    parallel(T, 8.0 * T * H, [&](long t, int) { norm_row(x + t * H, weight, eps, H, out + t * H); });
}

static void rotate(float* head, const float* cos, const float* sin, long D) {
    for (long d = 0; d < D / 2; d += WIDTH) {
        const vf c = load(cos + d), s = load(sin + d), first = load(head + d), second = load(head + D / 2 + d);
        store(head + d, first * c - second * s);
        store(head + D / 2 + d, second * c + first * s);
    }
}

// x [T, H] to q [T, N, D] and kv [T, 2, M, D]; cos and sin [T, D / 2].
EXPORT(norm_qkv_rope)(const float* x, const float* norm, float eps, const Matrix* qkv, const float* cos, const float* sin, int64_t T, int64_t N,
                      int64_t M, float* q, float* kv) {
    Operation held;
    const long H = qkv->columns, D = qkv->rows / (N + 2 * M), own = N * D, pair = 2 * M * D;
    const List list(*qkv, T, H, nullptr);
    if (!list.rows) return 1;
    norm_rows(x, norm, eps, T, H, list.values);
    const bool done = multiply(*qkv, list.jobs, list.count, list.rows, [&](long t, long r0, long r1, const float* sums) {
        for (long r = r0; r < r1; ++r) (r < own ? q[t * own + r] : kv[t * pair + r - own]) = sums[r - r0] + (qkv->bias ? qkv->bias[r] : 0.0f);
    });
    if (!done) return 1;
    parallel(T, 8.0 * T * (own + pair), [&](long t, int) {
        for (long n = 0; n < N; ++n) rotate(q + t * own + n * D, cos + t * (D / 2), sin + t * (D / 2), D);
        for (long m = 0; m < M; ++m) rotate(kv + t * pair + m * D, cos + t * (D / 2), sin + t * (D / 2), D);
    });
    return 0;
}

// attended [T, C] to out [T, R], which adds residual [T, R].
EXPORT(output_residual)(const float* attended, const Matrix* o, const float* residual, int64_t T, float* out) {
    Operation held;
    const long R = o->rows;
    const List list(*o, T, o->columns, attended);
    return !list.rows || !multiply(*o, list.jobs, list.count, list.rows, [&](long t, long r0, long r1, const float* sums) {
        for (long r = r0; r < r1; ++r) out[t * R + r] = residual[t * R + r] + (sums[r - r0] + (o->bias ? o->bias[r] : 0.0f));
    });
}

// The place of value h of a row of H in chunk-major order, 4 values to a chunk and 8 chunks to a group.
INLINE long chunk_major(long h, long H) { return (h % GROUP / 4 * (H / GROUP) + h / GROUP) * 4 + h % 4; }

// x [T, H] to its norm, chunk-major, and to logits [T, E].
EXPORT(norm_router)(const float* x, const float* norm, float eps, const Matrix* router, int64_t T, float* normed, float* logits) {
    Operation held;
    const long H = router->columns, E = router->rows;
    const List list(*router, T, H, nullptr);
    if (!list.rows) return 1;
    norm_rows(x, norm, eps, T, H, list.values);
    parallel(T, 4.0 * T * H, [&](long t, int) {
        for (long h = 0; h < H; h += 4) memcpy(normed + t * H + chunk_major(h, H), list.rows[t] + h, 4 * sizeof(float));
    });
    return !multiply(*router, list.jobs, list.count, list.rows, [&](long t, long r0, long r1, const float* sums) {
        for (long r = r0; r < r1; ++r) logits[t * E + r] = sums[r - r0] + (router->bias ? router->bias[r] : 0.0f);
    });
}

// x [T, H] to logits [T, V].
EXPORT(norm_head)(const float* x, const float* norm, float eps, const Matrix* head, int64_t T, float* logits) {
    Operation held;
    const List list(*head, T, head->columns, nullptr);
    if (!list.rows) return 1;
    norm_rows(x, norm, eps, T, head->columns, list.values);
    return !multiply(*head, list.jobs, list.count, list.rows, [&](long t, long r0, long r1, const float* sums) {
        memcpy(logits + t * head->rows + r0, sums, (r1 - r0) * sizeof(float));
    });
}

// x [T, H] to the token of the largest logit and a witness, finite only if all logits are.
EXPORT(norm_head_argmax)(const float* x, const float* norm, float eps, const Matrix* head, int64_t T, uint32_t* token, float* witness) {
    Operation held;
    struct Best {
        float logit, witness;
        uint32_t row;
        bool is;
    };
    const long blocks = (head->rows + LEAST - 1) / LEAST;
    const List list(*head, T, head->columns, nullptr, T * blocks * sizeof(Best));
    if (!list.rows) return 1;
    Best* best = (Best*)list.extra;
    memset(best, 0, T * blocks * sizeof(Best));
    norm_rows(x, norm, eps, T, head->columns, list.values);
    const bool done = multiply(*head, list.jobs, list.count, list.rows, [&](long t, long r0, long r1, const float* sums) {
        Best& found = best[t * blocks + r0 / LEAST] = {sums[0], 0.0f, uint32_t(r0), true};
        for (long r = r0; r < r1; ++r) {
            found.witness += sums[r - r0] * 0.0f;
            if (sums[r - r0] > found.logit) found.logit = sums[r - r0], found.row = uint32_t(r);
        }
    });
    for (long t = 0; done && t < T; ++t) {
        Best found = best[t * blocks];
        for (const Best* one = best + t * blocks + 1; one < best + (t + 1) * blocks; ++one) {
            found.witness += one->witness;
            if (one->is && one->logit > found.logit) found.logit = one->logit, found.row = one->row;
        }
        token[t] = found.row, witness[t] = found.witness;
    }
    return !done;
}

// The table's rows of T tokens, to out [T, H]. Returns 2 for a token that it does not hold.
EXPORT(embed)(const int32_t* tokens, const Matrix* table, int64_t T, float* out) {
    const long H = table->columns;
    for (long t = 0; t < T; ++t)
        if (tokens[t] < 0 || tokens[t] >= table->rows) return 2;
    with_opener(*table, [&](const auto& weight) {
        for (long t = 0; t < T; ++t) {
            auto row = weight.row(tokens[t]);
            for (long g = 0; g < H / GROUP; ++g) {
                vf values[V];
                row.begin(g, g + 1);
                row.group(g, values);
                for (int v = 0; v < V; ++v) store(out + t * H + GROUP * g + WIDTH * v, values[v]);
            }
        }
    });
    return 0;
}

// Frequencies [half] and positions [T] to cos and sin [T, half] of their products.
EXPORT(rope_tables)(const float* inverse, const int32_t* positions, int64_t T, int64_t half, float* cos, float* sin) {
    for (long i = 0; i < T * half; ++i) {
        const float angle = float(positions[i / half]) * inverse[i % half];
        cos[i] = cosf(angle), sin[i] = sinf(angle);
    }
    return 0;
}
