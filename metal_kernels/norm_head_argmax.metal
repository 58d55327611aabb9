// The final RMSNorm and the head as in norm_head, but only the largest logit of each threadgroup is written, with its
// token. norm_head_argmax_combine takes the largest of these. A logit that is not finite counts as infinite.
//
// Grid: as in norm_head. A threadgroup has SIMDGROUPS simdgroups for each of the TILES tiles of the input.
#include "best.h"
#include "dense.h"

template <typename N = bfloat, typename W = bfloat, typename S = bfloat, int COLUMNS = 2880, int VOCABULARY = 201088,
          int PAIRS = 4, int SIMDGROUPS = 8, int ROWS = 1, int TILES = 1,
          int EPSILON_BITS = 925353388>  // the bits of 1e-5
[[kernel]] void norm_head_argmax(
    const device float* x,           // [rows, COLUMNS]
    const constant int* x_shape,
    const device N* norm,            // [COLUMNS]
    const device W* weight,          // [VOCABULARY, COLUMNS], q8 with W = uint: [VOCABULARY, COLUMNS / 4]
    const device S* scales,          // [VOCABULARY, COLUMNS / 64], of q8 only
    const device S* offsets,         // [VOCABULARY, COLUMNS / 64], of q8 only
    device float* logits,            // [rows, threadgroups]
    device uint* tokens,             // [rows, threadgroups]
    uint thread_index_in_simdgroup [[thread_index_in_simdgroup]],
    uint thread_index_in_threadgroup [[thread_index_in_threadgroup]],
    uint3 thread_position_in_grid [[thread_position_in_grid]],
    uint3 thread_position_in_threadgroup [[thread_position_in_threadgroup]],
    uint3 threadgroup_position_in_grid [[threadgroup_position_in_grid]],
    uint3 threadgroups_per_grid [[threadgroups_per_grid]]) {
  threadgroup float values[TILES][SIMDGROUPS][ROWS];
  threadgroup uint places[TILES][SIMDGROUPS][ROWS];
  uint lane = thread_index_in_simdgroup, tile = thread_position_in_grid.y, rows = uint(x_shape[0]);
  uint start = first_row<ROWS>(tile, rows);
  bool own = is_own<ROWS>(lane, tile, rows);
  uint first = thread_position_in_grid.x / 32 * (2 * PAIRS);
  NormedRows<N, COLUMNS, ROWS> input = {x + start * COLUMNS, norm, {}, {}};
  Pairs<PAIRS> pairs = dense_pairs<COLUMNS, PAIRS, PAIRS, ROWS>(weight, scales, offsets, first, input, lane);
  float scale = input.scale(lane / 4, as_type<float>(EPSILON_BITS));
  Best best = {-INFINITY, first};
#pragma unroll
  for (int b = 0; b < PAIRS / 4; b++) {
    uint n = first + 4 * b + lane % 4;
    best = better(best, {comparable(pairs.of[b].x * scale), n});
    best = better(best, {comparable(pairs.of[b].y * scale), n + PAIRS});
  }
#pragma unroll
  for (ushort step = 1; step < 4; step *= 2) {
    best = better(best, {simd_shuffle_xor(best.value, step), simd_shuffle_xor(best.at, step)});
  }
  if (own && lane % 4 == 0) {
    values[tile][thread_position_in_threadgroup.x / 32][lane / 4] = best.value;
    places[tile][thread_position_in_threadgroup.x / 32][lane / 4] = best.at;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  uint row = thread_index_in_threadgroup;
  if (row < rows) {
    tile = row / ROWS;
    uint t = row - first_row<ROWS>(tile, rows);
    best = {values[tile][0][t], places[tile][0][t]};
#pragma unroll
    for (int s = 1; s < SIMDGROUPS; s++) best = better(best, {values[tile][s][t], places[tile][s][t]});
    uint n = row * threadgroups_per_grid.x + threadgroup_position_in_grid.x;
    logits[n] = best.value;
    tokens[n] = best.at;
  }
}
