// Rows of a dense matrix times a vector. The matrix is of a float type or q8. q8 is MLX's affine format: codes of 8
// bits, four to a word with the lowest byte first, 64 to a group with one scale and one offset. A value is code * scale
// + offset.
//
// A simdgroup takes P pairs of rows, first + p and first + APART + p; P is a multiple of 4. Lane l ends with the
// products of pairs l % 4, l % 4 + 4 and so on. One lane loads each weight, scale and offset, once.
#pragma once
#include "activations.h"

// The vector, eight values at a time: as it lies, or times a norm's weight. The norm's scale is applied after the
// product. It needs `squares`, the sum of squares of all values a lane has read.
template <typename X>
struct PlainRow {
  const device X* x;
  Eight eight(uint n) { return load_eight(x + n); }
};
template <typename N>
struct NormedRow {
  const device float* x;
  const device N* norm;
  float squares;
  Eight eight(uint n) {
    Eight v = load_eight(x + n), w = load_eight(norm + n);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      sum = fma(v.v[i], v.v[i], sum);
      v.v[i] *= w.v[i];
    }
    squares += sum;
    return v;
  }
};

// Eight weights as they lie in memory. The weights of all rows are loaded before any is opened.
template <typename W>
struct Packed {
  uint4 chunk[sizeof(W) / 2];
};
template <typename W>
METAL_FUNC Packed<W> load_packed(const device W* p) {
  Packed<W> w;
#pragma unroll
  for (uint c = 0; c < sizeof(W) / 2; c++) w.chunk[c] = ((const device uint4*)p)[c];
  return w;
}
METAL_FUNC Eight unpacked(const thread Packed<half>& w) { return from_halves(w.chunk[0]); }
METAL_FUNC Eight unpacked(const thread Packed<bfloat>& w) { return from_bfloats(w.chunk[0]); }
METAL_FUNC Eight unpacked(const thread Packed<float>& w) { return from_floats(w.chunk[0], w.chunk[1]); }

// The products a lane holds: for each of its pairs that of row first + p, then that of the other row.
template <int P>
struct Pairs {
  float2 of[P / 4];
};

template <int P, int APART>
METAL_FUNC uint row_of(uint first, uint r) {
  return first + r % P + r / P * APART;
}

// Multiplies rows of floats. Lane l takes columns 8l to 8l + 7, then those 256 further on, and so on.
template <int COLUMNS, int P, int APART, typename W, typename S, typename Row>
METAL_FUNC Pairs<P> dense_pairs(const device W* weight, const device S*, const device S*, uint first, thread Row& row,
                                uint lane) {
  Pairs<P> pairs;
  float sums[2 * P];
#pragma unroll
  for (int r = 0; r < 2 * P; r++) sums[r] = 0;
#pragma unroll 1
  for (uint n = 8 * lane; n < COLUMNS; n += 8 * 32) {
    Packed<W> packed[2 * P];
#pragma unroll
    for (int r = 0; r < 2 * P; r++) packed[r] = load_packed(weight + row_of<P, APART>(first, r) * COLUMNS + n);
    Eight x = row.eight(n);
#pragma unroll
    for (int r = 0; r < 2 * P; r++) {
      Eight w = unpacked(packed[r]);
      float part = 0;
#pragma unroll
      for (int i = 0; i < 8; i++) part = fma(w.v[i], x.v[i], part);
      sums[r] += part;
    }
  }
#pragma unroll
  for (int r = 0; r < 2 * P; r++) sums[r] = simd_sum(sums[r]);
#pragma unroll
  for (int p = 0; p < P; p++) {
    if (lane % 4 == uint(p % 4)) {
      pairs.of[p / 4].x = sums[p];
      pairs.of[p / 4].y = sums[P + p];
    }
  }
  return pairs;
}

// Subtracts 128 from four codes, which makes them signed. Their products then nearly cancel in the sum itself; unsigned
// ones would cancel only after the offset, 128 scales in size, is added.
METAL_FUNC char4 centred(uint word) { return as_type<char4>(word ^ 0x80808080u); }

METAL_FUNC float dot_codes(uint low, uint high, const thread Eight& x, float sum) {
  char4 a = centred(low), b = centred(high);
  sum = fma(float(a.x), x.v[0], sum);
  sum = fma(float(a.y), x.v[1], sum);
  sum = fma(float(a.z), x.v[2], sum);
  sum = fma(float(a.w), x.v[3], sum);
  sum = fma(float(b.x), x.v[4], sum);
  sum = fma(float(b.y), x.v[5], sum);
  sum = fma(float(b.z), x.v[6], sum);
  return fma(float(b.w), x.v[7], sum);
}

// Returns to lane l of four the sum of v[l] over the four. It takes three exchanges for four sums.
METAL_FUNC float sum_of_four(const thread float* v, uint lane) {
  bool upper = lane & 2, odd = lane & 1;
  float v0 = v[0], v1 = v[1], v2 = v[2], v3 = v[3];  // loaded before the choice, or v would leave the registers
  float a = (upper ? v2 : v0) + simd_shuffle_xor(upper ? v0 : v2, 2);
  float b = (upper ? v3 : v1) + simd_shuffle_xor(upper ? v1 : v3, 2);
  return (odd ? b : a) + simd_shuffle_xor(odd ? a : b, 1);
}

// Multiplies rows of q8. Four lanes share a group, 16 codes each. They add up before scaling, because only the lane
// that keeps the row loads the scale.
template <int COLUMNS, int P, int APART, typename S, typename Row>
METAL_FUNC Pairs<P> dense_pairs(const device uint* weight, const device S* scales, const device S* offsets, uint first,
                                thread Row& row, uint lane) {
  constexpr uint GROUPS = COLUMNS / 64;
  uint quarter = lane % 4;
  Pairs<P> pairs;
#pragma unroll
  for (int b = 0; b < P / 4; b++) pairs.of[b].x = pairs.of[b].y = 0;
#pragma unroll 1
  for (uint round = 0; round < GROUPS; round += 8) {
    uint g = round + lane / 4;
    float parts[2 * P], total = 0;
#pragma unroll
    for (int r = 0; r < 2 * P; r++) parts[r] = 0;
    if (g < GROUPS) {
      uint4 codes[2 * P];
#pragma unroll
      for (int r = 0; r < 2 * P; r++) {
        codes[r] = ((const device uint4*)weight)[(row_of<P, APART>(first, r) * GROUPS + g) * 4 + quarter];
      }
#pragma unroll
      for (int h = 0; h < 2; h++) {
        Eight x = row.eight(g * 64 + quarter * 16 + 8 * h);
#pragma unroll
        for (int i = 0; i < 8; i++) total += x.v[i];
#pragma unroll
        for (int r = 0; r < 2 * P; r++) parts[r] = dot_codes(codes[r][2 * h], codes[r][2 * h + 1], x, parts[r]);
      }
    }
    total += simd_shuffle_xor(total, 2);
    total += simd_shuffle_xor(total, 1);
#pragma unroll
    for (int b = 0; b < P / 4; b++) {
      float2 part = float2(sum_of_four(parts + 4 * b, lane), sum_of_four(parts + P + 4 * b, lane));
      if (g < GROUPS) {
        uint low = (first + 4 * b + quarter) * GROUPS + g, high = low + APART * GROUPS;
        float2 scale = float2(float(scales[low]), float(scales[high]));
        float2 offset = float2(float(offsets[low]), float(offsets[high]));
        pairs.of[b] = fma(scale, part, fma(fma(float2(128), scale, offset), float2(total), pairs.of[b]));
      }
    }
  }
#pragma unroll
  for (int b = 0; b < P / 4; b++) {
#pragma unroll
    for (ushort step = 4; step < 32; step *= 2) pairs.of[b] += simd_shuffle_xor(pairs.of[b], step);
  }
  return pairs;
}
