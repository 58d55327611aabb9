// The memory a kernel can reach: buffers between unmapped gaps, and threadgroup memory in one arena. Shadow cells
// record the accesses to each byte, and each buffer has counters. Knows no scheduling.
#pragma once
#include <dlfcn.h>

#include "scheduler.h"

enum Access : u8 { READ, WRITE };
enum Writable : u32 { INPUT = 0, INITIALISED_OUTPUT = 1, FRESH_OUTPUT = 2 };

// Shadow cells: the last write to and the last reads of one byte.

enum Who : u8 { NOBODY, ONE_THREAD, ONE_SIMDGROUP, MANY };
struct Trace {
  u32 threadgroup = 0;  // serial
  u32 epoch = 0, simdgroup_epoch = 0;
  u32 site = 0;
  u16 thread = 0;  // one of those that made the access
  Who who = NOBODY;
  bool atomic = false;
};
struct Cell {
  Trace write, read;
};
struct Now {
  u32 epoch, simdgroup_epoch, site;
  u16 thread;
  bool atomic;
};

// Returns whether an earlier access and the present one may happen at the same time on a GPU.
static bool concurrent(const Trace& then, const Now& now, bool across_threadgroups) {
  if (then.who == NOBODY || (then.atomic && now.atomic)) return false;
  if (then.threadgroup != threadgroup_serial) return across_threadgroups;
  if (then.epoch != now.epoch) return false;
  if (then.who == ONE_THREAD && then.thread == now.thread) return false;
  bool same_simdgroup = then.who != MANY && then.thread / LANES == now.thread / LANES;
  return !(same_simdgroup && then.simdgroup_epoch != now.simdgroup_epoch);
}

static void remember(Trace& trace, Access access, const Now& now) {
  Who who = ONE_THREAD;
  if (access == READ && trace.who != NOBODY && trace.threadgroup == threadgroup_serial && trace.epoch == now.epoch &&
      !(trace.who == ONE_THREAD && trace.thread == now.thread)) {
    // Readers accumulate, except those of one simdgroup that a simdgroup barrier has ordered.
    if (trace.who == MANY || trace.thread / LANES != now.thread / LANES) {
      who = MANY;
    } else if (trace.simdgroup_epoch == now.simdgroup_epoch) {
      who = ONE_SIMDGROUP;
    }
  }
  trace = {threadgroup_serial, now.epoch, now.simdgroup_epoch, now.site, now.thread, who, now.atomic};
}

template <class T>
static T* map_zeroed(size_t count) {  // pages cost nothing until touched
  if (!count) count = 1;
  void* got = mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON | MAP_NORESERVE, -1, 0);
  if (got == MAP_FAILED) abort();
  return static_cast<T*>(got);
}


struct Buffer {
  u8 *begin, *end;
  u8* mapping;
  size_t mapped;
  u32 writable;
  Cell* cells;                  // of outputs, when checking
  u64 *was_read, *was_written;  // a bit per byte
};
static Buffer buffers[MAX_BUFFERS];
static BufferUse buffer_use[MAX_BUFFERS];
static u32 buffer_count;
constexpr size_t GAP = 1 << 20;

static void set_bits(u64* bits, size_t from, size_t n) {
  for (size_t i = from; i < from + n; i++) bits[i >> 6] |= 1ull << (i & 63);
}

static u64 count_bits(const u64* bits, size_t n) {
  u64 total = 0;
  for (size_t i = 0; i < (n + 63) / 64; i++) total += static_cast<u64>(__builtin_popcountll(bits[i]));
  return total;
}

static Buffer* buffer_at(const u8* address, size_t n) {
  static u32 last;
  if (last < buffer_count && address >= buffers[last].begin && address + n <= buffers[last].end) return &buffers[last];
  for (u32 i = 0; i < buffer_count; i++) {
    if (address >= buffers[i].begin && address + n <= buffers[i].end) {
      last = i;
      return &buffers[i];
    }
  }
  return nullptr;
}

static void report_wild_access(const char* verb, const u8* address, size_t n) {
  const Buffer* nearest = nullptr;
  u64 best = ~0ull;
  for (u32 i = 0; i < buffer_count; i++) {
    const Buffer& b = buffers[i];
    u64 distance = address < b.begin ? static_cast<u64>(b.begin - address) : static_cast<u64>(address - b.end);
    if (distance < best) best = distance, nearest = &b;
  }
  if (!nearest || best > GAP * 64) {
    report(OUT_OF_BOUNDS, emu_site, 0, "%s %zu bytes at %p, in no buffer at all, in %s", verb, n,
           static_cast<const void*>(address), who(*running));
    return;
  }
  report(OUT_OF_BOUNDS, emu_site, 0, "%s %zu bytes at offset %lld of buffer %d, which has %lld, in %s", verb, n,
         static_cast<long long>(address - nearest->begin), static_cast<int>(nearest - buffers),
         static_cast<long long>(nearest->end - nearest->begin), who(*running));
}


struct Variable {
  const void* key;
  const char* name;
  u8* begin;
  size_t size;
};
constexpr size_t ARENA = 256 * 1024, REDZONE = 64, MAX_VARIABLES = 64;
alignas(4096) static u8 arena[ARENA];
static Cell* arena_cells;
static Variable variables[MAX_VARIABLES];
static u32 variable_count;
static size_t arena_used;

static void clear_threadgroup_memory() {
  variable_count = 0;
  arena_used = REDZONE;
}

extern "C" void* emu_threadgroup_alloc(const void* key, unsigned long size, unsigned long align,
                                       const char* name) noexcept {
  for (u32 i = 0; i < variable_count; i++) {
    if (variables[i].key == key) return variables[i].begin;
  }
  u64 total = size;
  for (u32 i = 0; i < variable_count; i++) total += variables[i].size;
  totals.threadgroup_memory = larger(totals.threadgroup_memory, total);
  if (total > THREADGROUP_MEMORY_LIMIT || variable_count == MAX_VARIABLES) {
    report(LIMIT, emu_site, 0, "'%s' brings threadgroup memory to %llu bytes; %llu is the limit", name,
           static_cast<unsigned long long>(total), static_cast<unsigned long long>(THREADGROUP_MEMORY_LIMIT));
    stop_run();
  }
  size_t offset = (arena_used + align - 1) / align * align;
  arena_used = offset + size + REDZONE;
  variables[variable_count++] = {key, name, arena + offset, size};
  memset(arena + offset, 0xFF, size);  // a NaN in every float type
  return arena + offset;
}

// 128-byte lines.
//
// A request is one 128-byte line that one simdgroup touches in one execution of one load. The n-th executions of a load
// by the lanes of a simdgroup count as one execution.

struct LineGroup {
  u32 used;
  u64 lines[2 * LANES];
};
struct SiteLoads {
  u32 executions[LANES];
  u32 threadgroup;  // the one `executions` and `groups` belong to
  Array<LineGroup> groups;
};
static Array<SiteLoads> site_loads[MAX_SIMDGROUPS];  // by site

static void forget_lines() {
  for (Array<SiteLoads>& sites : site_loads) {
    for (u32 i = 0; i < sites.size; i++) free(sites[i].groups.items);
    free(sites.items);
    sites = {};
  }
}

static void count_lines(BufferUse& use, const u8* address, size_t n) {
  u32 lane = running->ids.thread_index_in_simdgroup[0];
  Array<SiteLoads>& sites = site_loads[running->ids.simdgroup_index_in_threadgroup[0]];
  if (emu_site >= sites.size) sites.resize(emu_site + 64);
  SiteLoads& loads = sites[emu_site];
  if (loads.threadgroup != threadgroup_serial) {
    loads.threadgroup = threadgroup_serial;
    memset(loads.executions, 0, sizeof loads.executions);
    for (u32 i = 0; i < loads.groups.size; i++) loads.groups[i].used = 0;
  }
  u32 execution = loads.executions[lane]++;
  if (execution >= loads.groups.size) loads.groups.resize(execution + 1);
  LineGroup& group = loads.groups[execution];
  u64 from = reinterpret_cast<u64>(address) / 128, to = (reinterpret_cast<u64>(address) + n - 1) / 128;
  for (u64 line = from; line <= to; line++) {
    bool known = false;
    for (u32 i = 0; i < group.used && !known; i++) known = group.lines[i] == line;
    if (known) continue;
    if (group.used < 2 * LANES) group.lines[group.used++] = line;
    use.lines++;
  }
}


static void check_cells(Cell* cells, size_t n, Access access, const Now& now, bool across_threadgroups,
                        const char* what, size_t offset) {
  for (size_t i = 0; i < n; i++) {
    Cell& cell = cells[i];
    bool after_write = concurrent(cell.write, now, across_threadgroups);
    bool after_read = access == WRITE && concurrent(cell.read, now, across_threadgroups);
    if (after_write || after_read) {
      const Trace& then = after_write ? cell.write : cell.read;
      report(RACE, now.site, then.site, "%s byte %zu: %s by %s and %s by thread %u%s, with nothing between them", what,
             offset + i, access == WRITE ? "write" : "read", who(*running), after_write ? "write" : "read", then.thread,
             then.threadgroup == threadgroup_serial ? "" : " of another threadgroup");
    }
    remember(access == WRITE ? cell.write : cell.read, access, now);
    if (after_write || after_read) {  // one report per access; its other bytes are recorded
      for (size_t k = i + 1; k < n; k++) remember(access == WRITE ? cells[k].write : cells[k].read, access, now);
      return;
    }
  }
}

static void access_threadgroup(u8* address, size_t n, Access access, bool atomic) {
  (access == WRITE ? totals.threadgroup_stores : totals.threadgroup_loads)++;
  (access == WRITE ? totals.threadgroup_bytes_written : totals.threadgroup_bytes_read) += n;
  const Variable* variable = nullptr;
  for (u32 i = 0; i < variable_count && !variable; i++) {
    const Variable& v = variables[i];
    if (address >= v.begin && address + n <= v.begin + v.size) variable = &v;
  }
  if (!variable) {
    const Variable* below = &variables[0];
    for (u32 i = 0; i < variable_count; i++) {
      if (variables[i].begin <= address) below = &variables[i];
    }
    report(OUT_OF_BOUNDS, emu_site, 0, "%s %zu bytes at offset %lld of threadgroup '%s', which has %zu, in %s",
           access == WRITE ? "writes" : "reads", n, static_cast<long long>(address - below->begin), below->name,
           below->size, who(*running));
    stop_run();
  }
  if (!options.check) return;
  Cell* cells = arena_cells + (address - arena);
  size_t offset = static_cast<size_t>(address - variable->begin);
  if (access == READ) {
    for (size_t i = 0; i < n; i++) {
      if (cells[i].write.threadgroup == threadgroup_serial) continue;
      report(UNINITIALISED, emu_site, 0, "reads threadgroup '%s' byte %zu before any thread wrote it, in %s",
             variable->name, offset + i, who(*running));
      break;
    }
  }
  const Simdgroup& group = simdgroups[running->ids.simdgroup_index_in_threadgroup[0]];
  Now now = {threadgroup_epoch[0], group.epoch[0], emu_site,
             static_cast<u16>(running->ids.thread_index_in_threadgroup[0]), atomic};
  check_cells(cells, n, access, now, false, variable->name, offset);
}

static void access_device(Buffer& buffer, u8* address, size_t n, Access access, bool atomic) {
  u32 index = static_cast<u32>(&buffer - buffers);
  BufferUse& use = buffer_use[index];
  size_t offset = static_cast<size_t>(address - buffer.begin);
  if (access == WRITE) {
    if (buffer.writable == INPUT) {
      report(OUT_OF_BOUNDS, emu_site, 0, "writes to input buffer %u, in %s", index, who(*running));
      stop_run();
    }
    use.stores++;
    use.bytes_stored += n;
    set_bits(buffer.was_written, offset, n);
  } else {
    use.loads++;
    use.bytes_issued += n;
    simdgroups[running->ids.simdgroup_index_in_threadgroup[0]].loaded = true;
    set_bits(buffer.was_read, offset, n);
    if (options.count_lines) count_lines(use, address, n);
  }
  if (!buffer.cells) return;
  Cell* cells = buffer.cells + offset;
  if (access == READ && buffer.writable == FRESH_OUTPUT) {
    for (size_t i = 0; i < n; i++) {
      if (cells[i].write.who != NOBODY) continue;
      report(UNINITIALISED, emu_site, 0, "reads output buffer %u byte %zu before any thread wrote it, in %s", index,
             offset + i, who(*running));
      break;
    }
  }
  const Simdgroup& group = simdgroups[running->ids.simdgroup_index_in_threadgroup[0]];
  Now now = {threadgroup_epoch[1], group.epoch[1], emu_site,
             static_cast<u16>(running->ids.thread_index_in_threadgroup[0]), atomic};
  char what[24];
  snprintf(what, sizeof what, "buffer %u", index);
  check_cells(cells, n, access, now, true, what, offset);
}

// Returns whether an address is in this library: in a constant table of the kernel, or in its arguments. The question
// is slow, so the known range is kept.
static bool in_own_image(u8* address) {
  static u8 *begin, *end;
  if (address >= begin && address < end) return true;
  Dl_info own, other;
  if (!dladdr(&arena, &own) || !dladdr(address, &other) || own.dli_fbase != other.dli_fbase) return false;
  begin = static_cast<u8*>(own.dli_fbase);
  end = larger(end, address + 1);
  return true;
}

static void access_memory(const volatile void* pointer, size_t n, Access access, bool atomic) {
  u8* address = static_cast<u8*>(const_cast<void*>(pointer));
  u8* stack = reinterpret_cast<u8*>(stack_bottom(static_cast<u32>(running - fibers)));
  if (address >= stack && address < stack + STACK) return;
  if (address >= arena && address < arena + ARENA) return access_threadgroup(address, n, access, atomic);
  if (Buffer* buffer = buffer_at(address, n)) return access_device(*buffer, address, n, access, atomic);
  if (in_own_image(address)) return;
  report_wild_access(access == WRITE ? "writes" : "reads", address, n);
  stop_run();
}
