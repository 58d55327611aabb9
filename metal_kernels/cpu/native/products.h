// The one product: rows of float32 by the rows of a weight in any format, added up in float32.
//
// A result is a sum over fixed pieces of the columns, of the lanes of one vector in one order. So a row's results are
// bit-equal however many rows stand beside it, in decode and in prefill, whatever the number of threads. Knows matrices and
// blocks of them; what becomes of the sums is the caller's.

constexpr int RT = 4;                                      // weight rows of a tile
constexpr int XT = WIDTH == 16 ? 6 : WIDTH == 8 ? 3 : 2;   // rows of x of a tile: RT * XT sums, XT of x and one weight fill the registers
constexpr int FEW = WIDTH == 16 ? 4 : WIDTH == 8 ? 3 : 2;  // rows of x beside which a weight is multiplied as it is opened
constexpr long BLOCK = 64;       // weight rows of a block, which opened for a piece stay in the second cache
constexpr long LEAST = 16;       // weight rows of a block where there are few blocks
constexpr long SPAN = 8;         // blocks that a task multiplies one after the other, so that it needs what it fetched ahead
constexpr long FEW_TILES = 4;    // of rows of x, beside which a weight's tile is multiplied while it is in the first cache
constexpr long MOST_ROWS = 512;  // rows of x of a task
constexpr long SPLIT_ROWS = 96;  // the same, where the weight has too few rows to occupy all threads

// A weight to be multiplied by rows first .. first + n - 1 of an operation's list of rows.
struct Job {
    long slot, first, n;
};

typedef float unaligned4 __attribute__((vector_size(16), aligned(4), may_alias));
INLINE long lesser(long a, long b) { return a < b ? a : b; }
INLINE long rounded_up(long n, long to) { return (n + to - 1) / to * to; }
INLINE long groups_of_piece(long groups) {
    const long pieces = (GROUP * groups + PIECE - 1) / PIECE;
    return (groups + pieces - 1) / pieces;
}

// Adds the lanes of RT * N sums up, to `to` [N, BLOCK], of which the first `count` of RT are wanted.
template <int N>
INLINE void add_sums(const vf (*acc)[N], float* to, long count) {
    for (int j = 0; j < N; ++j, to += BLOCK) {
        const v4 four = sums(acc[0][j], acc[1][j], acc[2][j], acc[3][j]);
        for (int i = 0; i < RT && count < RT; ++i)
            if (i < count) to[i] += four[i];
        if (count == RT) *(unaligned4*)to += four;
    }
}

// Multiplies groups `from` to `to` of RT rows, opening them, by N rows of x. Fetches what lies `ahead` values further on.
template <int N, class Row>
INLINE void multiply_opening(Row* rows, const float* const* x, long from, long to, long ahead, float* sums, long count) {
    vf acc[RT][N] = {};
    for (int i = 0; i < RT; ++i) rows[i].begin(from, to);
    for (long g = from; g < to; ++g)
        for (int i = 0; i < RT; ++i) {
            vf w[V];
            rows[i].prefetch(g, ahead);
            rows[i].group(g, w);
            for (int v = 0; v < V; ++v)
                for (int j = 0; j < N; ++j) acc[i][j] += w[v] * load(x[j] + GROUP * g + WIDTH * v);
        }
    add_sums<N>(acc, sums, count);
}

// Multiplies RT opened rows, whose vectors lie beside each other, by N rows of x from column `from` on.
template <int N>
INLINE void multiply_opened(const float* w, const float* const* x, long from, long columns, float* sums, long count) {
    vf acc[RT][N] = {};
    for (long c = 0; c < columns; c += WIDTH, w += RT * WIDTH) {
        vf values[N];
        for (int j = 0; j < N; ++j) values[j] = load(x[j] + from + c);
        for (int i = 0; i < RT; ++i) {
            const vf one = load(w + i * WIDTH);
            for (int j = 0; j < N; ++j) acc[i][j] += one * values[j];
        }
    }
    add_sums<N>(acc, sums, count);
}

// Does it for n <= N rows of x. A function of its own, so that its sums have all registers.
template <int N>
__attribute__((noinline)) void multiply_tile(long n, const float* w, const float* const* x, long from, long columns, float* sums, long count) {
    if (n == N) return multiply_opened<N>(w, x, from, columns, sums, count);
    if constexpr (N > 1) multiply_tile<N - 1>(n, w, x, from, columns, sums, count);
}

// Multiplies rows r0 to r1 by N rows of x, opening each once.
template <int N, class Opener>
void few(const Opener& weight, long r0, long r1, long groups, const float* const* x, float* sums) {
    const long step = groups_of_piece(groups);
    for (long r = r0; r < r1; r += RT) {
        typename Opener::Row rows[RT];
        for (long i = 0; i < RT; ++i) rows[i] = weight.row(lesser(r + i, r1 - 1));
        for (long from = 0; from < groups; from += step)
            multiply_opening<N>(rows, x, from, lesser(from + step, groups), RT * GROUP * groups, sums + (r - r0), lesser(r1 - r, RT));
    }
}

// Opens rows piece by piece and multiplies them by all rows of x.
template <class Opener>
void many(const Opener& weight, long r0, long r1, long groups, const float* const* x, long n, float* sums, float* opened) {
    const long step = groups_of_piece(groups), tiles = (n + XT - 1) / XT, each = (n + tiles - 1) / tiles;
    const long held = n > FEW_TILES * XT ? BLOCK : RT;
    for (long from = 0; from < groups; from += step) {
        const long to = lesser(from + step, groups), columns = GROUP * (to - from);
        for (long first = r0; first < r1; first += held) {
            const long stop = lesser(first + held, r1);
            for (long r = first; r < stop; ++r) {
                typename Opener::Row row = weight.row(r);
                float* out = opened + (r - first) / RT * RT * columns + (r - first) % RT * WIDTH;
                row.begin(from, to);
                for (long g = from; g < to; ++g) {
                    vf w[V];
                    row.prefetch(g, RT * GROUP * groups);
                    row.group(g, w);
                    for (int v = 0; v < V; ++v) store(out + RT * (GROUP * (g - from) + WIDTH * v), w[v]);
                }
            }
            for (long j = 0; j < n; j += each)
                for (long r = first; r < stop; r += RT)
                    multiply_tile<XT>(lesser(n - j, each), opened + (r - first) * columns, x + j, GROUP * from, columns,
                                      sums + j * BLOCK + (r - r0), lesser(stop - r, RT));
        }
    }
}

// Multiplies rows r0 to r1 by n rows of x, to sums [n, BLOCK].
template <int N, class Opener>
void multiply_block(const Opener& weight, long r0, long r1, long groups, const float* const* x, long n, float* sums, float* opened) {
    if (n == N) return few<N>(weight, r0, r1, groups, x, sums);
    if constexpr (N < FEW) return multiply_block<N + 1>(weight, r0, r1, groups, x, n, sums, opened);
    many(weight, r0, r1, groups, x, n, sums, opened);
}

struct Float32Opener {
    typedef Float32Row Row;
    const float* weight;
    long columns;
    INLINE Row row(long r) const { return {weight + r * columns}; }
};
struct BFloat16Opener {
    typedef BFloat16Row Row;
    const uint16_t* weight;
    long columns;
    INLINE Row row(long r) const { return {weight + r * columns}; }
};
template <class Scale>
struct Q8Opener {
    typedef Q8Row<Scale> Row;
    const uint8_t* weight;
    const Scale *scales, *offsets;
    long columns;
    INLINE Row row(long r) const { return {weight + r * columns, scales + r * (columns / 64), offsets + r * (columns / 64), {}, {}, 0}; }
};
struct MXFP4Opener {
    typedef MXFP4Row Row;
    const uint8_t *weight, *scales;
    long columns;
    INLINE Row row(long r) const { return {weight + r * (columns / 2), scales + r * (columns / 32)}; }
};

// Calls use(opener) for a matrix's format.
template <class Use>
INLINE void with_opener(const Matrix& m, const Use& use) {
    const long c = m.columns;
    switch (m.format) {
        case FLOAT32: return use(Float32Opener{(const float*)m.weight, c});
        case BFLOAT16: return use(BFloat16Opener{(const uint16_t*)m.weight, c});
        case MXFP4: return use(MXFP4Opener{(const uint8_t*)m.weight, (const uint8_t*)m.scales, c});
        case Q8: break;
    }
    if (m.wide) return use(Q8Opener<float>{(const uint8_t*)m.weight, (const float*)m.scales, (const float*)m.offsets, c});
    use(Q8Opener<uint16_t>{(const uint8_t*)m.weight, (const uint16_t*)m.scales, (const uint16_t*)m.offsets, c});
}

// Multiplies every job's weight by its rows of x. Calls done(row of the list, r0, r1, sums from r0 on) for each block and row.
// Returns false without memory.
template <class Done>
bool multiply(const Matrix& m, const Job* jobs, long count, const float* const* x, const Done& done) {
    long most = 1, rows = BLOCK;
    double work = 0;
    for (long i = 0; i < count; ++i) {
        most = jobs[i].n > most ? jobs[i].n : most;
        work += double(jobs[i].n) * m.rows * m.columns;
    }
    while (rows > LEAST && count * ((m.rows + rows - 1) / rows) < 4 * threads.count()) rows /= 2;
    const long blocks = (m.rows + rows - 1) / rows, groups = m.columns / GROUP, floats = BLOCK * GROUP * groups_of_piece(groups);
    if (!threads.reserve((floats + most * BLOCK) * sizeof(float))) return false;
    const long total = count * blocks, even = total / (32 * threads.count());  // 32 tasks each, so that all end together
    const long span = even < 1 ? 1 : lesser(even, SPAN);
    parallel((total + span - 1) / span, work, [&](long task, int thread) {
        float *opened = (float*)threads.own[thread].base, *sums = opened + floats;
        for (long block = task * span; block < lesser(task * span + span, total); ++block) {
            const Job& job = jobs[block / blocks];
            const long r0 = block % blocks * rows, r1 = lesser(r0 + rows, m.rows), skip = job.slot * m.rows;
            memset(sums, 0, job.n * BLOCK * sizeof(float));
            with_opener(m, [&](const auto& w) { multiply_block<1>(w, skip + r0, skip + r1, groups, x + job.first, job.n, sums, opened); });
            for (long j = 0; j < job.n; ++j) done(job.first + j, r0, r1, sums + j * BLOCK);
        }
    });
    return true;
}
