// Runs the threads of one threadgroup as fibers and lets them meet at simd operations, simdgroup barriers and
// threadgroup barriers. Lanes meet only if all are at the same place in the source. This is stricter than Metal's
// hardware, and it makes divergence visible.
#pragma once
#include <sys/mman.h>

#include "fiber.h"
#include "state.h"

// Epochs order accesses: a barrier that fences an address space ends its epoch. [0] is threadgroup memory, [1] device.
struct Simdgroup {
  emu_lanes lanes[2];  // the meeting that is filled and the one that is read, in turn
  u32 filling = 0;
  u32 epoch[2] = {1, 1};
  bool loaded = false;  // from a buffer, since its lanes last met
  u32 waits = 0;        // meetings of its lanes, or their end, with loads before them
};
static Simdgroup simdgroups[MAX_SIMDGROUPS];
static u32 threadgroup_epoch[2];
static u32 threadgroup_serial;  // counts threadgroups over the run, from 1

constexpr size_t STACK = 256 * 1024, STACK_GUARD = 16384;
static char* stacks;  // one per thread of a threadgroup, each with a guard below
static void* scheduler_stack_pointer;
static void** entry_buffers;

static char* stack_bottom(u32 thread) { return stacks + thread * (STACK + STACK_GUARD) + STACK_GUARD; }

// They are made for one run, because a process may have 65,530 mappings on Linux and each guard makes two.
static void map_stacks(u32 count) {
  size_t size = count * (STACK + STACK_GUARD);
  void* got = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON | MAP_NORESERVE, -1, 0);
  if (got == MAP_FAILED) abort();
  stacks = static_cast<char*>(got);
  for (u32 i = 0; i < count; i++) mprotect(stack_bottom(i) - STACK_GUARD, STACK_GUARD, PROT_NONE);
}

static void yield_to_scheduler() { emu_switch(&running->stack_pointer, scheduler_stack_pointer); }

void stop_run() {
  failed = true;
  running->state = RETURNED;
  yield_to_scheduler();
  abort();
}

static void fiber_main() {
  emu_entry(entry_buffers);
  running->state = RETURNED;
  yield_to_scheduler();
  abort();
}

static void resume(Fiber& fiber) {
  running = &fiber;
  totals.switches++;
  if (fiber.state == NEW) {
    u32 thread = static_cast<u32>(&fiber - fibers);
    fiber.stack_pointer = fiber_prepare(stack_bottom(thread) + STACK, fiber_main);
    fiber.state = READY;
  }
  emu_switch(&scheduler_stack_pointer, fiber.stack_pointer);
}

extern "C" {
const emu_ids* emu_self() noexcept { return &running->ids; }

emu_lanes* emu_simd(const void* value, unsigned size, const char* operation) noexcept {
  Fiber& fiber = *running;
  Simdgroup& group = simdgroups[fiber.ids.simdgroup_index_in_threadgroup[0]];
  memcpy(group.lanes[group.filling].slot[fiber.ids.thread_index_in_simdgroup[0]], value, size);
  fiber.state = AT_SIMD;
  fiber.site = emu_site;
  fiber.operation = operation;
  yield_to_scheduler();
  return &group.lanes[group.filling ^ 1];
}

void emu_barrier(unsigned whole_threadgroup, unsigned mem_flags) noexcept {
  Fiber& fiber = *running;
  fiber.state = whole_threadgroup ? AT_THREADGROUP_BARRIER : AT_SIMDGROUP_BARRIER;
  fiber.site = emu_site;
  fiber.operation = whole_threadgroup ? "threadgroup_barrier" : "simdgroup_barrier";
  fiber.mem_flags = mem_flags;
  yield_to_scheduler();
}

void emu_bad_lane(const char* operation, unsigned lane, unsigned active) noexcept {
  report(DIVERGENCE, emu_site, 0, "%s reads lane %d, which takes no part (active lanes %08x), in %s", operation,
         static_cast<int>(lane), active, who(*running));
}

void emu_bad_index(long index, int size) noexcept {
  report(OUT_OF_BOUNDS, emu_site, 0, "index %ld into a vector of %d, in %s", index, size, who(*running));
  stop_run();
}
}

// Called when all lanes of a simdgroup are blocked. Lets them pass if all are at one simd operation or simdgroup
// barrier.
static bool release_simdgroup(u32 group, u32 first, u32 end) {
  u32 live = 0, here = 0;
  const Fiber *leader = nullptr, *stray = nullptr;
  for (u32 i = first; i < end; i++) {
    Fiber& f = fibers[i];
    if (f.state == RETURNED) continue;
    live |= 1u << (i - first);
    if (f.state == AT_THREADGROUP_BARRIER) continue;
    if (!leader) leader = &f;
    if (f.site == leader->site && f.operation == leader->operation) {
      here |= 1u << (i - first);
    } else {
      stray = &f;
    }
  }
  if (!leader) return false;
  if (here != live) {
    for (u32 i = first; i < end && !stray; i++) {
      if (fibers[i].state == AT_THREADGROUP_BARRIER) stray = &fibers[i];
    }
    report(DIVERGENCE, leader->site, stray->site,
           "%s is reached by lanes %08x of the live %08x; others wait in %s. Simdgroup %u, %s", leader->operation, here,
           live, stray->operation, group, who(*leader));
    failed = true;
    return false;
  }
  Simdgroup& s = simdgroups[group];
  if (leader->state == AT_SIMD) {
    totals.simd_operations++;
    s.lanes[s.filling].active = here;
    s.lanes[s.filling].combined = 0;
    s.filling ^= 1;
  } else {
    totals.simdgroup_barriers++;
    if (leader->mem_flags & MEM_THREADGROUP) s.epoch[0]++;
    if (leader->mem_flags & MEM_DEVICE) s.epoch[1]++;
  }
  for (u32 i = first; i < end; i++) {
    if (fibers[i].state != RETURNED) fibers[i].state = READY;
  }
  return true;
}

// Called when every simdgroup is blocked or has returned. Lets all threads pass if they are at one threadgroup barrier.
// Returns false if the threadgroup has finished or cannot continue.
static bool release_threadgroup(u32 simdgroup_count) {
  u32 returned = 0;
  const Fiber *leader = nullptr, *stray = nullptr;
  for (u32 i = 0; i < thread_count; i++) {
    const Fiber& f = fibers[i];
    if (f.state == RETURNED) {
      returned++;
    } else if (!leader) {
      leader = &f;
    } else if (f.site != leader->site) {
      stray = &f;
    }
  }
  if (!leader) return false;
  if (returned) {
    report(DIVERGENCE, leader->site, 0, "threadgroup_barrier is reached by %u of %u threads; the others returned",
           thread_count - returned, thread_count);
    failed = true;
    return false;
  }
  if (stray) {
    report(DIVERGENCE, leader->site, stray->site, "threads wait at different threadgroup barriers: %s here",
           who(*leader));
    failed = true;
    return false;
  }
  totals.threadgroup_barriers++;
  for (u32 space = 0; space < 2; space++) {
    if (!(leader->mem_flags & (space ? MEM_DEVICE : MEM_THREADGROUP))) continue;
    threadgroup_epoch[space]++;
    for (u32 g = 0; g < simdgroup_count; g++) simdgroups[g].epoch[space]++;
  }
  for (u32 i = 0; i < thread_count; i++) fibers[i].state = READY;
  return true;
}

static u32 random_state;
static u32 next_random() {  // xorshift
  random_state ^= random_state << 13;
  random_state ^= random_state >> 17;
  random_state ^= random_state << 5;
  return random_state;
}

// Fills in 0..n-1 in the order of the run's options.
static void fill_order(Array<u32>& order, u32 n) {
  order.resize(n);
  for (u32 i = 0; i < n; i++) order[i] = options.order == 1 ? n - 1 - i : i;
  if (options.order == 2) {
    for (u32 i = n; i > 1; i--) {
      u32 other = next_random() % i, kept = order[i - 1];
      order[i - 1] = order[other];
      order[other] = kept;
    }
  }
}

// Runs the threads in `fibers` until all have returned.
static bool run_threads() {
  static Array<u32> group_order, lane_order;
  u32 simdgroup_count = (thread_count + LANES - 1) / LANES;
  threadgroup_serial++;
  for (u32 space = 0; space < 2; space++) {
    threadgroup_epoch[space]++;
    for (u32 g = 0; g < simdgroup_count; g++) simdgroups[g].epoch[space]++;
  }
  for (u32 g = 0; g < simdgroup_count; g++) simdgroups[g].waits = 0;
  do {
    fill_order(group_order, simdgroup_count);
    for (u32 turn = 0; turn < simdgroup_count; turn++) {
      u32 group = group_order[turn];
      u32 first = group * LANES, end = smaller(thread_count, first + LANES);
      do {
        fill_order(lane_order, end - first);
        for (u32 i = 0; i < end - first; i++) {
          Fiber& f = fibers[first + lane_order[i]];
          if (f.state != NEW && f.state != READY) continue;
          resume(f);
          if (failed) return false;
        }
        Simdgroup& s = simdgroups[group];
        totals.waits = larger(totals.waits, u64(s.waits += s.loaded));
        s.loaded = false;
      } while (release_simdgroup(group, first, end));
      if (failed) return false;
    }
  } while (release_threadgroup(simdgroup_count));
  return !failed;
}
