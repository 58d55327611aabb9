// The type traits and integer types that metal_stdlib has or the shim needs. The shim includes no C++ standard header,
// so that a kernel cannot use names that Apple's compiler does not know.
#pragma once

typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long int64_t;
typedef unsigned long uint64_t;
typedef unsigned long size_t;
typedef long ptrdiff_t;
typedef unsigned long uintptr_t;
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;

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
  using type = __remove_cv(T);
};
template <class T>
using remove_cv_t = typename remove_cv<T>::type;
template <class T>
struct remove_reference {
  using type = __remove_reference_t(T);
};
template <class T>
using remove_reference_t = typename remove_reference<T>::type;
template <class T>
struct make_unsigned {
  using type = __make_unsigned(T);
};
template <class T>
using make_unsigned_t = typename make_unsigned<T>::type;
template <class T>
struct add_lvalue_reference {
  using type = T&;
};

#define EMU_TRAIT(NAME, BUILTIN)              \
  template <class T>                          \
  struct NAME : bool_constant<BUILTIN(T)> {}; \
  template <class T>                          \
  constexpr bool NAME##_v = BUILTIN(T);
EMU_TRAIT(is_integral, __is_integral)
EMU_TRAIT(is_signed, __is_signed)
EMU_TRAIT(is_unsigned, __is_unsigned)
EMU_TRAIT(is_pointer, __is_pointer)
EMU_TRAIT(is_reference, __is_reference)
EMU_TRAIT(is_const, __is_const)
EMU_TRAIT(is_trivial, __is_trivial)
EMU_TRAIT(is_void, __is_void)
EMU_TRAIT(is_array, __is_array)
template <class T, class U>
struct is_same : bool_constant<__is_same(T, U)> {};
template <class T, class U>
constexpr bool is_same_v = __is_same(T, U);
template <class T, class U>
struct is_convertible : bool_constant<__is_convertible(T, U)> {};
template <class T, class U>
constexpr bool is_convertible_v = __is_convertible(T, U);

template <class T, T... I>
struct integer_sequence {};
template <size_t... I>
using index_sequence = integer_sequence<size_t, I...>;
template <size_t N>
using make_index_sequence = __make_integer_seq<integer_sequence, size_t, N>;
}  // namespace metal
