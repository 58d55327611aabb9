// Attention with sinks: of a prompt, and of a few new positions over a cache. All rows are float32.
//
// A task's rows are the queries of one key head. They lie side by side across the vectors: queries [D, rows], scores [keys,
// rows], sums of values [D, rows]. Scores are exponentiated relative to the largest seen so far, and what was added up is
// scaled when a larger one comes. A row begins with its sink as the only score.

constexpr int MR = WIDTH == 16 ? 12 : WIDTH == 8 ? 6 : 4;  // rows of a tile of two vectors
constexpr long KEYS = 64;                                  // keys of a step
constexpr long PART = 512;                                 // keys of a task of decode attention

// Adds a [R, n] times b [n, columns] to c [R, columns], or writes it there if `fresh`. a's value (r, i) is at r * ar + i * ai.
template <int R>
INLINE void add_tile(const float* a, long ar, long ai, const float* b, long n, float* c, long columns, bool fresh) {
    for (long at = 0; at < columns; at += 2 * WIDTH) {
        vf acc[R][2] = {};
        for (int r = 0; r < R && !fresh; ++r)
            for (int v = 0; v < 2; ++v) acc[r][v] = load(c + r * columns + at + v * WIDTH);
        for (long i = 0; i < n; ++i) {
            const vf b0 = load(b + i * columns + at), b1 = load(b + i * columns + at + WIDTH);
            for (int r = 0; r < R; ++r) {
                const vf one = splat(a[r * ar + i * ai]);
                acc[r][0] += one * b0;
                acc[r][1] += one * b1;
            }
        }
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < 2; ++v) store(c + r * columns + at + v * WIDTH, acc[r][v]);
    }
}

static void add_product(const float* a, long rows, long ar, long ai, const float* b, long n, float* c, long columns, bool fresh) {
    long r = 0;
    for (; r + MR <= rows; r += MR) add_tile<MR>(a + r * ar, ar, ai, b, n, c + r * columns, columns, fresh);
    for (; r + 2 <= rows; r += 2) add_tile<2>(a + r * ar, ar, ai, b, n, c + r * columns, columns, fresh);
    if (r < rows) add_tile<1>(a + r * ar, ar, ai, b, n, c + r * columns, columns, fresh);
}

struct Rows {
    long count, D;  // whole pairs of vectors; those that hold no query are 0
    float *q, *sums, *scores, *largest, *total, *position, *scale;

    static size_t floats(long count, long D) { return (2 * D + KEYS + 4) * count; }

    Rows(float* at, long count, long D) : count(count), D(D) {
        q = at, sums = q + D * count, scores = sums + D * count;
        largest = scores + KEYS * count, total = largest + count, position = total + count, scale = position + count;
        memset(at, 0, floats(count, D) * sizeof(float));
    }
    void begin(long row, const float* from, float factor, long at, float score, float weight) {
        for (long d = 0; d < D; ++d) q[d * count + row] = from[d] * factor;
        position[row] = float(at), largest[row] = score, total[row] = weight;
    }
    void end(long row, float* to) const {
        for (long d = 0; d < D; ++d) to[d] = sums[d * count + row] / total[row];
    }
    // Attends to the keys and values of positions `key` to `last`, which lie ks and vs apart. Rows are at `low` to `high`.
    void attend(const float* keys, long ks, const float* values, long vs, long key, long last, long window, long low, long high) const {
        for (long n; key < last; key += n, keys += n * ks, values += n * vs) {
            n = last - key < KEYS ? last - key : KEYS;
            add_product(keys, n, ks, 1, q, D, scores, count, true);
            const bool all_seen = key + n - 1 <= low && (!window || key + window > high);
            for (long row = 0; row < count; row += WIDTH) {
                float* of = scores + row;
                vf most = load(largest + row);
                for (long i = 0; i < n; ++i) {
                    if (!all_seen) {
                        const vf age = load(position + row) - float(key + i);
                        const vf past = age < 0.0f ? splat(-INFINITY) : load(of + i * count);
                        store(of + i * count, age >= float(window ? window : last) ? splat(-INFINITY) : past);
                    }
                    most = greatest(most, load(of + i * count));
                }
                const vf base = most == splat(-INFINITY) ? vf{} : most;  // nothing was seen yet
                const vf shrink = exponential(load(largest + row) - base);
                vf added = {};
                for (long i = 0; i < n; ++i) {
                    const vf e = exponential(load(of + i * count) - base);
                    store(of + i * count, e);
                    added += e;
                }
                store(total + row, load(total + row) * shrink + added);
                store(largest + row, most);
                store(scale + row, shrink);
            }
            for (long d = 0; d < D; ++d)
                for (long row = 0; row < count; row += WIDTH) store(sums + d * count + row, load(sums + d * count + row) * load(scale + row));
            add_product(values, D, 1, vs, scores, n, sums, count, false);
        }
    }
};

INLINE long first_seen(long position, long window) { return window && position + 1 > window ? position + 1 - window : 0; }

// q [B, N, L, D] and keys and values [B, M, P, D], by their strides in values (of B, then the two after it; D's is 1). Queries
// are of the last L positions. To out [B, L, N * D].
EXPORT(prefill_attention)(const float* q, const int64_t* qs, const float* keys, const int64_t* ks, const float* values, const int64_t* vs,
                          const Heads* heads, int64_t B, int64_t L, int64_t P, float* out) {
    Operation held;
    const long N = heads->N, M = heads->M, D = heads->D, G = N / M, window = heads->window;
    const long most = G >= 32 ? 8 : 256 / G < 64 ? 256 / G : 64, queries = most < L ? most : L, count = rounded_up(queries * G, 2 * WIDTH);
    const long blocks = (L + queries - 1) / queries;
    if (!threads.reserve(Rows::floats(count, D) * sizeof(float))) return 1;
    parallel(B * M * blocks, 4.0 * B * N * L * (window && window < P ? window : P) * D, [&](long task, int thread) {
        const long b = task / (M * blocks), m = task / blocks % M, first = (blocks - 1 - task % blocks) * queries;  // the longest first
        const long own = L - first < queries ? L - first : queries, at = P - L + first, start = first_seen(at, window);
        Rows rows((float*)threads.own[thread].base, count, D);
        for (long row = 0; row < G * own; ++row) {
            const long head = m * G + row / own, i = row % own;
            rows.begin(row, q + b * qs[0] + head * qs[1] + (first + i) * qs[2], heads->scale, at + i, heads->sinks[head], 1.0f);
        }
        rows.attend(keys + b * ks[0] + m * ks[1] + start * ks[2], ks[2], values + b * vs[0] + m * vs[1] + start * vs[2], vs[2], start, at + own,
                    window, at, at + own - 1);
        for (long row = 0; row < G * own; ++row) rows.end(row, out + ((b * L + first + row % own) * N + m * G + row / own) * D);
    });
    return 0;
}

// q [S * L, N, D] and kv [S * L, 2, M, D] of L new positions of S sequences, each over its own cache, to whose tail the new
// rows are written first. To out [S * L, N * D]. Many keys are parted; the parts are added up in their order.
EXPORT(decode_attention)(const float* q, const float* kv, const Cache* caches, const Heads* heads, int64_t S, int64_t L, float* out) {
    Operation held;
    const long N = heads->N, M = heads->M, D = heads->D, G = N / M, window = heads->window, count = rounded_up(L * G, 2 * WIDTH);
    const auto before = [&](long s) { return caches[s].body_rows + caches[s].tail_rows; };
    const auto parts_of = [&](long s) { return (before(s) + L - first_seen(before(s), window) + PART - 1) / PART; };
    long most = 1, parts = 0;
    for (long s = 0; s < S; ++s) {
        const Cache& c = caches[s];
        most = parts_of(s) > most ? parts_of(s) : most;
        parts += parts_of(s);
        for (long l = 0; l < L; ++l)
            for (long m = 0; m < 2 * M; ++m)
                memcpy(c.tail + (m * c.tail_capacity + c.tail_rows + l) * D, kv + ((s * L + l) * 2 * M + m) * D, D * sizeof(float));
    }
    const long floats = (D + 2) * count;  // that a part leaves: sums, largest scores, totals
    float* made = (float*)threads.shared.reserve(most > 1 ? S * M * most * floats * sizeof(float) : 1);
    if (!made || !threads.reserve(Rows::floats(count, D) * sizeof(float))) return 1;
    const auto row_of_out = [&](long s, long m, long row) { return out + ((s * L + row % L) * N + m * G + row / L) * D; };
    parallel(S * M * most, 4.0 * N * D * L * PART * parts, [&](long task, int thread) {
        const long s = task / (M * most), m = task / most % M, part = task % most, at = before(s);
        if (part >= parts_of(s)) return;
        const Cache& c = caches[s];
        const long start = first_seen(at, window) + part * PART, stop = start + PART < at + L ? start + PART : at + L;
        Rows rows((float*)threads.own[thread].base, count, D);
        for (long row = 0; row < L * G; ++row) {
            const float* from = q + ((s * L + row % L) * N + m * G + row / L) * D;
            rows.begin(row, from, heads->scale, at + row % L, part ? -INFINITY : heads->sinks[m * G + row / L], part ? 0.0f : 1.0f);
        }
        for (long from = start, to; from < stop; from = to) {
            const bool tail = from >= c.body_rows;
            to = tail || c.body_rows > stop ? stop : c.body_rows;
            const long capacity = tail ? c.tail_capacity : c.body_capacity, skip = from - (tail ? c.body_rows : 0);
            const float* held = tail ? c.tail : c.body;
            rows.attend(held + (m * capacity + skip) * D, D, held + ((M + m) * capacity + skip) * D, D, from, to, window, at, at + L - 1);
        }
        if (most > 1) {
            memcpy(made + task * floats, rows.sums, D * count * sizeof(float));
            memcpy(made + task * floats + D * count, rows.largest, 2 * count * sizeof(float));
        } else
            for (long row = 0; row < L * G; ++row) rows.end(row, row_of_out(s, m, row));
    });
    for (long s = 0; s < S && most > 1; ++s)
        for (long m = 0; m < M; ++m)
            for (long row = 0; row < L * G; ++row) {
                const float* of = made + (s * M + m) * most * floats + row;
                float* to = row_of_out(s, m, row);
                float largest = -INFINITY, total = 0;
                for (long i = 0; i < parts_of(s); ++i) largest = of[i * floats + D * count] > largest ? of[i * floats + D * count] : largest;
                memset(to, 0, D * sizeof(float));
                for (long i = 0; i < parts_of(s); ++i, of += floats) {
                    const float share = expf(of[D * count] - largest);
                    total += of[(D + 1) * count] * share;
                    for (long d = 0; d < D; ++d) to[d] += of[d * count] * share;
                }
                for (long d = 0; d < D; ++d) to[d] /= total;
            }
    return 0;
}
