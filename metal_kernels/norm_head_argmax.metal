// The final RMSNorm and the head as in norm_head, but only the largest logit of each threadgroup is written, with its
// token. norm_head_argmax_combine takes the largest of these. A logit that is not finite counts as infinite.
#include "best.h"
#include "dense.h"

template <typename N = bfloat, typename W = bfloat, typename S = bfloat, int COLUMNS = 2880, int VOCABULARY = 201088,
          int PAIRS = 4, int SIMDGROUPS = 8, int ROWS = 1, int EPSILON_BITS = 925353388>  // the bits of 1e-5
[[kernel]] void norm_head_argmax(
    const device float* x,           // [ROWS, COLUMNS]
    const device N* norm,            // [COLUMNS]
    const device W* weight,          // [VOCABULARY, COLUMNS], q8 with W = uint: [VOCABULARY, COLUMNS / 4]
    const device S* scales,          // [VOCABULARY, COLUMNS / 64], of q8 only
    const device S* offsets,         // [VOCABULARY, COLUMNS / 64], of q8 only
    device float* logits,            // [ROWS, threadgroups]
    device uint* tokens,             // [ROWS, threadgroups]
    uint thread_index_in_simdgroup [[thread_index_in_simdgroup]],
    uint3 thread_position_in_grid [[thread_position_in_grid]],
    uint3 thread_position_in_threadgroup [[thread_position_in_threadgroup]],
    uint3 threadgroup_position_in_grid [[threadgroup_position_in_grid]],
    uint3 threadgroups_per_grid [[threadgroups_per_grid]]) {
  threadgroup float values[ROWS][SIMDGROUPS];
  threadgroup uint places[ROWS][SIMDGROUPS];
  uint lane = thread_index_in_simdgroup, row = thread_position_in_grid.y;
  uint first = thread_position_in_grid.x / 32 * (2 * PAIRS);
  NormedRow<N> input = {x + row * COLUMNS, norm, 0};
  Pairs<PAIRS> pairs = dense_pairs<COLUMNS, PAIRS, PAIRS>(weight, scales, offsets, first, input, lane);
  float scale = rsqrt(simd_sum(input.squares) / float(COLUMNS) + as_type<float>(EPSILON_BITS));
  Best best = {-INFINITY, first + lane};
#pragma unroll
  for (int b = 0; b < PAIRS / 4; b++) {
    if (lane < 4) {
      uint n = first + 4 * b + lane;
      best = better(best, {comparable(pairs.of[b].x * scale), n});
      best = better(best, {comparable(pairs.of[b].y * scale), n + PAIRS});
    }
  }
  best = simd_best(best);
  uint simdgroup = thread_position_in_threadgroup.x / 32;
  if (lane == 0) {
    values[row][simdgroup] = best.value;
    places[row][simdgroup] = best.at;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (thread_position_in_threadgroup.x == 0) {
#pragma unroll
    for (int s = 1; s < SIMDGROUPS; s++) best = better(best, {values[row][s], places[row][s]});
    uint n = row * threadgroups_per_grid.x + threadgroup_position_in_grid.x;
    logits[n] = best.value;
    tokens[n] = best.at;
  }
}
