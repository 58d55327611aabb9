// The Metal Shading Language as CUDA C++ (NVRTC, --device-as-default-execution-space): just what gptoss-mac's shaders and
// MLX's own kernels for the same products use. Address spaces are erased; `threadgroup T x[N];` has been rewritten to
// __shared__ before (msl.py); a simdgroup is a warp; thread attributes are made of blockIdx and threadIdx by the entry.

typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long int64_t;
typedef unsigned long uint64_t;
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef long ptrdiff_t;

namespace cu {  // CUDA's functions, before their names become Metal's
#define CU1(NAME, CALL) \
  __device__ __forceinline__ float NAME(float x) { return CALL; }
CU1(exp_, expf(x)) CU1(exp2_, exp2f(x)) CU1(log_, logf(x)) CU1(log2_, log2f(x)) CU1(log10_, log10f(x))
CU1(sqrt_, sqrtf(x)) CU1(rsqrt_, rsqrtf(x)) CU1(sin_, sinf(x)) CU1(cos_, cosf(x)) CU1(tan_, tanf(x))
CU1(sinh_, sinhf(x)) CU1(cosh_, coshf(x)) CU1(tanh_, tanhf(x)) CU1(asin_, asinf(x)) CU1(acos_, acosf(x))
CU1(atan_, atanf(x)) CU1(asinh_, asinhf(x)) CU1(acosh_, acoshf(x)) CU1(atanh_, atanhf(x)) CU1(floor_, floorf(x))
CU1(ceil_, ceilf(x)) CU1(round_, roundf(x)) CU1(rint_, rintf(x)) CU1(trunc_, truncf(x)) CU1(fabs_, fabsf(x))
CU1(fastexp_, __expf(x))
__device__ __forceinline__ float fma_(float a, float b, float c) { return fmaf(a, b, c); }
__device__ __forceinline__ float min_(float a, float b) { return fminf(a, b); }  // a number wins over a NaN, as in Metal
__device__ __forceinline__ float max_(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ float pow_(float a, float b) { return powf(a, b); }
__device__ __forceinline__ float fmod_(float a, float b) { return fmodf(a, b); }
__device__ __forceinline__ float atan2_(float a, float b) { return atan2f(a, b); }
__device__ __forceinline__ float ldexp_(float a, int b) { return ldexpf(a, b); }
__device__ __forceinline__ float copysign_(float a, float b) { return copysignf(a, b); }
__device__ __forceinline__ bool isnan_(float a) { return a != a; }
__device__ __forceinline__ bool isinf_(float a) { return fabsf(a) == __int_as_float(0x7f800000); }
__device__ __forceinline__ bool isfinite_(float a) { return fabsf(a) < __int_as_float(0x7f800000); }
__device__ __forceinline__ float half_to_float(unsigned short bits) {
  float v;
  asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(bits));
  return v;
}
__device__ __forceinline__ unsigned short float_to_half(float v) {
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(v));
  return bits;
}
}  // namespace cu

// Metal's names that CUDA has too.
#define half mtl_half
#define half2 mtl_half2
#define float4 mtl_float4
#define int2 mtl_int2
#define int3 mtl_int3
#define int4 mtl_int4
#define uint2 mtl_uint2
#define uint3 mtl_uint3
#define uint4 mtl_uint4
#define char2 mtl_char2
#define uchar4 mtl_uchar4
#define short2 mtl_short2
#define short3 mtl_short3
#define short4 mtl_short4
#define long3 mtl_long3
#define long4 mtl_long4
#define ulong2 mtl_ulong2
#define ulong3 mtl_ulong3
#define ulong4 mtl_ulong4
#define min mtl_min
#define max mtl_max
#define fmin mtl_fmin

#define device
#define constant
#define thread
#define threadgroup
#define kernel
#define METAL_FUNC inline
#define __METAL__ 1
#define __METAL_VERSION__ 320
#undef INFINITY
#define INFINITY (__builtin_bit_cast(float, 0x7f800000))
#undef NAN
#define NAN (__builtin_bit_cast(float, 0x7fc00000))

// ---- type traits -------------------------------------------------------------------------------------------------------

namespace metal {
template <class T, T v>
struct integral_constant {
  static constexpr T value = v;
  using value_type = T;
  using type = integral_constant;
  constexpr operator T() const { return v; }
};
template <bool B>
using bool_constant = integral_constant<bool, B>;
using true_type = bool_constant<true>;
using false_type = bool_constant<false>;
template <bool B, class T = void>
struct enable_if {};
template <class T>
struct enable_if<true, T> {
  using type = T;
};
template <bool B, class T = void>
using enable_if_t = typename enable_if<B, T>::type;
template <bool B, class T, class U>
struct conditional {
  using type = T;
};
template <class T, class U>
struct conditional<false, T, U> {
  using type = U;
};
template <bool B, class T, class U>
using conditional_t = typename conditional<B, T, U>::type;
template <class T>
struct remove_cv {
  using type = T;
};
template <class T>
struct remove_cv<const T> {
  using type = T;
};
template <class T>
struct remove_cv<volatile T> {
  using type = T;
};
template <class T>
using remove_cv_t = typename remove_cv<T>::type;
template <class T>
struct remove_reference {
  using type = T;
};
template <class T>
struct remove_reference<T&> {
  using type = T;
};
template <class T>
using remove_reference_t = typename remove_reference<T>::type;
template <class T>
struct add_lvalue_reference {
  using type = T&;
};
template <class T, class U>
constexpr bool is_same_v = false;
template <class T>
constexpr bool is_same_v<T, T> = true;
template <class T, class U>
struct is_same : bool_constant<is_same_v<T, U>> {};
template <class T>
constexpr bool is_integral_v = false;
template <class T>
constexpr bool is_arithmetic_v = is_integral_v<T>;
#define SHIM_INTEGRAL(T) \
  template <>            \
  constexpr bool is_integral_v<T> = true;
SHIM_INTEGRAL(bool)
SHIM_INTEGRAL(char)
SHIM_INTEGRAL(signed char)
SHIM_INTEGRAL(unsigned char)
SHIM_INTEGRAL(short)
SHIM_INTEGRAL(unsigned short)
SHIM_INTEGRAL(int)
SHIM_INTEGRAL(unsigned int)
SHIM_INTEGRAL(long)
SHIM_INTEGRAL(unsigned long)
SHIM_INTEGRAL(long long)
SHIM_INTEGRAL(unsigned long long)
template <class T>
struct is_integral : bool_constant<is_integral_v<T>> {};
template <class T>
constexpr bool is_unsigned_v = is_integral_v<T> && T(-1) > T(0);
template <class T>
struct is_unsigned : bool_constant<is_unsigned_v<T>> {};
template <class T>
constexpr bool is_pointer_v = false;
template <class T>
constexpr bool is_pointer_v<T*> = true;
template <class T>
struct is_pointer : bool_constant<is_pointer_v<T>> {};
template <class T, class U>
constexpr bool is_convertible_v = __is_convertible_to(T, U);
template <class T, class U>
struct is_convertible : bool_constant<is_convertible_v<T, U>> {};
template <class T>
struct make_unsigned {
  using type = T;
};
template <>
struct make_unsigned<int> {
  using type = unsigned;
};
template <>
struct make_unsigned<signed char> {
  using type = unsigned char;
};
template <>
struct make_unsigned<short> {
  using type = unsigned short;
};
template <>
struct make_unsigned<long> {
  using type = unsigned long;
};
template <class T>
using make_unsigned_t = typename make_unsigned<T>::type;
template <class T, T... I>
struct integer_sequence {};
}  // namespace metal

// ---- as_type, half, bfloat ---------------------------------------------------------------------------------------------

template <class T, class U>
__device__ __forceinline__ T as_type(U u) {
  static_assert(sizeof(T) == sizeof(U), "as_type between types of different size");
  T r;
  memcpy((void*)&r, (const void*)&u, sizeof(T));
  return r;
}

struct half {
  unsigned short bits;
  half() = default;
  template <class T, metal::enable_if_t<metal::is_same_v<T, float> || metal::is_integral_v<T> || metal::is_same_v<T, double>, int> = 0>
  __device__ __forceinline__ half(T v) : bits(cu::float_to_half(static_cast<float>(v))) {}
  struct Raw {};
  constexpr half(unsigned short b, Raw) : bits(b) {}
  __device__ __forceinline__ operator float() const { return cu::half_to_float(bits); }
};
struct bfloat {
  unsigned short bits;
  bfloat() = default;
  struct Raw {};
  constexpr bfloat(unsigned short b, Raw) : bits(b) {}
  template <class T, metal::enable_if_t<metal::is_same_v<T, float> || metal::is_integral_v<T> || metal::is_same_v<T, half>, int> = 0>
  __device__ __forceinline__ bfloat(T v) {
    unsigned short b;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(b) : "f"(static_cast<float>(v)));
    bits = b;
  }
  __device__ __forceinline__ operator float() const { return __uint_as_float(static_cast<unsigned>(bits) << 16); }
};
typedef bfloat bfloat16_t;
typedef bfloat bfloat16;

namespace metal {
template <class T>
constexpr bool is_small_v = is_same_v<T, half> || is_same_v<T, bfloat>;
template <class T>
constexpr bool is_floating_point_v = is_small_v<T> || is_same_v<T, float>;
template <class T>
struct is_floating_point : bool_constant<is_floating_point_v<T>> {};
template <class T>
struct is_arithmetic : bool_constant<is_integral_v<T> || is_floating_point_v<T>> {};
template <class T>
constexpr bool is_scalar_v = is_integral_v<T> || is_floating_point_v<T>;
template <class T>
using if_scalar = enable_if_t<is_scalar_v<T>, int>;
}  // namespace metal

// 16-bit arithmetic among themselves rounds each result; with a float it is float's.
#define SHIM_SMALL(OP, HALF)                                                                   \
  template <class T, metal::enable_if_t<metal::is_small_v<T>, int> = 0>                        \
  __device__ __forceinline__ T operator OP(T a, T b) {                                         \
    return T(static_cast<float>(a) OP static_cast<float>(b));                                  \
  }                                                                                            \
  template <class T, class U, metal::enable_if_t<metal::is_small_v<T>, int> = 0>               \
  __device__ __forceinline__ T& operator OP##=(T & a, U b) {                                   \
    if constexpr (metal::is_same_v<U, T> || metal::is_same_v<U, double>) return a = a OP T(static_cast<float>(b)); \
    return a = T(static_cast<float>(a) OP static_cast<float>(b));                              \
  }
SHIM_SMALL(+, hadd_)
SHIM_SMALL(-, hsub_)
SHIM_SMALL(*, hmul_)
SHIM_SMALL(/, hdiv_)
template <class T, metal::enable_if_t<metal::is_small_v<T>, int> = 0>
constexpr T operator-(T a) {
  return T(static_cast<unsigned short>(a.bits ^ 0x8000), typename T::Raw{});
}

// ---- vectors -----------------------------------------------------------------------------------------------------------

namespace metal {
template <class T, int N>
struct vec;
template <class T>
struct alignas(2 * sizeof(T)) vec<T, 2> {
  T x, y;
  vec() = default;
  template <class S, if_scalar<S> = 0>
  constexpr vec(S s) : x(static_cast<T>(s)), y(static_cast<T>(s)) {}
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
  template <class S, if_scalar<S> = 0>
  constexpr vec(S s) : x(static_cast<T>(s)), y(static_cast<T>(s)), z(static_cast<T>(s)) {}
  template <class A, class B, class C, if_scalar<A> = 0, if_scalar<B> = 0>
  constexpr vec(A a, B b, C c) : x(static_cast<T>(a)), y(static_cast<T>(b)), z(static_cast<T>(c)) {}
  constexpr T& operator[](int i) { return (&x)[i]; }
  constexpr const T& operator[](int i) const { return (&x)[i]; }
};
template <class T>
struct alignas(4 * sizeof(T)) vec<T, 4> {
  T x, y, z, w;
  vec() = default;
  template <class S, if_scalar<S> = 0>
  constexpr vec(S s) : x(static_cast<T>(s)), y(static_cast<T>(s)), z(static_cast<T>(s)), w(static_cast<T>(s)) {}
  template <class A, class B, class C, class D, if_scalar<A> = 0, if_scalar<B> = 0>
  constexpr vec(A a, B b, C c, D d)
      : x(static_cast<T>(a)), y(static_cast<T>(b)), z(static_cast<T>(c)), w(static_cast<T>(d)) {}
  template <class U, enable_if_t<!is_same_v<U, T>, int> = 0>
  explicit constexpr vec(vec<U, 4> o)
      : x(static_cast<T>(o.x)), y(static_cast<T>(o.y)), z(static_cast<T>(o.z)), w(static_cast<T>(o.w)) {}
  constexpr T& operator[](int i) { return (&x)[i]; }
  constexpr const T& operator[](int i) const { return (&x)[i]; }
};
using half4 = vec<half, 4>;
using int2 = vec<int, 2>;
using int3 = vec<int, 3>;
using int4 = vec<int, 4>;
using uint2 = vec<unsigned, 2>;
using uint3 = vec<unsigned, 3>;
using uint4 = vec<unsigned, 4>;
using char2 = vec<signed char, 2>;
using uchar4 = vec<unsigned char, 4>;
using short2 = vec<short, 2>;
using short3 = vec<short, 3>;
using short4 = vec<short, 4>;
using long3 = vec<long, 3>;
using long4 = vec<long, 4>;
using ulong2 = vec<unsigned long, 2>;
using ulong3 = vec<unsigned long, 3>;

// ---- limits, functions -------------------------------------------------------------------------------------------------

template <class T>
struct numeric_limits {
  static constexpr bool is_signed_ = T(-1) < T(0);
  static constexpr T max() {
    return static_cast<T>(is_signed_ ? (1ull << (8 * sizeof(T) - 1)) - 1 : ~0ull);
  }
  static constexpr T min() { return static_cast<T>(is_signed_ ? ~max() : 0); }
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
template <>
struct numeric_limits<half> {
  static constexpr half max() { return half(0x7bff, half::Raw{}); }
  static constexpr half min() { return half(0x0400, half::Raw{}); }
  static constexpr half lowest() { return half(0xfbff, half::Raw{}); }
  static constexpr half infinity() { return half(0x7c00, half::Raw{}); }
  static constexpr half quiet_NaN() { return half(0x7e00, half::Raw{}); }
};
template <>
struct numeric_limits<bfloat> {
  static constexpr bfloat max() { return bfloat(0x7f7f, bfloat::Raw{}); }
  static constexpr bfloat min() { return bfloat(0x0080, bfloat::Raw{}); }
  static constexpr bfloat lowest() { return bfloat(0xff7f, bfloat::Raw{}); }
  static constexpr bfloat infinity() { return bfloat(0x7f80, bfloat::Raw{}); }
  static constexpr bfloat quiet_NaN() { return bfloat(0x7fc0, bfloat::Raw{}); }
};

#define SHIM_UNARY(NAME, CALL)                                                          \
  __device__ __forceinline__ float NAME(float x) { return CALL(x); }                    \
  __device__ __forceinline__ half NAME(half x) { return half(CALL(float(x))); }         \
  __device__ __forceinline__ bfloat NAME(bfloat x) { return bfloat(CALL(float(x))); }   \
  template <class T, int N>                                                             \
  __device__ __forceinline__ vec<T, N> NAME(vec<T, N> v) {                              \
    _Pragma("unroll") for (int i = 0; i < N; i++) v[i] = NAME(v[i]);                    \
    return v;                                                                           \
  }
#define SHIM_FUNCTIONS                                                                                              \
  SHIM_UNARY(exp, cu::exp_) SHIM_UNARY(exp2, cu::exp2_) SHIM_UNARY(log, cu::log_) SHIM_UNARY(log2, cu::log2_)       \
  SHIM_UNARY(log10, cu::log10_) SHIM_UNARY(sqrt, cu::sqrt_) SHIM_UNARY(rsqrt, cu::rsqrt_) SHIM_UNARY(sin, cu::sin_) \
  SHIM_UNARY(cos, cu::cos_) SHIM_UNARY(tan, cu::tan_) SHIM_UNARY(sinh, cu::sinh_) SHIM_UNARY(cosh, cu::cosh_)       \
  SHIM_UNARY(tanh, cu::tanh_) SHIM_UNARY(asin, cu::asin_) SHIM_UNARY(acos, cu::acos_) SHIM_UNARY(atan, cu::atan_)   \
  SHIM_UNARY(asinh, cu::asinh_) SHIM_UNARY(acosh, cu::acosh_) SHIM_UNARY(atanh, cu::atanh_)                         \
  SHIM_UNARY(floor, cu::floor_) SHIM_UNARY(ceil, cu::ceil_) SHIM_UNARY(round, cu::round_)                           \
  SHIM_UNARY(rint, cu::rint_) SHIM_UNARY(trunc, cu::trunc_) SHIM_UNARY(fabs, cu::fabs_)
SHIM_FUNCTIONS

template <class A, class B>
struct common {
  using type = conditional_t<
      is_same_v<A, B>, A,
      conditional_t<is_floating_point_v<A> && !is_floating_point_v<B>, A,
                    conditional_t<is_floating_point_v<B> && !is_floating_point_v<A>, B,
                                  conditional_t<is_floating_point_v<A> && is_floating_point_v<B>, float,
                                                decltype(conditional_t<is_integral_v<A>, A, int>() +
                                                         conditional_t<is_integral_v<B>, B, int>())>>>>;
};
template <class A, class B>
using common_t = typename common<A, B>::type;
#define SHIM_TWO template <class A, class B, if_scalar<A> = 0, if_scalar<B> = 0>
SHIM_TWO __device__ __forceinline__ common_t<A, B> min(A a, B b) {
  using T = common_t<A, B>;
  if constexpr (is_floating_point_v<T>) {
    return static_cast<T>(cu::min_(static_cast<float>(a), static_cast<float>(b)));
  } else {
    return static_cast<T>(b) < static_cast<T>(a) ? static_cast<T>(b) : static_cast<T>(a);
  }
}
SHIM_TWO __device__ __forceinline__ common_t<A, B> max(A a, B b) {
  using T = common_t<A, B>;
  if constexpr (is_floating_point_v<T>) {
    return static_cast<T>(cu::max_(static_cast<float>(a), static_cast<float>(b)));
  } else {
    return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a);
  }
}
SHIM_TWO __device__ __forceinline__ common_t<A, B> fmin(A a, B b) { return min(a, b); }
SHIM_TWO __device__ __forceinline__ common_t<A, B> fmax(A a, B b) { return max(a, b); }
SHIM_TWO __device__ __forceinline__ common_t<A, B> pow(A a, B b) { return cu::pow_(float(a), float(b)); }
SHIM_TWO __device__ __forceinline__ common_t<A, B> fmod(A a, B b) { return cu::fmod_(float(a), float(b)); }
SHIM_TWO __device__ __forceinline__ common_t<A, B> atan2(A a, B b) { return cu::atan2_(float(a), float(b)); }
SHIM_TWO __device__ __forceinline__ common_t<A, B> copysign(A a, B b) { return cu::copysign_(float(a), float(b)); }
template <class T, class L, class H>
__device__ __forceinline__ T clamp(T x, L low, H high) {
  return static_cast<T>(min(max(x, static_cast<T>(low)), static_cast<T>(high)));
}
template <class T, if_scalar<T> = 0>
__device__ __forceinline__ T abs(T x) {
  return x < static_cast<T>(0) ? static_cast<T>(-x) : x;
}
template <class T, if_scalar<T> = 0>
__device__ __forceinline__ T select(T a, T b, bool c) {
  return c ? b : a;
}
template <class T>
__device__ __forceinline__ T ldexp(T x, int k) {
  return static_cast<T>(cu::ldexp_(static_cast<float>(x), k));
}
__device__ __forceinline__ float fma(float a, float b, float c) { return cu::fma_(a, b, c); }
template <class T, int N>
__device__ __forceinline__ vec<T, N> fma(vec<T, N> a, vec<T, N> b, vec<T, N> c) {
  _Pragma("unroll") for (int i = 0; i < N; i++) a[i] = fma(a[i], b[i], c[i]);
  return a;
}
template <class T, int N>
__device__ __forceinline__ T dot(vec<T, N> a, vec<T, N> b) {
  T r = a[0] * b[0];
  _Pragma("unroll") for (int i = 1; i < N; i++) r += a[i] * b[i];
  return r;
}
template <class T, int N>
__device__ __forceinline__ vec<T, N> max(vec<T, N> a, vec<T, N> b) {
  _Pragma("unroll") for (int i = 0; i < N; i++) a[i] = max(a[i], b[i]);
  return a;
}
template <class T, enable_if_t<is_floating_point_v<T>, int> = 0>
__device__ __forceinline__ bool isnan(T x) { return cu::isnan_(static_cast<float>(x)); }
template <class T, enable_if_t<is_floating_point_v<T>, int> = 0>
__device__ __forceinline__ bool isinf(T x) { return cu::isinf_(static_cast<float>(x)); }
template <class T, enable_if_t<is_floating_point_v<T>, int> = 0>
__device__ __forceinline__ bool isfinite(T x) { return cu::isfinite_(static_cast<float>(x)); }
template <class T>
__device__ __forceinline__ bool signbit(T x) { return __float_as_uint(static_cast<float>(x)) >> 31; }
template <class T>
__device__ __forceinline__ T popcount(T x) { return static_cast<T>(__popc(static_cast<unsigned>(x))); }
template <class T>
__device__ __forceinline__ T clz(T x) { return static_cast<T>(__clz(static_cast<int>(x))); }
namespace fast {
__device__ __forceinline__ float exp(float x) { return cu::fastexp_(x); }
__device__ __forceinline__ float exp2(float x) { return cu::exp2_(x); }
__device__ __forceinline__ float log2(float x) { return cu::log2_(x); }
}  // namespace fast
namespace precise {
SHIM_FUNCTIONS
}  // namespace precise

// ---- simdgroups --------------------------------------------------------------------------------------------------------

__device__ __forceinline__ unsigned shim_lane() {
  unsigned lane;
  asm("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}
template <class T>
__device__ __forceinline__ T shim_take(T v, unsigned lane) {
  if constexpr (sizeof(T) <= 4) {
    unsigned u = 0;
    memcpy(&u, &v, sizeof(T));
    u = __shfl_sync(0xffffffffu, u, lane);
    T r;
    memcpy((void*)&r, &u, sizeof(T));
    return r;
  } else {
    unsigned u[(sizeof(T) + 3) / 4];
    memcpy(u, &v, sizeof(T));
    _Pragma("unroll") for (unsigned i = 0; i < sizeof(T) / 4; i++) u[i] = __shfl_sync(0xffffffffu, u[i], lane);
    T r;
    memcpy((void*)&r, u, sizeof(T));
    return r;
  }
}
template <class T>
__device__ __forceinline__ T shim_xor(T v, unsigned by) {
  constexpr unsigned W = (sizeof(T) + 3) / 4;
  unsigned u[W] = {};
  memcpy(u, &v, sizeof(T));
  _Pragma("unroll") for (unsigned i = 0; i < W; i++) u[i] = __shfl_xor_sync(0xffffffffu, u[i], by);
  T r;
  memcpy((void*)&r, u, sizeof(T));
  return r;
}
template <class T>
__device__ __forceinline__ T simd_shuffle(T v, ushort lane) { return shim_take(v, lane); }
template <class T>
__device__ __forceinline__ T simd_broadcast(T v, ushort lane) { return shim_take(v, lane); }
template <class T>
__device__ __forceinline__ T simd_broadcast_first(T v) { return shim_take(v, 0); }
template <class T>
__device__ __forceinline__ T simd_shuffle_xor(T v, ushort by) { return shim_xor(v, by); }
template <class T>
__device__ __forceinline__ T simd_shuffle_down(T v, ushort by) {
  unsigned lane = shim_lane();
  return shim_take(v, lane + by > 31 ? lane : lane + by);
}
template <class T>
__device__ __forceinline__ T simd_shuffle_up(T v, ushort by) {
  unsigned lane = shim_lane();
  return shim_take(v, lane < by ? lane : lane - by);
}
template <class T>
__device__ __forceinline__ T simd_shuffle_and_fill_up(T v, T fill, ushort by) {
  unsigned lane = shim_lane();
  T moved = shim_take(v, lane < by ? lane : lane - by), filled = shim_take(fill, (lane - by) & 31);
  return lane < by ? filled : moved;
}
template <class T>
__device__ __forceinline__ T quad_shuffle_xor(T v, ushort by) { return shim_xor(v, by); }
// In the emulator's order: neighbours first.
#define SHIM_REDUCE(NAME, EXPRESSION)                               \
  template <class T>                                                \
  __device__ __forceinline__ T simd_##NAME(T v) {                   \
    _Pragma("unroll") for (unsigned s = 1; s < 32; s *= 2) {        \
      T a = v, b = shim_xor(v, s);                                  \
      v = static_cast<T>(EXPRESSION);                               \
    }                                                               \
    return v;                                                       \
  }                                                                 \
  template <class T>                                                \
  __device__ __forceinline__ T quad_##NAME(T v) {                   \
    _Pragma("unroll") for (unsigned s = 1; s < 4; s *= 2) {         \
      T a = v, b = shim_xor(v, s);                                  \
      v = static_cast<T>(EXPRESSION);                               \
    }                                                               \
    return v;                                                       \
  }
SHIM_REDUCE(sum, a + b)
SHIM_REDUCE(product, a* b)
SHIM_REDUCE(min, metal::min(a, b))
SHIM_REDUCE(max, metal::max(a, b))
SHIM_REDUCE(or, a | b)

enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4 };
constexpr mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(int(a) | int(b)); }
__device__ __forceinline__ void threadgroup_barrier(mem_flags) { __syncthreads(); }
__device__ __forceinline__ void simdgroup_barrier(mem_flags) { __syncwarp(); }

template <class T>
using uniform = T;
template <class T>
constexpr T make_uniform(T v) {
  return v;
}

// Parsed with MLX's headers, never run here.
template <class T, int R, int C>
struct simdgroup_matrix {
  T elements[2];
  simdgroup_matrix() = default;
  simdgroup_matrix(T) {}
  vec<T, 2>& thread_elements() { return *(vec<T, 2>*)elements; }
};
using simdgroup_float8x8 = simdgroup_matrix<float, 8, 8>;
template <class A, class B, class C, class D>
void simdgroup_multiply_accumulate(A&, B&, C&, D&) {}
template <class... A>
void simdgroup_load(A...) {}
template <class... A>
void simdgroup_store(A...) {}
template <class... A>
void simdgroup_multiply(A...) {}
struct os_log {
  constexpr os_log(const char*, const char*) {}
  template <class... A>
  void log_debug(const char*, A...) const {}
};
}  // namespace metal

// What the entry gives the kernel.

struct mlx_pointer {
  void* at;
  template <class T>
  __device__ __forceinline__ operator T*() const {
    return static_cast<T*>(at);
  }
};
template <class T>
struct mlx_eight {
  T of[8];
};
