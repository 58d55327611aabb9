// Rows of an MXFP4 matrix times a vector. A group is 32 FP4 codes (E2M1, 16 bytes, lowest nibble first) and one E8M0
// scale byte (OCP Microscaling Formats 1.0).
#pragma once
#include "activations.h"

// Returns codes I and I + 4 of a word as halves, times 2^-14: exponent and mantissa go to bits 9..11, the sign to bit
// 15. Codes 1 and 9 become subnormal, so a GPU that flushed half subnormals would lose them.
template <int I>
METAL_FUNC half2 fp4_pair(uint word) {
  uint size = word & (0x00070007u << (4 * I)), sign = word & (0x00080008u << (4 * I));
  if (I == 0) return as_type<half2>((size << 9) | (sign << 12));
  if (I == 1) return as_type<half2>((size << 5) | (sign << 8));
  if (I == 2) return as_type<half2>((size << 1) | (sign << 4));
  return as_type<half2>((size >> 3) | sign);
}

// Returns 2^(s - 127), times the 2^14 that fp4_pair leaves out. It is exact up to s = 240, the most a model folder may
// have.
METAL_FUNC float mxfp4_scale(uint8_t s) { return as_type<float>((uint(s) + 14u) << 23); }

METAL_FUNC float dot_eight(uint word, const thread Eight& x) {
  half2 a = fp4_pair<0>(word), b = fp4_pair<1>(word), c = fp4_pair<2>(word), d = fp4_pair<3>(word);
  float sum = float(a.x) * x.v[0];
  sum = fma(float(b.x), x.v[1], sum);
  sum = fma(float(c.x), x.v[2], sum);
  sum = fma(float(d.x), x.v[3], sum);
  sum = fma(float(a.y), x.v[4], sum);
  sum = fma(float(b.y), x.v[5], sum);
  sum = fma(float(c.y), x.v[6], sum);
  return fma(float(d.y), x.v[7], sum);
}

// Sets sums[r] to row (first + r) of the matrix times x, for ROWS rows, in all lanes. Lane l takes groups l, l + 32,
// and so on, with one 16-byte load and one scale byte for each row. It multiplies BATCH rows at a time by the same 32
// activations. More ROWS need fewer activation loads. A larger BATCH has more bytes in flight, in more registers.
template <int COLUMNS, int ROWS, int BATCH, typename T>
METAL_FUNC void mxfp4_rows(const device uint* weight, const device uint8_t* scales, uint first, const device T* x,
                           uint lane, thread float (&sums)[ROWS]) {
  constexpr uint GROUPS = COLUMNS / 32;
#pragma unroll
  for (int r = 0; r < ROWS; r++) sums[r] = 0;
#pragma unroll 1
  for (uint g = lane; g < GROUPS; g += 32) {
    Group<T> group = load_group(x, GROUPS, g);
    uint at = first * GROUPS + g;
#pragma unroll
    for (int b = 0; b < ROWS; b += BATCH) {
      uint4 codes[BATCH];
      float scale[BATCH], part[BATCH];
#pragma unroll
      for (int r = 0; r < BATCH; r++) {
        codes[r] = ((const device uint4*)weight + at)[uint(b + r) * GROUPS];
        scale[r] = mxfp4_scale((scales + at)[uint(b + r) * GROUPS]);
        part[r] = 0;
      }
#pragma unroll
      for (int i = 0; i < 4; i++) {
        Eight eight = open_eight(group, i);  // its product is summed apart, because one chain of 32 would round more
#pragma unroll
        for (int r = 0; r < BATCH; r++) part[r] += dot_eight(codes[r][i], eight);
      }
#pragma unroll
      for (int r = 0; r < BATCH; r++) sums[b + r] = fma(scale[r], part[r], sums[b + r]);
    }
  }
#pragma unroll
  for (int r = 0; r < ROWS; r++) sums[r] = simd_sum(sums[r]);
}
