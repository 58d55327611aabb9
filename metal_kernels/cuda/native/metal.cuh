// The Metal Shading Language in CUDA C++, as far as our shaders use it. For NVRTC, with every function a device function.
//
// A simdgroup is a warp, a threadgroup a block. Address spaces are erased; translation.py makes threadgroup variables
// __shared__. Functions that CUDA has under the same name and with the same meaning are CUDA's own.
#pragma once

typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;

// Names that CUDA has for types of its own.
#define float2 metal_float2
#define float4 metal_float4
#define half2 metal_half2
#define uint3 metal_uint3
#define uint4 metal_uint4
#define char4 metal_char4

#define device
#define constant
#define thread
#define threadgroup
#define kernel
#define METAL_FUNC __device__ __forceinline__
#undef INFINITY
#define INFINITY (__builtin_bit_cast(float, 0x7f800000))

template <class T, class U>
METAL_FUNC T as_type(U u) {
  static_assert(sizeof(T) == sizeof(U), "as_type between types of different sizes");
  return __builtin_bit_cast(T, u);
}

struct half {
  unsigned short bits;
  half() = default;
  METAL_FUNC explicit half(float v) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(v)); }
  METAL_FUNC operator float() const {
    float v;
    asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(bits));
    return v;
  }
};
struct bfloat {
  unsigned short bits;
  bfloat() = default;
  METAL_FUNC explicit bfloat(float v) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(v)); }
  METAL_FUNC operator float() const { return as_type<float>(static_cast<unsigned>(bits) << 16); }
};
typedef half float16_t;
typedef bfloat bfloat16_t;

// Vectors.

template <class T>
struct alignas(2 * sizeof(T)) vec2 {
  T x, y;
  vec2() = default;
  METAL_FUNC vec2(T s) : x(s), y(s) {}
  METAL_FUNC vec2(T a, T b) : x(a), y(b) {}
};
template <class T>
struct alignas(4 * sizeof(T)) vec4 {
  T x, y, z, w;
  vec4() = default;
  METAL_FUNC vec4(T s) : x(s), y(s), z(s), w(s) {}
  METAL_FUNC vec4(T a, T b, T c, T d) : x(a), y(b), z(c), w(d) {}
  METAL_FUNC T operator[](int i) const { return i == 0 ? x : i == 1 ? y : i == 2 ? z : w; }
};
struct uint3 {
  uint x, y, z;
};
using float2 = vec2<float>;
using float4 = vec4<float>;
using half2 = vec2<half>;
using uint4 = vec4<uint>;
using char4 = vec4<signed char>;

template <class T>
METAL_FUNC vec2<T> operator+(vec2<T> a, vec2<T> b) {
  return {a.x + b.x, a.y + b.y};
}
template <class T>
METAL_FUNC vec2<T>& operator+=(vec2<T>& a, vec2<T> b) {
  return a = a + b;
}
template <class T>
METAL_FUNC vec4<T>& operator+=(vec4<T>& a, vec4<T> b) {
  return a = {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
}
METAL_FUNC float4 operator*(float4 a, float s) { return {a.x * s, a.y * s, a.z * s, a.w * s}; }
METAL_FUNC float4 operator*(float s, float4 a) { return a * s; }
METAL_FUNC uint4 operator<<(uint4 a, uint s) { return {a.x << s, a.y << s, a.z << s, a.w << s}; }
METAL_FUNC uint4 operator&(uint4 a, uint s) { return {a.x & s, a.y & s, a.z & s, a.w & s}; }
METAL_FUNC float2 fma(float2 a, float2 b, float2 c) { return {fma(a.x, b.x, c.x), fma(a.y, b.y, c.y)}; }
METAL_FUNC float4 fma(float4 a, float4 b, float4 c) {
  return {fma(a.x, b.x, c.x), fma(a.y, b.y, c.y), fma(a.z, b.z, c.z), fma(a.w, b.w, c.w)};
}
METAL_FUNC float clamp(float x, float low, float high) { return min(max(x, low), high); }

template <class T>
struct numeric_limits;
template <>
struct numeric_limits<float> {
  static constexpr float max() { return 3.40282346638528859811704183484516925e+38F; }
};

// Simdgroups.

template <class T>
METAL_FUNC T shuffled(T v, uint lane) {
  static_assert(sizeof(T) == 4, "a lane exchanges a word");
  return as_type<T>(__shfl_sync(0xffffffffu, as_type<uint>(v), lane));
}
template <class T>
METAL_FUNC T simd_shuffle(T v, ushort lane) {
  return shuffled(v, lane);
}
template <class T>
METAL_FUNC T simd_broadcast(T v, ushort lane) {
  return shuffled(v, lane);
}
template <class T>
METAL_FUNC T simd_broadcast_first(T v) {
  return shuffled(v, 0);
}
template <class T>
METAL_FUNC T simd_shuffle_xor(T v, ushort by) {
  return as_type<T>(__shfl_xor_sync(0xffffffffu, as_type<uint>(v), by));
}
template <class T>
METAL_FUNC vec2<T> simd_shuffle_xor(vec2<T> v, ushort by) {
  return {simd_shuffle_xor(v.x, by), simd_shuffle_xor(v.y, by)};
}
// The order of a reduction is the emulator's: neighbours first.
template <class T>
METAL_FUNC T simd_sum(T v) {
#pragma unroll
  for (uint step = 1; step < 32; step *= 2) v = v + simd_shuffle_xor(v, step);
  return v;
}
template <class T>
METAL_FUNC T simd_min(T v) {
#pragma unroll
  for (uint step = 1; step < 32; step *= 2) v = min(v, simd_shuffle_xor(v, step));
  return v;
}
template <class T>
METAL_FUNC T simd_max(T v) {
#pragma unroll
  for (uint step = 1; step < 32; step *= 2) v = max(v, simd_shuffle_xor(v, step));
  return v;
}

enum class mem_flags { mem_threadgroup = 2 };
METAL_FUNC void threadgroup_barrier(mem_flags) { __syncthreads(); }

// What the entry gives the shader.

struct buffer {
  void* at;
  template <class T>
  METAL_FUNC operator T*() const {
    return static_cast<T*>(at);
  }
};
METAL_FUNC uint thread_in_block() { return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z); }
