// The first projection of the experts that each row chooses, its bias, and the clamped SwiGLU.
//
// Grid: x over the K choices, y over rows of the input, z over rows of the matrix. So the same part of a matrix is read
// at about the same time by all rows of the input that choose its expert. A simdgroup takes ROWS consecutive rows of
// the matrix. Published rows alternate between gate and linear, so these make ROWS / 2 outputs.
#include "mxfp4.h"
#include "routing.h"
#include "swiglu.h"

template <typename T = half, typename B = bfloat, typename O = half, int COLUMNS = 2880, int OUTPUTS = 2880,
          int EXPERTS = 32, int K = 4, int ROWS = 8, int BATCH = 8, int SIMDGROUPS = 2,
          int LIMIT_BITS = 1088421888>  // the bits of 7.0
[[kernel]] void expert_gate_up(
    const device T* normed,          // [rows, COLUMNS], chunk-major
    const device float* logits,      // [rows, EXPERTS]
    const device int* slots,         // [EXPERTS], -1 for an absent expert
    const device B* bias,            // [slots, 2 * OUTPUTS]
    const device uint* weight,       // [slots, 2 * OUTPUTS, COLUMNS / 8]
    const device uint8_t* scales,    // [slots, 2 * OUTPUTS, COLUMNS / 32]
    device O* activated,             // [rows, K, OUTPUTS], chunk-major, unwritten for an absent expert
    uint simdgroup_index_in_threadgroup [[simdgroup_index_in_threadgroup]],
    uint thread_index_in_simdgroup [[thread_index_in_simdgroup]],
    uint3 threadgroup_position_in_grid [[threadgroup_position_in_grid]]) {
  uint lane = thread_index_in_simdgroup;
  uint3 group = threadgroup_position_in_grid;
  uint choice = group.x, row = group.y;
  uint ids[K];
  float values[K];
  top_experts<EXPERTS, K>(logits + row * EXPERTS, lane, ids, values);
  int slot = slot_of(slots, pick<K>(ids, choice), lane);
  if (slot < 0) return;

  uint matrix_row = (group.z * SIMDGROUPS + simdgroup_index_in_threadgroup) * ROWS;
  uint first = uint(slot) * uint(2 * OUTPUTS) + matrix_row;
  float sums[ROWS];
  mxfp4_rows<COLUMNS, ROWS, BATCH>(weight, scales, first, normed + row * COLUMNS, lane, sums);
  activated += (row * K + choice) * OUTPUTS;
#pragma unroll
  for (int j = 0; j < ROWS / 2; j++) {
    if (lane == uint(j)) {
      float gate = sums[2 * j] + float(bias[first + 2 * j]);
      float linear = sums[2 * j + 1] + float(bias[first + 2 * j + 1]);
      activated[chunk_major<O>(matrix_row / 2 + j, OUTPUTS / 32)] = O(swiglu(gate, linear, as_type<float>(LIMIT_BITS)));
    }
  }
}
