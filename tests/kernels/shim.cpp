// CUDA C++ on a CPU, for tests: every CUDA thread is a fiber on one OS thread, and a seed chooses the order of the fibers.
//
// A fiber runs until it waits (barrier, shuffle, spin) or until an atomic or a fence lets another one go first. Several
// blocks are resident and take turns in bursts of random length; a block that comes out of an atomic may have to wait
// until all others have nothing left to do. So a read that should have waited for another thread or block happens
// too early in most orders, every time in the same way for the same seed. Seed 0 is the plain order: for a debugger.
//
// What the shim refuses, by a sentence: a barrier or a shuffle that only some threads reach, an endless wait, an access
// to an address that does not exist, a division by zero, a stack that is too small.
#include "races.h"

#include <link.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace shim {

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
void prepare(Context* context, char* stack, void (*start)()) {
    void** top = (void**)(stack + STACK) - 2;
    *top = (void*)start;
    *context = top - 6;
}
#else
typedef ucontext_t Context;
void shim_switch(Context* from, Context* to) { swapcontext(from, to); }
void prepare(Context* context, char* stack, void (*start)()) {
    getcontext(context);
    context->uc_stack.ss_sp = stack;
    context->uc_stack.ss_size = STACK;
    context->uc_link = nullptr;
    makecontext(context, start, 0);
}
#endif

enum State { READY, BARRIER, WARP, ENDED };

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

Block* block;  // whose fiber runs; none between launches
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

u64 random(u64 below) {
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

void fail(const char* format, ...) {
    va_list values;
    va_start(values, format);
    vsnprintf(message, sizeof message, format, values);
    va_end(values);
    failed = true;
}

void stop(const char* text) {
    fail("%s", text);
    resume_scheduler();
}

// Waiting

void make_ready(Block* b, int which) {
    b->fibers[which].state = READY;
    b->ready[b->num_ready++] = which;
}

int lanes_of_warp(int warp) {
    int left = (int)blockDim.x - 32 * warp;
    return left < 32 ? left : 32;
}

void diverged(Block* b) {
    int line = 0;
    for (unsigned t = 0; t < blockDim.x; t++)
        if (b->fibers[t].state == BARRIER) line = b->fibers[t].line;
    fail("divergent barrier: %d of %u wait, %d ended (line %d, block %u)", b->waiting, blockDim.x, b->ended, line,
         b->index);
}

void barrier(int line) {
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
        if (watching) watch_barrier();
        calm = 0;
    } else if (b->waiting + b->ended == (int)blockDim.x) {
        diverged(b);
    }
    resume_scheduler();
}

u64 collective(int line, Kind kind, unsigned mask, u64 bits, int source) {
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
        if (watching && kind == SYNC) watch_warp(warp);
        calm = 0;
    }
    resume_scheduler();
    return f->taken;
}

void yield() {
    make_ready(block, fiber);
    resume_scheduler();
}

void spin() {
    calm++;
    block->priority = 0;
    preempt_now = true;
    yield();
}

void before_atomic() {  // another thread of the block may go first
    if (seed_now && !random(8)) yield();
}

void after_atomic(void* at, bool changed) {  // what other blocks now believe of this one must be true already
    if (watching) watch_atomic(at);
    if (changed) calm = 0;
    if (!seed_now || !random(16)) return;
    block->priority = ++demoted;  // all blocks that were not demoted go first, then the one that was last
    preempt_now = true;
    yield();
}

void fence() {
    if (watching) watch_fence();
    before_atomic();
}

void trap() {
    fail("__trap() by thread %d of block %u", fiber, block->index);
    resume_scheduler();
}

void* dynamic_shared() { return block->dynamic; }

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

int find_statics(dl_phdr_info* info, size_t, void* found) {
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const auto& header = info->dlpi_phdr[i];
        char* touched = &first_touch;
        char* start = (char*)info->dlpi_tls_data;
        if (header.p_type == PT_TLS && start && touched >= start && touched < start + header.p_memsz)
            *(Statics*)found = {header.p_memsz, (size_t)(touched - start)};
    }
    return 0;
}

Statics statics() {
    first_touch = 0;
    static Statics found = {0, 0};
    if (!found.size) dl_iterate_phdr(find_statics, &found);
    return found;
}

size_t statics_size() { return statics().size - sizeof first_touch; }

char* statics_base;

struct Pool {  // memory that stays for the next launch
    char *stacks, *rest;
    size_t stacks_size, rest_size;
} pool;

char* grow(char* old, size_t* size, size_t needed) {
    if (needed <= *size) return old;
    if (old) munmap(old, *size);
    *size = needed;
    return (char*)mmap(nullptr, needed, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

void begin(Block* b, unsigned index, size_t statics_size, size_t dynamic) {
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

void stuck(Block* blocks, unsigned resident) {
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

bool has_work(Block* b) { return b->index != ~0u && b->num_ready; }

Block* choose(Block* blocks, unsigned resident) {
    Block* best = nullptr;
    unsigned from = random(resident);  // blocks of the same priority take turns
    for (unsigned i = 0; i < resident; i++) {
        Block* b = &blocks[(from + i) % resident];
        if (has_work(b) && (!best || b->priority > best->priority)) best = b;
    }
    return best;
}

int pick(Block* b) {
    int at = seed_now || calm ? (int)random(b->num_ready) : b->num_ready - 1;
    int chosen = b->ready[at];
    b->ready[at] = b->ready[--b->num_ready];
    return chosen;
}

void show_statics(Block* b, Block** shown, char* base, size_t size) {
    if (*shown == b) return;
    if (*shown) memcpy((*shown)->statics, base, size);
    memcpy(base, b->statics, size);
    *shown = b;
}

void run_blocks(Block* blocks, unsigned resident, unsigned* order, size_t dynamic) {
    Statics where = statics();
    char* base = statics_base = &first_touch - where.offset;
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

// What the detector of races asks

bool is_local(char* at) { return !block || (at >= pool.stacks && at < pool.stacks + pool.stacks_size); }
bool is_shared(char* at) { return at >= pool.rest && at < pool.rest + pool.rest_size; }

char* where_kept(char* at) {
    bool is_static = at >= statics_base && at < statics_base + statics().size;
    return is_static ? block->statics + (at - statics_base) : at;
}

// Signals: an access to an address that does not exist ends the launch, not the process

void caught(int number, siginfo_t* info, void*) {
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

char* take(char** at, size_t bytes) {
    char* start = *at;
    *at += (bytes + 63) / 64 * 64;
    return start;
}

Block* lay_out(unsigned resident, unsigned** order, size_t dynamic) {
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

const char* launch(void (*entry)(void**), void** values, unsigned grid, unsigned threads, size_t dynamic,
                          u64 seed, unsigned resident) {
    Guard guard;
    kernel = entry, arguments = values, seed_now = seed, failed = preempt_now = false, calm = demoted = 0;
    gridDim = {grid, 1, 1}, blockDim = {threads, 1, 1};
    random_state = (seed + 1) * 0x9e3779b97f4a7c15ull;
    for (int i = 0; i < 8; i++) random(2);
    if (resident > grid) resident = grid;
    if (watching) watch_launch();
    unsigned* order;
    Block* blocks = lay_out(resident, &order, dynamic);
    for (unsigned i = 0; i < grid; i++) order[i] = i;
    for (unsigned i = grid; seed && i > 1; i--) {
        unsigned j = random(i), kept = order[j];
        order[j] = order[i - 1], order[i - 1] = kept;
    }
    run_blocks(blocks, resident, order, dynamic);
    block = nullptr;
    return failed ? message : nullptr;
}

}  // namespace shim
