// The one product: rows of float32 by the rows of a weight in any format, added up in float32.
//
// A result is a sum over fixed pieces of the columns, of the lanes of one vector in one order. So a row's results are
// bit-equal however many rows stand beside it, in decode and in prefill, whatever the number of threads. Knows matrices and
// blocks of them; what becomes of the sums is the caller's.

constexpr int RT = 4;  // weight rows of a tile
#if WIDTH == 16
constexpr int XT = 6;  // rows of x of a tile: RT * XT sums, XT of x and one weight fill the registers
#elif WIDTH == 8
constexpr int XT = 3;
#else
constexpr int XT = 2;
#endif

constexpr long BLOCK = 64;       // weight rows of a task
constexpr long PIECE = 768;      // columns added up at a time: XT rows of x stay in the first cache, BLOCK opened rows in the second
constexpr long FEW_TILES = 4;    // of rows of x, beside which a weight's tile is multiplied as soon as it is opened
constexpr long MOST_ROWS = 512;  // rows of x of a task
constexpr long SPLIT_ROWS = 96;  // where the weight has too few rows to occupy all threads

// A weight to be multiplied by rows first .. first + n - 1 of an operation's list of rows.
struct Job {
    long slot, first, n;
};

// Adds N columns of RT sums to `to`, of which the first `count` rows are wanted.
template <int N>
INLINE void add_sums(const vf (*acc)[N], float* to, long ld, long count) {
    for (int j = 0; j < N; ++j, to += ld) {
        const v4 four = sums(acc[0][j], acc[1][j], acc[2][j], acc[3][j]);
        if (count == RT) {
            v4 before;
            memcpy(&before, to, sizeof before);
            before += four;
            memcpy(to, &before, sizeof before);
        } else
            for (int i = 0; i < RT; ++i)
                if (i < count) to[i] += four[i];
    }
}

// Multiplies RT rows of a weight, opening them, by N rows of x.
template <int N, class Row>
INLINE void multiply_opening(const Row* rows, const float* const* x, long from, long to, long ahead, float* sums, long ld, long count) {
    vf acc[RT][N] = {};
    for (long g = from; g < to; ++g)
        for (int i = 0; i < RT; ++i) {
            vf w[V];
            rows[i].prefetch(g, ahead);
            rows[i].group(g, w);
            for (int v = 0; v < V; ++v)
                for (int j = 0; j < N; ++j) acc[i][j] += w[v] * load(x[j] + GROUP * g + WIDTH * v);
        }
    add_sums<N>(acc, sums, ld, count);
}

// Multiplies RT opened rows by N rows of x. Row i's vector at column c is at w[i] + step * c.
template <int N, int STEP>
INLINE void multiply_opened(const float* const* w, const float* const* x, long from, long columns, float* sums, long ld, long count) {
    vf acc[RT][N] = {};
    for (long c = 0; c < columns; c += WIDTH) {
        vf values[N];
        for (int j = 0; j < N; ++j) values[j] = load(x[j] + from + c);
        for (int i = 0; i < RT; ++i) {
            const vf one = load(w[i] + STEP * c);
            for (int j = 0; j < N; ++j) acc[i][j] += one * values[j];
        }
    }
    add_sums<N>(acc, sums, ld, count);
}

// Multiplies RT opened rows by n <= XT rows of x. A function of its own, so that its sums have all registers.
template <int STEP>
__attribute__((noinline)) void multiply_tile(const float* const* w, const float* const* x, long n, long from, long columns, float* sums, long ld, long count) {
    switch (n) {
        case 1: return multiply_opened<1, STEP>(w, x, from, columns, sums, ld, count);
        case 2: return multiply_opened<2, STEP>(w, x, from, columns, sums, ld, count);
#if WIDTH > 4
        case 3: return multiply_opened<3, STEP>(w, x, from, columns, sums, ld, count);
#endif
#if WIDTH > 8
        case 4: return multiply_opened<4, STEP>(w, x, from, columns, sums, ld, count);
        case 5: return multiply_opened<5, STEP>(w, x, from, columns, sums, ld, count);
        case 6: return multiply_opened<6, STEP>(w, x, from, columns, sums, ld, count);
#endif
    }
}

INLINE long groups_of_piece(long groups) {
    const long pieces = (GROUP * groups + PIECE - 1) / PIECE;
    return (groups + pieces - 1) / pieces;
}

template <int N, class Opener>
void few(const Opener& weight, long r0, long r1, long groups, const float* const* x, float* sums) {
    const long step = groups_of_piece(groups);
    for (long r = r0; r < r1; r += RT) {
        typename Opener::Row rows[RT];
        for (long i = 0; i < RT; ++i) rows[i] = weight.row(r + i < r1 ? r + i : r1 - 1);
        const long count = r1 - r < RT ? r1 - r : RT;
        for (long from = 0; from < groups; from += step)
            multiply_opening<N>(rows, x, from, from + step < groups ? from + step : groups, RT * GROUP * groups, sums + (r - r0), BLOCK, count);
    }
}

// Opens rows piece by piece, RT beside each other so that a tile reads one stream, and multiplies them by all rows of x. Beside
// few rows of x a tile is multiplied as soon as it is opened, while it is in the first cache.
template <class Opener>
void many(const Opener& weight, long r0, long r1, long groups, const float* const* x, long n, float* sums, float* opened) {
    const long step = groups_of_piece(groups), tiles = (n + XT - 1) / XT, each = (n + tiles - 1) / tiles;
    const long held = n > FEW_TILES * XT ? BLOCK : RT;
    for (long from = 0; from < groups; from += step) {
        const long to = from + step < groups ? from + step : groups, columns = GROUP * (to - from);
        for (long first = r0; first < r1; first += held) {
            const long stop = first + held < r1 ? first + held : r1;
            for (long r = first; r < stop; ++r) {
                const typename Opener::Row row = weight.row(r);
                float* out = opened + (r - first) / RT * RT * columns + (r - first) % RT * WIDTH;
                for (long g = from; g < to; ++g) {
                    vf w[V];
                    row.prefetch(g, GROUP * groups);
                    row.group(g, w);
                    for (int v = 0; v < V; ++v) store(out + RT * (GROUP * (g - from) + WIDTH * v), w[v]);
                }
            }
            for (long j = 0; j < n; j += each)
                for (long r = first; r < stop; r += RT) {
                    const float* w[RT];
                    for (long i = 0; i < RT; ++i) w[i] = opened + (r - first) * columns + i * WIDTH;
                    multiply_tile<RT>(w, x + j, n - j < each ? n - j : each, GROUP * from, columns, sums + j * BLOCK + (r - r0), BLOCK,
                                      stop - r < RT ? stop - r : RT);
                }
        }
    }
}

template <class Opener>
void multiply_block(const Opener& weight, long r0, long r1, long columns, const float* const* x, long n, float* sums, float* opened) {
    const long groups = columns / GROUP;
    memset(sums, 0, n * BLOCK * sizeof(float));
    switch (n) {
        case 1: return few<1>(weight, r0, r1, groups, x, sums);
        case 2: return few<2>(weight, r0, r1, groups, x, sums);
#if WIDTH > 4
        case 3: return few<3>(weight, r0, r1, groups, x, sums);
#endif
#if WIDTH > 8
        case 4: return few<4>(weight, r0, r1, groups, x, sums);
#endif
        default: return many(weight, r0, r1, groups, x, n, sums, opened);
    }
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
    INLINE Row row(long r) const { return {weight + r * columns, scales + r * (columns / 64), offsets + r * (columns / 64)}; }
};
struct MXFP4Opener {
    typedef MXFP4Row Row;
    const uint8_t *weight, *scales;
    long columns;
    INLINE Row row(long r) const { return {weight + r * (columns / 2), scales + r * (columns / 32)}; }
};

// Multiplies rows r0 to r1 of a slot's weight by n rows of x, to sums [n, BLOCK].
void multiply_rows(const Matrix& m, long slot, long r0, long r1, const float* const* x, long n, float* sums, float* opened) {
    const long skip = slot * m.rows, c = m.columns;
    r0 += skip;
    r1 += skip;
    switch (m.format) {
        case FLOAT32: return multiply_block(Float32Opener{(const float*)m.weight, c}, r0, r1, c, x, n, sums, opened);
        case BFLOAT16: return multiply_block(BFloat16Opener{(const uint16_t*)m.weight, c}, r0, r1, c, x, n, sums, opened);
        case MXFP4: return multiply_block(MXFP4Opener{(const uint8_t*)m.weight, (const uint8_t*)m.scales, c}, r0, r1, c, x, n, sums, opened);
        case Q8: break;
    }
    const uint8_t* codes = (const uint8_t*)m.weight;
    if (m.wide) return multiply_block(Q8Opener<float>{codes, (const float*)m.scales, (const float*)m.offsets, c}, r0, r1, c, x, n, sums, opened);
    multiply_block(Q8Opener<uint16_t>{codes, (const uint16_t*)m.scales, (const uint16_t*)m.offsets, c}, r0, r1, c, x, n, sums, opened);
}

INLINE long rounded_up(long n, long to) { return (n + to - 1) / to * to; }

// Multiplies every job's weight by its rows of x. Calls done(row of the list, r0, r1, sums from r0 on) for each block and row.
// Returns false without memory.
template <class Done>
bool multiply(const Matrix& m, const Job* jobs, long count, const float* const* x, const Done& done) {
    long most = 1;
    double work = 0;
    for (long i = 0; i < count; ++i) {
        most = jobs[i].n > most ? jobs[i].n : most;
        work += double(jobs[i].n) * m.rows * m.columns;
    }
    long rows = BLOCK;  // fewer to a task where there are few tasks
    while (rows > 16 && count * ((m.rows + rows - 1) / rows) < 4 * threads.count()) rows /= 2;
    const size_t opened_bytes = BLOCK * GROUP * groups_of_piece(m.columns / GROUP) * sizeof(float);
    if (!threads.reserve(opened_bytes + most * BLOCK * sizeof(float))) return false;
    const long blocks = (m.rows + rows - 1) / rows;
    parallel(count * blocks, work, [&](long task, int thread) {
        const Job& job = jobs[task / blocks];
        float* opened = (float*)threads.own[thread].base;
        float* sums = opened + opened_bytes / sizeof(float);
        const long r0 = task % blocks * rows, r1 = r0 + rows < m.rows ? r0 + rows : m.rows;
        multiply_rows(m, job.slot, r0, r1, x + job.first, job.n, sums, opened);
        for (long j = 0; j < job.n; ++j) done(job.first + j, r0, r1, sums + j * BLOCK);
    });
    return true;
}

// Splits n rows into jobs of one weight with `rows` rows. Returns their number; `jobs` has room for `jobs_of(n)`.
INLINE long jobs_of(long n) { return n / SPLIT_ROWS + 2; }

INLINE long split(long n, long rows, Job* jobs) {
    const long most = rows < BLOCK * threads.count() ? SPLIT_ROWS : MOST_ROWS;
    long count = 0;
    for (long first = 0; first < n; first += most) jobs[count++] = {0, first, n - first < most ? n - first : most};
    return count;
}
