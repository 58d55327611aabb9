// metal_stdlib for the lint (-fsyntax-only). Address spaces are clang's own, so a missing or wrong qualifier is an
// error, as in Apple's compiler. Everything here is declared and nothing defined. Vectors are builtin, because plain
// C++ cannot copy a class from another address space.
#pragma once
#include "traits.h"

#define __METAL__ 1
#define __METAL_VERSION__ 320
#define METAL_FUNC inline
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define M_PI_F 3.14159265358979323846f
#define EMU_SPACE(N) __attribute__((address_space(N)))
#define EMU_DEVICE EMU_SPACE(1)
#define EMU_CONSTANT EMU_SPACE(2)
#define EMU_THREADGROUP_SPACE EMU_SPACE(3)

typedef _Float16 half;
typedef __bf16 bfloat;

// 1.5h
constexpr half operator""h(long double v) { return static_cast<half>(v); }
constexpr bfloat operator"" bf(long double v) { return static_cast<bfloat>(v); }

namespace metal {
using ::bfloat;
using ::half;
template <class T, int N>
using vec = T __attribute__((ext_vector_type(N)));
template <class T, int N>
struct emu_packed {
  T all[N];
};
template <class T, int N>
using packed_vec = emu_packed<T, N>;
#define EMU_VECTOR_NAMES(T, NAME)                        \
  typedef T NAME##2 __attribute__((ext_vector_type(2))); \
  typedef T NAME##3 __attribute__((ext_vector_type(3))); \
  typedef T NAME##4 __attribute__((ext_vector_type(4))); \
  using packed_##NAME##2 = packed_vec<T, 2>;             \
  using packed_##NAME##3 = packed_vec<T, 3>;             \
  using packed_##NAME##4 = packed_vec<T, 4>;
EMU_VECTOR_NAMES(float, float)
EMU_VECTOR_NAMES(half, half)
EMU_VECTOR_NAMES(bfloat, bfloat)
EMU_VECTOR_NAMES(int8_t, char)
EMU_VECTOR_NAMES(uint8_t, uchar)
EMU_VECTOR_NAMES(int16_t, short)
EMU_VECTOR_NAMES(uint16_t, ushort)
EMU_VECTOR_NAMES(int32_t, int)
EMU_VECTOR_NAMES(uint32_t, uint)
EMU_VECTOR_NAMES(int64_t, long)
EMU_VECTOR_NAMES(uint64_t, ulong)
EMU_VECTOR_NAMES(int, bool)

template <class T>
constexpr bool is_floating_point_v = __is_floating_point(T);
template <class T>
struct is_floating_point : bool_constant<__is_floating_point(T)> {};
template <class T>
constexpr bool is_arithmetic_v = __is_arithmetic(T);
template <class T>
struct is_arithmetic : bool_constant<__is_arithmetic(T)> {};
template <class T>
struct emu_without_space {
  using type = T;
};
template <class T>
struct emu_without_space<EMU_DEVICE T> {
  using type = T;
};
template <class T>
struct emu_without_space<EMU_CONSTANT T> {
  using type = T;
};
template <class T>
struct emu_without_space<EMU_THREADGROUP_SPACE T> {
  using type = T;
};
template <class T>
using remove_addrspace_t = typename emu_without_space<T>::type;
template <class T>
struct numeric_limits {
  static constexpr T max() { return T(); }
  static constexpr T min() { return T(); }
  static constexpr T lowest() { return T(); }
  static constexpr T infinity() { return T(); }
  static constexpr T quiet_NaN() { return T(); }
  static constexpr T epsilon() { return T(); }
};

#define EMU_UNARY(NAME)              \
  float NAME(float);                 \
  half NAME(half);                   \
  template <int N>                   \
  vec<float, N> NAME(vec<float, N>); \
  template <int N>                   \
  vec<half, N> NAME(vec<half, N>);
#define EMU_FLOAT_FUNCTIONS                                                                                         \
  EMU_UNARY(exp)                                                                                                    \
  EMU_UNARY(exp2)                                                                                                   \
  EMU_UNARY(exp10) EMU_UNARY(log) EMU_UNARY(log2) EMU_UNARY(log10) EMU_UNARY(sqrt) EMU_UNARY(rsqrt) EMU_UNARY(sin)  \
      EMU_UNARY(cos) EMU_UNARY(tan) EMU_UNARY(asin) EMU_UNARY(acos) EMU_UNARY(atan) EMU_UNARY(sinh) EMU_UNARY(cosh) \
          EMU_UNARY(tanh) EMU_UNARY(asinh) EMU_UNARY(acosh) EMU_UNARY(atanh) EMU_UNARY(floor) EMU_UNARY(ceil)       \
              EMU_UNARY(round) EMU_UNARY(rint) EMU_UNARY(trunc) EMU_UNARY(fabs) EMU_UNARY(sign) EMU_UNARY(saturate) \
                  EMU_UNARY(sinpi) EMU_UNARY(cospi) EMU_UNARY(fract) template <class T>                             \
                  T pow(T, T);                                                                                      \
  template <class T>                                                                                                \
  T powr(T, T);                                                                                                     \
  template <class T>                                                                                                \
  T divide(T, T);                                                                                                   \
  template <class T>                                                                                                \
  T atan2(T, T);                                                                                                    \
  template <class T>                                                                                                \
  T fmod(T, T);
EMU_FLOAT_FUNCTIONS
namespace fast {
EMU_FLOAT_FUNCTIONS
}
namespace precise {
EMU_FLOAT_FUNCTIONS
}
#define EMU_EXTREME(NAME)     \
  template <class T>          \
  T NAME(T, T);               \
  template <class A, class B> \
  decltype(A() + B()) NAME(A, B);
EMU_EXTREME(min)
EMU_EXTREME(max)
template <class T>
T abs(T);
template <class T>
T copysign(T, T);
template <class T>
T fmin(T, T);
template <class T>
T fmax(T, T);
template <class T>
T max3(T, T, T);
template <class T>
T min3(T, T, T);
template <class T, class L, class H>
T clamp(T, L, H);
template <class T>
T fma(T, T, T);
template <class T>
T mix(T, T, T);
template <class T, class C>
T select(T, T, C);
template <class T, int N>
T dot(vec<T, N>, vec<T, N>);
template <class T, int N>
T length(vec<T, N>);
template <class T>
bool any(T);
template <class T>
bool all(T);
template <class T>
bool isnan(T);
template <class T>
bool isinf(T);
template <class T>
bool isfinite(T);
template <class T>
bool isnormal(T);
template <class T>
bool signbit(T);
template <class T>
T ldexp(T, int);
float frexp(float, int&);
template <class T>
T popcount(T);
template <class T>
T clz(T);
template <class T>
T ctz(T);
template <class T>
T reverse_bits(T);
template <class T>
T extract_bits(T, uint, uint);
template <class T>
T mulhi(T, T);
template <class T>
T mul24(T, T);
template <class T>
T mad24(T, T, T);

#define EMU_REDUCTION(NAME) \
  template <class T>        \
  T simd_##NAME(T);         \
  template <class T>        \
  T quad_##NAME(T);
EMU_REDUCTION(sum)
EMU_REDUCTION(product)
EMU_REDUCTION(min) EMU_REDUCTION(max) EMU_REDUCTION(and) EMU_REDUCTION(or) EMU_REDUCTION(xor) template <class T>
T simd_prefix_inclusive_sum(T);
template <class T>
T simd_prefix_exclusive_sum(T);
template <class T>
T simd_prefix_inclusive_product(T);
template <class T>
T simd_prefix_exclusive_product(T);
template <class T>
T simd_broadcast_first(T);
#define EMU_SHUFFLE(NAME) \
  template <class T>      \
  T NAME(T, ushort);
EMU_SHUFFLE(simd_shuffle)
EMU_SHUFFLE(simd_broadcast)
EMU_SHUFFLE(simd_shuffle_xor) EMU_SHUFFLE(simd_shuffle_up) EMU_SHUFFLE(simd_shuffle_down)
    EMU_SHUFFLE(simd_shuffle_rotate_up) EMU_SHUFFLE(simd_shuffle_rotate_down) EMU_SHUFFLE(quad_shuffle)
        EMU_SHUFFLE(quad_shuffle_xor) EMU_SHUFFLE(quad_broadcast) template <class T>
        T simd_shuffle_and_fill_up(T, T, ushort);
template <class T>
T simd_shuffle_and_fill_down(T, T, ushort);
struct simd_vote {
  using vote_t = uint64_t;
  explicit simd_vote(uint64_t = 0);
  bool all() const;
  bool any() const;
  explicit operator uint64_t() const;
};
simd_vote simd_ballot(bool);
bool simd_all(bool);
bool simd_any(bool);
bool simd_is_first();
simd_vote simd_active_threads_mask();

enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4 };
mem_flags operator|(mem_flags, mem_flags);
void threadgroup_barrier(mem_flags);
void simdgroup_barrier(mem_flags);

enum memory_order {
  memory_order_relaxed,
  memory_order_acquire,
  memory_order_release,
  memory_order_acq_rel,
  memory_order_seq_cst
};
enum thread_scope { thread_scope_thread, thread_scope_simdgroup, thread_scope_threadgroup, thread_scope_device };
void atomic_thread_fence(mem_flags, memory_order = memory_order_seq_cst, thread_scope = thread_scope_device);
template <class T>
struct atomic {
  T value;
};
using atomic_int = atomic<int>;
using atomic_uint = atomic<uint>;
using atomic_float = atomic<float>;
#define EMU_FETCH(SPACE, NAME) \
  template <class T, class U>  \
  T atomic_fetch_##NAME##_explicit(volatile SPACE atomic<T>*, U, memory_order);
#define EMU_ATOMICS(SPACE)                                                                                  \
  template <class T>                                                                                        \
  T atomic_load_explicit(const volatile SPACE atomic<T>*, memory_order);                                    \
  template <class T, class U>                                                                               \
  void atomic_store_explicit(volatile SPACE atomic<T>*, U, memory_order);                                   \
  template <class T, class U>                                                                               \
  T atomic_exchange_explicit(volatile SPACE atomic<T>*, U, memory_order);                                   \
  template <class T, class U>                                                                               \
  bool atomic_compare_exchange_weak_explicit(volatile SPACE atomic<T>*, T*, U, memory_order, memory_order); \
  EMU_FETCH(SPACE, add)                                                                                     \
  EMU_FETCH(SPACE, sub)                                                                                     \
  EMU_FETCH(SPACE, min) EMU_FETCH(SPACE, max) EMU_FETCH(SPACE, and) EMU_FETCH(SPACE, or) EMU_FETCH(SPACE, xor)
EMU_ATOMICS(EMU_DEVICE)
EMU_ATOMICS(EMU_THREADGROUP_SPACE)

template <class T, int R = 8, int C = 8>
struct simdgroup_matrix {
  vec<T, 2> elements;
  simdgroup_matrix() = default;
  explicit simdgroup_matrix(T);
  vec<T, 2>& thread_elements();
};
using simdgroup_float8x8 = simdgroup_matrix<float, 8, 8>;
using simdgroup_half8x8 = simdgroup_matrix<half, 8, 8>;
using simdgroup_bfloat8x8 = simdgroup_matrix<bfloat, 8, 8>;
template <class T, int R, int C>
simdgroup_matrix<T, R, C> make_filled_simdgroup_matrix(T);
#define EMU_MATRIX(SPACE)                                                                                    \
  template <class T>                                                                                         \
  void simdgroup_load(simdgroup_matrix<T, 8, 8>&, const SPACE T*, ulong = 8, ulong2 = {0, 0}, bool = false); \
  template <class T>                                                                                         \
  void simdgroup_store(simdgroup_matrix<T, 8, 8>, SPACE T*, ulong = 8, ulong2 = {0, 0}, bool = false);
EMU_MATRIX(EMU_DEVICE)
EMU_MATRIX(EMU_THREADGROUP_SPACE)
template <class D, class A, class B, class C>
void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>&, simdgroup_matrix<A, 8, 8>, simdgroup_matrix<B, 8, 8>,
                                   simdgroup_matrix<C, 8, 8>);
template <class D, class A, class B>
void simdgroup_multiply(simdgroup_matrix<D, 8, 8>&, simdgroup_matrix<A, 8, 8>, simdgroup_matrix<B, 8, 8>);

struct os_log {
  template <class... A>
  constexpr os_log(A...) {}
  template <class... A>
  void log_debug(A...) const {}
};
}  // namespace metal

template <class T, class U>
T as_type(U);

// Builtin vectors have no constructor with several arguments. Function-like macros replace it; plain `float4` is still
// the type.
template <class T>
struct emu_shape {
  static constexpr int n = 1;
};
template <class T, int N>
struct emu_shape<metal::vec<T, N>> {
  static constexpr int n = N;
};
template <class V, class... A>
V emu_make(A...) {
  static_assert(sizeof...(A) == 1 || (0 + ... + emu_shape<A>::n) == emu_shape<V>::n,
                "wrong number of vector components");
  static_assert(sizeof...(A) != 1 || ((emu_shape<A>::n == 1) && ...) || ((emu_shape<A>::n == emu_shape<V>::n) && ...),
                "vector of another size");
  return V{};
}
#define float2(...) emu_make<metal::float2>(__VA_ARGS__)
#define float3(...) emu_make<metal::float3>(__VA_ARGS__)
#define float4(...) emu_make<metal::float4>(__VA_ARGS__)
#define half2(...) emu_make<metal::half2>(__VA_ARGS__)
#define half3(...) emu_make<metal::half3>(__VA_ARGS__)
#define half4(...) emu_make<metal::half4>(__VA_ARGS__)
#define bfloat2(...) emu_make<metal::bfloat2>(__VA_ARGS__)
#define bfloat4(...) emu_make<metal::bfloat4>(__VA_ARGS__)
#define int2(...) emu_make<metal::int2>(__VA_ARGS__)
#define int3(...) emu_make<metal::int3>(__VA_ARGS__)
#define int4(...) emu_make<metal::int4>(__VA_ARGS__)
#define uint2(...) emu_make<metal::uint2>(__VA_ARGS__)
#define uint3(...) emu_make<metal::uint3>(__VA_ARGS__)
#define uint4(...) emu_make<metal::uint4>(__VA_ARGS__)
#define short2(...) emu_make<metal::short2>(__VA_ARGS__)
#define short4(...) emu_make<metal::short4>(__VA_ARGS__)
#define ushort2(...) emu_make<metal::ushort2>(__VA_ARGS__)
#define ushort4(...) emu_make<metal::ushort4>(__VA_ARGS__)
#define char2(...) emu_make<metal::char2>(__VA_ARGS__)
#define char4(...) emu_make<metal::char4>(__VA_ARGS__)
#define uchar2(...) emu_make<metal::uchar2>(__VA_ARGS__)
#define uchar4(...) emu_make<metal::uchar4>(__VA_ARGS__)
#define long2(...) emu_make<metal::long2>(__VA_ARGS__)
#define ulong2(...) emu_make<metal::ulong2>(__VA_ARGS__)

#define EMU_UNWRAP(...) __VA_ARGS__
// It is a reference, because a variable of class type would need a constructor in its address space.
#define EMU_THREADGROUP(TYPE, NAME, DIMENSIONS, KEY)        \
  typedef EMU_UNWRAP TYPE KEY##_type EMU_UNWRAP DIMENSIONS; \
  threadgroup KEY##_type& NAME = *(threadgroup KEY##_type*)0
#define device EMU_DEVICE
#define constant EMU_CONSTANT
#define threadgroup EMU_THREADGROUP_SPACE
#define thread
#define kernel
#define double emu_error_Metal_has_no_double
