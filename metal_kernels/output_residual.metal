// Attention's output projection, its bias, and the residual.
//
// Grid: x over simdgroups with 2 * PAIRS rows of the matrix each, y over tiles of ROWS rows of the input.
#include "dense.h"

template <typename T = half, typename W = bfloat, typename S = bfloat, typename B = bfloat, int COLUMNS = 4096,
          int OUTPUTS = 2880, int PAIRS = 4, int ROWS = 1>
[[kernel]] void output_residual(
    const device T* attended,        // [rows, COLUMNS]
    const constant int* attended_shape,
    const device W* weight,          // [OUTPUTS, COLUMNS], q8 with W = uint: [OUTPUTS, COLUMNS / 4]
    const device S* scales,          // [OUTPUTS, COLUMNS / 64], of q8 only
    const device S* offsets,         // [OUTPUTS, COLUMNS / 64], of q8 only
    const device B* bias,            // [OUTPUTS]
    const device float* residual,    // [rows, OUTPUTS]
    device float* out,               // [rows, OUTPUTS]
    uint thread_index_in_simdgroup [[thread_index_in_simdgroup]],
    uint3 thread_position_in_grid [[thread_position_in_grid]]) {
  uint lane = thread_index_in_simdgroup, tile = thread_position_in_grid.y, rows = uint(attended_shape[0]);
  uint start = first_row<ROWS>(tile, rows), row = start + lane / 4;
  bool own = is_own<ROWS>(lane, tile, rows);
  uint first = thread_position_in_grid.x / 32 * (2 * PAIRS);
  PlainRows<T, COLUMNS> input = {attended + start * COLUMNS};
  Pairs<PAIRS> pairs = dense_pairs<COLUMNS, PAIRS, PAIRS, ROWS>(weight, scales, offsets, first, input, lane);
#pragma unroll
  for (int b = 0; b < PAIRS / 4; b++) {
    if (own) {
      uint n = first + 4 * b + lane % 4, m = row * OUTPUTS + n;
      out[m] = residual[m] + (pairs.of[b].x + float(bias[n]));
      out[m + PAIRS] = residual[m + PAIRS] + (pairs.of[b].y + float(bias[n + PAIRS]));
    }
  }
}
