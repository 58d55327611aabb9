// metal_stdlib for running. Address spaces are erased, and every simd operation and barrier calls the runtime. The lint
// (lint.h) checks address spaces; the build always runs it first.
#pragma once
#include "../abi.h"
#include "matrix.h"

#define __METAL__ 1
#define __METAL_VERSION__ 320
#define METAL_FUNC inline

namespace metal {
template <class T>
using remove_addrspace_t = __remove_volatile(T);
struct os_log {
  constexpr os_log(const char*, const char*) {}
  template <class... A>
  void log_debug(const char*, A...) const {}
};
}  // namespace metal

// From the runtime's buffers and ids to the kernel's parameters.

struct emu_argument {
  void* buffer;         // of a pointer or reference parameter
  const unsigned* ids;  // of a thread attribute
};
template <class P>
EMU_INLINE P emu_pass(const emu_argument& argument) {
  if constexpr (metal::is_reference_v<P>) {
    return *static_cast<metal::remove_reference_t<P>*>(argument.buffer);
  } else if constexpr (metal::is_pointer_v<P>) {
    return static_cast<P>(argument.buffer);
  } else if constexpr (metal::is_vector_v<P>) {
    P r;
    for (int i = 0; i < metal::vector_of<P>::n; i++)
      r[i] = static_cast<typename metal::vector_of<P>::element>(argument.ids[i]);
    return r;
  } else {
    return static_cast<P>(argument.ids[0]);
  }
}
template <class... P, size_t... I>
EMU_INLINE void emu_call(void (*kernel)(P...), const emu_argument* arguments, metal::index_sequence<I...>) {
  kernel(emu_pass<P>(arguments[I])...);
}
template <class... P>
EMU_INLINE void emu_call(void (*kernel)(P...), const emu_argument* arguments) {
  emu_call(kernel, arguments, metal::make_index_sequence<sizeof...(P)>());
}

// The words of the language.

// Stands for `threadgroup T x[4][8];` in a function (source_edit.py). There is one variable per declaration and
// threadgroup.
#define EMU_UNWRAP(...) __VA_ARGS__
#define EMU_THREADGROUP(TYPE, NAME, DIMENSIONS, KEY)                              \
  static const char KEY = 0;                                                      \
  typedef EMU_UNWRAP TYPE KEY##_type EMU_UNWRAP DIMENSIONS;                       \
  threadgroup KEY##_type& NAME = *(threadgroup KEY##_type*)emu_threadgroup_alloc( \
      &KEY, sizeof(KEY##_type), alignof(KEY##_type) < 16 ? 16 : alignof(KEY##_type), #NAME)

#ifdef EMU_AS_WRITTEN
#define device volatile
#define threadgroup volatile
#else
#define device
#define threadgroup
#endif
#define constant
#define thread
#define kernel
#define double emu_error_Metal_has_no_double
