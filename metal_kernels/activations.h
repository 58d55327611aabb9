// Rows of activations, and the order in which one shader writes them for the next.
//
// That order is chunk-major. A row of N values of type T is [32 / W][N / 32][W], with W = 16 / sizeof(T) values to a
// chunk of 16 bytes. A lane multiplies one group of 32 values, so neighbouring lanes read neighbouring chunks. In
// natural order they would read 64 bytes apart and ask the cache for 3.3 times the lines.
#pragma once

// Returns the place of value n in a row of so many groups.
template <typename T>
METAL_FUNC uint chunk_major(uint n, uint groups) {
  constexpr uint W = 16 / sizeof(T);
  return ((n % 32u / W) * groups + n / 32u) * W + n % W;
}

// Converts a float to the type of a row. half ends at 65504, and a normed value can exceed that if a norm weight
// exceeds 1200.
template <typename T>
METAL_FUNC T narrowed(float v) {
  return T(v);
}
template <>
METAL_FUNC half narrowed<half>(float v) {
  return half(clamp(v, -65504.0f, 65504.0f));
}

struct Eight {
  float v[8];
};

METAL_FUNC Eight from_halves(uint4 u) {
  half2 a = as_type<half2>(u.x), b = as_type<half2>(u.y), c = as_type<half2>(u.z), d = as_type<half2>(u.w);
  return {{float(a.x), float(a.y), float(b.x), float(b.y), float(c.x), float(c.y), float(d.x), float(d.y)}};
}
// A bfloat is the upper half of a float. The lower of a pair moves up; the upper stays in place.
METAL_FUNC Eight from_bfloats(uint4 u) {
  uint4 low = u << 16, high = u & 0xFFFF0000u;
  return {{as_type<float>(low.x), as_type<float>(high.x), as_type<float>(low.y), as_type<float>(high.y),
           as_type<float>(low.z), as_type<float>(high.z), as_type<float>(low.w), as_type<float>(high.w)}};
}
METAL_FUNC Eight from_floats(uint4 u, uint4 w) {
  float4 a = as_type<float4>(u), b = as_type<float4>(w);
  return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

// Loads eight values in natural order, from an address that is a multiple of 16 bytes.
METAL_FUNC Eight load_eight(const device half* p) {
  uint4 u = *(const device uint4*)p;
  return from_halves(u);
}
METAL_FUNC Eight load_eight(const device bfloat* p) {
  uint4 u = *(const device uint4*)p;
  return from_bfloats(u);
}
METAL_FUNC Eight load_eight(const device float* p) {
  uint4 u = ((const device uint4*)p)[0];
  uint4 w = ((const device uint4*)p)[1];
  return from_floats(u, w);
}

// One group of 32 activations as they lie in memory. It is opened eight at a time, so 16-bit types take 16 registers,
// not 32.
template <typename T>
struct Group {
  uint4 chunk[2 * sizeof(T)];
};
template <typename T>
METAL_FUNC Group<T> load_group(const device T* row, uint groups, uint g) {
  Group<T> x;
#pragma unroll
  for (uint c = 0; c < 2 * sizeof(T); c++) x.chunk[c] = ((const device uint4*)row)[c * groups + g];
  return x;
}
METAL_FUNC Eight open_eight(const thread Group<half>& x, int i) { return from_halves(x.chunk[i]); }
METAL_FUNC Eight open_eight(const thread Group<bfloat>& x, int i) { return from_bfloats(x.chunk[i]); }
METAL_FUNC Eight open_eight(const thread Group<float>& x, int i) {
  return from_floats(x.chunk[2 * i], x.chunk[2 * i + 1]);
}
