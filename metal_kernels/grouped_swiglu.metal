// The bias and the clamped SwiGLU of a prompt's rows, which are grouped by expert, after their product with the first
// matrix of their experts. A row alternates between gate and linear values.
//
// Grid: x over fours of a row's outputs, y over rows.
#include "activations.h"
#include "swiglu.h"

template <typename T = bfloat, typename B = bfloat, int OUTPUTS = 2880, int LIMIT_BITS = 1088421888>  // the bits of 7.0
[[kernel]] void grouped_swiglu(
    const device T* product,         // [rows, 2 * OUTPUTS]
    const device int* slot,          // [rows]
    const device B* bias,            // [slots, 2 * OUTPUTS]
    device T* activated,             // [rows, OUTPUTS]
    uint3 thread_position_in_grid [[thread_position_in_grid]]) {
  uint n = thread_position_in_grid.x * 4, row = thread_position_in_grid.y;
  Eight a = load_eight(product + (row * OUTPUTS + n) * 2), b = load_eight(bias + (uint(slot[row]) * OUTPUTS + n) * 2);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    float gate = a.v[2 * i] + b.v[2 * i], linear = a.v[2 * i + 1] + b.v[2 * i + 1];
    activated[row * OUTPUTS + n + i] = T(swiglu(gate, linear, as_type<float>(LIMIT_BITS)));
  }
}
