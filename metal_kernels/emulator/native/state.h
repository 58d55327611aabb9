// The state of one run: options, findings, threads and totals. A library runs one dispatch at a time on one OS thread,
// so plain statics hold it; the Python driver takes a lock.
#pragma once
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "abi.h"

using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;

constexpr u32 LANES = 32;
constexpr u32 MAX_THREADS = 1024;
constexpr u32 MAX_SIMDGROUPS = MAX_THREADS / LANES;
constexpr u32 MAX_BUFFERS = 64;
constexpr u32 MAX_FINDINGS = 64;
constexpr u32 MEM_DEVICE = 1, MEM_THREADGROUP = 2;  // bits of mem_flags, as in metal_stdlib
constexpr u64 THREADGROUP_MEMORY_LIMIT = 32768;     // bytes; every Apple GPU family since 4

// Used instead of std::vector, because ziglang would have to build the C++ library on its first use.
template <class T>
struct Array {
  T* items = nullptr;
  u32 size = 0, room = 0;
  T& operator[](u32 i) { return items[i]; }
  void resize(u32 n) {  // new items are zero
    if (n > room) {
      u32 grown = n > 2 * room ? n : 2 * room;
      items = static_cast<T*>(realloc(static_cast<void*>(items), grown * sizeof(T)));
      if (!items) abort();
      memset(static_cast<void*>(items + room), 0, (grown - room) * sizeof(T));
      room = grown;
    }
    size = n;
  }
};
template <class T>
static T smaller(T a, T b) {
  return a < b ? a : b;
}
template <class T>
static T larger(T a, T b) {
  return a > b ? a : b;
}

// The structs below are mirrored, field by field, in runner.py.
struct Argument {  // one buffer of the call
  void* data;
  u64 size;
  u32 writable;  // see memory.h
  u32 element_size;
  // If the bits of an element under the mask equal `unset`, it came from memory that was never set. 0: its type cannot
  // tell.
  u64 unset_mask, unset;
};
struct Options {
  u32 check;             // race and uninitialised shadow memory
  u32 count_lines;       // group loads into 128-byte lines
  u32 order;             // 0 forward, 1 reversed, 2 shuffled
  u32 seed;              // of the shuffle
  u32 seconds;           // of CPU time, after which the run is stopped
  u32 flush_subnormals;  // of float arithmetic (the build does it for half)
};
struct Totals {
  u64 threads, threadgroups, switches;
  u64 threadgroup_barriers, simdgroup_barriers, simd_operations;
  u64 threadgroup_memory;  // most bytes one threadgroup declared
  u64 threadgroup_loads, threadgroup_bytes_read, threadgroup_stores, threadgroup_bytes_written;
  u64 waits;  // most of one simdgroup
};
struct BufferUse {
  u64 loads, bytes_issued, unique_bytes, lines;
  u64 stores, bytes_stored, unique_bytes_stored;
};
enum FindingKind : u32 { RACE = 1, UNINITIALISED, OUT_OF_BOUNDS, DIVERGENCE, UNDEFINED, LIMIT, UNWRITTEN };
struct Finding {
  u32 kind;
  u32 site;        // index into the build's table of source places; 0: not known
  u32 other_site;  // the second access of a race, or the place of other lanes
  u32 times;
  u32 line, column;  // set if a check of the compiler's named the place
  char file[128];
  char text[256];
};

enum FiberState : u8 { NEW, READY, AT_SIMD, AT_SIMDGROUP_BARRIER, AT_THREADGROUP_BARRIER, RETURNED };
struct Fiber {
  void* stack_pointer = nullptr;
  FiberState state = NEW;
  u32 site = 0;                     // where it waits
  const char* operation = nullptr;  // what it waits in
  u32 mem_flags = 0;
  emu_ids ids{};
};

static Options options;
static Totals totals;
static Finding findings[MAX_FINDINGS];
static u32 finding_count;
static Fiber fibers[MAX_THREADS];
static u32 thread_count;  // in the running threadgroup
static Fiber* running;
static bool failed;  // the run cannot go on
extern "C" unsigned emu_site;
unsigned emu_site;

static Finding* find_finding(u32 kind, u32 site, u32 other_site) {
  for (u32 i = 0; i < finding_count; i++) {
    Finding& f = findings[i];
    if (f.kind == kind && f.site == site && f.other_site == other_site && !f.file[0]) return &f;
  }
  return nullptr;
}

// Adds a finding. There is one per kind and place; it keeps the first text and counts repeats.
static Finding* report(u32 kind, u32 site, u32 other_site, const char* format, ...) {
  if (Finding* known = find_finding(kind, site, other_site)) {
    known->times++;
    return known;
  }
  if (finding_count == MAX_FINDINGS) return &findings[MAX_FINDINGS - 1];
  Finding* f = &findings[finding_count++];
  memset(f, 0, sizeof *f);
  f->kind = kind;
  f->site = site;
  f->other_site = other_site;
  f->times = 1;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(f->text, sizeof f->text, format, arguments);
  va_end(arguments);
  return f;
}

// Returns "thread 5 of threadgroup (1, 0, 0)". The text is valid until the call after the next.
static const char* who(const Fiber& fiber) {
  static char text[2][80];
  static u32 turn;
  turn ^= 1;
  const unsigned* g = fiber.ids.threadgroup_position_in_grid;
  snprintf(text[turn], sizeof text[turn], "thread %u of threadgroup (%u, %u, %u)",
           fiber.ids.thread_index_in_threadgroup[0], g[0], g[1], g[2]);
  return text[turn];
}

[[noreturn]] void stop_run();  // leaves the running fiber and ends the dispatch
