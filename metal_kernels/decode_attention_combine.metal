// The second pass of decode_attention where keys are split: joins the sums of all splits and the sink.
//
// Grid: x over query heads, y over rows; a simdgroup each. A lane is a split where weights are computed, and a
// dimension where values are added.
#include "decode_attention.h"

template <typename S = bfloat, typename O = half, int D = 64>
[[kernel]] void decode_attention_combine(
    const device float* parts,       // [rows, heads, splits, D + 4]: weighted values, maximum and sum of a softmax, 0, 0
    const constant int* parts_shape,
    const device S* sinks,           // [heads]
    device O* attended,              // [rows, heads, D]
    uint thread_index_in_simdgroup [[thread_index_in_simdgroup]],
    uint3 threadgroup_position_in_grid [[threadgroup_position_in_grid]]) {
  constexpr int WIDTH = D + 4;
  uint lane = thread_index_in_simdgroup, splits = uint(parts_shape[2]);
  uint head = threadgroup_position_in_grid.x, at = threadgroup_position_in_grid.y * uint(parts_shape[1]) + head;
  parts += at * splits * WIDTH;
  float top = of_none();
  for (uint s = lane; s < splits; s += 32) top = max(top, parts[s * WIDTH + D]);
  top = simd_max(top);

  float total = 0, sums[D / 32];
#pragma unroll
  for (int d = 0; d < D / 32; d++) sums[d] = 0;
  for (uint first = 0; first < splits; first += 32) {
    float weight = 0, sum = 0;
    if (first + lane < splits) {
      weight = exp(parts[(first + lane) * WIDTH + D] - top);
      sum = parts[(first + lane) * WIDTH + D + 1];
    }
    for (uint s = first; s < min(splits, first + 32); s++) {  // in the order of decode_attention
      float each = simd_broadcast(weight, ushort(s - first));
      total = fma(each, simd_broadcast(sum, ushort(s - first)), total);
#pragma unroll
      for (int d = 0; d < D / 32; d++) sums[d] = fma(each, parts[s * WIDTH + d * 32 + lane], sums[d]);
    }
  }
#pragma unroll
  for (int d = 0; d < D / 32; d++) {
    attended[at * D + d * 32 + lane] = narrowed<O>(with_sink(sums[d], top, total, float(sinks[head])));
  }
}
