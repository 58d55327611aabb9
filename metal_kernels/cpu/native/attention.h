// Attention with sinks: of a few new positions over a cache, and of a prompt. All rows are float32.
//
// A row's scores are exponentiated relative to the largest seen so far, and what was added up is scaled when a larger one
// comes. A prompt's rows begin with the sink as their only score.

#if WIDTH == 16
constexpr int MR = 12;  // rows of a tile of two vectors
#elif WIDTH == 8
constexpr int MR = 6;
#else
constexpr int MR = 4;
#endif
constexpr long KEYS = 64;         // keys of a step of a prompt
constexpr long SPLIT_KEYS = 512;  // keys of a task of decode attention

// Adds a [MR, n] times b [n, columns] to c [MR, columns].
INLINE void add_panel(const float* a, long lda, const float* b, long ldb, long n, float* c, long ldc, long columns) {
    for (long at = 0; at < columns; at += 2 * WIDTH) {
        vf acc[MR][2];
        for (int r = 0; r < MR; ++r)
            for (int v = 0; v < 2; ++v) acc[r][v] = load(c + r * ldc + at + v * WIDTH);
        for (long i = 0; i < n; ++i) {
            const vf b0 = load(b + i * ldb + at), b1 = load(b + i * ldb + at + WIDTH);
            for (int r = 0; r < MR; ++r) {
                const vf one = splat(a[r * lda + i]);
                acc[r][0] += one * b0;
                acc[r][1] += one * b1;
            }
        }
        for (int r = 0; r < MR; ++r)
            for (int v = 0; v < 2; ++v) store(c + r * ldc + at + v * WIDTH, acc[r][v]);
    }
}

// What a row has added up: the largest score, the sum of exponentials, and their sums of values.
struct Softmax {
    float largest, total;

    // Turns n scores (padded to whole vectors by -inf) into exponentials. Scales what was added up before.
    INLINE void add(float* scores, long n, float* out, long D) {
        vf most = splat(largest);
        for (long i = 0; i < n; i += WIDTH) most = greatest(most, load(scores + i));
        const float now = greatest_lane(most), from = now == -INFINITY ? 0.0f : now;  // so that -inf gives 0, and a NaN stays
        if (now != largest) {
            const float scale = expf(largest - now);
            total *= scale;
            for (long d = 0; d < D; d += WIDTH) store(out + d, load(out + d) * scale);
            largest = now;
        }
        vf sums = {};
        for (long i = 0; i < n; i += WIDTH) {
            const vf e = exponential(load(scores + i) - from);
            store(scores + i, e);
            sums += e;
        }
        total += sum(sums);
    }
};

// q [B, N, L, D] and keys and values [B, M, P, D], by their strides in values (of B, then the two after it; D's is 1). Queries
// are of the last L positions. To out [B, L, N * D].
EXPORT(prefill_attention)(const float* q, const int64_t* qs, const float* keys, const int64_t* ks, const float* values, const int64_t* vs,
                          const Heads* heads, int64_t B, int64_t L, int64_t P, float* out) {
    Operation held;
    const long N = heads->N, M = heads->M, D = heads->D, G = N / M, window = heads->window;
    const long queries = G >= 32 ? 8 : 256 / G < 64 ? 256 / G : 64, rows = rounded_up(queries * G, MR);
    const long blocks = (L + queries - 1) / queries;
    const size_t floats = 2 * rows * D + rows * KEYS + D * KEYS;
    if (!threads.reserve(floats * sizeof(float) + rows * sizeof(Softmax))) return 1;
    parallel(B * M * blocks, 4.0 * B * N * L * P * D, [&](long task, int thread) {
        const long b = task / (M * blocks), m = task / blocks % M, first = (blocks - 1 - task % blocks) * queries;  // the longest first
        const long count = L - first < queries ? L - first : queries, at = P - L + first;
        float* own = (float*)threads.own[thread].base;
        float *own_q = own, *sums = own_q + rows * D, *scores = sums + rows * D, *turned = scores + rows * KEYS;
        Softmax* state = (Softmax*)(turned + D * KEYS);
        memset(own_q, 0, 2 * rows * D * sizeof(float));
        for (long g = 0; g < G; ++g)
            for (long i = 0; i < count; ++i) {
                const long row = g * count + i;
                const float* from = q + b * qs[0] + (m * G + g) * qs[1] + (first + i) * qs[2];
                for (long d = 0; d < D; ++d) own_q[row * D + d] = from[d] * heads->scale;
                const float sink = heads->sinks[m * G + g];
                state[row] = {sink, sink == INFINITY ? NAN : 1.0f};
            }
        const long used = G * count, last = at + count;
        for (long key = window && at + 1 > window ? at + 1 - window : 0; key < last; key += KEYS) {
            const long n = last - key < KEYS ? last - key : KEYS;
            if (n < KEYS) memset(turned, 0, D * KEYS * sizeof(float));
            for (long i = 0; i < n; ++i) {
                const float* from = keys + b * ks[0] + m * ks[1] + (key + i) * ks[2];
                for (long d = 0; d < D; ++d) turned[d * KEYS + i] = from[d];
            }
            memset(scores, 0, rows * KEYS * sizeof(float));
            for (long r = 0; r < used; r += MR) add_panel(own_q + r * D, D, turned, KEYS, D, scores + r * KEYS, KEYS, KEYS);
            for (long row = 0; row < used; ++row) {
                const long position = at + row % count;
                float* of = scores + row * KEYS;
                for (long i = position + 1 > key ? position + 1 - key : 0; i < KEYS; ++i) of[i] = -INFINITY;
                if (window)
                    for (long i = 0; i < KEYS && key + i + window <= position; ++i) of[i] = -INFINITY;
                state[row].add(of, KEYS, sums + row * D, D);
            }
            const float* from = values + b * vs[0] + m * vs[1] + key * vs[2];
            for (long r = 0; r < used; r += MR) add_panel(scores + r * KEYS, KEYS, from, vs[2], n, sums + r * D, D, D);
        }
        for (long row = 0; row < used; ++row) {
            float* to = out + ((b * L + first + row % count) * N + m * G + row / count) * D;
            for (long d = 0; d < D; d += WIDTH) store(to + d, load(sums + row * D + d) / state[row].total);
        }
    });
    return 0;
}

// q [S * L, N, D] and kv [S * L, 2, M, D] of L new positions of S sequences, each over its own cache, to whose tail the new
// rows are written first. To out [S * L, N * D].
EXPORT(decode_attention)(const float* q, const float* kv, const Cache* caches, const Heads* heads, int64_t S, int64_t L, float* out) {
    Operation held;
    const long N = heads->N, M = heads->M, D = heads->D, G = N / M, window = heads->window, used = L * G, rows = rounded_up(used, MR);
    long most = 1, work = 0;
    const auto first_key = [&](const Cache& c) { return window && c.body_rows + c.tail_rows + 1 > window ? c.body_rows + c.tail_rows + 1 - window : 0; };
    const auto parts_of = [&](const Cache& c) { return (c.body_rows + c.tail_rows + L - first_key(c) + SPLIT_KEYS - 1) / SPLIT_KEYS; };
    for (long s = 0; s < S; ++s) {
        const Cache& c = caches[s];
        most = parts_of(c) > most ? parts_of(c) : most;
        work += c.body_rows + c.tail_rows + L - first_key(c);
        for (long l = 0; l < L; ++l)
            for (long m = 0; m < 2 * M; ++m)
                memcpy(c.tail + (m * c.tail_capacity + c.tail_rows + l) * D, kv + ((s * L + l) * 2 * M + m) * D, D * sizeof(float));
    }
    const long part_floats = rows * D + 2 * rows;
    float* parts = (float*)threads.shared.reserve(S * M * most * part_floats * sizeof(float));
    if (!parts || !threads.reserve((rows * D + rows * SPLIT_KEYS) * sizeof(float) + used * sizeof(float*))) return 1;
    parallel(S * M * most, 2.0 * N * D * L * work, [&](long task, int thread) {
        const long s = task / (M * most), m = task / most % M, part = task % most;
        const Cache& c = caches[s];
        if (part >= parts_of(c)) return;
        const long before = c.body_rows + c.tail_rows, start = first_key(c) + part * SPLIT_KEYS;
        const long stop = start + SPLIT_KEYS < before + L ? start + SPLIT_KEYS : before + L, padded = rounded_up(stop - start, WIDTH);
        float *own_q = (float*)threads.own[thread].base, *scores = own_q + rows * D;
        const float** x = (const float**)(scores + rows * SPLIT_KEYS);
        float* sums = parts + task * part_floats;
        Softmax* state = (Softmax*)(sums + rows * D);
        memset(sums, 0, rows * D * sizeof(float));
        memset(scores, 0, rows * SPLIT_KEYS * sizeof(float));
        for (long row = 0; row < used; ++row) {
            const float* from = q + ((s * L + row / G) * N + m * G + row % G) * D;
            for (long d = 0; d < D; ++d) own_q[row * D + d] = from[d] * heads->scale;
            x[row] = own_q + row * D;
            state[row] = {-INFINITY, 0.0f};
        }
        // A stretch of keys or values lies in the body, the next in the tail.
        const auto row_of = [&](long kind, long position) {
            const bool tail = position >= c.body_rows;
            const long capacity = tail ? c.tail_capacity : c.body_capacity;
            return (tail ? c.tail : c.body) + ((kind * M + m) * capacity + position - (tail ? c.body_rows : 0)) * D;
        };
        for (long key = start; key < stop; key += RT) {
            const float* w[RT];
            for (long i = 0; i < RT; ++i) w[i] = row_of(0, key + i < stop ? key + i : stop - 1);
            for (long row = 0; row < used; row += XT)
                multiply_tile<1>(w, x + row, used - row < XT ? used - row : XT, 0, D, scores + row * SPLIT_KEYS + key - start, SPLIT_KEYS,
                              stop - key < RT ? stop - key : RT);
        }
        for (long row = 0; row < used; ++row) {
            const long position = before + row / G;
            float* of = scores + row * SPLIT_KEYS;
            for (long i = position + 1 > start ? position + 1 - start : 0; i < padded; ++i) of[i] = -INFINITY;
            if (window)
                for (long i = 0; i < padded && start + i + window <= position; ++i) of[i] = -INFINITY;
            state[row].add(of, padded, sums + row * D, D);
        }
        for (long from = start, to; from < stop; from = to) {
            to = from < c.body_rows && c.body_rows < stop ? c.body_rows : stop;
            for (long r = 0; r < used; r += MR)
                add_panel(scores + r * SPLIT_KEYS + from - start, SPLIT_KEYS, row_of(1, from), D, to - from, sums + r * D, D, D);
        }
    });
    parallel(S * L, 2.0 * S * L * N * D * most, [&](long at, int) {
        const long s = at / L, l = at % L, count = parts_of(caches[s]);
        for (long n = 0; n < N; ++n) {
            const long m = n / G, row = l * G + n % G;
            const float* first = parts + (s * M + m) * most * part_floats;
            const auto state = [&](long i) { return ((const Softmax*)(first + i * part_floats + rows * D))[row]; };
            float largest = heads->sinks[n];
            for (long i = 0; i < count; ++i) largest = state(i).largest > largest ? state(i).largest : largest;
            float total = expf(heads->sinks[n] - largest);
            float* to = out + (at * N + n) * D;
            memset(to, 0, D * sizeof(float));
            for (long i = 0; i < count; ++i) {
                const float share = expf(state(i).largest - largest);
                total += state(i).total * share;
                for (long d = 0; d < D; d += WIDTH) store(to + d, load(to + d) + load(first + i * part_floats + row * D + d) * share);
            }
            for (long d = 0; d < D; d += WIDTH) store(to + d, load(to + d) / total);
        }
    });
    return 0;
}
