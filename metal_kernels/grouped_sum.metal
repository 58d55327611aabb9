// The weighted sum of a prompt's rows over the K experts of each, and the residual. Rows of the experts are grouped by
// expert, and `place` tells where those of each row lie.
//
// Grid: x over eights of a row's values, y over rows.
#include "activations.h"

template <typename T = bfloat, int COLUMNS = 2880, int K = 4>
[[kernel]] void grouped_sum(
    const device T* grouped,         // [rows * K, COLUMNS]
    const device uint* place,        // [rows, K]
    const device float* weights,     // [rows, K]
    const device float* residual,    // [rows, COLUMNS]
    device float* out,               // [rows, COLUMNS]
    uint3 thread_position_in_grid [[thread_position_in_grid]]) {
  uint n = thread_position_in_grid.x * 8, row = thread_position_in_grid.y;
  float sums[8];
#pragma unroll
  for (int i = 0; i < 8; i++) sums[i] = 0;
#pragma unroll
  for (int k = 0; k < K; k++) {
    float weight = weights[row * K + k];
    Eight v = load_eight(grouped + place[row * K + k] * COLUMNS + n);
#pragma unroll
    for (int i = 0; i < 8; i++) sums[i] = fma(weight, v.v[i], sums[i]);
  }
  Eight before = load_eight(residual + row * COLUMNS + n);
#pragma unroll
  for (int i = 0; i < 8; i++) out[row * COLUMNS + n + i] = before.v[i] + sums[i];
}
