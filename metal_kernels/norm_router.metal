// RMSNorm and the router: writes the normed row of x, chunk-major in T, and one logit per expert.
//
// One threadgroup per expert and row; its SIMDGROUPS simdgroups share the columns. The norm has no pass of its own: the
// sums of x^2 and of router * x * norm are taken together, and the root of the first scales the second. Every
// threadgroup also writes some groups of the normed row.
#include "activations.h"

template <typename X = float, typename N = float, typename W = float, typename T = half, int COLUMNS = 2880,
          int EXPERTS = 32, int SIMDGROUPS = 4, int EPSILON_BITS = 925353388>  // the bits of 1e-5
[[kernel]] void norm_router(
    const device X* x,               // [rows, COLUMNS]
    const device N* norm,            // [COLUMNS]
    const device W* router,          // [EXPERTS, COLUMNS]
    const device W* bias,            // [EXPERTS]
    device T* normed,                // [rows, COLUMNS], chunk-major
    device float* logits,            // [rows, EXPERTS]
    uint simdgroup_index_in_threadgroup [[simdgroup_index_in_threadgroup]],
    uint thread_index_in_simdgroup [[thread_index_in_simdgroup]],
    uint thread_index_in_threadgroup [[thread_index_in_threadgroup]],
    uint3 threadgroup_position_in_grid [[threadgroup_position_in_grid]]) {
  threadgroup float2 parts[SIMDGROUPS];
  uint thread_index = thread_index_in_threadgroup;
  uint expert = threadgroup_position_in_grid.x, row = threadgroup_position_in_grid.y;
  x += row * COLUMNS;
  float dot = 0, squares = 0;
  for (uint n = 8 * thread_index; n < COLUMNS; n += 8 * 32 * SIMDGROUPS) {
    Eight a = load_eight(x + n), b = load_eight(norm + n), w = load_eight(router + expert * COLUMNS + n);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      squares = fma(a.v[i], a.v[i], squares);
      dot = fma(a.v[i] * b.v[i], w.v[i], dot);
    }
  }
  dot = simd_sum(dot);
  squares = simd_sum(squares);
  if (thread_index_in_simdgroup == 0) parts[simdgroup_index_in_threadgroup] = float2(dot, squares);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float2 total = parts[0];
#pragma unroll
  for (int s = 1; s < SIMDGROUPS; s++) total += parts[s];
  float scale = rsqrt(total.y / float(COLUMNS) + as_type<float>(EPSILON_BITS));
  if (thread_index == 0) logits[row * EXPERTS + expert] = fma(total.x, scale, float(bias[expert]));
  for (uint g = expert * SIMDGROUPS + simdgroup_index_in_threadgroup; g < COLUMNS / 32; g += EXPERTS * SIMDGROUPS) {
    uint n = g * 32 + thread_index_in_simdgroup;
    normed[row * COLUMNS + chunk_major<T>(n, COLUMNS / 32)] = narrowed<T>(float(x[n]) * scale * float(norm[n]));
  }
}
