// The threads that share an operation's tasks. Knows no operation.
//
// A task writes only what is its own and its result does not depend on the thread, so results are bit-equal whatever the
// number of threads. Idle threads spin for as long as Python takes between two operations, then sleep.
#pragma once

// A buffer that is kept and grows. Its contents do not outlive the operation.
struct Arena {
    char* base = nullptr;
    size_t size = 0;

    // Returns at least `bytes` bytes, aligned to a page, or null.
    void* reserve(size_t bytes) {
        if (bytes <= size) return base;
        free(base);
        size = (bytes + bytes / 4 + 4095) & ~size_t(4095);
        base = static_cast<char*>(aligned_alloc(4096, size));
        if (!base) size = 0;
        return base;
    }
};

class Threads {
public:
    static constexpr int MOST = 256;
    typedef void (*Task)(void* context, long task, int thread);

    Arena shared;     // for what several tasks read
    Arena own[MOST];  // for one thread each
    pthread_mutex_t operation = PTHREAD_MUTEX_INITIALIZER;  // one at a time: Python's threads may call at once

    // Sets how many threads work, the caller's included. Threads already started stay, idle.
    void resize(int count) { __atomic_store_n(&wanted, count < 1 ? 1 : count > MOST ? MOST : count, __ATOMIC_RELAXED); }
    int count() const { return wanted; }

    // Makes room for every thread. Returns false without memory.
    bool reserve(size_t bytes_each) {
        for (int i = 0; i < wanted; ++i)
            if (!own[i].reserve(bytes_each)) return false;
        return true;
    }

    // Runs tasks 0 to count - 1 and returns when all are done.
    void run(long count, bool alone, Task task, void* context) {
        current = task, argument = context, tasks = count;
        __atomic_store_n(&next, 0, __ATOMIC_RELAXED);
        if (alone || count < 2 || !start()) return work(0);
        const uint64_t number = (__atomic_load_n(&state, __ATOMIC_RELAXED) >> SHIFT) + 1;
        __atomic_store_n(&state, number << SHIFT | OPEN, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&sleepers, __ATOMIC_SEQ_CST)) {
            pthread_mutex_lock(&lock);
            pthread_cond_broadcast(&woken);
            pthread_mutex_unlock(&lock);
        }
        work(0);
        __atomic_fetch_and(&state, ~OPEN, __ATOMIC_ACQ_REL);
        while (__atomic_load_n(&state, __ATOMIC_ACQUIRE) & INSIDE) pause();
    }

    // A forked child has none of the threads, and may have been forked inside an operation of another thread, where a buffer
    // had been freed and not yet replaced.
    void forget() {
        started = 1, state = 0, sleepers = 0;
        shared = Arena();
        for (Arena& each : own) each = Arena();
        pthread_mutex_init(&lock, nullptr);
        pthread_mutex_init(&operation, nullptr);
        pthread_cond_init(&woken, nullptr);
    }

private:
    // `state` holds the number of the run, whether helpers may still join it, and how many are inside.
    static constexpr int SHIFT = 17, SPINS = 4000;  // of some 40 ns: longer than Python needs between two operations
    static constexpr uint64_t OPEN = 1 << 16, INSIDE = OPEN - 1;

    int wanted = 1, started = 1, sleepers = 0;  // the caller is the first thread
    Task current = nullptr;
    void* argument = nullptr;
    long tasks = 0, next = 0;
    uint64_t state = 0;
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t woken = PTHREAD_COND_INITIALIZER;
    struct Start {
        Threads* threads;
        int number;
    } starts[MOST];

    static void pause() {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        asm volatile("yield");
#endif
    }

    // Starts the threads that are wanted, and returns whether any can help.
    bool start() {
        for (pthread_t thread; started < wanted; ++started) {
            starts[started] = {this, started};
            if (pthread_create(&thread, nullptr, loop, &starts[started])) break;
            pthread_detach(thread);
        }
        return started > 1 && wanted > 1;
    }

    void work(int thread) {
        for (long i; (i = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED)) < tasks;) current(argument, i, thread);
    }

    static bool is_new(uint64_t now, uint64_t seen) { return (now & OPEN) && now >> SHIFT != seen; }

    static void* loop(void* start) {
        Threads& self = *static_cast<Start*>(start)->threads;
        const int number = static_cast<Start*>(start)->number;
        for (uint64_t seen = 0, now;;) {
            for (int spins = 0; !is_new(now = __atomic_load_n(&self.state, __ATOMIC_ACQUIRE), seen) && spins < SPINS; ++spins) pause();
            if (!is_new(now, seen)) {
                pthread_mutex_lock(&self.lock);
                __atomic_fetch_add(&self.sleepers, 1, __ATOMIC_SEQ_CST);
                while (!is_new(now = __atomic_load_n(&self.state, __ATOMIC_SEQ_CST), seen)) pthread_cond_wait(&self.woken, &self.lock);
                __atomic_fetch_sub(&self.sleepers, 1, __ATOMIC_SEQ_CST);
                pthread_mutex_unlock(&self.lock);
            }
            // Another may join at the same moment, or the run may be over. Then look again.
            const bool wanted = number < __atomic_load_n(&self.wanted, __ATOMIC_RELAXED);
            if (wanted && !__atomic_compare_exchange_n(&self.state, &now, now + 1, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) continue;
            seen = now >> SHIFT;
            if (!wanted) continue;
            self.work(number);
            __atomic_fetch_sub(&self.state, 1, __ATOMIC_ACQ_REL);
        }
        return nullptr;
    }
};

extern Threads threads;

// Holds the threads for one operation.
struct Operation {
    Operation() { pthread_mutex_lock(&threads.operation); }
    ~Operation() { pthread_mutex_unlock(&threads.operation); }
};

// Calls task(i, thread) for each of `count`, on this thread alone where `work` multiplications do not pay for waking others.
template <class F>
void parallel(long count, double work, const F& task) {
    constexpr double PAYS = 3e5;
    const auto call = [](void* context, long i, int thread) { (*static_cast<const F*>(context))(i, thread); };
    threads.run(count, work < PAYS, call, const_cast<F*>(&task));
}
