// The Metal Shading Language in CUDA C++, as far as MLX's own kernels for our products use it. For NVRTC, with every
// function a device function. A simdgroup is a warp, a threadgroup a block, and address spaces are erased. Names are
// those of the language; what begins with mlx_ is this file's own.
#pragma once

typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long int64_t;
typedef unsigned long uint64_t;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;

// CUDA's functions, before their names become Metal's. A number wins over a NaN, as in Metal.
__device__ __forceinline__ float mlx_min(float a, float b) { return fminf(a, b); }
__device__ __forceinline__ float mlx_max(float a, float b) { return fmaxf(a, b); }

// Metal's names that CUDA has too.
#define half metal_half
#define int2 metal_int2
#define uint2 metal_uint2
#define uint3 metal_uint3
#define short2 metal_short2
#define ulong2 metal_ulong2
#define ulong3 metal_ulong3
#define min metal_min
#define max metal_max

#define device
#define constant
#define thread
#define threadgroup
#define METAL_FUNC inline
#define __METAL_VERSION__ 320
#define MLX_FUNC __device__ __forceinline__
#define INFINITY (__builtin_bit_cast(float, 0x7f800000))
#define NAN (__builtin_bit_cast(float, 0x7fc00000))

namespace metal {

// Types and what can be asked of them.

template <class T, T v>
struct integral_constant {
  static constexpr T value = v;
  using value_type = T;
  using type = integral_constant;
  constexpr operator T() const { return v; }
};
template <bool B>
using bool_constant = integral_constant<bool, B>;
template <bool B, class T = void>
struct enable_if {};
template <class T>
struct enable_if<true, T> {
  using type = T;
};
template <bool B, class T = void>
using enable_if_t = typename enable_if<B, T>::type;
template <class T>
struct remove_cv {
  using type = T;
};
template <class T>
using remove_cv_t = typename remove_cv<T>::type;
template <class T>
struct remove_reference {
  using type = T;
};
template <class T, class U>
constexpr bool is_same_v = false;
template <class T>
constexpr bool is_same_v<T, T> = true;
template <class T>
constexpr bool is_integral_v = false;
#define MLX_INTEGRAL(T) \
  template <>           \
  constexpr bool is_integral_v<T> = true;
MLX_INTEGRAL(bool)
MLX_INTEGRAL(char)
MLX_INTEGRAL(signed char)
MLX_INTEGRAL(unsigned char)
MLX_INTEGRAL(short)
MLX_INTEGRAL(unsigned short)
MLX_INTEGRAL(int)
MLX_INTEGRAL(unsigned int)
MLX_INTEGRAL(long)
MLX_INTEGRAL(unsigned long)
template <class T>
constexpr bool is_number_v = is_integral_v<T> || is_same_v<T, float> || is_same_v<T, double>;
template <class T>
struct is_integral : bool_constant<is_integral_v<T>> {};
template <class T>
constexpr bool is_unsigned_v = is_integral_v<T> && T(-1) > T(0);
template <class T>
struct make_unsigned {
  using type = T;
};

}  // namespace metal

template <class T, class U>
MLX_FUNC T as_type(U u) {
  static_assert(sizeof(T) == sizeof(U), "as_type between types of different sizes");
  T t;
  memcpy((void*)&t, (const void*)&u, sizeof(T));
  return t;
}

struct half {
  unsigned short bits;
  struct Raw {};
  half() = default;
  constexpr half(unsigned short b, Raw) : bits(b) {}
  template <class T, metal::enable_if_t<metal::is_number_v<T>, int> = 0>
  MLX_FUNC half(T v) {
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(static_cast<float>(v)));
  }
  MLX_FUNC operator float() const {
    float v;
    asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(bits));
    return v;
  }
};
struct bfloat {
  unsigned short bits;
  struct Raw {};
  bfloat() = default;
  constexpr bfloat(unsigned short b, Raw) : bits(b) {}
  template <class T, metal::enable_if_t<metal::is_number_v<T> || metal::is_same_v<T, half>, int> = 0>
  MLX_FUNC bfloat(T v) {
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(static_cast<float>(v)));
  }
  MLX_FUNC operator float() const { return __uint_as_float(static_cast<unsigned>(bits) << 16); }
};

namespace metal {

template <class T>
constexpr bool is_small_v = is_same_v<T, half> || is_same_v<T, bfloat>;
template <class T>
constexpr bool is_floating_point_v = is_small_v<T> || is_same_v<T, float>;
template <class T>
constexpr bool is_scalar_v = is_integral_v<T> || is_floating_point_v<T>;
template <class T>
using if_scalar = enable_if_t<is_scalar_v<T>, int>;

}  // namespace metal

// A product of 16-bit floats rounds; with a float it is float's.
template <class T, metal::enable_if_t<metal::is_small_v<T>, int> = 0>
MLX_FUNC T operator*(T a, T b) {
  return T(static_cast<float>(a) * static_cast<float>(b));
}
template <class T, class U, metal::enable_if_t<metal::is_small_v<T>, int> = 0>
MLX_FUNC T& operator*=(T& a, U b) {
  return a = T(static_cast<float>(a) * static_cast<float>(b));
}
template <class T, metal::enable_if_t<metal::is_small_v<T>, int> = 0>
constexpr T operator-(T a) {
  return T(static_cast<unsigned short>(a.bits ^ 0x8000), typename T::Raw{});
}

namespace metal {

// Vectors.

template <class T, int N>
struct vec;
template <class T>
struct alignas(2 * sizeof(T)) vec<T, 2> {
  T x, y;
  vec() = default;
  template <class A, class B, if_scalar<A> = 0, if_scalar<B> = 0>
  constexpr vec(A a, B b) : x(static_cast<T>(a)), y(static_cast<T>(b)) {}
  template <class U, enable_if_t<!is_same_v<U, T>, int> = 0>
  explicit constexpr vec(vec<U, 2> o) : x(static_cast<T>(o.x)), y(static_cast<T>(o.y)) {}
  constexpr T& operator[](int i) { return (&x)[i]; }
  constexpr const T& operator[](int i) const { return (&x)[i]; }
};
template <class T>
struct alignas(4 * sizeof(T)) vec<T, 3> {
  T x, y, z;
  vec() = default;
  template <class A, class B, class C, if_scalar<A> = 0, if_scalar<B> = 0>
  constexpr vec(A a, B b, C c) : x(static_cast<T>(a)), y(static_cast<T>(b)), z(static_cast<T>(c)) {}
  constexpr T& operator[](int i) { return (&x)[i]; }
  constexpr const T& operator[](int i) const { return (&x)[i]; }
};
template <class T>
struct alignas(4 * sizeof(T)) vec<T, 4> {
  T x, y, z, w;
  vec() = default;
  template <class A, class B, class C, class D, if_scalar<A> = 0, if_scalar<B> = 0>
  constexpr vec(A a, B b, C c, D d)
      : x(static_cast<T>(a)), y(static_cast<T>(b)), z(static_cast<T>(c)), w(static_cast<T>(d)) {}
  template <class U, enable_if_t<!is_same_v<U, T>, int> = 0>
  explicit constexpr vec(vec<U, 4> o) : vec(o.x, o.y, o.z, o.w) {}
  constexpr T& operator[](int i) { return (&x)[i]; }
  constexpr const T& operator[](int i) const { return (&x)[i]; }
};
using int2 = vec<int, 2>;
using uint2 = vec<unsigned, 2>;
using uint3 = vec<unsigned, 3>;
using short2 = vec<short, 2>;
using ulong2 = vec<unsigned long, 2>;
using ulong3 = vec<unsigned long, 3>;

// Limits and functions.

template <class T>
struct numeric_limits {
  static constexpr T max() { return static_cast<T>(T(-1) < T(0) ? (1ull << (8 * sizeof(T) - 1)) - 1 : ~0ull); }
  static constexpr T min() { return static_cast<T>(T(-1) < T(0) ? ~max() : 0); }
  static constexpr T lowest() { return min(); }
};
template <>
struct numeric_limits<float> {
  static constexpr float max() { return 3.40282346638528859811704183484516925e+38F; }
  static constexpr float min() { return 1.17549435082228750796873653722224568e-38F; }
  static constexpr float lowest() { return -max(); }
  static constexpr float infinity() { return INFINITY; }
  static constexpr float quiet_NaN() { return NAN; }
};
template <class T, unsigned short MAX, unsigned short MIN, unsigned short INF>
struct mlx_small_limits {
  static constexpr T of(unsigned short bits) { return T(bits, typename T::Raw{}); }
  static constexpr T max() { return of(MAX); }
  static constexpr T min() { return of(MIN); }
  static constexpr T lowest() { return of(MAX | 0x8000); }
  static constexpr T infinity() { return of(INF); }
  static constexpr T quiet_NaN() { return of(INF | INF >> 1); }
};
template <>
struct numeric_limits<half> : mlx_small_limits<half, 0x7bff, 0x0400, 0x7c00> {};
template <>
struct numeric_limits<bfloat> : mlx_small_limits<bfloat, 0x7f7f, 0x0080, 0x7f80> {};

#define MLX_UNARY(NAME) \
  MLX_FUNC float NAME(float x) { return ::NAME##f(x); }
#define MLX_FUNCTIONS                                                                                              \
  MLX_UNARY(exp) MLX_UNARY(exp2) MLX_UNARY(log) MLX_UNARY(log2) MLX_UNARY(log10) MLX_UNARY(sqrt) MLX_UNARY(rsqrt)  \
  MLX_UNARY(sin) MLX_UNARY(cos) MLX_UNARY(tan) MLX_UNARY(sinh) MLX_UNARY(cosh) MLX_UNARY(tanh) MLX_UNARY(asin)     \
  MLX_UNARY(acos) MLX_UNARY(atan) MLX_UNARY(asinh) MLX_UNARY(acosh) MLX_UNARY(atanh) MLX_UNARY(floor)              \
  MLX_UNARY(ceil) MLX_UNARY(round) MLX_UNARY(rint) MLX_UNARY(trunc) MLX_UNARY(fabs)
MLX_FUNCTIONS
namespace precise {
MLX_FUNCTIONS
}
namespace fast {
MLX_FUNC float exp(float x) { return __expf(x); }
}

template <class T, if_scalar<T> = 0>
MLX_FUNC T min(T a, T b) {
  if constexpr (is_floating_point_v<T>) return static_cast<T>(mlx_min(static_cast<float>(a), static_cast<float>(b)));
  return b < a ? b : a;
}
template <class T, if_scalar<T> = 0>
MLX_FUNC T max(T a, T b) {
  if constexpr (is_floating_point_v<T>) return static_cast<T>(mlx_max(static_cast<float>(a), static_cast<float>(b)));
  return a < b ? b : a;
}
MLX_FUNC float fmin(float a, float b) { return min(a, b); }
MLX_FUNC float fmax(float a, float b) { return max(a, b); }
MLX_FUNC float atan2(float a, float b) { return atan2f(a, b); }
template <class T, class L, class H>
MLX_FUNC T clamp(T x, L low, H high) {
  return min(max(x, static_cast<T>(low)), static_cast<T>(high));
}
template <class T, if_scalar<T> = 0>
MLX_FUNC T abs(T x) {
  return x < static_cast<T>(0) ? static_cast<T>(-x) : x;
}
template <class T, if_scalar<T> = 0>
MLX_FUNC T select(T a, T b, bool c) {
  return c ? b : a;
}
template <class T, int N>
MLX_FUNC T dot(vec<T, N> a, vec<T, N> b) {
  T sum = a[0] * b[0];
#pragma unroll
  for (int i = 1; i < N; i++) sum += a[i] * b[i];
  return sum;
}
template <class T, enable_if_t<is_floating_point_v<T>, int> = 0>
MLX_FUNC bool isnan(T x) {
  return float(x) != float(x);
}
template <class T, enable_if_t<is_floating_point_v<T>, int> = 0>
MLX_FUNC bool isinf(T x) {
  return fabs(float(x)) == INFINITY;
}
template <class T, enable_if_t<is_floating_point_v<T>, int> = 0>
MLX_FUNC bool isfinite(T x) {
  return fabs(float(x)) < INFINITY;
}
template <class T>
MLX_FUNC bool signbit(T x) {
  return __float_as_uint(static_cast<float>(x)) >> 31;
}

// Simdgroups. The order of a reduction is the emulator's: neighbours first.

template <class T, class Exchange>
MLX_FUNC T mlx_exchanged(T v, Exchange exchange) {
  constexpr unsigned WORDS = (sizeof(T) + 3) / 4;
  unsigned words[WORDS] = {};
  memcpy(words, &v, sizeof(T));
#pragma unroll
  for (unsigned i = 0; i < WORDS; i++) words[i] = exchange(words[i]);
  memcpy((void*)&v, words, sizeof(T));
  return v;
}
template <class T>
MLX_FUNC T simd_shuffle(T v, ushort lane) {
  return mlx_exchanged(v, [=](unsigned word) { return __shfl_sync(0xffffffffu, word, lane); });
}
template <class T>
MLX_FUNC T simd_shuffle_xor(T v, ushort by) {
  return mlx_exchanged(v, [=](unsigned word) { return __shfl_xor_sync(0xffffffffu, word, by); });
}
MLX_FUNC unsigned mlx_lane() {
  unsigned lane;
  asm("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}
template <class T>
MLX_FUNC T simd_shuffle_down(T v, ushort by) {
  return simd_shuffle(v, ushort(mlx_lane() + by > 31 ? mlx_lane() : mlx_lane() + by));
}
template <class T>
MLX_FUNC T simd_shuffle_up(T v, ushort by) {
  return simd_shuffle(v, ushort(mlx_lane() < by ? mlx_lane() : mlx_lane() - by));
}
template <class T>
MLX_FUNC T simd_shuffle_and_fill_up(T v, T fill, ushort by) {
  T moved = simd_shuffle_up(v, by), filled = simd_shuffle(fill, ushort((mlx_lane() - by) & 31));
  return mlx_lane() < by ? filled : moved;
}
template <class T>
MLX_FUNC T simd_sum(T v) {
#pragma unroll
  for (unsigned step = 1; step < 32; step *= 2) v = v + simd_shuffle_xor(v, ushort(step));
  return v;
}
template <class T>
MLX_FUNC T simd_max(T v) {
#pragma unroll
  for (unsigned step = 1; step < 32; step *= 2) v = max(v, simd_shuffle_xor(v, ushort(step)));
  return v;
}

enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4 };
MLX_FUNC void threadgroup_barrier(mem_flags) { __syncthreads(); }

// Metal's mark for values that are equal in all threads.
template <class T>
using uniform = T;
template <class T>
constexpr T make_uniform(T v) {
  return v;
}

// Named in MLX's headers, not used by the kernels that run here.
template <class T, int R, int C>
struct simdgroup_matrix {
  T elements[2];
  simdgroup_matrix() = default;
  simdgroup_matrix(T) {}
  vec<T, 2>& thread_elements() { return *(vec<T, 2>*)elements; }
};
struct os_log {
  constexpr os_log(const char*, const char*) {}
  template <class... A>
  void log_debug(const char*, A...) const {}
};

}  // namespace metal
using namespace metal;
typedef half float16_t;
typedef bfloat bfloat16_t;

// What the entry gives the kernel.
struct mlx_pointer {
  void* at;
  template <class T>
  MLX_FUNC operator T*() const {
    return static_cast<T*>(at);
  }
};
template <class T>
struct mlx_eight {
  T of[8];
};
