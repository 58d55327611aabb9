// The final RMSNorm and the head: one logit per token of the vocabulary.
//
// Grid: x over simdgroups with 2 * PAIRS rows of the matrix each, y over tiles of ROWS rows of the input. The norm has
// no pass of its own: its sum of squares is taken beside the products.
#include "dense.h"

template <typename N = bfloat, typename W = bfloat, typename S = bfloat, int COLUMNS = 2880, int VOCABULARY = 201088,
          int PAIRS = 4, int ROWS = 1, int EPSILON_BITS = 925353388>  // the bits of 1e-5
[[kernel]] void norm_head(
    const device float* x,           // [rows, COLUMNS]
    const constant int* x_shape,
    const device N* norm,            // [COLUMNS]
    const device W* weight,          // [VOCABULARY, COLUMNS], q8 with W = uint: [VOCABULARY, COLUMNS / 4]
    const device S* scales,          // [VOCABULARY, COLUMNS / 64], of q8 only
    const device S* offsets,         // [VOCABULARY, COLUMNS / 64], of q8 only
    device float* logits,            // [rows, VOCABULARY]
    uint thread_index_in_simdgroup [[thread_index_in_simdgroup]],
    uint3 thread_position_in_grid [[thread_position_in_grid]]) {
  uint lane = thread_index_in_simdgroup, tile = thread_position_in_grid.y, rows = uint(x_shape[0]);
  uint start = first_row<ROWS>(tile, rows), row = start + lane / 4;
  bool own = is_own<ROWS>(lane, tile, rows);
  uint first = thread_position_in_grid.x / 32 * (2 * PAIRS);
  NormedRows<N, COLUMNS, ROWS> input = {x + start * COLUMNS, norm, {}, {}};
  Pairs<PAIRS> pairs = dense_pairs<COLUMNS, PAIRS, PAIRS, ROWS>(weight, scales, offsets, first, input, lane);
  float scale = input.scale(lane / 4, as_type<float>(EPSILON_BITS));
#pragma unroll
  for (int b = 0; b < PAIRS / 4; b++) {
    if (own) {
      uint n = row * VOCABULARY + first + 4 * b + lane % 4;
      logits[n] = pairs.of[b].x * scale;
      logits[n + PAIRS] = pairs.of[b].y * scale;
    }
  }
}
