// Atomics. One emulated thread runs at a time and is never interrupted, so plain read-modify-write is atomic. They are
// written as clang atomics because the checker has to tell them from ordinary accesses.
#pragma once
#include "simd.h"

namespace metal {
enum memory_order {
  memory_order_relaxed = 0,
  memory_order_acquire = 2,
  memory_order_release = 3,
  memory_order_acq_rel = 4,
  memory_order_seq_cst = 5
};
enum thread_scope { thread_scope_thread, thread_scope_simdgroup, thread_scope_threadgroup, thread_scope_device };
template <class T>
struct atomic {
  T value;
};
using atomic_int = atomic<int>;
using atomic_uint = atomic<uint>;
using atomic_float = atomic<float>;

template <class T>
EMU_INLINE T emu_atomic_get(const volatile atomic<T>* a) {
  T r;
  __atomic_load(const_cast<const volatile T*>(&a->value), &r, 0);
  return r;
}
template <class T>
EMU_INLINE void emu_atomic_set(volatile atomic<T>* a, T v) {
  __atomic_store(&a->value, &v, 0);
}
template <class T>
EMU_INLINE T atomic_load_explicit(const volatile atomic<T>* a, memory_order) {
  return emu_atomic_get(a);
}
template <class T, class U>
EMU_INLINE void atomic_store_explicit(volatile atomic<T>* a, U v, memory_order) {
  emu_atomic_set(a, static_cast<T>(v));
}
#define EMU_FETCH(NAME, EXPRESSION)                                                             \
  template <class T, class U>                                                                   \
  EMU_INLINE T atomic_fetch_##NAME##_explicit(volatile atomic<T>* p, U operand, memory_order) { \
    T a = emu_atomic_get(p), b = static_cast<T>(operand);                                       \
    emu_atomic_set(p, static_cast<T>(EXPRESSION));                                              \
    return a;                                                                                   \
  }
EMU_FETCH(add, a + b)
EMU_FETCH(sub, a - b)
EMU_FETCH(min, metal::min(a, b))
EMU_FETCH(max, metal::max(a, b))
EMU_FETCH(or, a | b)
EMU_FETCH(and, a& b)
EMU_FETCH(xor, a ^ b)
template <class T, class U>
EMU_INLINE T atomic_exchange_explicit(volatile atomic<T>* p, U v, memory_order) {
  T old = emu_atomic_get(p);
  emu_atomic_set(p, static_cast<T>(v));
  return old;
}
template <class T, class U>
EMU_INLINE bool atomic_compare_exchange_weak_explicit(volatile atomic<T>* p, T* expected, U v, memory_order,
                                                      memory_order) {
  T old = emu_atomic_get(p);
  if (old != *expected) {
    *expected = old;
    return false;
  }
  emu_atomic_set(p, static_cast<T>(v));
  return true;
}
EMU_INLINE void atomic_thread_fence(mem_flags, memory_order = memory_order_seq_cst,
                                    thread_scope = thread_scope_device) {}
}  // namespace metal
