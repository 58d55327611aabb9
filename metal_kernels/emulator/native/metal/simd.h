// Simd and quad operations, votes and barriers. Each lane leaves its value with emu_simd, waits for the others, and
// then reads the values it needs.
#pragma once
#include "math.h"

// Helpers that compute on the lanes' values belong to the emulator, so their accesses are not instrumented.
#define EMU_HELPER __attribute__((no_sanitize("thread"), noinline))

namespace metal {
template <class T>
EMU_INLINE emu_lanes* emu_meet(T value, const char* operation) {
  static_assert(sizeof(T) <= 16, "a lane exchanges at most 16 bytes");
  return emu_simd(&value, sizeof(T), operation);
}
template <class T>
EMU_HELPER T emu_lane_value(const emu_lanes* lanes, unsigned lane) {
  T r;
  memcpy((void*)&r, lanes->slot[lane], sizeof(T));
  return r;
}

// Reductions: a tree over the active lanes, in an order that does not depend on scheduling. Metal promises no order.

template <class T, class Combine>
EMU_HELPER T emu_reduce(emu_lanes* lanes, unsigned width) {
  unsigned first = emu_self()->thread_index_in_simdgroup[0] / width * width;
  T r;
  if (width == 32 && lanes->combined) {
    memcpy((void*)&r, lanes->result, sizeof(T));
    return r;
  }
  T value[32];
  bool taken[32];
  for (unsigned i = 0; i < width; i++) {
    taken[i] = lanes->active >> (first + i) & 1;
    if (taken[i]) memcpy((void*)&value[i], lanes->slot[first + i], sizeof(T));
  }
  for (unsigned step = 1; step < width; step *= 2) {
    for (unsigned i = 0; i + step < width; i += 2 * step) {
      if (!taken[i + step]) continue;
      value[i] = taken[i] ? Combine::of(value[i], value[i + step]) : value[i + step];
      taken[i] = true;
    }
  }
  r = value[0];
  if (width == 32) {
    memcpy(lanes->result, (void*)&r, sizeof(T));
    lanes->combined = 1;
  }
  return r;
}
#define EMU_REDUCTION(NAME, EXPRESSION)                                   \
  struct combine_##NAME {                                                 \
    template <class T>                                                    \
    static T of(T a, T b) {                                               \
      return static_cast<T>(EXPRESSION);                                  \
    }                                                                     \
  };                                                                      \
  template <class T>                                                      \
  EMU_INLINE T simd_##NAME(T v) {                                         \
    return emu_reduce<T, combine_##NAME>(emu_meet(v, "simd_" #NAME), 32); \
  }                                                                       \
  template <class T>                                                      \
  EMU_INLINE T quad_##NAME(T v) {                                         \
    return emu_reduce<T, combine_##NAME>(emu_meet(v, "quad_" #NAME), 4);  \
  }
EMU_REDUCTION(sum, a + b)
EMU_REDUCTION(product, (a * b))
EMU_REDUCTION(min, metal::min(a, b))
EMU_REDUCTION(max, metal::max(a, b))
EMU_REDUCTION(and, (a & b))
EMU_REDUCTION(or, a | b)
EMU_REDUCTION(xor, a ^ b)

template <class T, class Combine>
EMU_HELPER T emu_prefix(const emu_lanes* lanes, T identity, bool inclusive) {
  unsigned me = emu_self()->thread_index_in_simdgroup[0];
  T r = identity;
  for (unsigned i = 0; i < me + (inclusive ? 1 : 0); i++) {
    if (lanes->active >> i & 1) r = Combine::of(r, emu_lane_value<T>(lanes, i));
  }
  return r;
}
#define EMU_PREFIX(NAME, IDENTITY)                                                                                     \
  template <class T>                                                                                                   \
  EMU_INLINE T simd_prefix_inclusive_##NAME(T v) {                                                                     \
    return emu_prefix<T, combine_##NAME>(emu_meet(v, "simd_prefix_inclusive_" #NAME), static_cast<T>(IDENTITY), true); \
  }                                                                                                                    \
  template <class T>                                                                                                   \
  EMU_INLINE T simd_prefix_exclusive_##NAME(T v) {                                                                     \
    return emu_prefix<T, combine_##NAME>(emu_meet(v, "simd_prefix_exclusive_" #NAME), static_cast<T>(IDENTITY),        \
                                         false);                                                                       \
  }
EMU_PREFIX(sum, 0)
EMU_PREFIX(product, 1)

// Shuffles. Reading a lane that takes no part is undefined in Metal. Here it is reported and gives all ones.

template <class T>
EMU_INLINE T emu_take(T value, unsigned lane, const char* operation) {
  emu_lanes* lanes = emu_meet(value, operation);
  if (lane > 31 || !(lanes->active >> lane & 1)) {
    emu_bad_lane(operation, lane, lanes->active);
    T r;
    memset((void*)&r, 0xFF, sizeof r);
    return r;
  }
  return emu_lane_value<T>(lanes, lane);
}
EMU_INLINE unsigned emu_lane() { return emu_self()->thread_index_in_simdgroup[0]; }
#define EMU_SHUFFLE(NAME, SOURCE_LANE)          \
  template <class T>                            \
  EMU_INLINE T NAME(T value, ushort by) {       \
    unsigned lane = emu_lane();                 \
    return emu_take(value, SOURCE_LANE, #NAME); \
  }
EMU_SHUFFLE(simd_shuffle, (void(lane), by))
EMU_SHUFFLE(simd_broadcast, (void(lane), by))
EMU_SHUFFLE(simd_shuffle_xor, lane ^ by)
// These do not wrap: a lane that would read past the edge keeps its own value.
EMU_SHUFFLE(simd_shuffle_up, lane < by ? lane : lane - by)
EMU_SHUFFLE(simd_shuffle_down, lane + by > 31 ? lane : lane + by)
EMU_SHUFFLE(simd_shuffle_rotate_up, (lane - by) & 31)
EMU_SHUFFLE(simd_shuffle_rotate_down, (lane + by) & 31)
EMU_SHUFFLE(quad_shuffle, (lane & ~3u) + by)
EMU_SHUFFLE(quad_broadcast, (lane & ~3u) + by)
EMU_SHUFFLE(quad_shuffle_xor, lane ^ by)
template <class T>
EMU_INLINE T simd_shuffle_and_fill_up(T value, T fill, ushort by) {
  unsigned lane = emu_lane();
  T moved = emu_take(value, lane < by ? lane : lane - by, "simd_shuffle_and_fill_up");
  T filled = emu_take(fill, (lane - by) & 31, "simd_shuffle_and_fill_up");
  return lane < by ? filled : moved;
}
template <class T>
EMU_INLINE T simd_shuffle_and_fill_down(T value, T fill, ushort by) {
  unsigned lane = emu_lane();
  T moved = emu_take(value, lane + by > 31 ? lane : lane + by, "simd_shuffle_and_fill_down");
  T filled = emu_take(fill, (lane + by) & 31, "simd_shuffle_and_fill_down");
  return lane + by > 31 ? filled : moved;
}
template <class T>
EMU_INLINE T simd_broadcast_first(T value) {
  emu_lanes* lanes = emu_meet(value, "simd_broadcast_first");
  return emu_lane_value<T>(lanes, static_cast<unsigned>(__builtin_ctz(lanes->active)));
}


struct simd_vote {
  using vote_t = uint64_t;
  uint64_t mask;
  explicit simd_vote(uint64_t v = 0) : mask(v) {}
  bool all() const { return (mask & 0xffffffffu) == 0xffffffffu; }
  bool any() const { return mask != 0; }
  explicit operator uint64_t() const { return mask; }
};
EMU_HELPER inline unsigned emu_votes(const emu_lanes* lanes) {
  unsigned mask = 0;
  for (unsigned i = 0; i < 32; i++) {
    if ((lanes->active >> i & 1) && lanes->slot[i][0]) mask |= 1u << i;
  }
  return mask;
}
EMU_INLINE simd_vote simd_ballot(bool vote) { return simd_vote(emu_votes(emu_meet(vote, "simd_ballot"))); }
EMU_INLINE bool simd_all(bool vote) {
  const emu_lanes* lanes = emu_meet(vote, "simd_all");
  return emu_votes(lanes) == lanes->active;
}
EMU_INLINE bool simd_any(bool vote) { return emu_votes(emu_meet(vote, "simd_any")) != 0; }
EMU_INLINE simd_vote simd_active_threads_mask() {
  return simd_vote(emu_meet(true, "simd_active_threads_mask")->active);
}
EMU_INLINE bool simd_is_first() {
  return static_cast<unsigned>(__builtin_ctz(emu_meet(true, "simd_is_first")->active)) == emu_lane();
}


enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4 };
EMU_INLINE mem_flags operator|(mem_flags a, mem_flags b) {
  return static_cast<mem_flags>(static_cast<int>(a) | static_cast<int>(b));
}
EMU_INLINE void threadgroup_barrier(mem_flags flags) { emu_barrier(1, static_cast<unsigned>(flags)); }
EMU_INLINE void simdgroup_barrier(mem_flags flags) { emu_barrier(0, static_cast<unsigned>(flags)); }
}  // namespace metal
