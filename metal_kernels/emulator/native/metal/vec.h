// vec<T, 2..4> with swizzles, and the operators on them. In the checked modes a vector in device or threadgroup memory
// is volatile (see run.h), so that reading a whole vector is exactly one access. Counting relies on that.
#pragma once
#include "scalar.h"

extern "C" {
void* memcpy(void*, const void*, size_t) noexcept;
void* memset(void*, int, size_t) noexcept;
}
#define EMU_INLINE __attribute__((always_inline)) inline

namespace metal {
template <class T, int N>
struct vec;

// The type of one access: an integer or a register of the vector's size.
template <size_t BYTES>
struct raw_bytes;
template <>
struct raw_bytes<2> {
  typedef uint16_t type __attribute__((may_alias));
};
template <>
struct raw_bytes<4> {
  typedef uint32_t type __attribute__((may_alias));
};
template <>
struct raw_bytes<8> {
  typedef uint64_t type __attribute__((may_alias));
};
template <>
struct raw_bytes<16> {
  typedef uint32_t type __attribute__((ext_vector_type(4), may_alias));
};
template <>
struct raw_bytes<32> {
  typedef uint32_t type __attribute__((ext_vector_type(8), may_alias));
};

// A swizzle such as .xy. It shares the vector's storage, converts to a vector, and can be assigned.
template <class T, int STORED, int... I>
struct swizzle {
  T all[STORED];
  using V = vec<T, sizeof...(I)>;
  EMU_INLINE operator V() const { return V(all[I]...); }
  EMU_INLINE operator V() const volatile { return V(T(all[I])...); }
  EMU_INLINE swizzle& operator=(const swizzle& o) { return *this = static_cast<V>(o); }
  EMU_INLINE swizzle& operator=(const V& v) {
    int k = 0;
    ((all[I] = v[k++]), ...);
    return *this;
  }
  EMU_INLINE void operator=(const V& v) volatile {
    int k = 0;
    ((all[I] = v[k++]), ...);
  }
  EMU_INLINE T operator[](int i) const {
    constexpr int at[] = {I...};
    return all[at[i]];
  }
};

// vector_of<A>: 0 components for a scalar; a vector's or swizzle's element and vector type otherwise.
template <class A>
struct vector_of {
  static constexpr int n = 0;
};
template <class T, int N>
struct vector_of<vec<T, N>> {
  static constexpr int n = N;
  using element = T;
  using type = vec<T, N>;
};
template <class T, int S, int... I>
struct vector_of<swizzle<T, S, I...>> {
  static constexpr int n = sizeof...(I);
  using element = T;
  using type = vec<T, sizeof...(I)>;
};
template <class A>
struct vector_of<volatile A> : vector_of<A> {};
template <class A>
constexpr bool is_vector_v = vector_of<A>::n > 0;
template <class A>
constexpr int components() {
  return is_vector_v<A> ? vector_of<A>::n : 1;
}

template <class T, int N>
struct subscript {
#ifdef EMU_CHECK
  static EMU_INLINE void check(size_t i) {
    if (i >= N) emu_bad_index(static_cast<long>(i), N);
  }
#else
  static constexpr void check(size_t) {}
#endif
  EMU_INLINE constexpr T& operator[](size_t i) { return check(i), reinterpret_cast<T*>(this)[i]; }
  EMU_INLINE constexpr const T& operator[](size_t i) const { return check(i), reinterpret_cast<const T*>(this)[i]; }
  EMU_INLINE volatile T& operator[](size_t i) volatile { return check(i), reinterpret_cast<volatile T*>(this)[i]; }
  EMU_INLINE const volatile T& operator[](size_t i) const volatile {
    return check(i), reinterpret_cast<const volatile T*>(this)[i];
  }
};

// Constructors and assignment, the same for 2, 3 and 4. `= default` matters: `vec v{}` must zero it.
#define EMU_VEC_MEMBERS(N)                                                                               \
  using raw = typename raw_bytes<sizeof(T) * (N == 3 ? 4 : N)>::type;                                    \
  vec() = default;                                                                                       \
  EMU_INLINE vec(const vec& o) { memcpy((void*)this, (const void*)&o, sizeof(*this)); }                  \
  EMU_INLINE vec(const volatile vec& o) {                                                                \
    raw r = *reinterpret_cast<const volatile raw*>(&o);                                                  \
    memcpy((void*)this, &r, sizeof r);                                                                   \
  }                                                                                                      \
  EMU_INLINE vec& operator=(const vec& o) {                                                              \
    memcpy((void*)this, (const void*)&o, sizeof(*this));                                                 \
    return *this;                                                                                        \
  }                                                                                                      \
  EMU_INLINE vec& operator=(const volatile vec& o) { return *this = vec(o); }                            \
  EMU_INLINE void operator=(const volatile vec& o) volatile { *this = vec(o); }                          \
  EMU_INLINE void operator=(const vec& o) volatile {                                                     \
    raw r;                                                                                               \
    memcpy(&r, (const void*)&o, sizeof r);                                                               \
    *reinterpret_cast<volatile raw*>(this) = r;                                                          \
  }                                                                                                      \
  template <class U, class = enable_if_t<is_arithmetic_v<U>>>                                            \
  EMU_INLINE vec(U s) {                                                                                  \
    for (int i = 0; i < N; i++) (*this)[i] = static_cast<T>(s);                                          \
  }                                                                                                      \
  template <class U, class = enable_if_t<!is_same_v<U, T>>>                                              \
  EMU_INLINE explicit vec(const vec<U, N>& o) {                                                          \
    for (int i = 0; i < N; i++) (*this)[i] = static_cast<T>(o[i]);                                       \
  }                                                                                                      \
  template <class U, class = enable_if_t<!is_same_v<U, T>>>                                              \
  EMU_INLINE explicit vec(const volatile vec<U, N>& o) : vec(vec<U, N>(o)) {}                            \
  template <class A, class B, class... C,                                                                \
            class = enable_if_t<(components<A>() + components<B>() + (0 + ... + components<C>())) == N>> \
  EMU_INLINE vec(const A& a, const B& b, const C&... c) {                                                \
    int k = 0;                                                                                           \
    put(k, a), put(k, b), (put(k, c), ...);                                                              \
  }                                                                                                      \
                                                                                                         \
 private:                                                                                                \
  template <class A>                                                                                     \
  EMU_INLINE void put(int& k, const A& a) {                                                              \
    if constexpr (is_vector_v<A>) {                                                                      \
      typename vector_of<A>::type v = a;                                                                 \
      for (int i = 0; i < vector_of<A>::n; i++) (*this)[k++] = static_cast<T>(v[i]);                     \
    } else {                                                                                             \
      (*this)[k++] = static_cast<T>(a);                                                                  \
    }                                                                                                    \
  }                                                                                                      \
                                                                                                         \
 public:

#define EMU_SWIZZLE2(STORED, A, B, a, b) \
  swizzle<T, STORED, a, a> A##A;         \
  swizzle<T, STORED, a, b> A##B;         \
  swizzle<T, STORED, b, a> B##A;         \
  swizzle<T, STORED, b, b> B##B;

template <class T>
struct alignas(2 * sizeof(T)) vec<T, 2> : subscript<T, 2> {
  union {
    struct {
      T x, y;
    };
    struct {
      T r, g;
    };
    EMU_SWIZZLE2(2, x, y, 0, 1)
  };
  EMU_VEC_MEMBERS(2)
};
template <class T>
struct alignas(4 * sizeof(T)) vec<T, 3> : subscript<T, 3> {
  union {
    struct {
      T x, y, z;
    };
    struct {
      T r, g, b;
    };
    T padded[4];
    EMU_SWIZZLE2(4, x, y, 0, 1)
    swizzle<T, 4, 0, 2> xz;
    swizzle<T, 4, 1, 2> yz;
    swizzle<T, 4, 2, 1> zy;
    swizzle<T, 4, 0, 1, 2> xyz;
  };
  EMU_VEC_MEMBERS(3)
};
template <class T>
struct alignas(4 * sizeof(T)) vec<T, 4> : subscript<T, 4> {
  union {
    struct {
      T x, y, z, w;
    };
    struct {
      T r, g, b, a;
    };
    EMU_SWIZZLE2(4, x, y, 0, 1)
    EMU_SWIZZLE2(4, z, w, 2, 3)
    swizzle<T, 4, 0, 2> xz;
    swizzle<T, 4, 1, 3> yw;
    swizzle<T, 4, 1, 2> yz;
    swizzle<T, 4, 0, 3> xw;
    swizzle<T, 4, 0, 1, 2> xyz;
    swizzle<T, 4, 1, 2, 3> yzw;
    swizzle<T, 4, 0, 1, 2, 3> xyzw;
    swizzle<T, 4, 3, 2, 1, 0> wzyx;
    swizzle<T, 4, 1, 0, 3, 2> yxwz;
    swizzle<T, 4, 2, 3, 0, 1> zwxy;
    swizzle<T, 4, 0, 0, 1, 1> xxyy;
    swizzle<T, 4, 2, 2, 3, 3> zzww;
    swizzle<T, 4, 0, 2, 1, 3> xzyw;
  };
  EMU_VEC_MEMBERS(4)
};

template <class T, int N>
struct packed_vec : subscript<T, N> {
  T all[N];
  packed_vec() = default;
  packed_vec(const vec<T, N>& v) {
    for (int i = 0; i < N; i++) all[i] = v[i];
  }
  operator vec<T, N>() const { return read(all); }
  operator vec<T, N>() const volatile { return read(all); }

 private:
  static vec<T, N> read(const volatile T* from) {
    vec<T, N> r;
    for (int i = 0; i < N; i++) r[i] = from[i];
    return r;
  }
};

// Operators: vector with vector or scalar, component by component, in the vector's element type.

template <class A, class B>
using if_vectors = enable_if_t<(is_vector_v<A> || is_vector_v<B>) &&
                                   (vector_of<A>::n == vector_of<B>::n || (!is_vector_v<A> && is_arithmetic_v<A>) ||
                                    (!is_vector_v<B> && is_arithmetic_v<B>)),
                               int>;
template <class A, class B>
using vector_among = typename conditional_t<is_vector_v<A>, vector_of<A>, vector_of<B>>::type;
// Takes a copy, so that each operand in memory is read once and whole.
template <class A>
EMU_INLINE auto value_of(const A& a) {
  if constexpr (is_vector_v<A>) {
    return typename vector_of<A>::type(a);
  } else {
    return a;
  }
}
template <class A>
EMU_INLINE auto component(const A& a, int i) {
  if constexpr (is_vector_v<A>) {
    return a[i];
  } else {
    return a;
  }
}
#define EMU_VECTOR_OPERATOR(OP)                                                                  \
  template <class A, class B, if_vectors<A, B> = 0>                                              \
  EMU_INLINE auto operator OP(const A& left, const B& right) {                                   \
    using V = vector_among<A, B>;                                                                \
    using E = typename vector_of<V>::element;                                                    \
    auto a = value_of(left);                                                                     \
    auto b = value_of(right);                                                                    \
    V r;                                                                                         \
    for (int i = 0; i < vector_of<V>::n; i++)                                                    \
      r[i] = static_cast<E>(static_cast<E>(component(a, i)) OP static_cast<E>(component(b, i))); \
    return r;                                                                                    \
  }                                                                                              \
  template <class A, class B, enable_if_t<is_vector_v<A>, int> = 0>                              \
  EMU_INLINE A& operator OP## = (A & left, const B& right) {                                     \
    left = left OP right;                                                                        \
    return left;                                                                                 \
  }
EMU_VECTOR_OPERATOR(+)
EMU_VECTOR_OPERATOR(-)
EMU_VECTOR_OPERATOR(*)
EMU_VECTOR_OPERATOR(/)
EMU_VECTOR_OPERATOR(%)
EMU_VECTOR_OPERATOR(&)
EMU_VECTOR_OPERATOR(|)
EMU_VECTOR_OPERATOR(^)
EMU_VECTOR_OPERATOR(<<)
EMU_VECTOR_OPERATOR(>>)
#define EMU_VECTOR_COMPARE(OP)                                                   \
  template <class A, class B, if_vectors<A, B> = 0>                              \
  EMU_INLINE auto operator OP(const A& left, const B& right) {                   \
    using V = vector_among<A, B>;                                                \
    using E = typename vector_of<V>::element;                                    \
    auto a = value_of(left);                                                     \
    auto b = value_of(right);                                                    \
    vec<bool, vector_of<V>::n> r;                                                \
    for (int i = 0; i < vector_of<V>::n; i++)                                    \
      r[i] = static_cast<E>(component(a, i)) OP static_cast<E>(component(b, i)); \
    return r;                                                                    \
  }
EMU_VECTOR_COMPARE(<)
EMU_VECTOR_COMPARE(>)
EMU_VECTOR_COMPARE(<=)
EMU_VECTOR_COMPARE(>=)
EMU_VECTOR_COMPARE(==)
EMU_VECTOR_COMPARE(!=)
EMU_VECTOR_COMPARE(&&)
EMU_VECTOR_COMPARE(||)
#define EMU_VECTOR_UNARY(OP, ELEMENT)                                               \
  template <class A, enable_if_t<is_vector_v<A>, int> = 0>                          \
  EMU_INLINE auto operator OP(const A& operand) {                                   \
    auto a = value_of(operand);                                                     \
    vec<ELEMENT, vector_of<A>::n> r;                                                \
    for (int i = 0; i < vector_of<A>::n; i++) r[i] = static_cast<ELEMENT>(OP a[i]); \
    return r;                                                                       \
  }
EMU_VECTOR_UNARY(-, typename vector_of<A>::element)
EMU_VECTOR_UNARY(~, typename vector_of<A>::element)
EMU_VECTOR_UNARY(!, bool)

#define EMU_VECTOR_NAMES(T, NAME)            \
  using NAME##2 = vec<T, 2>;                 \
  using NAME##3 = vec<T, 3>;                 \
  using NAME##4 = vec<T, 4>;                 \
  using packed_##NAME##2 = packed_vec<T, 2>; \
  using packed_##NAME##3 = packed_vec<T, 3>; \
  using packed_##NAME##4 = packed_vec<T, 4>;
EMU_VECTOR_NAMES(float, float)
EMU_VECTOR_NAMES(half, half)
EMU_VECTOR_NAMES(bfloat, bfloat)
EMU_VECTOR_NAMES(bool, bool)
EMU_VECTOR_NAMES(int8_t, char)
EMU_VECTOR_NAMES(uint8_t, uchar)
EMU_VECTOR_NAMES(int16_t, short)
EMU_VECTOR_NAMES(uint16_t, ushort)
EMU_VECTOR_NAMES(int32_t, int)
EMU_VECTOR_NAMES(uint32_t, uint)
EMU_VECTOR_NAMES(int64_t, long)
EMU_VECTOR_NAMES(uint64_t, ulong)
}  // namespace metal

template <class T, class U>
EMU_INLINE T as_type(U u) {
  static_assert(sizeof(T) == sizeof(U), "as_type between types of different size");
  T r;
  memcpy((void*)&r, (const void*)&u, sizeof(T));
  return r;
}
