// Runs a dispatch: lays out the buffers, runs one threadgroup after another, returns outputs, findings and totals. It
// is compiled without instrumentation and linked into every kernel's library.
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "hooks.h"

// Marks of the basic blocks that were entered, in cover mode. cover.py inserts the stores.
constexpr u32 MAX_BLOCKS = 65536;
extern "C" {
extern u8 emu_reached[MAX_BLOCKS];
u8 emu_reached[MAX_BLOCKS];
}

static sigjmp_buf after_fault;

// Handles an access to an unmapped gap, which is how fast mode finds one past a buffer. Names the buffer, not the
// place.
static void on_fault(int, siginfo_t* info, void*) {
  if (!running) _exit(139);
  emu_site = 0;
  const u8* address = static_cast<const u8*>(info->si_addr);
  const u8* stack = reinterpret_cast<const u8*>(stack_bottom(static_cast<u32>(running - fibers)));
  if (address < stack && address >= stack - STACK_GUARD) {
    report(LIMIT, 0, 0, "the private memory of a thread exceeds %zu bytes, in %s", STACK, who(*running));
  } else if (!address) {  // as x86 reports a misaligned vector
    report(UNDEFINED, 0, 0, "misaligned vector access, or a null or wild pointer, in %s", who(*running));
  } else {
    report_wild_access("touches", address, 1);
  }
  failed = true;
  siglongjmp(after_fault, 1);
}

static pthread_t runner;

// Handles a run that does not end. The signal may reach any thread of the process, but only the runner can leave the
// run.
static void on_timeout(int signal) {
  if (!pthread_equal(pthread_self(), runner)) {
    pthread_kill(runner, signal);
    return;
  }
  report(LIMIT, emu_site, 0, "still running after %u seconds; last seen here", options.seconds);
  failed = true;
  siglongjmp(after_fault, 1);
}

// Puts every buffer between two gaps, its end close to one.
static void lay_out(Buffer& buffer, const void* data, size_t n, u32 writable, bool hooked) {
  constexpr size_t PAGE = 16384;  // of Apple silicon, a multiple of other machines'
  // It is aligned to a line where lines are counted. Otherwise it is as close to the gap as a vector's alignment
  // allows.
  size_t align = hooked ? 128 : 16;
  size_t body = (n + align + PAGE - 1) / PAGE * PAGE;
  buffer.mapped = body + 2 * GAP;
  void* got = mmap(nullptr, buffer.mapped, PROT_NONE, MAP_PRIVATE | MAP_ANON | MAP_NORESERVE, -1, 0);
  if (got == MAP_FAILED) abort();
  buffer.mapping = static_cast<u8*>(got);
  mprotect(buffer.mapping + GAP, body, PROT_READ | PROT_WRITE);
  buffer.begin = buffer.mapping + GAP + (body - n) / align * align;
  buffer.end = buffer.begin + n;
  buffer.writable = writable;
  if (writable == FRESH_OUTPUT) {
    memset(buffer.begin, 0xFF, n);
  } else {
    memcpy(buffer.begin, data, n);
    if (writable == INPUT && !hooked) mprotect(buffer.mapping + GAP, body, PROT_READ);
  }
  buffer.cells = writable != INPUT && options.check ? map_zeroed<Cell>(n) : nullptr;
  buffer.was_read = hooked ? map_zeroed<u64>(n / 64 + 1) : nullptr;
  buffer.was_written = hooked ? map_zeroed<u64>(n / 64 + 1) : nullptr;
}

static void put_away(Buffer& buffer, BufferUse& use, void* data) {
  size_t n = static_cast<size_t>(buffer.end - buffer.begin);
  if (buffer.writable != INPUT) memcpy(data, buffer.begin, n);
  if (buffer.was_read) {
    use.unique_bytes = count_bits(buffer.was_read, n);
    use.unique_bytes_stored = count_bits(buffer.was_written, n);
    munmap(buffer.was_read, (n / 64 + 1) * sizeof(u64));
    munmap(buffer.was_written, (n / 64 + 1) * sizeof(u64));
  }
  if (buffer.cells) munmap(buffer.cells, (n ? n : 1) * sizeof(Cell));
  munmap(buffer.mapping, buffer.mapped);
}

static void set3(unsigned* to, const u32* from) { memcpy(to, from, 3 * sizeof *to); }

// Sets up the threads of the threadgroup at `at`. At the edge of the grid it may be smaller than others.
static void place_threads(const u32* at, const u32* groups, const u32* grid, const u32* threadgroup) {
  u32 size[3];
  for (u32 k = 0; k < 3; k++) size[k] = smaller(threadgroup[k], grid[k] - at[k] * threadgroup[k]);
  thread_count = size[0] * size[1] * size[2];
  u32 asked = threadgroup[0] * threadgroup[1] * threadgroup[2];
  for (u32 i = 0; i < thread_count; i++) {
    Fiber& fiber = fibers[i];
    fiber.state = NEW;
    emu_ids& ids = fiber.ids;
    const u32 in_threadgroup[3] = {i % size[0], i / size[0] % size[1], i / (size[0] * size[1])};
    set3(ids.thread_position_in_threadgroup, in_threadgroup);
    for (u32 k = 0; k < 3; k++) ids.thread_position_in_grid[k] = at[k] * threadgroup[k] + in_threadgroup[k];
    set3(ids.threadgroup_position_in_grid, at);
    set3(ids.threadgroups_per_grid, groups);
    set3(ids.threads_per_grid, grid);
    set3(ids.grid_size, grid);
    ids.grid_origin[0] = ids.grid_origin[1] = ids.grid_origin[2] = 0;
    set3(ids.threads_per_threadgroup, size);
    set3(ids.dispatch_threads_per_threadgroup, threadgroup);
    ids.thread_index_in_threadgroup[0] = i;
    ids.thread_index_in_simdgroup[0] = i % LANES;
    ids.simdgroup_index_in_threadgroup[0] = i / LANES;
    ids.simdgroups_per_threadgroup[0] = (thread_count + LANES - 1) / LANES;
    ids.dispatch_simdgroups_per_threadgroup[0] = (asked + LANES - 1) / LANES;
    ids.thread_execution_width[0] = ids.threads_per_simdgroup[0] = LANES;
    ids.thread_index_in_quadgroup[0] = i % 4;
    ids.quadgroup_index_in_threadgroup[0] = i / 4;
    ids.quadgroups_per_threadgroup[0] = (thread_count + 3) / 4;
    ids.dispatch_quadgroups_per_threadgroup[0] = (asked + 3) / 4;
  }
}

static void run_grid(const u32* grid, const u32* threadgroup) {
  u32 groups[3];
  for (u32 k = 0; k < 3; k++) groups[k] = (grid[k] + threadgroup[k] - 1) / threadgroup[k];
  static Array<u32> order;
  fill_order(order, groups[0] * groups[1] * groups[2]);
  for (u32 turn = 0; turn < order.size; turn++) {
    u32 index = order[turn];
    const u32 at[3] = {index % groups[0], index / groups[0] % groups[1], index / (groups[0] * groups[1])};
    place_threads(at, groups, grid, threadgroup);
    totals.threads += thread_count;
    totals.threadgroups++;
    clear_threadgroup_memory();
    if (!run_threads()) return;
  }
}

// Reports bytes of a fresh output that no thread wrote, and values that came from a variable that was never set. In MLX
// the former hold what the allocator left. The build and the arena fill unset variables with a pattern: in floating
// point a NaN of all ones, whose upper bits arithmetic and conversions keep; 0xAA in integers.
static void judge_output(const Buffer& buffer, u32 index, const Argument& argument) {
  size_t unwritten = 0, first_unwritten = 0;
  for (size_t i = argument.size; i-- > 0;) {
    if (buffer.cells[i].write.who != NOBODY) continue;
    unwritten++;
    first_unwritten = i;
  }
  if (unwritten) {
    report(UNWRITTEN, 0, 0, "%zu of the %zu bytes of output buffer %u are never written, from byte %zu on", unwritten,
           static_cast<size_t>(argument.size), index, first_unwritten);
  }
  if (!argument.unset_mask) return;
  for (size_t i = 0; i + argument.element_size <= argument.size; i += argument.element_size) {
    if (buffer.cells[i].write.who == NOBODY) continue;
    u64 element = 0;
    memcpy(&element, buffer.begin + i, argument.element_size);
    if ((element & argument.unset_mask) != argument.unset) continue;
    report(UNINITIALISED, buffer.cells[i].write.site, 0,
           "output buffer %u byte %zu gets a value that came from memory nobody set", index, i);
  }
}

extern "C" {
// Returns 0, or 1 if the run could not be finished. Findings are in `found` either way.
int emu_run(const u32* grid, const u32* threadgroup, const Argument* arguments, u32 count, u32 hooked,
            const Options* wanted, Totals* total, BufferUse* use, Finding* found, u32* found_count) {
  options = *wanted;
  totals = {};
  finding_count = 0;
  failed = false;
  running = nullptr;
  random_state = options.seed ? options.seed : 1;
  buffer_count = count;
  memset(buffer_use, 0, sizeof buffer_use);
  forget_lines();
  memset(emu_reached, 0, sizeof emu_reached);
  u32 stack_count = threadgroup[0] * threadgroup[1] * threadgroup[2];
  map_stacks(stack_count);
  if (!arena_cells) arena_cells = map_zeroed<Cell>(ARENA);
  static void* entry[MAX_BUFFERS];
  for (u32 i = 0; i < count; i++) {
    lay_out(buffers[i], arguments[i].data, arguments[i].size, arguments[i].writable, hooked);
    entry[i] = buffers[i].begin;
  }
  entry_buffers = entry;

  static char signal_stack[64 * 1024];
  stack_t alternative = {}, previous_stack = {};
  alternative.ss_sp = signal_stack;
  alternative.ss_size = sizeof signal_stack;
  struct sigaction action = {}, previous_segv = {}, previous_bus = {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaltstack(&alternative, &previous_stack);
  sigaction(SIGSEGV, &action, &previous_segv);
  sigaction(SIGBUS, &action, &previous_bus);
#if defined(__x86_64__)
  u32 float_mode = _mm_getcsr();
  if (options.flush_subnormals) _mm_setcsr(float_mode | 0x8040);  // flush to zero, denormals are zero
#elif defined(__aarch64__)
  u64 float_mode;
  asm volatile("mrs %0, fpcr" : "=r"(float_mode));
  if (options.flush_subnormals) asm volatile("msr fpcr, %0" : : "r"(float_mode | (1ull << 24)));
#endif
  struct sigaction timeout = {}, previous_timeout = {};
  timeout.sa_handler = on_timeout;
  timeout.sa_flags = SA_ONSTACK;
  runner = pthread_self();
  sigaction(SIGVTALRM, &timeout, &previous_timeout);
  struct itimerval limit = {}, previous_limit = {};
  limit.it_value.tv_sec = options.seconds;
  setitimer(ITIMER_VIRTUAL, &limit, &previous_limit);
  if (!sigsetjmp(after_fault, 1)) run_grid(grid, threadgroup);
  setitimer(ITIMER_VIRTUAL, &previous_limit, nullptr);
  sigaction(SIGVTALRM, &previous_timeout, nullptr);
#if defined(__x86_64__)
  _mm_setcsr(float_mode);
#elif defined(__aarch64__)
  asm volatile("msr fpcr, %0" : : "r"(float_mode));
#endif
  sigaction(SIGSEGV, &previous_segv, nullptr);
  sigaction(SIGBUS, &previous_bus, nullptr);
  sigaltstack(&previous_stack, nullptr);
  running = nullptr;
  munmap(stacks, stack_count * (STACK + STACK_GUARD));

  for (u32 i = 0; i < count; i++) {
    if (buffers[i].cells && arguments[i].writable == FRESH_OUTPUT && !failed) judge_output(buffers[i], i, arguments[i]);
    put_away(buffers[i], buffer_use[i], arguments[i].data);
    use[i] = buffer_use[i];
  }
  *total = totals;
  *found_count = finding_count;
  memcpy(found, findings, finding_count * sizeof(Finding));
  return failed;
}
}
