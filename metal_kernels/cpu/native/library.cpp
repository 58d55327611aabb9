// The decoder's operations on a CPU, once for each architecture. Python takes those of the best one the machine has.
//
// The families are headers without guards, as the shaders are files: included once an architecture, inside its namespace.

#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

#include "threads.h"
#include "types.h"

#define VISIBLE extern "C" __attribute__((visibility("default")))

Threads threads;

VISIBLE void gptoss_cpu_threads(int count) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, [] { pthread_atfork(nullptr, nullptr, [] { threads.forget(); }); });
    Operation held;
    threads.resize(count);
}

// Asks the system to hold memory of zeros in large pages, because looking up small ones takes a tenth of the time of reading
// weights. It gives the pages back: each comes again as zeros, and large, when it is written. Collapsing them where they are
// (MADV_COLLAPSE) copies them, and ends at the first large page that is not to be had.
VISIBLE void gptoss_cpu_zeros_in_large_pages(char* at, size_t bytes) {
#ifdef __linux__
    constexpr uintptr_t PAGE = 1 << 21;
    const uintptr_t first = (uintptr_t(at) + PAGE - 1) & ~(PAGE - 1), last = (uintptr_t(at) + bytes) & ~(PAGE - 1);
    if (first >= last || madvise((void*)first, last - first, MADV_HUGEPAGE)) return;
    madvise((void*)first, last - first, MADV_DONTNEED);
#endif
}

// The architectures this machine has: bit 0 is portable, bit 1 avx2, bit 2 avx512. Asks the processor, because ziglang's
// __builtin_cpu_supports knows none.
VISIBLE int gptoss_cpu_architectures() {
    int found = 1;
#if defined(__x86_64__)
    constexpr unsigned YMM = 6, ZMM = 0xe6, FOUNDATION = bit_AVX512F | bit_AVX512BW | bit_AVX512VL;
    unsigned a, b = 0, c = 0, d, kept = 0;  // kept: the registers that the system saves
    if (__get_cpuid(1, &a, &b, &c, &d) && (c & bit_OSXSAVE)) asm("xgetbv" : "=a"(kept), "=d"(d) : "c"(0));
    const bool fma = c & bit_FMA;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !fma || !(b & bit_AVX2)) return found;
    if ((kept & YMM) == YMM) found |= 2;
    if ((kept & ZMM) == ZMM && (b & FOUNDATION) == FOUNDATION) found |= 4;
#endif
    return found;
}

#define JOIN(a, b) a##_##b
#define NAMED(a, b) JOIN(a, b)
#define EXPORT(name) VISIBLE int NAMED(ARCHITECTURE, name)

#define ARCHITECTURE portable
#define WIDTH 4
namespace portable {
#include "families.h"
}
#undef ARCHITECTURE
#undef WIDTH

#if defined(__x86_64__)
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define ARCHITECTURE avx2
#define WIDTH 8
namespace avx2 {
#include "families.h"
}
#undef ARCHITECTURE
#undef WIDTH
#ifdef __clang__
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx2,fma,avx512f,avx512bw,avx512vl"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512vl")
#endif
#define ARCHITECTURE avx512
#define WIDTH 16
namespace avx512 {
#include "families.h"
}
#undef ARCHITECTURE
#undef WIDTH
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
