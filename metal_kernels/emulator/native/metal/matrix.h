// simdgroup_matrix 8 x 8: each lane holds two neighbours of one row. Metal's specification does not say which; MLX's
// steel kernels rely on the layout below through thread_elements(). Products accumulate in float.
#pragma once
#include "atomic.h"

namespace metal {
// From lane 0..31 to the row and the first column of its two elements, and back.
EMU_INLINE unsigned emu_matrix_row(unsigned lane) { return ((lane / 4) & 4) + ((lane / 2) & 3); }
EMU_INLINE unsigned emu_matrix_column(unsigned lane) { return ((lane / 4) & 2) * 2 + (lane & 1) * 2; }
EMU_INLINE unsigned emu_matrix_lane(unsigned row, unsigned column) {
  return ((row & 4) << 2) | ((row & 3) << 1) | ((column & 4) << 1) | ((column >> 1) & 1);
}

template <class T, int ROWS = 8, int COLUMNS = 8>
struct simdgroup_matrix {
  vec<T, 2> elements;
  simdgroup_matrix() = default;
  EMU_INLINE explicit simdgroup_matrix(T v) : elements(v) {}
  EMU_INLINE vec<T, 2>& thread_elements() { return elements; }
  EMU_INLINE const vec<T, 2>& thread_elements() const { return elements; }
};
using simdgroup_float8x8 = simdgroup_matrix<float>;
using simdgroup_half8x8 = simdgroup_matrix<half>;
using simdgroup_bfloat8x8 = simdgroup_matrix<bfloat>;

template <class T, int ROWS = 8, int COLUMNS = 8>
EMU_INLINE simdgroup_matrix<T> make_filled_simdgroup_matrix(T v) {
  return simdgroup_matrix<T>(v);
}

template <class T>
EMU_INLINE void emu_swap_if(bool condition, T& a, T& b) {
  if (!condition) return;
  T t = a;
  a = b;
  b = t;
}
template <class T, class U>
EMU_INLINE void simdgroup_load(simdgroup_matrix<T>& m, const volatile U* from, ulong row_stride = 8, ulong2 origin = 0,
                               bool transpose = false) {
  emu_meet(true, "simdgroup_load");
  for (unsigned k = 0; k < 2; k++) {
    size_t row = emu_matrix_row(emu_lane()), column = emu_matrix_column(emu_lane()) + k;
    emu_swap_if(transpose, row, column);
    m.elements[k] = static_cast<T>(from[(origin.y + row) * row_stride + origin.x + column]);
  }
}
template <class T, class U>
EMU_INLINE void simdgroup_store(simdgroup_matrix<T> m, volatile U* to, ulong row_stride = 8, ulong2 origin = 0,
                                bool transpose = false) {
  emu_meet(true, "simdgroup_store");
  for (unsigned k = 0; k < 2; k++) {
    size_t row = emu_matrix_row(emu_lane()), column = emu_matrix_column(emu_lane()) + k;
    emu_swap_if(transpose, row, column);
    to[(origin.y + row) * row_stride + origin.x + column] = static_cast<U>(m.elements[k]);
  }
}

struct emu_matrix_operands {
  float a[2], b[2];
};
EMU_HELPER inline float emu_matrix_dot(const emu_lanes* lanes, unsigned row, unsigned column, float sum) {
  for (unsigned k = 0; k < 8; k++) {
    float a = emu_lane_value<emu_matrix_operands>(lanes, emu_matrix_lane(row, k)).a[k & 1];
    float b = emu_lane_value<emu_matrix_operands>(lanes, emu_matrix_lane(k, column)).b[column & 1];
    sum = ::fmaf(a, b, sum);
  }
  return sum;
}
template <class D, class A, class B, class C>
EMU_INLINE void simdgroup_multiply_accumulate(simdgroup_matrix<D>& d, simdgroup_matrix<A> a, simdgroup_matrix<B> b,
                                              simdgroup_matrix<C> c) {
  emu_matrix_operands mine = {{static_cast<float>(a.elements[0]), static_cast<float>(a.elements[1])},
                              {static_cast<float>(b.elements[0]), static_cast<float>(b.elements[1])}};
  const emu_lanes* lanes = emu_meet(mine, "simdgroup_multiply_accumulate");
  if (lanes->active != 0xffffffffu) emu_bad_lane("simdgroup_multiply_accumulate", 0, lanes->active);
  unsigned row = emu_matrix_row(emu_lane()), column = emu_matrix_column(emu_lane());
  for (unsigned k = 0; k < 2; k++) {
    d.elements[k] = static_cast<D>(emu_matrix_dot(lanes, row, column + k, static_cast<float>(c.elements[k])));
  }
}
template <class D, class A, class B>
EMU_INLINE void simdgroup_multiply(simdgroup_matrix<D>& d, simdgroup_matrix<A> a, simdgroup_matrix<B> b) {
  simdgroup_multiply_accumulate(d, a, b, simdgroup_matrix<D>(static_cast<D>(0)));
}
}  // namespace metal
