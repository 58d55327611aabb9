// The second projection of the experts that each row chooses, its bias, the weighted sum over the choices, and the
// residual. An absent expert adds nothing.
//
// Grid: x over rows of the input, y over rows of the matrix. A threadgroup has one simdgroup for each of the K choices,
// and each takes the same ROWS rows of its expert's matrix. The choices are added in threadgroup memory, always in one
// order.
#include "mxfp4.h"
#include "routing.h"

template <typename T = half, typename B = bfloat, typename X = float, int COLUMNS = 2880, int OUTPUTS = 2880,
          int EXPERTS = 32, int K = 4, int ROWS = 4, int BATCH = 4>
[[kernel]] void expert_down_residual(
    const device T* activated,       // [rows, K, COLUMNS], chunk-major, unread for an absent expert
    const device float* logits,      // [rows, EXPERTS]
    const device int* slots,         // [EXPERTS], -1 for an absent expert
    const device B* bias,            // [slots, OUTPUTS]
    const device uint* weight,       // [slots, OUTPUTS, COLUMNS / 8]
    const device uint8_t* scales,    // [slots, OUTPUTS, COLUMNS / 32]
    const device X* residual,        // [rows, OUTPUTS]
    device X* out,                   // [rows, OUTPUTS]
    uint simdgroup_index_in_threadgroup [[simdgroup_index_in_threadgroup]],
    uint thread_index_in_simdgroup [[thread_index_in_simdgroup]],
    uint3 threadgroup_position_in_grid [[threadgroup_position_in_grid]]) {
  threadgroup float parts[K][ROWS];
  uint lane = thread_index_in_simdgroup, choice = simdgroup_index_in_threadgroup;
  uint matrix_row = threadgroup_position_in_grid.y * ROWS, row = threadgroup_position_in_grid.x;
  uint ids[K];
  float values[K];
  top_experts<EXPERTS, K>(logits + row * EXPERTS, lane, ids, values);
  int slot = slot_of(slots, pick<K>(ids, choice), lane);
  float total = 0;
#pragma unroll
  for (int k = 0; k < K; k++) total += exp(values[k] - values[0]);
  float share = exp(pick<K>(values, choice) - values[0]) / total;

  if (slot < 0) {
    if (lane < uint(ROWS)) parts[choice][lane] = 0;
  } else {
    uint first = uint(slot) * uint(OUTPUTS) + matrix_row;
    float sums[ROWS];
    mxfp4_rows<COLUMNS, ROWS, BATCH>(weight, scales, first, activated + (row * K + choice) * COLUMNS, lane, sums);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      if (lane == uint(r)) parts[choice][r] = share * (sums[r] + float(bias[first + r]));
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (choice == 0 && lane < uint(ROWS)) {
    uint n = row * OUTPUTS + matrix_row + lane;
    float sum = 0;
#pragma unroll
    for (int k = 0; k < K; k++) sum += parts[k][lane];
    out[n] = X(float(residual[n]) + sum);
  }
}
