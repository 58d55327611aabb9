// The scalar and vector functions of metal_stdlib. half and bfloat are computed in float and rounded once. The C
// library is more accurate than a GPU, so results of exp and rsqrt are compared with a tolerance.
#pragma once
#include "vec.h"

extern "C" {
#define EMU_LIBM(NAME) float NAME(float) noexcept;
EMU_LIBM(expf)
EMU_LIBM(exp2f)
EMU_LIBM(logf) EMU_LIBM(log2f) EMU_LIBM(log10f) EMU_LIBM(sqrtf) EMU_LIBM(sinf) EMU_LIBM(cosf) EMU_LIBM(tanf)
    EMU_LIBM(asinf) EMU_LIBM(acosf) EMU_LIBM(atanf) EMU_LIBM(sinhf) EMU_LIBM(coshf) EMU_LIBM(tanhf) EMU_LIBM(asinhf)
        EMU_LIBM(acoshf) EMU_LIBM(atanhf) EMU_LIBM(floorf) EMU_LIBM(ceilf) EMU_LIBM(roundf) EMU_LIBM(rintf)
            EMU_LIBM(truncf) EMU_LIBM(fabsf) float powf(float, float) noexcept;
float fmodf(float, float) noexcept;
float atan2f(float, float) noexcept;
float copysignf(float, float) noexcept;
float fmaf(float, float, float) noexcept;
float ldexpf(float, int) noexcept;
float frexpf(float, int*) noexcept;
}
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define M_PI_F 3.14159265358979323846f
typedef double emu_double;  // before run.h removes the word, because Metal has no double

namespace metal {
#define EMU_UNARY(NAME, EXPRESSION)                          \
  EMU_INLINE float NAME(float x) { return EXPRESSION; }      \
  EMU_INLINE half NAME(half h) {                             \
    float x = h;                                             \
    return static_cast<half>(EXPRESSION);                    \
  }                                                          \
  EMU_INLINE bfloat NAME(bfloat h) {                         \
    float x = h;                                             \
    return bfloat(EXPRESSION);                               \
  }                                                          \
  template <class T, enable_if_t<is_integral_v<T>, int> = 0> \
  EMU_INLINE float NAME(T v) {                               \
    return NAME(static_cast<float>(v));                      \
  }                                                          \
  template <class T, int N>                                  \
  EMU_INLINE vec<T, N> NAME(vec<T, N> v) {                   \
    for (int i = 0; i < N; i++) v[i] = NAME(v[i]);           \
    return v;                                                \
  }
#define EMU_UNARY_FUNCTIONS                                                                                         \
  EMU_UNARY(exp, ::expf(x))                                                                                         \
  EMU_UNARY(exp2, ::exp2f(x))                                                                                       \
  EMU_UNARY(exp10, ::powf(10.f, x)) EMU_UNARY(log, ::logf(x)) EMU_UNARY(log2, ::log2f(x))                           \
      EMU_UNARY(log10, ::log10f(x)) EMU_UNARY(sqrt, ::sqrtf(x)) EMU_UNARY(rsqrt, 1.f / ::sqrtf(x))                  \
          EMU_UNARY(sin, ::sinf(x)) EMU_UNARY(cos, ::cosf(x)) EMU_UNARY(tan, ::tanf(x)) EMU_UNARY(asin, ::asinf(x)) \
              EMU_UNARY(acos, ::acosf(x)) EMU_UNARY(atan, ::atanf(x)) EMU_UNARY(sinh, ::sinhf(x))                   \
                  EMU_UNARY(cosh, ::coshf(x)) EMU_UNARY(tanh, ::tanhf(x)) EMU_UNARY(asinh, ::asinhf(x))             \
                      EMU_UNARY(acosh, ::acoshf(x)) EMU_UNARY(atanh, ::atanhf(x)) EMU_UNARY(floor, ::floorf(x))     \
                          EMU_UNARY(ceil, ::ceilf(x)) EMU_UNARY(round, ::roundf(x)) EMU_UNARY(rint, ::rintf(x))     \
                              EMU_UNARY(trunc, ::truncf(x)) EMU_UNARY(fabs, ::fabsf(x))                             \
                                  EMU_UNARY(sign, (x > 0   ? 1.f                                                    \
                                                   : x < 0 ? -1.f                                                   \
                                                           : 0.f)) EMU_UNARY(saturate, (x < 0   ? 0.f               \
                                                                                        : x > 1 ? 1.f               \
                                                                                                : x))               \
                                      EMU_UNARY(sinpi, ::sinf(M_PI_F* x)) EMU_UNARY(cospi, ::cosf(M_PI_F* x))       \
                                          EMU_UNARY(fract, (x - ::floorf(x)))
EMU_UNARY_FUNCTIONS

template <class T, if_scalar<T> = 0>
EMU_INLINE T abs(T x) {
  if constexpr (is_same_v<T, bfloat>) {
    return fabs(x);
  } else {
    return x < static_cast<T>(0) ? static_cast<T>(-x) : x;
  }
}

// The type that two different operands are converted to.
template <class A, class B>
struct common {
  static constexpr bool a = is_floating_point_v<A>, b = is_floating_point_v<B>;
  using type = conditional_t<
      is_same_v<A, B>, A,
      conditional_t<a && !b, A,
                    conditional_t<b && !a, B,
                                  conditional_t<a && b, float,
                                                decltype(conditional_t<a, int, A>() + conditional_t<b, int, B>())>>>>;
};
template <class A, class B>
using common_t = typename common<remove_cv_t<A>, remove_cv_t<B>>::type;
#define EMU_TWO_SCALARS template <class A, class B, if_scalar<A> = 0, if_scalar<B> = 0>

EMU_TWO_SCALARS EMU_INLINE common_t<A, B> min(A a, B b) {
  using T = common_t<A, B>;
  T x = static_cast<T>(a), y = static_cast<T>(b);
  if constexpr (is_floating_point_v<T>) {  // a number wins over a NaN
    if (x != x) return y;
    if (y != y) return x;
  }
  return y < x ? y : x;
}
EMU_TWO_SCALARS EMU_INLINE common_t<A, B> max(A a, B b) {
  using T = common_t<A, B>;
  T x = static_cast<T>(a), y = static_cast<T>(b);
  if constexpr (is_floating_point_v<T>) {
    if (x != x) return y;
    if (y != y) return x;
  }
  return x < y ? y : x;
}
EMU_TWO_SCALARS EMU_INLINE common_t<A, B> fmin(A a, B b) { return min(a, b); }
EMU_TWO_SCALARS EMU_INLINE common_t<A, B> fmax(A a, B b) { return max(a, b); }
EMU_TWO_SCALARS EMU_INLINE common_t<A, B> divide(A a, B b) { return a / b; }
#define EMU_BINARY(NAME, LIBM)                                                              \
  EMU_TWO_SCALARS EMU_INLINE common_t<A, B> NAME(A a, B b) {                                \
    return static_cast<common_t<A, B>>(LIBM(static_cast<float>(a), static_cast<float>(b))); \
  }
EMU_BINARY(fmod, ::fmodf)
EMU_BINARY(pow, ::powf)
EMU_BINARY(powr, ::powf)
EMU_BINARY(atan2, ::atan2f)
EMU_BINARY(copysign, ::copysignf)

template <class T, if_scalar<T> = 0>
EMU_INLINE T max3(T a, T b, T c) {
  return max(a, max(b, c));
}
template <class T, if_scalar<T> = 0>
EMU_INLINE T min3(T a, T b, T c) {
  return min(a, min(b, c));
}
template <class T, class L, class H, if_scalar<T> = 0>
EMU_INLINE T clamp(T x, L low, H high) {
  return static_cast<T>(min(max(x, static_cast<T>(low)), static_cast<T>(high)));
}
template <class T, if_scalar<T> = 0>
EMU_INLINE T mix(T a, T b, T t) {
  return a + (b - a) * t;
}
template <class T, if_scalar<T> = 0>
EMU_INLINE T select(T a, T b, bool c) {
  return c ? b : a;
}
template <class T, int N>
EMU_INLINE vec<T, N> select(vec<T, N> a, vec<T, N> b, vec<bool, N> c) {
  for (int i = 0; i < N; i++) {
    if (c[i]) a[i] = b[i];
  }
  return a;
}

EMU_INLINE float fma(float a, float b, float c) { return ::fmaf(a, b, c); }
// Converts double to half with one rounding, through a float that is rounded to odd. x86 has no instruction for it, and
// the library function that compilers call instead is not linked.
EMU_INLINE half emu_half(emu_double exact) {
  const float near = static_cast<float>(exact);
  const emu_double back = near;
  unsigned bits = __builtin_bit_cast(unsigned, near);
  if (back == back && back != exact && !(bits & 1)) bits += (exact > back) == (exact > 0) ? 1u : -1u;
  return static_cast<half>(__builtin_bit_cast(float, bits));
}
EMU_INLINE half fma(half a, half b, half c) {  // exact in the wider type, rounded once
  return emu_half(
      __builtin_fma(static_cast<emu_double>(a), static_cast<emu_double>(b), static_cast<emu_double>(c)));
}
EMU_INLINE bfloat fma(bfloat a, bfloat b, bfloat c) { return bfloat(::fmaf(a, b, c)); }
template <class T, int N>
EMU_INLINE vec<T, N> fma(vec<T, N> a, vec<T, N> b, vec<T, N> c) {
  for (int i = 0; i < N; i++) a[i] = fma(a[i], b[i], c[i]);
  return a;
}
#define EMU_BINARY_ON_VECTORS(NAME)                      \
  template <class T, int N>                              \
  EMU_INLINE vec<T, N> NAME(vec<T, N> a, vec<T, N> b) {  \
    for (int i = 0; i < N; i++) a[i] = NAME(a[i], b[i]); \
    return a;                                            \
  }                                                      \
  template <class T, int N, class S, if_scalar<S> = 0>   \
  EMU_INLINE vec<T, N> NAME(vec<T, N> a, S b) {          \
    return NAME(a, vec<T, N>(b));                        \
  }
EMU_BINARY_ON_VECTORS(min)
EMU_BINARY_ON_VECTORS(max)
EMU_BINARY_ON_VECTORS(fmin)
EMU_BINARY_ON_VECTORS(fmax)
EMU_BINARY_ON_VECTORS(pow)
template <class T, int N>
EMU_INLINE vec<T, N> abs(vec<T, N> a) {
  for (int i = 0; i < N; i++) a[i] = abs(a[i]);
  return a;
}
template <class T, int N, class L, class H>
EMU_INLINE vec<T, N> clamp(vec<T, N> a, L low, H high) {
  return min(max(a, vec<T, N>(low)), vec<T, N>(high));
}
template <class T, int N>
EMU_INLINE T dot(vec<T, N> a, vec<T, N> b) {
  T r = a[0] * b[0];
  for (int i = 1; i < N; i++) r += a[i] * b[i];
  return r;
}
template <class T, int N>
EMU_INLINE T length(vec<T, N> a) {
  return sqrt(dot(a, a));
}
template <int N>
EMU_INLINE bool any(vec<bool, N> v) {
  bool r = false;
  for (int i = 0; i < N; i++) r |= v[i];
  return r;
}
template <int N>
EMU_INLINE bool all(vec<bool, N> v) {
  bool r = true;
  for (int i = 0; i < N; i++) r &= v[i];
  return r;
}
EMU_INLINE bool any(bool b) { return b; }
EMU_INLINE bool all(bool b) { return b; }

#define EMU_CLASSIFY(NAME, BUILTIN)        \
  template <class T, if_floating<T> = 0>   \
  EMU_INLINE bool NAME(T x) {              \
    return BUILTIN(static_cast<float>(x)); \
  }
EMU_CLASSIFY(isnan, __builtin_isnan)
EMU_CLASSIFY(isinf, __builtin_isinf)
EMU_CLASSIFY(isfinite, __builtin_isfinite)
EMU_CLASSIFY(isnormal, __builtin_isnormal)
EMU_CLASSIFY(signbit, __builtin_signbit)
template <class T, if_floating<T> = 0>
EMU_INLINE T ldexp(T x, int k) {
  return static_cast<T>(::ldexpf(static_cast<float>(x), k));
}
EMU_INLINE float frexp(float x, int& e) { return ::frexpf(x, &e); }

template <class T>
EMU_INLINE T popcount(T x) {
  return static_cast<T>(__builtin_popcountll(static_cast<make_unsigned_t<T>>(x)));
}
template <class T>
EMU_INLINE T clz(T x) {
  int bits = 8 * sizeof(T);
  return static_cast<T>(x ? __builtin_clzll(static_cast<make_unsigned_t<T>>(x)) - (64 - bits) : bits);
}
template <class T>
EMU_INLINE T ctz(T x) {
  return static_cast<T>(x ? __builtin_ctzll(static_cast<make_unsigned_t<T>>(x)) : 8 * sizeof(T));
}
template <class T>
EMU_INLINE T reverse_bits(T x) {
  T r = 0;
  for (unsigned i = 0; i < 8 * sizeof(T); i++) {
    if (x >> i & 1) r |= static_cast<T>(1) << (8 * sizeof(T) - 1 - i);
  }
  return r;
}
template <class T>
EMU_INLINE T extract_bits(T x, uint offset, uint bits) {
  if (bits == 0) return 0;
  return static_cast<T>((x >> offset) & (bits >= 8 * sizeof(T) ? ~static_cast<T>(0) : (static_cast<T>(1) << bits) - 1));
}
EMU_INLINE uint mulhi(uint a, uint b) { return static_cast<uint>((static_cast<uint64_t>(a) * b) >> 32); }
template <class T>
EMU_INLINE T mul24(T a, T b) {
  return a * b;
}
template <class T>
EMU_INLINE T mad24(T a, T b, T c) {
  return a * b + c;
}

#define EMU_BINARY_FORWARD(NAME)   \
  template <class A, class B>      \
  EMU_INLINE auto NAME(A a, B b) { \
    return metal::NAME(a, b);      \
  }
namespace fast {
EMU_UNARY_FUNCTIONS
EMU_BINARY_FORWARD(pow)
EMU_BINARY_FORWARD(divide)
EMU_BINARY_FORWARD(min)
EMU_BINARY_FORWARD(max)
}  // namespace fast
namespace precise {
EMU_UNARY_FUNCTIONS
EMU_BINARY_FORWARD(pow)
EMU_BINARY_FORWARD(divide)
}  // namespace precise
}  // namespace metal
