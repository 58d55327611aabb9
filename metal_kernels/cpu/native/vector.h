// Vectors of WIDTH floats, and how 32 values of each weight format are opened to them. One architecture at a time.
//
// Knows the formats' bits; knows no matrix. A group is 32 neighbouring values of a row. MXFP4's codes lie two to a byte, so
// its groups open with even values before odd ones; what multiplies them lies in the same order, `nibble_order`.

#define INLINE inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(4 * WIDTH)));
typedef float unaligned __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * WIDTH)));

constexpr int GROUP = 32;
constexpr int V = GROUP / WIDTH;  // vectors of a group

INLINE vf load(const float* p) { return *reinterpret_cast<const unaligned*>(p); }
INLINE void store(float* p, vf v) { *reinterpret_cast<unaligned*>(p) = v; }
INLINE vf splat(float x) { return x - vf{}; }
INLINE vf least(vf a, vf b) { return a > b ? b : a; }    // a NaN in a stays
INLINE vf greatest(vf a, vf b) { return a < b ? b : a; }  // here too

typedef float v4 __attribute__((vector_size(16)));

// Folds the lanes to four.
INLINE v4 folded(vf v) {
#if WIDTH > 8
    typedef float v8 __attribute__((vector_size(32)));
    v8 halves[2];
    memcpy(halves, &v, sizeof v);
    v8 eight = halves[0] + halves[1];
#else
    vf eight = v;
#endif
#if WIDTH > 4
    v4 quarters[2];
    memcpy(quarters, &eight, sizeof eight);
    return quarters[0] + quarters[1];
#else
    return eight;
#endif
}

// Adds the lanes of four vectors up, always in one order.
INLINE v4 sums(vf a, vf b, vf c, vf d) {
    const v4 e = folded(a), f = folded(b), g = folded(c), h = folded(d);
#if WIDTH > 4
    return (v4)_mm_hadd_ps(_mm_hadd_ps((__m128)e, (__m128)f), _mm_hadd_ps((__m128)g, (__m128)h));
#else
    return v4{(e[0] + e[1]) + (e[2] + e[3]), (f[0] + f[1]) + (f[2] + f[3]), (g[0] + g[1]) + (g[2] + g[3]), (h[0] + h[1]) + (h[2] + h[3])};
#endif
}

INLINE float sum(vf v) {
    const v4 four = folded(v);
    return (four[0] + four[1]) + (four[2] + four[3]);
}

// e^x to 2 units in the last place from -87 to 88; 0 below, e^88 above. A NaN stays.
INLINE vf exponential(vf x) {
    const vf in = greatest(least(x, splat(88.0f)), splat(-87.3f));
    const vf shifted = in * 1.44269504f + 12582912.0f;  // the nearest whole number stands in the low bits
    const vf n = shifted - 12582912.0f;
    const vf r = (in - n * 0.693359375f) + n * 2.12194440e-4f;  // Cephes: ln 2 in two parts, of which the first is exact
    vf p = splat(1.9875691500e-4f);
    p = (p * r + 1.3981999507e-3f) * r + 8.3334519073e-3f;
    p = (p * r + 4.1665795894e-2f) * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    vi bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 127) << 23;
    vf power;
    memcpy(&power, &bits, sizeof power);
    return x < -87.3f ? vf{} : p * power;
}

INLINE float widened(uint16_t bits) {
    const uint32_t wide = uint32_t(bits) << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}
INLINE float widened(float value) { return value; }

constexpr long PIECE = 768;  // columns added up at a time: rows of x beside an opened tile stay in the first cache

// A row of each format. begin(from, to) comes before its groups of a piece; group(g, out) opens the 32 values from 32 * g on;
// prefetch(g, ahead) fetches those that come `ahead` values later, each line once. Without that, reading from memory takes
// 1.6 times as long.
template <class T>
INLINE void fetch(const T* at, long ahead) {
    __builtin_prefetch(at + ahead);
    __builtin_prefetch(at + 3 * ahead, 0, 2);
}

struct Float32Row {
    const float* at;
    INLINE void begin(long, long) {}
    INLINE void group(long g, vf* out) const {
        for (int v = 0; v < V; ++v) out[v] = load(at + GROUP * g + WIDTH * v);
    }
    INLINE void prefetch(long g, long ahead) const { fetch(at + GROUP * g, ahead), fetch(at + GROUP * g + 16, ahead); }
};

struct BFloat16Row {
    const uint16_t* at;
    INLINE void begin(long, long) {}
    INLINE void group(long g, vf* out) const {
        const uint16_t* p = at + GROUP * g;
        for (int v = 0; v < V; ++v) {
#if WIDTH == 16
            out[v] = (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(p + 16 * v))), 16);
#elif WIDTH == 8
            out[v] = (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)(p + 8 * v))), 16);
#else
            for (int i = 0; i < WIDTH; ++i) out[v][i] = widened(p[WIDTH * v + i]);
#endif
        }
    }
    INLINE void prefetch(long g, long ahead) const { fetch(at + GROUP * g, ahead); }
};

template <class Scale>
struct Q8Row {
    static constexpr long MOST = 16;
    static_assert(MOST >= PIECE / 64 + 2);
    const uint8_t* at;
    const Scale* scales;
    const Scale* offsets;
    float scale[MOST], offset[MOST];  // of the piece, widened at once because one by one takes longer than the codes
    long first;

    INLINE void begin(long from, long to) {
        first = from / 2;
#if WIDTH == 16
        if constexpr (sizeof(Scale) == 2) {
            const __mmask16 in = (1 << ((to + 1) / 2 - first)) - 1;
            store(scale, (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(in, scales + first)), 16));
            store(offset, (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(in, offsets + first)), 16));
            return;
        }
#endif
        for (long i = 0; i < (to + 1) / 2 - first; ++i) {
            scale[i] = widened(scales[first + i]);
            offset[i] = widened(offsets[first + i]);
        }
    }
    INLINE void group(long g, vf* out) const {
        const uint8_t* p = at + GROUP * g;
        const vf times = splat(scale[g / 2 - first]), plus = splat(offset[g / 2 - first]);
        for (int v = 0; v < V; ++v) {
            vf codes;
#if WIDTH == 16
            codes = (vf)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)(p + 16 * v))));
#elif WIDTH == 8
            codes = (vf)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8 * v))));
#else
            for (int i = 0; i < WIDTH; ++i) codes[i] = float(p[WIDTH * v + i]);
#endif
            out[v] = codes * times + plus;
        }
    }
    INLINE void prefetch(long g, long ahead) const {
        if (g % 2 == 0) fetch(at + GROUP * g, ahead);
    }
};

// The 4-bit floats (OCP Microscaling Formats 1.0), doubled so that they are whole, and 2^(s - 128) for each scale byte.
alignas(16) constexpr int8_t CODES[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

struct Powers {
    float of[256];
    constexpr Powers() : of() {
        for (int s = 0; s < 255; ++s) {
            of[s] = 1;
            for (int i = s; i < 128; ++i) of[s] *= 0.5f;
            for (int i = 128; i < s; ++i) of[s] *= 2;
        }
        of[255] = __builtin_nanf("");
    }
};
alignas(64) constexpr Powers HALVED;

// The place of value h of a row: of RUN neighbours the even ones come first.
constexpr long RUN = WIDTH == 8 ? 8 : GROUP;
INLINE long nibble_order(long h) { return h / RUN * RUN + h % 2 * (RUN / 2) + h % RUN / 2; }

struct MXFP4Row {
    const uint8_t* at;
    const uint8_t* scales;
    INLINE void begin(long, long) {}
    INLINE void group(long g, vf* out) const {
        const uint8_t* p = at + 16 * g;
        const float scale = HALVED.of[scales[g]];
#if WIDTH == 16
        const __m512i codes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p));
        const __m512 values = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(*(const __m128i*)CODES)), _mm512_set1_ps(scale));
        out[0] = (vf)_mm512_permutexvar_ps(codes, values);  // which looks at the low four bits only
        out[1] = (vf)_mm512_permutexvar_ps(_mm512_srli_epi32(codes, 4), values);
#elif WIDTH == 8
        // The upper halves of the floats, high bytes and low bytes, interleaved by unpacking.
        const __m256i high = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 63, 64, 64, 64, 64, 65, 65, -128, -65, -64, -64, -64, -64, -63, -63));
        const __m256i low = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, -128, 0, 64, -128, -64, 0, 64, 0, -128, 0, 64, -128, -64, 0, 64));
        const __m256i both = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)p));
        const __m256i codes = _mm256_and_si256(_mm256_srlv_epi32(both, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4)), _mm256_set1_epi8(15));
        const __m256i h = _mm256_shuffle_epi8(high, codes), l = _mm256_shuffle_epi8(low, codes), zero = _mm256_setzero_si256();
        const __m256i first = _mm256_unpacklo_epi8(l, h), second = _mm256_unpackhi_epi8(l, h);
        out[0] = (vf)_mm256_unpacklo_epi16(zero, first) * scale;
        out[1] = (vf)_mm256_unpackhi_epi16(zero, first) * scale;
        out[2] = (vf)_mm256_unpacklo_epi16(zero, second) * scale;
        out[3] = (vf)_mm256_unpackhi_epi16(zero, second) * scale;
#else
        for (int i = 0; i < GROUP; ++i)
            out[i / WIDTH][i % WIDTH] = float(CODES[i < 16 ? p[i] & 15 : p[i - 16] >> 4]) * scale;
#endif
    }
    INLINE void prefetch(long g, long ahead) const {
        if (g % 4 == 0) fetch(at + 16 * g, ahead / 2);
    }
};
