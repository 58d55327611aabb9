// The mixture of experts. The rows that choose an expert are multiplied by it together, so it is opened once for all.

constexpr float ALPHA = 1.702f;  // the sigmoid's slope in gpt-oss's SwiGLU: fixed in the reference implementation

// The chosen experts of T rows, and the (row, choice) pairs in the order of their experts.
struct Chosen {
    int32_t* slot;    // [T, k]: of the chosen experts, in falling order of the logit; of equal ones the lower first; -1 if absent
    float* share;     // [T, k]: the softmax over the chosen
    int32_t* pairs;   // [T * k]: pair t * k + i is row t's choice i
    const float** x;  // [T * k]: the row of each pair, in their order
    Job* jobs;        // at least one for each expert that any row chose
    long count;
    float* values;
};

INLINE size_t bytes_of_choice(const Routing& r) {
    const size_t pairs = r.T * r.k;
    return 64 * 6 + pairs * (4 + 4 + 4 + sizeof(float*)) + (r.experts + pairs / MOST_ROWS + 2) * sizeof(Job) + r.experts * 8;
}

// Lays a choice out in the shared arena, with room for `values` floats behind it. `values` is null without memory.
static Chosen chosen_experts(const Routing& r, size_t values) {
    const long pairs = r.T * r.k;
    char* at = (char*)threads.shared.reserve(bytes_of_choice(r) + values * sizeof(float));
    Chosen c = {};
    if (!at) return c;
    const auto take = [&](size_t bytes) { char* here = at; at += rounded_up(bytes, 64); return here; };
    c.x = (const float**)take(pairs * sizeof(float*));
    c.jobs = (Job*)take((r.experts + pairs / MOST_ROWS + 2) * sizeof(Job));
    int64_t* starts = (int64_t*)take(r.experts * 8);
    c.slot = (int32_t*)take(pairs * 4), c.share = (float*)take(pairs * 4), c.pairs = (int32_t*)take(pairs * 4);
    c.values = (float*)at;
    memset(starts, 0, r.experts * 8);
    for (long t = 0; t < r.T; ++t) {
        const float* logits = r.logits + t * r.experts;
        int32_t* expert = c.slot + t * r.k;
        float* share = c.share + t * r.k;
        float total = 0;
        for (long i = 0; i < r.k; ++i) {
            long best = -1;
            for (long e = 0; e < r.experts; ++e) {
                bool taken = false;
                for (long j = 0; j < i; ++j) taken |= expert[j] == e;
                if (!taken && (best < 0 || logits[e] > logits[best])) best = e;
            }
            expert[i] = int32_t(best);
            ++starts[best];
            total += share[i] = expf(logits[best] - logits[expert[0]]);
        }
        for (long i = 0; i < r.k; ++i) share[i] /= total;
    }
    for (long e = 0, first = 0; e < r.experts; ++e) {
        const long n = starts[e];
        starts[e] = first;
        for (long done = 0; done < n && r.slots[e] >= 0; done += MOST_ROWS)  // none for an absent expert
            c.jobs[c.count++] = {r.slots[e], first + done, n - done < MOST_ROWS ? n - done : MOST_ROWS};
        first += n;
    }
    for (long p = 0; p < pairs; ++p) {
        c.pairs[starts[c.slot[p]]++] = int32_t(p);
        c.slot[p] = r.slots[c.slot[p]];
    }
    return c;
}

// Copies chunk-major rows [n, H] in the nibbles' order.
static void reorder(const float* rows, long n, long H, float* out) {
    parallel(n, 4.0 * n * H, [&](long t, int) {
        for (long h = 0; h < H; ++h) out[t * H + nibble_order(h)] = rows[t * H + chunk_major(h, H)];
    });
}

// Activates `count` gate and linear values, which come in turn, with their biases. The gate is clamped above only.
static void swiglu(const float* sums, const float* bias, long count, float limit, float* out) {
    float gate[BLOCK / 2] = {}, linear[BLOCK / 2] = {};
    for (long i = 0; i < count; ++i) gate[i] = sums[2 * i] + bias[2 * i], linear[i] = sums[2 * i + 1] + bias[2 * i + 1];
    for (long i = 0; i < count; i += WIDTH) {
        const vf g = least(load(gate + i), splat(limit));
        const vf l = greatest(least(load(linear + i), splat(limit)), splat(-limit));
        store(gate + i, g / (1.0f + exponential(g * -ALPHA)) * (l + 1.0f));
    }
    memcpy(out, gate, count * sizeof(float));
}

// Points each pair at its row among `rows` [T * k / each, H]: `each` pairs share one.
INLINE void point(const Chosen& c, long pairs, const float* rows, long H, long each) {
    for (long at = 0; at < pairs; ++at) c.x[at] = rows + c.pairs[at] / each * H;
}

// Projects each pair's row by its expert and activates it. place(i) is where value i of a row of I goes.
template <class Place>
static bool project_up(const Matrix& m, const Chosen& c, float limit, float* out, const Place& place) {
    const long I = m.rows / 2;
    return multiply(m, c.jobs, c.count, c.x, [&](long at, long r0, long r1, const float* sums) {
        float values[BLOCK / 2];
        const long pair = c.pairs[at];
        swiglu(sums, m.bias + c.slot[pair] * m.rows + r0, (r1 - r0) / 2, limit, values);
        for (long i = 0; i < (r1 - r0) / 2; ++i) out[pair * I + place(r0 / 2 + i)] = values[i];
    });
}

// Projects each pair's activated row back to `made` [T * k, H].
static bool project_down(const Matrix& m, const Chosen& c, float* made) {
    const long H = m.rows;
    return multiply(m, c.jobs, c.count, c.x, [&](long at, long r0, long r1, const float* sums) {
        const long pair = c.pairs[at];
        for (long r = r0; r < r1; ++r) made[pair * H + r] = sums[r - r0] + m.bias[c.slot[pair] * H + r];
    });
}

// Adds the weighted sum of each row's pairs, made [T * k, H], to its residual. An absent expert's are not read.
static void combine(const Chosen& c, long T, long k, long H, const float* made, const float* residual, float* out) {
    parallel(T, 4.0 * T * k * H, [&](long t, int) {
        for (long h = 0; h < H; h += WIDTH) {
            vf total = {};
            for (long i = 0; i < k; ++i)
                if (c.slot[t * k + i] >= 0) total += load(made + (t * k + i) * H + h) * c.share[t * k + i];
            store(out + t * H + h, load(residual + t * H + h) + total);
        }
    });
}

// Chunk-major rows [T, H] to activated rows [T, k], chunk-major.
EXPORT(expert_gate_up)(const float* normed, const Routing* routing, const Matrix* up, float limit, float* activated) {
    Operation held;
    const long T = routing->T, H = up->columns, I = up->rows / 2;
    const Chosen c = chosen_experts(*routing, T * H);
    if (!c.values) return 1;
    reorder(normed, T, H, c.values);
    point(c, T * routing->k, c.values, H, routing->k);
    return !project_up(*up, c, limit, activated, [I](long i) { return chunk_major(i, I); });
}

// Activated chunk-major rows [T, k] to out [T, H].
EXPORT(expert_down_residual)(const float* activated, const Routing* routing, const Matrix* down, const float* residual, float* out) {
    Operation held;
    const long T = routing->T, pairs = T * routing->k, H = down->rows, I = down->columns;
    const Chosen c = chosen_experts(*routing, pairs * (I + H));
    if (!c.values) return 1;
    reorder(activated, pairs, I, c.values);
    point(c, pairs, c.values, I, 1);
    float* made = c.values + pairs * I;
    if (!project_down(*down, c, made)) return 1;
    combine(c, T, routing->k, H, made, residual, out);
    return 0;
}

// Both projections of the pairs whose experts have a slot, to their rows of made [T, k, H]. Other rows are left alone.
static bool project(const float* normed, const Routing& r, const Matrix& up, const Matrix& down, float limit, const Chosen& c, float* values,
                    float* made) {
    const long T = r.T, pairs = T * r.k, H = up.columns, I = down.columns;
    float* activated = values + T * H;
    reorder(normed, T, H, values), point(c, pairs, values, H, r.k);
    if (!project_up(up, c, limit, activated, nibble_order)) return false;
    point(c, pairs, activated, I, 1);
    return project_down(down, c, made);
}

// Both projections for many rows.
EXPORT(expert_mlp_grouped)(const float* normed, const Routing* routing, const Matrix* up, const Matrix* down, float limit, const float* residual,
                           float* out) {
    Operation held;
    const long T = routing->T, k = routing->k, pairs = T * k, H = up->columns, I = down->columns;
    const Chosen c = chosen_experts(*routing, T * H + pairs * (I + down->rows));
    if (!c.values) return 1;
    float* made = c.values + T * H + pairs * I;
    if (!project(normed, *routing, *up, *down, limit, c, c.values, made)) return 1;
    combine(c, T, k, down->rows, made, residual, out);
    return 0;
}

// The same for the experts that have a slot, to their rows of made [T, k, H]: one pass of several.
EXPORT(expert_pass)(const float* normed, const Routing* routing, const Matrix* up, const Matrix* down, float limit, float* made) {
    Operation held;
    const long T = routing->T;
    const Chosen c = chosen_experts(*routing, T * up->columns + T * routing->k * down->columns);
    return !c.values || !project(normed, *routing, *up, *down, limit, c, c.values, made);
}

// What all passes made, weighted and summed. Of the routing only the logits count, for no expert was absent from all passes.
EXPORT(expert_combine)(const float* made, const Routing* routing, int64_t H, const float* residual, float* out) {
    Operation held;
    const Chosen c = chosen_experts(*routing, 0);
    if (!c.values) return 1;
    memset(c.slot, 0, routing->T * routing->k * sizeof(int32_t));
    combine(c, routing->T, routing->k, H, made, residual, out);
    return 0;
}
