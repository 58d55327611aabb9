// The interface between a compiled kernel (run shim) and the runtime. Neither side includes anything else of the other.
// The kernel side has no C++ standard library, so only built-in types appear here.
#pragma once

// The position of one emulated thread, one field per Metal thread attribute, under Metal's own name.
struct emu_ids {
  unsigned dispatch_quadgroups_per_threadgroup[1];
  unsigned dispatch_simdgroups_per_threadgroup[1];
  unsigned dispatch_threads_per_threadgroup[3];
  unsigned grid_origin[3];
  unsigned grid_size[3];
  unsigned quadgroup_index_in_threadgroup[1];
  unsigned quadgroups_per_threadgroup[1];
  unsigned simdgroup_index_in_threadgroup[1];
  unsigned simdgroups_per_threadgroup[1];
  unsigned thread_execution_width[1];
  unsigned thread_index_in_quadgroup[1];
  unsigned thread_index_in_simdgroup[1];
  unsigned thread_index_in_threadgroup[1];
  unsigned thread_position_in_grid[3];
  unsigned thread_position_in_threadgroup[3];
  unsigned threadgroup_position_in_grid[3];
  unsigned threadgroups_per_grid[3];
  unsigned threads_per_grid[3];
  unsigned threads_per_simdgroup[1];
  unsigned threads_per_threadgroup[3];
};

// The values of one simd operation after all its lanes have arrived.
struct emu_lanes {
  unsigned active;    // bit per lane that takes part
  unsigned combined;  // whether `result` holds the reduction, which the first lane to resume computes for all
  alignas(16) unsigned char slot[32][16];
  alignas(16) unsigned char result[16];
};

extern "C" {
// The place of the running thread in the source. The build inserts a store to it before every call below (see
// sites.py).
extern unsigned emu_site;

const emu_ids* emu_self() noexcept;
// Leaves `size` bytes for the other lanes and waits for them. `convergent` and `nomerge` keep clang from moving the
// call across branches, because lanes may meet only at one place in the source.
__attribute__((convergent, nomerge)) emu_lanes* emu_simd(const void* value, unsigned size,
                                                         const char* operation) noexcept;
__attribute__((convergent, nomerge)) void emu_barrier(unsigned whole_threadgroup, unsigned mem_flags) noexcept;
void* emu_threadgroup_alloc(const void* key, unsigned long size, unsigned long align, const char* name) noexcept;
void emu_bad_lane(const char* operation, unsigned lane, unsigned active) noexcept;
void emu_bad_index(long index, int size) noexcept;

void emu_entry(void** buffers);  // defined by the kernel's translation unit
}
