// RMSNorm, the projection to queries, keys and values with its bias, and RoPE on queries and keys.
//
// Grid: x over simdgroups with PAIRS pairs of matrix rows each, y over tiles of ROWS rows of the input. The rows of a
// pair are dimensions i and i + HEAD_DIM / 2 of one head, which RoPE rotates into each other. The norm has no pass of
// its own: its sum of squares is taken beside the products.
#include "dense.h"

template <typename N = bfloat, typename W = bfloat, typename S = bfloat, typename B = bfloat, typename O = bfloat,
          int COLUMNS = 2880, int HEADS = 64, int KV_HEADS = 8, int HEAD_DIM = 64, int PAIRS = 4,
          int ROWS = 1, int EPSILON_BITS = 925353388>  // the bits of 1e-5
[[kernel]] void norm_qkv_rope(
    const device float* x,           // [rows, COLUMNS]
    const constant int* x_shape,
    const device N* norm,            // [COLUMNS]
    const device W* weight,          // [(HEADS + 2 * KV_HEADS) * HEAD_DIM, COLUMNS], q8 with W = uint: [.., COLUMNS / 4]
    const device S* scales,          // [.., COLUMNS / 64], of q8 only
    const device S* offsets,         // [.., COLUMNS / 64], of q8 only
    const device B* bias,            // [(HEADS + 2 * KV_HEADS) * HEAD_DIM]
    const device float* cosines,     // [rows, HEAD_DIM / 2]
    const device float* sines,       // [rows, HEAD_DIM / 2]
    device float* q,                 // [rows, HEADS, HEAD_DIM]
    device O* kv,                    // [rows, 2, KV_HEADS, HEAD_DIM], keys, then values
    uint thread_index_in_simdgroup [[thread_index_in_simdgroup]],
    uint3 thread_position_in_grid [[thread_position_in_grid]]) {
  constexpr uint HALF = HEAD_DIM / 2;
  uint lane = thread_index_in_simdgroup, tile = thread_position_in_grid.y, rows = uint(x_shape[0]);
  uint start = first_row<ROWS>(tile, rows), row = start + lane / 4;
  bool own = is_own<ROWS>(lane, tile, rows);
  uint pair = thread_position_in_grid.x / 32 * PAIRS, head = pair / HALF, i = pair % HALF;
  uint first = head * HEAD_DIM + i;
  NormedRows<N, COLUMNS, ROWS> input = {x + start * COLUMNS, norm, {}, {}};
  Pairs<PAIRS> pairs = dense_pairs<COLUMNS, PAIRS, HALF, ROWS>(weight, scales, offsets, first, input, lane);
  float scale = input.scale(lane / 4, as_type<float>(EPSILON_BITS));
#pragma unroll
  for (int b = 0; b < PAIRS / 4; b++) {
    if (own) {
      uint p = 4 * b + lane % 4, n = first + p, turn = row * HALF + i + p;
      float low = fma(pairs.of[b].x, scale, float(bias[n])), high = fma(pairs.of[b].y, scale, float(bias[n + HALF]));
      if (head < HEADS + KV_HEADS) {
        float cosine = cosines[turn], sine = sines[turn], turned = low * cosine - high * sine;
        high = high * cosine + low * sine;
        low = turned;
      }
      if (head < HEADS) {
        uint m = row * HEADS * HEAD_DIM + n;
        q[m] = low;
        q[m + HALF] = high;
      } else {
        uint m = row * 2 * KV_HEADS * HEAD_DIM + n - HEADS * HEAD_DIM;
        kv[m] = narrowed<O>(low);
        kv[m + HALF] = narrowed<O>(high);
      }
    }
  }
}
