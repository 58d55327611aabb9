// half and bfloat, and which types are scalars. half is clang's _Float16, computed without excess precision.
// bfloat is a class, because clang's __bf16 converts from float silently, which Metal refuses.
#pragma once
#include "traits.h"

typedef _Float16 half;

struct bfloat {
  union {
    __bf16 unset;  // first, so that clang fills an unset bfloat with its pattern for floating point
    uint16_t bits;
  };

  bfloat() = default;
  bfloat(const bfloat&) = default;
  bfloat(const volatile bfloat& o) : bits(o.bits) {}
  bfloat& operator=(const bfloat&) = default;
  bfloat& operator=(const volatile bfloat& o) { return *this = bfloat(o); }
  void operator=(const bfloat& o) volatile { bits = o.bits; }
  void operator=(const volatile bfloat& o) volatile { bits = o.bits; }
  template <class T, class = metal::enable_if_t<__is_arithmetic(T) || metal::is_same_v<T, half>>>
  constexpr explicit bfloat(T value) : bits(round(static_cast<float>(value))) {}
  template <class T, class = metal::enable_if_t<__is_integral(T)>>
  constexpr bfloat& operator=(T value) {
    bits = round(static_cast<float>(value));
    return *this;
  }
  constexpr operator float() const { return __builtin_bit_cast(float, static_cast<uint32_t>(bits) << 16); }
  operator float() const volatile { return __builtin_bit_cast(float, static_cast<uint32_t>(bits) << 16); }
  constexpr bfloat operator-() const {
    bfloat r = *this;
    r.bits ^= 0x8000;
    return r;
  }

  static constexpr uint16_t round(float value) {  // to nearest, ties to even
    uint32_t u = __builtin_bit_cast(uint32_t, value);
    if ((u & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>((u >> 16) | 0x40);
    return static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
  }
};

// 1.5h
constexpr half operator""h(long double v) { return static_cast<half>(v); }
constexpr bfloat operator"" bf(long double v) { return bfloat(static_cast<float>(v)); }

#define EMU_BFLOAT_OPERATOR(OP)                                                                            \
  constexpr inline bfloat operator OP(bfloat a, bfloat b) {                                                \
    return bfloat(static_cast<float>(a) OP static_cast<float>(b));                                         \
  }                                                                                                        \
  template <class L, class R, class = metal::enable_if_t<metal::is_same_v<metal::remove_cv_t<L>, bfloat>>> \
  constexpr inline void operator OP## = (L & a, R b) {                                                     \
    a = bfloat(static_cast<float>(a) OP static_cast<float>(b));                                            \
  }                                                                                                        \
  template <class T, class = metal::enable_if_t<__is_integral(T)>>                                         \
  constexpr bfloat operator OP(bfloat a, T b) {                                                            \
    return a OP bfloat(b);                                                                                 \
  }                                                                                                        \
  template <class T, class = metal::enable_if_t<__is_integral(T)>>                                         \
  constexpr bfloat operator OP(T a, bfloat b) {                                                            \
    return bfloat(a) OP b;                                                                                 \
  }
EMU_BFLOAT_OPERATOR(+)
EMU_BFLOAT_OPERATOR(-)
EMU_BFLOAT_OPERATOR(*)
EMU_BFLOAT_OPERATOR(/)
#define EMU_BFLOAT_COMPARE(OP) \
  constexpr inline bool operator OP(bfloat a, bfloat b) { return static_cast<float>(a) OP static_cast<float>(b); }
EMU_BFLOAT_COMPARE(<)
EMU_BFLOAT_COMPARE(>)
EMU_BFLOAT_COMPARE(<=)
EMU_BFLOAT_COMPARE(>=)
EMU_BFLOAT_COMPARE(==)
EMU_BFLOAT_COMPARE(!=)

namespace metal {
using ::bfloat;
using ::half;

template <class T>
constexpr bool is_floating_point_v =
    __is_floating_point(T) || is_same_v<remove_cv_t<T>, half> || is_same_v<remove_cv_t<T>, bfloat>;
template <class T>
struct is_floating_point : bool_constant<is_floating_point_v<T>> {};
template <class T>
constexpr bool is_arithmetic_v = __is_integral(T) || is_floating_point_v<T>;
template <class T>
struct is_arithmetic : bool_constant<is_arithmetic_v<T>> {};
template <class T>
using if_floating = enable_if_t<is_floating_point_v<T>, int>;
template <class T>
using if_scalar = enable_if_t<is_arithmetic_v<T>, int>;

template <class T>
struct numeric_limits {
  static constexpr bool negative = static_cast<T>(-1) < static_cast<T>(0);
  static constexpr T top = static_cast<T>(static_cast<T>(1) << (8 * sizeof(T) - 1));
  static constexpr T max() { return negative ? static_cast<T>(~top) : static_cast<T>(~static_cast<T>(0)); }
  static constexpr T min() { return negative ? top : static_cast<T>(0); }
  static constexpr T lowest() { return min(); }
};
template <>
struct numeric_limits<bool> {
  static constexpr bool max() { return true; }
  static constexpr bool min() { return false; }
  static constexpr bool lowest() { return false; }
};
#define EMU_FLOAT_LIMITS(T, MAX, MIN, EPSILON)                       \
  template <>                                                        \
  struct numeric_limits<T> {                                         \
    static constexpr T max() { return T(MAX); }                      \
    static constexpr T lowest() { return T(-(MAX)); }                \
    static constexpr T min() { return T(MIN); }                      \
    static constexpr T epsilon() { return T(EPSILON); }              \
    static constexpr T infinity() { return T(__builtin_inff()); }    \
    static constexpr T quiet_NaN() { return T(__builtin_nanf("")); } \
  };
EMU_FLOAT_LIMITS(float, __FLT_MAX__, __FLT_MIN__, __FLT_EPSILON__)
EMU_FLOAT_LIMITS(half, 65504.f, 6.103515625e-05f, 9.765625e-04f)
EMU_FLOAT_LIMITS(bfloat, 3.38953139e38f, 1.17549435e-38f, 7.8125e-3f)
}  // namespace metal
