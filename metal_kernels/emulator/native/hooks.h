// The functions that compiled kernels call at each memory access and when a check of the compiler's fails. Clang's
// thread sanitizer places the calls. The build replaces its reads and writes by emu_read and emu_write with the place
// in the source (sites.py). The rest of the sanitizer's interface is defined here under its own names.
#pragma once
#include "memory.h"

// Clang's own alignment check exempts volatile memory, and in the checked modes buffers are volatile to a kernel.
static void check_alignment(const void* address, u32 n) {
  if (!options.check || reinterpret_cast<u64>(address) % n == 0) return;
  report(UNDEFINED, emu_site, 0, "misaligned access: %u bytes at an address that is no multiple of it, in %s", n,
         who(*running));
  stop_run();
}

extern "C" {
void emu_read(const void* address, u32 n, u32 site) {
  emu_site = site;
  check_alignment(address, n);
  access_memory(address, n, READ, false);
}
void emu_write(void* address, u32 n, u32 site) {
  emu_site = site;
  check_alignment(address, n);
  access_memory(address, n, WRITE, false);
}
// Accesses that need less alignment than their size.
void emu_unaligned_read(const void* address, u32 n, u32 site) {
  emu_site = site;
  access_memory(address, n, READ, false);
}
void emu_unaligned_write(void* address, u32 n, u32 site) {
  emu_site = site;
  access_memory(address, n, WRITE, false);
}

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void* __tsan_memcpy(void* to, const void* from, size_t n) {
  access_memory(from, n, READ, false);
  access_memory(to, n, WRITE, false);
  return memcpy(to, from, n);
}
void* __tsan_memmove(void* to, const void* from, size_t n) {
  access_memory(from, n, READ, false);
  access_memory(to, n, WRITE, false);
  return memmove(to, from, n);
}
void* __tsan_memset(void* to, int value, size_t n) {
  access_memory(to, n, WRITE, false);
  return memset(to, value, n);
}
void __tsan_atomic_thread_fence(int) {}
void __tsan_atomic_signal_fence(int) {}
}

// The shim's atomics use only atomic loads and stores, because one thread runs at a time and none is interrupted.
#define EMU_ATOMIC_HOOKS(BITS, T)                                        \
  extern "C" T __tsan_atomic##BITS##_load(const volatile T* a, int) {    \
    access_memory(a, BITS / 8, READ, true);                              \
    return *a;                                                           \
  }                                                                      \
  extern "C" void __tsan_atomic##BITS##_store(volatile T* a, T v, int) { \
    access_memory(a, BITS / 8, WRITE, true);                             \
    *a = v;                                                              \
  }
EMU_ATOMIC_HOOKS(8, u8)
EMU_ATOMIC_HOOKS(16, u16)
EMU_ATOMIC_HOOKS(32, u32)
EMU_ATOMIC_HOOKS(64, u64)

// The handlers of the undefined-behaviour sanitizer. Each gets a record that begins with the place in the source.
struct Place {
  const char* file;
  u32 line, column;
};

static void undefined(const Place* place, u32 kind, const char* what) {
  Finding* f = report(kind, emu_site, 0, "%s, in %s", what, who(*running));
  if (place->file && !f->line) {
    snprintf(f->file, sizeof f->file, "%s", place->file);
    f->line = place->line;
    f->column = place->column;
  }
  stop_run();
}

#define EMU_UNDEFINED(NAME, KIND, WHAT)                                         \
  extern "C" void __ubsan_handle_##NAME(Place* p) { undefined(p, KIND, WHAT); } \
  extern "C" void __ubsan_handle_##NAME##_abort(Place* p) { undefined(p, KIND, WHAT); }
EMU_UNDEFINED(shift_out_of_bounds, UNDEFINED, "shift by a negative amount or by the width of the type or more")
EMU_UNDEFINED(divrem_overflow, UNDEFINED, "integer division by zero or with overflow")
EMU_UNDEFINED(float_cast_overflow, UNDEFINED, "float value that does not fit the integer it becomes")
EMU_UNDEFINED(builtin_unreachable, UNDEFINED, "unreachable code reached")
EMU_UNDEFINED(missing_return, UNDEFINED, "end of a function that must return a value")
EMU_UNDEFINED(add_overflow, UNDEFINED, "signed overflow in +")
EMU_UNDEFINED(sub_overflow, UNDEFINED, "signed overflow in -")
EMU_UNDEFINED(mul_overflow, UNDEFINED, "signed overflow in *")
EMU_UNDEFINED(negate_overflow, UNDEFINED, "signed overflow in negation")
EMU_UNDEFINED(pointer_overflow, UNDEFINED, "pointer arithmetic overflow")
EMU_UNDEFINED(vla_bound_not_positive, UNDEFINED, "array bound not positive")
EMU_UNDEFINED(out_of_bounds, OUT_OF_BOUNDS, "array index out of bounds")

extern "C" void __ubsan_handle_type_mismatch_v1(Place* p, u64 pointer) {
  undefined(p, UNDEFINED,
            pointer ? "misaligned access: the pointer is no multiple of its type's alignment" : "null pointer");
}
extern "C" void __ubsan_handle_type_mismatch_v1_abort(Place* p, u64 pointer) {
  __ubsan_handle_type_mismatch_v1(p, pointer);
}
