// CUDA C++ on a CPU, for tests: every CUDA thread is a fiber on one OS thread, and a seed chooses the order of the fibers.
//
// A fiber runs until it waits (barrier, shuffle, spin) or until an atomic or a fence lets another one go first. Several
// blocks are resident and take turns in bursts of random length; a block that comes out of an atomic may have to wait
// until all others have nothing left to do. So a read that should have waited for another thread or block happens
// too early in most orders, every time in the same way for the same seed. Seed 0 is the plain order: for a debugger.
//
// What the shim refuses, by a sentence: a barrier or a shuffle that only some threads reach, an endless wait, an access
// to an address that does not exist, a division by zero, a stack that is too small. Static shared variables are
// thread-local ones of the library, so that they lie together; a block's are copied in and out when blocks take turns.
#pragma once
#include <link.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

// Words of CUDA

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static __thread
#define DYNAMIC_SHARED(type, name) type* name = (type*)shim::block->dynamic
#define SPIN() shim::spin()

struct uint3 { unsigned x, y, z; };
typedef uint3 dim3;
struct __align__(8) float2 { float x, y; };
struct __align__(16) float4 { float x, y, z, w; };
struct __align__(8) int2 { int x, y; };
struct __align__(16) int4 { int x, y, z, w; };
struct __align__(8) uint2 { unsigned x, y; };
struct __align__(16) uint4 { unsigned x, y, z, w; };
struct __align__(16) double2 { double x, y; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

uint3 threadIdx, blockIdx, blockDim, gridDim;
constexpr int warpSize = 32;

namespace shim {

typedef unsigned long long u64;
constexpr size_t STACK = 64 << 10;
constexpr u64 CANARY = 0x5afe57acc0ffee00;

// Context switches: callee-saved registers on the own stack, no system call. Elsewhere ucontext.

#if defined(__x86_64__)
typedef void* Context;  // a stack pointer
extern "C" void shim_switch(Context* from, Context* to) __attribute__((visibility("hidden")));
asm(R"(
.text
.globl shim_switch
.hidden shim_switch
.type shim_switch, @function
shim_switch:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov (%rsi), %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
)");
inline void prepare(Context* context, char* stack, void (*start)()) {
    void** top = (void**)(stack + STACK) - 2;
    *top = (void*)start;
    *context = top - 6;
}
#else
typedef ucontext_t Context;
inline void shim_switch(Context* from, Context* to) { swapcontext(from, to); }
inline void prepare(Context* context, char* stack, void (*start)()) {
    getcontext(context);
    context->uc_stack.ss_sp = stack;
    context->uc_stack.ss_size = STACK;
    context->uc_link = nullptr;
    makecontext(context, start, 0);
}
#endif

enum State { READY, BARRIER, WARP, ENDED };
enum Kind { SHUFFLE, BALLOT, ALL, ANY, SYNC };

struct Fiber {
    Context context;
    char* stack;
    State state;
    int line;          // of the barrier or shuffle at which the fiber waits
    unsigned mask;     // lanes that take part in the shuffle
    Kind kind;
    int source;        // lane that this one reads
    u64 given, taken;  // bits that the lane offers and gets
};

struct Block {
    unsigned index;
    u64 priority;
    Fiber* fibers;
    int* ready;        // fibers that can run
    int num_ready, waiting, ended;
    unsigned* arrived; // per warp: lanes that wait in a shuffle
    char *statics, *dynamic;
};

Block* block;  // whose fiber runs
int fiber;     // which one
Context scheduler;
bool failed, preempt_now;
char message[1024];
u64 random_state;
u64 seed_now;
void (*kernel)(void**);
void** arguments;
u64 demoted;
u64 calm;  // turns since a fiber last did anything but spin

inline u64 random(u64 below) {
    random_state ^= random_state << 13, random_state ^= random_state >> 7, random_state ^= random_state << 17;
    return (random_state >> 11) % below;
}

__attribute__((noinline)) void resume_scheduler() {
    Block* mine = block;
    int me = fiber;
    shim_switch(&mine->fibers[me].context, &scheduler);
    threadIdx = {(unsigned)me, 0, 0};
    blockIdx = {mine->index, 0, 0};
}

__attribute__((noinline)) void fail(const char* format, ...) {
    va_list values;
    va_start(values, format);
    vsnprintf(message, sizeof message, format, values);
    va_end(values);
    failed = true;
}

// Waiting

inline void make_ready(Block* b, int which) {
    b->fibers[which].state = READY;
    b->ready[b->num_ready++] = which;
}

inline int lanes_of_warp(int warp) {
    int left = (int)blockDim.x - 32 * warp;
    return left < 32 ? left : 32;
}

inline void diverged(Block* b) {
    int line = 0;
    for (unsigned t = 0; t < blockDim.x; t++)
        if (b->fibers[t].state == BARRIER) line = b->fibers[t].line;
    fail("divergent barrier: %d of %u wait, %d ended (line %d, block %u)", b->waiting, blockDim.x, b->ended, line,
         b->index);
}

inline void barrier(int line) {
    Block* b = block;
    Fiber* f = &b->fibers[fiber];
    f->line = line;
    f->state = BARRIER;
    if (++b->waiting == (int)blockDim.x) {
        b->waiting = 0;
        for (unsigned t = 0; t < blockDim.x; t++)
            if (b->fibers[t].line != line)
                fail("divergent barrier: threads of block %u wait at lines %d and %d", b->index, b->fibers[t].line,
                     line);
        for (unsigned t = blockDim.x; t--;) make_ready(b, t);
        calm = 0;
    } else if (b->waiting + b->ended == (int)blockDim.x) {
        diverged(b);
    }
    resume_scheduler();
}

inline u64 collective(int line, Kind kind, unsigned mask, u64 bits, int source) {
    Block* b = block;
    int me = fiber, warp = me / 32, lanes = lanes_of_warp(warp);
    Fiber *all = b->fibers + 32 * warp, *f = b->fibers + me;
    if (lanes < 32) mask &= (1u << lanes) - 1;
    if (!(mask >> (me % 32) & 1)) fail("a shuffle's mask %x misses its own lane %d (line %d)", mask, me % 32, line);
    f->line = line, f->mask = mask, f->kind = kind, f->given = bits, f->source = source, f->state = WARP;
    b->arrived[warp] |= 1u << (me % 32);
    if ((b->arrived[warp] & mask) == mask) {
        unsigned ballot = 0;
        for (int i = 0; i < lanes; i++) {
            if (!(mask >> i & 1)) continue;
            if (all[i].mask != mask || all[i].kind != kind || all[i].line != line)
                fail("divergent shuffle: lanes of warp %d of block %u wait at lines %d and %d", warp, b->index,
                     all[i].line, line);
            if (all[i].given) ballot |= 1u << i;
        }
        for (int i = lanes; i--;) {
            if (!(mask >> i & 1)) continue;
            if (kind == SHUFFLE)
                all[i].taken = (mask >> all[i].source & 1) ? all[all[i].source].given : ~0ull;
            else
                all[i].taken = kind == ALL ? ballot == mask : kind == ANY ? ballot != 0 : ballot;
            make_ready(b, 32 * warp + i);
        }
        b->arrived[warp] &= ~mask;
        calm = 0;
    }
    resume_scheduler();
    return f->taken;
}

inline void yield() {
    make_ready(block, fiber);
    resume_scheduler();
}

inline void spin() {
    calm++;
    block->priority = 0;
    preempt_now = true;
    yield();
}

inline void preempt() {  // before atomics and at fences another thread of the block may go first
    if (seed_now && !random(8)) yield();
}

inline void publish() {  // after an atomic: what other blocks now believe of this one must be true already
    if (!seed_now || !random(16)) return;
    block->priority = ++demoted;  // all blocks that were not demoted go first, then the one that was last
    preempt_now = true;
    yield();
}

// The scheduler

void fiber_main() {
    kernel(arguments);
    Block* b = block;
    b->fibers[fiber].state = ENDED;
    b->ended++;
    calm = 0;
    if (*(u64*)b->fibers[fiber].stack != CANARY) fail("a thread's local variables need more than %zu bytes", STACK);
    if (b->waiting && b->waiting + b->ended == (int)blockDim.x) diverged(b);
    resume_scheduler();
}

struct Statics {  // thread-local variables of this library: the kernel's static shared ones
    size_t size, offset;
};
__thread char first_touch;

inline int find_statics(dl_phdr_info* info, size_t, void* found) {
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const auto& header = info->dlpi_phdr[i];
        char* touched = &first_touch;
        char* start = (char*)info->dlpi_tls_data;
        if (header.p_type == PT_TLS && start && touched >= start && touched < start + header.p_memsz)
            *(Statics*)found = {header.p_memsz, (size_t)(touched - start)};
    }
    return 0;
}

inline Statics statics() {
    first_touch = 0;
    static Statics found = {0, 0};
    if (!found.size) dl_iterate_phdr(find_statics, &found);
    return found;
}

struct Pool {  // memory that stays for the next launch
    char *stacks, *rest;
    size_t stacks_size, rest_size;
} pool;

inline char* grow(char* old, size_t* size, size_t needed) {
    if (needed <= *size) return old;
    if (old) munmap(old, *size);
    *size = needed;
    return (char*)mmap(nullptr, needed, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

inline void begin(Block* b, unsigned index, size_t statics_size, size_t dynamic) {
    b->index = index;
    b->num_ready = b->waiting = b->ended = 0;
    b->priority = seed_now ? (1u << 30) + random(1u << 30) : (1u << 30) - index;
    memset(b->statics, 255, statics_size);  // NaN, -1
    memset(b->dynamic, 255, dynamic);
    memset(b->arrived, 0, (blockDim.x + 31) / 32 * sizeof(unsigned));
    for (unsigned t = 0; t < blockDim.x; t++) {
        prepare(&b->fibers[t].context, b->fibers[t].stack, fiber_main);
        *(u64*)b->fibers[t].stack = CANARY;
        make_ready(b, blockDim.x - 1 - t);
    }
}

inline void stuck(Block* blocks, unsigned resident) {
    unsigned barrier = 0, warp = 0;
    int line = 0;
    for (unsigned i = 0; i < resident; i++) {
        if (blocks[i].index == ~0u) continue;
        for (unsigned t = 0; t < blockDim.x; t++) {
            State state = blocks[i].fibers[t].state;
            barrier += state == BARRIER, warp += state == WARP;
            if (state == WARP) line = blocks[i].fibers[t].line;
        }
    }
    fail("divergent shuffle: %u threads wait for lanes that never come (line %d), %u wait at a barrier", warp, line,
         barrier);
}

inline bool has_work(Block* b) { return b->index != ~0u && b->num_ready; }

inline Block* choose(Block* blocks, unsigned resident) {
    Block* best = nullptr;
    unsigned from = random(resident);  // blocks of the same priority take turns
    for (unsigned i = 0; i < resident; i++) {
        Block* b = &blocks[(from + i) % resident];
        if (has_work(b) && (!best || b->priority > best->priority)) best = b;
    }
    return best;
}

inline int pick(Block* b) {
    int at = seed_now || calm ? (int)random(b->num_ready) : b->num_ready - 1;
    int chosen = b->ready[at];
    b->ready[at] = b->ready[--b->num_ready];
    return chosen;
}

inline void show_statics(Block* b, Block** shown, char* base, size_t size) {
    if (*shown == b) return;
    if (*shown) memcpy((*shown)->statics, base, size);
    memcpy(base, b->statics, size);
    *shown = b;
}

inline void run_blocks(Block* blocks, unsigned resident, unsigned* order, size_t dynamic) {
    Statics where = statics();
    char* base = &first_touch - where.offset;
    Block* shown = nullptr;
    unsigned next = 0, left = gridDim.x;
    for (unsigned i = 0; i < resident; i++) begin(&blocks[i], order[next++], where.size, dynamic);
    u64 endless = 200ull * resident * blockDim.x + 10000;
    while (left && !failed) {
        Block* b = choose(blocks, resident);
        if (!b) return stuck(blocks, resident);
        show_statics(b, &shown, base, where.size);
        u64 burst = !seed_now || random(2) ? ~0ull : 1 + random(2 * blockDim.x);
        preempt_now = false;
        while (b->num_ready && burst-- && !preempt_now && !failed) {
            block = b;
            fiber = pick(b);
            threadIdx = {(unsigned)fiber, 0, 0};
            blockIdx = {b->index, 0, 0};
            shim_switch(&scheduler, &b->fibers[fiber].context);
        }
        if (failed) return;
        if (calm > endless) return fail("endless wait: threads spin, and no other thread of the %u resident blocks can go on", resident);
        if (seed_now && !random(32)) b->priority = (1u << 30) + random(1u << 30);
        if (b->ended == (int)blockDim.x) {
            left--;
            shown = nullptr;
            if (next < gridDim.x) begin(b, order[next++], where.size, dynamic);
            else b->index = ~0u;
        }
    }
}

// Signals: an access to an address that does not exist ends the launch, not the process

inline void caught(int number, siginfo_t* info, void*) {
    const char* what = number == SIGFPE ? "an integer division by zero" : "an access to an address that does not exist";
    fail("%s (%p) by thread %d of block %u", what, number == SIGFPE ? nullptr : info->si_addr, fiber, block->index);
    Context dropped;
    shim_switch(&dropped, &scheduler);
}

struct Guard {
    static constexpr int numbers[3] = {SIGSEGV, SIGBUS, SIGFPE};
    struct sigaction old[3];
    stack_t old_stack;
    Guard() {
        static char space[64 << 10];
        stack_t stack = {space, 0, sizeof space};
        sigaltstack(&stack, &old_stack);
        struct sigaction action = {};
        action.sa_sigaction = caught;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        for (int i = 0; i < 3; i++) sigaction(numbers[i], &action, &old[i]);
    }
    ~Guard() {
        for (int i = 0; i < 3; i++) sigaction(numbers[i], &old[i], nullptr);
        sigaltstack(&old_stack, nullptr);
    }
};

inline char* take(char** at, size_t bytes) {
    char* start = *at;
    *at += (bytes + 63) / 64 * 64;
    return start;
}

inline Block* lay_out(unsigned resident, unsigned** order, size_t dynamic) {
    unsigned threads = blockDim.x, warps = (threads + 31) / 32;
    size_t fixed = statics().size, each = threads * (sizeof(Fiber) + sizeof(int)) + warps * sizeof(unsigned) + fixed +
                                          dynamic + 64 * 8;
    pool.stacks = grow(pool.stacks, &pool.stacks_size, resident * threads * STACK);
    pool.rest = grow(pool.rest, &pool.rest_size, resident * (each + sizeof(Block)) + gridDim.x * sizeof(unsigned) + 256);
    char* at = pool.rest;
    Block* blocks = (Block*)take(&at, resident * sizeof(Block));
    *order = (unsigned*)take(&at, gridDim.x * sizeof(unsigned));
    for (unsigned i = 0; i < resident; i++) {
        Block* b = &blocks[i];
        b->fibers = (Fiber*)take(&at, threads * sizeof(Fiber));
        b->ready = (int*)take(&at, threads * sizeof(int));
        b->arrived = (unsigned*)take(&at, warps * sizeof(unsigned));
        b->statics = take(&at, fixed);
        b->dynamic = take(&at, dynamic);
        for (unsigned t = 0; t < threads; t++) b->fibers[t].stack = pool.stacks + (i * threads + t) * STACK;
    }
    return blocks;
}

inline const char* launch(void (*entry)(void**), void** values, unsigned grid, unsigned threads, size_t dynamic,
                          u64 seed, unsigned resident) {
    Guard guard;
    kernel = entry, arguments = values, seed_now = seed, failed = preempt_now = false, calm = demoted = 0;
    gridDim = {grid, 1, 1}, blockDim = {threads, 1, 1};
    random_state = (seed + 1) * 0x9e3779b97f4a7c15ull;
    for (int i = 0; i < 8; i++) random(2);
    if (resident > grid) resident = grid;
    unsigned* order;
    Block* blocks = lay_out(resident, &order, dynamic);
    for (unsigned i = 0; i < grid; i++) order[i] = i;
    for (unsigned i = grid; seed && i > 1; i--) {
        unsigned j = random(i), kept = order[j];
        order[j] = order[i - 1], order[i - 1] = kept;
    }
    run_blocks(blocks, resident, order, dynamic);
    return failed ? message : nullptr;
}

// What Python must know of a kernel: a letter per argument as in the module struct, P before a pointer, C if constant

template <class V> struct Letter { static constexpr char value = 'x'; };
#define SHIM_LETTER(type, letter) template <> struct Letter<type> { static constexpr char value = letter; };
SHIM_LETTER(void, 'v') SHIM_LETTER(float, 'f') SHIM_LETTER(double, 'd') SHIM_LETTER(int, 'i') SHIM_LETTER(unsigned, 'I')
SHIM_LETTER(long, 'q') SHIM_LETTER(unsigned long, 'Q') SHIM_LETTER(long long, 'q') SHIM_LETTER(unsigned long long, 'Q')
SHIM_LETTER(char, 'b') SHIM_LETTER(signed char, 'b') SHIM_LETTER(unsigned char, 'B') SHIM_LETTER(short, 'h')
SHIM_LETTER(unsigned short, 'H') SHIM_LETTER(bool, '?')

template <class V> constexpr int size_of() { return sizeof(V); }
template <> constexpr int size_of<void>() { return 0; }
template <class V> struct Describe {
    static int write(char* to) { return sprintf(to, "%c%d ", Letter<V>::value, size_of<V>()); }
};
template <class V> struct Describe<V*> {
    static int write(char* to) { return *to = 'P', 1 + Describe<V>::write(to + 1); }
};
template <class V> struct Describe<const V*> {
    static int write(char* to) { return memcpy(to, "PC", 2), 2 + Describe<V>::write(to + 2); }
};

template <int... I> struct Indices {};
template <int N, int... I> struct Count : Count<N - 1, N - 1, I...> {};
template <int... I> struct Count<0, I...> { typedef Indices<I...> type; };

template <class... A, int... I> void call(void (*f)(A...), void** values, Indices<I...>) {
    f(*(A*)values[I]...);
}
template <class... A> void call(void (*f)(A...), void** values) {
    call(f, values, typename Count<sizeof...(A)>::type());
}
template <class... A> const char* describe(void (*)(A...)) {
    static char text[1024];
    char* at = text;
    ((at += Describe<A>::write(at)), ...);
    *at = 0;
    return text;
}

// Operations

template <class V> u64 bits_of(V x) {
    static_assert(sizeof(V) <= 8, "a shuffle moves 4 or 8 bytes");
    u64 bits = 0;
    memcpy(&bits, &x, sizeof x);
    return bits;
}
template <class V> V value_of(u64 bits) {
    V x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
inline int lane() { return threadIdx.x % 32; }
inline int within(int source, int width) {  // a source outside the lane's section means the lane itself
    return source >= 0 && source / width == lane() / width ? source : lane();
}
template <class V> V shuffle(int line, unsigned mask, V x, int source) {
    return value_of<V>(collective(line, SHUFFLE, mask, bits_of(x), source & 31));
}
template <class V> V shfl(int line, unsigned mask, V x, int from, int width = 32) {
    return shuffle(line, mask, x, lane() / width * width + (from & (width - 1)));
}
template <class V> V shfl_xor(int line, unsigned mask, V x, int with, int width = 32) {
    return shuffle(line, mask, x, within(lane() ^ with, width));
}
template <class V> V shfl_down(int line, unsigned mask, V x, unsigned by, int width = 32) {
    return shuffle(line, mask, x, within(lane() + (int)by, width));
}
template <class V> V shfl_up(int line, unsigned mask, V x, unsigned by, int width = 32) {
    return shuffle(line, mask, x, within(lane() - (int)by, width));
}
inline unsigned vote(int line, Kind kind, unsigned mask, int predicate) {
    return (unsigned)collective(line, kind, mask, predicate != 0, 0);
}
template <class V, class F> V atomic(V* at, F change) {
    preempt();
    V old = *at;
    *at = change(old);
    if (*at != old) calm = 0;
    publish();
    return old;
}

}  // namespace shim

#define __syncthreads() shim::barrier(__LINE__)
inline unsigned shim_mask(unsigned mask = ~0u) { return mask; }
#define __syncwarp(...) ((void)shim::vote(__LINE__, shim::SYNC, shim_mask(__VA_ARGS__), 1))
#define __shfl_sync(...) shim::shfl(__LINE__, __VA_ARGS__)
#define __shfl_xor_sync(...) shim::shfl_xor(__LINE__, __VA_ARGS__)
#define __shfl_down_sync(...) shim::shfl_down(__LINE__, __VA_ARGS__)
#define __shfl_up_sync(...) shim::shfl_up(__LINE__, __VA_ARGS__)
#define __ballot_sync(mask, predicate) shim::vote(__LINE__, shim::BALLOT, mask, predicate)
#define __any_sync(mask, predicate) ((int)shim::vote(__LINE__, shim::ANY, mask, predicate))
#define __all_sync(mask, predicate) ((int)shim::vote(__LINE__, shim::ALL, mask, predicate))

#define SHIM_ATOMICS(V) \
    inline V atomicAdd(V* at, V x) { return shim::atomic(at, [=](V old) { return (V)(old + x); }); } \
    inline V atomicExch(V* at, V x) { return shim::atomic(at, [=](V) { return x; }); }
#define SHIM_INTEGER_ATOMICS(V) \
    SHIM_ATOMICS(V) \
    inline V atomicMax(V* at, V x) { return shim::atomic(at, [=](V old) { return old > x ? old : x; }); } \
    inline V atomicMin(V* at, V x) { return shim::atomic(at, [=](V old) { return old < x ? old : x; }); } \
    inline V atomicOr(V* at, V x) { return shim::atomic(at, [=](V old) { return old | x; }); } \
    inline V atomicAnd(V* at, V x) { return shim::atomic(at, [=](V old) { return old & x; }); } \
    inline V atomicCAS(V* at, V expected, V x) { \
        return shim::atomic(at, [=](V old) { return old == expected ? x : old; }); \
    }
SHIM_ATOMICS(float)
SHIM_INTEGER_ATOMICS(int)
SHIM_INTEGER_ATOMICS(unsigned)
SHIM_INTEGER_ATOMICS(unsigned long long)
inline int atomicSub(int* at, int x) { return atomicAdd(at, -x); }

inline void __threadfence() { shim::preempt(); }
inline void __threadfence_block() { shim::preempt(); }
inline void __nanosleep(unsigned) { shim::spin(); }
inline void __trap() { shim::fail("__trap() by thread %d of block %u", shim::fiber, blockIdx.x), shim::resume_scheduler(); }

template <class V> V __ldg(const V* at) { return *at; }
template <class V> V __ldcg(const V* at) { return *at; }
template <class V> V __ldcs(const V* at) { return *at; }
template <class V> void __stcg(V* at, V x) { *at = x; }
template <class V> void __stcs(V* at, V x) { *at = x; }
inline int __float_as_int(float x) { return shim::value_of<int>(shim::bits_of(x)); }
inline unsigned __float_as_uint(float x) { return shim::value_of<unsigned>(shim::bits_of(x)); }
inline float __int_as_float(int x) { return shim::value_of<float>(shim::bits_of(x)); }
inline float __uint_as_float(unsigned x) { return shim::value_of<float>(shim::bits_of(x)); }
inline long long __double_as_longlong(double x) { return shim::value_of<long long>(shim::bits_of(x)); }
inline double __longlong_as_double(long long x) { return shim::value_of<double>(shim::bits_of(x)); }
inline unsigned __umulhi(unsigned x, unsigned y) { return (unsigned)((unsigned long long)x * y >> 32); }
inline int __mulhi(int x, int y) { return (int)((long long)x * y >> 32); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __float2int_rn(float x) { return (int)rintf(x); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
#define SHIM_MIN_MAX(V) \
    inline V min(V x, V y) { return x < y ? x : y; } \
    inline V max(V x, V y) { return x > y ? x : y; }
SHIM_MIN_MAX(int)
SHIM_MIN_MAX(unsigned)
SHIM_MIN_MAX(long long)
SHIM_MIN_MAX(unsigned long long)
inline float min(float x, float y) { return fminf(x, y); }
inline float max(float x, float y) { return fmaxf(x, y); }
inline double min(double x, double y) { return fmin(x, y); }
inline double max(double x, double y) { return fmax(x, y); }

#define SHIM_VISIBLE extern "C" __attribute__((visibility("default")))
#define SHIM_KERNEL(name, bound) \
    SHIM_VISIBLE const char* shim_launch_##name(void** values, unsigned grid, unsigned threads, size_t dynamic, \
                                              shim::u64 seed, unsigned resident) { \
        return shim::launch([](void** a) { shim::call(name, a); }, values, grid, threads, dynamic, seed, resident); \
    } \
    SHIM_VISIBLE const char* shim_arguments_##name() { return shim::describe(name); } \
    SHIM_VISIBLE unsigned shim_bound_##name() { return bound; } \
    SHIM_VISIBLE size_t shim_statics_##name() { return shim::statics().size - sizeof shim::first_touch; }
