// Takes the largest of the logits that norm_head_argmax wrote, and its token. One threadgroup to a row.
#include "best.h"

template <int COUNT = 3142, int SIMDGROUPS = 8>
[[kernel]] void norm_head_argmax_combine(
    const device float* logits,      // [rows, COUNT], none NaN
    const device uint* tokens,       // [rows, COUNT]
    device uint* chosen,             // [rows]
    device float* largest,           // [rows], infinite where a logit is not finite
    uint simdgroup_index_in_threadgroup [[simdgroup_index_in_threadgroup]],
    uint thread_index_in_simdgroup [[thread_index_in_simdgroup]],
    uint thread_index_in_threadgroup [[thread_index_in_threadgroup]],
    uint3 threadgroup_position_in_grid [[threadgroup_position_in_grid]]) {
  threadgroup float values[SIMDGROUPS];
  threadgroup uint places[SIMDGROUPS];
  uint row = threadgroup_position_in_grid.y, simdgroup = simdgroup_index_in_threadgroup;
  logits += row * COUNT;
  tokens += row * COUNT;
  Best best = {-INFINITY, 0xFFFFFFFFu};
  for (uint n = thread_index_in_threadgroup; n < COUNT; n += 32 * SIMDGROUPS) {
    best = better(best, {logits[n], tokens[n]});
  }
  best = simd_best(best);
  if (thread_index_in_simdgroup == 0) {
    values[simdgroup] = best.value;
    places[simdgroup] = best.at;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (thread_index_in_threadgroup == 0) {
#pragma unroll
    for (int s = 1; s < SIMDGROUPS; s++) best = better(best, {values[s], places[s]});
    chosen[row] = best.at;
    largest[row] = best.value;
  }
}
