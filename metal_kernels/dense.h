// Rows of a dense matrix times R vectors, the rows of the input. The matrix is of a float type or q8. q8 is MLX's
// affine format: codes of 8 bits, four to a word with the lowest byte first, 64 to a group with one scale and one
// offset. A value is code * scale + offset.
//
// A simdgroup takes P pairs of rows of the matrix, first + p and first + APART + p, and R rows of the input; P is a
// multiple of 4. One lane loads each weight, scale and offset once and opens it once, for all R rows. Lane l ends with
// row l / 4 of the input and pairs l % 4, l % 4 + 4 and so on. The order of a sum depends neither on P nor on R.
#pragma once
#include "activations.h"

// Returns the first row of the input that a simdgroup takes. Where rows are no multiple of R, the last R overlap those
// before, and is_own tells which of them it hands on.
template <int R>
METAL_FUNC uint first_row(uint tile, uint rows) {
  return min(tile * R, rows - R);
}
template <int R>
METAL_FUNC bool is_own(uint lane, uint tile, uint rows) {
  return lane < 4 * R && first_row<R>(tile, rows) + lane / 4 >= tile * R;
}

// The rows of the input, eight values at a time: as they lie, or times a norm's weight. The norm's scale is applied
// after the product. It needs the sums of squares of all values a lane has read.
template <typename X, int COLUMNS>
struct PlainRows {
  const device X* x;
  void at(uint) {}
  Eight eight(int t, uint n) { return load_eight(x + t * COLUMNS + n); }
};
template <typename N, int COLUMNS, int R>
struct NormedRows {
  const device float* x;
  const device N* norm;
  Eight weight;
  float squares[R];
  void at(uint n) { weight = load_eight(norm + n); }
  Eight eight(int t, uint n) {
    Eight v = load_eight(x + t * COLUMNS + n);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      sum = fma(v.v[i], v.v[i], sum);
      v.v[i] *= weight.v[i];
    }
    squares[t] += sum;
    return v;
  }
  // Returns the norm's scale of a row, which a lane chooses.
  float scale(uint row, float epsilon) {
    float own = 0;
#pragma unroll
    for (int t = 0; t < R; t++) {
      float sum = simd_sum(squares[t]);
      if (row == uint(t)) own = sum;
    }
    return rsqrt(own / float(COLUMNS) + epsilon);
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

// Returns how far behind the first row the r-th of the 2 * P rows lies.
template <int P, int APART>
METAL_FUNC uint past_first(uint r) {
  return r % P + r / P * APART;
}

METAL_FUNC float dot_eight(const thread Eight& w, const thread Eight& x, float sum) {
#pragma unroll
  for (int i = 0; i < 8; i++) sum = fma(w.v[i], x.v[i], sum);
  return sum;
}

// Multiplies rows of floats. Lane l takes columns 8l to 8l + 7, then those 256 further on, and so on.
template <int COLUMNS, int P, int APART, int R, typename W, typename S, typename Rows>
METAL_FUNC Pairs<P> dense_pairs(const device W* weight, const device S*, const device S*, uint first, thread Rows& rows,
                                uint lane) {
  float sums[R][2 * P];
#pragma unroll
  for (int t = 0; t < R; t++) {
#pragma unroll
    for (int r = 0; r < 2 * P; r++) sums[t][r] = 0;
  }
#pragma unroll 1
  for (uint n = 8 * lane; n < COLUMNS; n += 8 * 32) {
    rows.at(n);
    uint at = first * COLUMNS + n;
    Packed<W> packed[2 * P];
#pragma unroll
    for (int r = 0; r < 2 * P; r++) packed[r] = load_packed(weight + at + past_first<P, APART>(r) * COLUMNS);
    Eight x[R];
#pragma unroll
    for (int t = 0; t < R; t++) x[t] = rows.eight(t, n);
#pragma unroll
    for (int r = 0; r < 2 * P; r++) {
      Eight w = unpacked(packed[r]);
#pragma unroll
      for (int t = 0; t < R; t++) sums[t][r] += dot_eight(w, x[t], 0);
    }
  }
  Pairs<P> pairs;
#pragma unroll
  for (int t = 0; t < R; t++) {
#pragma unroll
    for (int p = 0; p < P; p++) {
      float low = simd_sum(sums[t][p]), high = simd_sum(sums[t][P + p]);
      if (lane == uint(4 * t + p % 4)) pairs.of[p / 4] = float2(low, high);
    }
  }
  return pairs;
}

// Subtracts 128 from four codes, which makes them signed. Their products then nearly cancel in the sum itself; unsigned
// ones would cancel only after the offset, 128 scales in size, is added.
METAL_FUNC char4 centred(uint word) { return as_type<char4>(word ^ 0x80808080u); }

METAL_FUNC Eight from_codes(uint low, uint high) {
  char4 a = centred(low), b = centred(high);
  return {{float(a.x), float(a.y), float(a.z), float(a.w), float(b.x), float(b.y), float(b.z), float(b.w)}};
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
template <int COLUMNS, int P, int APART, int R, typename S, typename Rows>
METAL_FUNC Pairs<P> dense_pairs(const device uint* weight, const device S* scales, const device S* offsets, uint first,
                                thread Rows& rows, uint lane) {
  constexpr uint GROUPS = COLUMNS / 64;
  uint quarter = lane % 4;
  float sums[R][P / 2];  // of rows quarter, quarter + 4 and so on
#pragma unroll
  for (int t = 0; t < R; t++) {
#pragma unroll
    for (int j = 0; j < P / 2; j++) sums[t][j] = 0;
  }
#pragma unroll 1
  for (uint round = 0; round < GROUPS; round += 8) {
    uint g = round + lane / 4;
    float parts[R][2 * P], totals[R], scale[P / 2], offset[P / 2];
#pragma unroll
    for (int j = 0; j < P / 2; j++) scale[j] = offset[j] = 0;
#pragma unroll
    for (int t = 0; t < R; t++) {
      totals[t] = 0;
#pragma unroll
      for (int r = 0; r < 2 * P; r++) parts[t][r] = 0;
    }
    if (g < GROUPS) {
      uint at = first * GROUPS + g;
      uint4 codes[2 * P];
#pragma unroll
      for (int r = 0; r < 2 * P; r++) {
        codes[r] = ((const device uint4*)weight)[(at + past_first<P, APART>(r) * GROUPS) * 4 + quarter];
      }
#pragma unroll
      for (int j = 0; j < P / 2; j++) {  // beside the codes, so that a round waits for memory once
        uint own = at + past_first<P, APART>(4 * j + quarter) * GROUPS;
        scale[j] = float(scales[own]);
        offset[j] = float(offsets[own]);
      }
#pragma unroll
      for (int h = 0; h < 2; h++) {
        uint n = g * 64 + quarter * 16 + 8 * h;
        rows.at(n);
        Eight x[R];
#pragma unroll
        for (int t = 0; t < R; t++) {
          x[t] = rows.eight(t, n);
#pragma unroll
          for (int i = 0; i < 8; i++) totals[t] += x[t].v[i];
        }
#pragma unroll
        for (int r = 0; r < 2 * P; r++) {
          Eight w = from_codes(codes[r][2 * h], codes[r][2 * h + 1]);
#pragma unroll
          for (int t = 0; t < R; t++) parts[t][r] = dot_eight(w, x[t], parts[t][r]);
        }
      }
    }
#pragma unroll
    for (int t = 0; t < R; t++) {
      float total = totals[t];
      total += simd_shuffle_xor(total, 2);
      total += simd_shuffle_xor(total, 1);
#pragma unroll
      for (int j = 0; j < P / 2; j++) {
        float part = sum_of_four(parts[t] + 4 * j, lane);
        sums[t][j] = fma(scale[j], part, fma(fma(128.0f, scale[j], offset[j]), total, sums[t][j]));
      }
    }
  }
  Pairs<P> pairs;
#pragma unroll
  for (int t = 0; t < R; t++) {
#pragma unroll
    for (int j = 0; j < P / 2; j++) {
#pragma unroll
      for (ushort step = 4; step < 32; step *= 2) sums[t][j] += simd_shuffle_xor(sums[t][j], step);
    }
#pragma unroll
    for (int b = 0; b < P / 4; b++) {
      if (lane / 4 == uint(t)) pairs.of[b] = float2(sums[t][b], sums[t][b + P / 4]);
    }
  }
  return pairs;
}
