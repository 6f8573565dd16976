// Finds two accesses to the same memory that nothing orders, in whatever order they happened: a detector of races.
//
// g++ -fsanitize=thread puts a call before every access to memory. The calls come here instead of to its own library,
// which knows nothing of blocks and barriers. What orders two accesses:
//   in one block   __syncthreads; in one warp __syncwarp (a shuffle moves a register, and orders no memory)
//   between blocks a chain: write, __threadfence, atomic of one block; atomic on the same address by the other,
//                  __threadfence, read. Each fence is the writer's or reader's own, or one by the thread of the atomic
//                  with a __syncthreads between. A volatile write works as the first atomic, a volatile read as the
//                  second. (The second fence makes L1 forget what it holds; a write that follows needs none.)
// So a missing fence is found, too, which no order of fibers can show: on a CPU every write is seen at once.
//
// An epoch counts a block's barriers. A Clock says for every block up to which epoch its accesses are known to be over.
// Per four bytes the last write and two reads are kept, so that a race of a third reader may be missed.
#include "races.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>

namespace shim {

bool watching;

namespace {

struct Access {
    unsigned block, thread, epoch, warp_epoch, fences;
    unsigned char bytes;  // which of the four; 0: no access
    void* code;
};

struct Cell {  // four bytes of memory
    uintptr_t address;
    unsigned launch;
    Access write, reads[2];
};

struct Known {  // what is known to be over in one block
    unsigned fenced;   // epochs up to this one, because the thread of the atomic made a fence
    unsigned arrived;  // epochs up to this one for threads that made a fence of their own
    unsigned own, thread;  // and up to this one the accesses of a thread that did the atomic itself
};
constexpr unsigned ANY_THREAD = ~0u;

typedef Known* Clock;  // one for each block

struct Place {  // an address on which atomics work
    void* address;
    Clock clock;
};

unsigned launches;
Cell* cells;
size_t num_cells, used_cells;
Place* places;
int num_places, room_for_places;
char* memory;  // of a launch: the arrays below
unsigned *epochs, *warp_epochs, *fences, *fence_epochs;
enum Level { HEARD, FENCED };  // by an atomic; and since then a fence was made
struct Knowledge {
    Clock block;    // per block: what all of its threads know
    Clock pending;  // per block: what the threads know that have learned something since the last barrier
    bool* learned;  // which threads those are
} knowledge[2];

unsigned warps() { return (blockDim.x + 31) / 32; }
unsigned me() { return blockIdx.x * blockDim.x + threadIdx.x; }
unsigned& my_warp_epoch() { return warp_epochs[blockIdx.x * warps() + threadIdx.x / 32]; }

void learn(Clock to, const Known* from) {
    for (unsigned b = 0; b < gridDim.x; b++) {
        Known& k = to[b];
        if (from[b].fenced > k.fenced) k.fenced = from[b].fenced;
        if (from[b].arrived > k.arrived) k.arrived = from[b].arrived;
        if (from[b].own && k.own && from[b].thread != k.thread) k.thread = ANY_THREAD;
        if (!k.own) k.thread = from[b].thread;
        if (from[b].own > k.own) k.own = from[b].own;
    }
}

Clock my_clock(Level level) {
    const Knowledge& known = knowledge[level];
    return (known.learned[me()] ? known.pending : known.block) + (size_t)blockIdx.x * gridDim.x;
}

Clock my_pending(Level level) {  // where the thread that runs writes down what it learns
    Knowledge& known = knowledge[level];
    size_t row = (size_t)blockIdx.x * gridDim.x;
    learn(known.pending + row, known.block + row);
    known.learned[me()] = true;
    return known.pending + row;
}

bool is_over(const Access& before, Level level = HEARD) {  // for the thread that runs
    if (before.block == blockIdx.x) {
        if (before.thread == threadIdx.x || before.epoch < epochs[blockIdx.x]) return true;
        if (before.thread / 32 == threadIdx.x / 32 && before.warp_epoch < my_warp_epoch()) return true;
    }
    const Known& known = my_clock(level)[before.block];
    if (known.fenced >= before.epoch) return true;
    if (fences[before.block * blockDim.x + before.thread] == before.fences) return false;
    bool own = known.own >= before.epoch && (known.thread == before.thread || known.thread == ANY_THREAD);
    return own || known.arrived >= before.epoch;
}

unsigned long offset(void* code) {
    Dl_info info;
    return dladdr(code, &info) ? (unsigned long)((char*)code - (char*)info.dli_fbase) - 1 : 0;
}

void check(Cell* cell, const Access& before, const char* did, const Access& now, const char* does,
           Level level = HEARD) {
    if (!(before.bytes & now.bytes) || is_over(before, level)) return;
    if (before.block != now.block && is_shared((char*)cell->address)) return;  // of a block that has ended
    char text[256];
    snprintf(text, sizeof text, "race: thread %u of block %u %s [code %lx] what thread %u of block %u %s [code %lx]",
             now.thread, now.block, does, offset(now.code), before.thread, before.block, did, offset(before.code));
    stop(text);
}

Cell* find(uintptr_t address) {
    size_t at = (address * 0x9e3779b97f4a7c15ull >> 20) & (num_cells - 1);
    while (cells[at].launch == launches && cells[at].address != address) at = (at + 1) & (num_cells - 1);
    return &cells[at];
}

void grow() {
    Cell* old = cells;
    size_t before = num_cells;
    num_cells = before ? 2 * before : 1 << 14;
    cells = (Cell*)calloc(num_cells, sizeof(Cell));
    for (size_t i = 0; i < before; i++)
        if (old[i].launch == launches) *find(old[i].address) = old[i];
    free(old);
}

Cell* cell_of(uintptr_t address) {
    if (2 * used_cells >= num_cells) grow();
    Cell* cell = find(address);
    if (cell->launch != launches) {
        memset(cell, 0, sizeof *cell);
        cell->address = address, cell->launch = launches;
        used_cells++;
    }
    return cell;
}

void note_read(Cell* cell, const Access& now) {
    check(cell, cell->write, "writes", now, "reads", FENCED);
    Access* place = &cell->reads[1];
    for (Access* read = cell->reads + 2; read-- > cell->reads;)
        if (!read->bytes || is_over(*read)) place = read;
    *place = now;
}

void note_write(Cell* cell, const Access& now) {
    check(cell, cell->write, "writes", now, "writes");
    for (Access& read : cell->reads) check(cell, read, "reads", now, "writes"), read.bytes = 0;
    cell->write = now;
}

void note(void* at, size_t size, bool write, void* code) {
    if (is_local((char*)at)) return;
    uintptr_t start = (uintptr_t)where_kept((char*)at), end = start + size;
    for (uintptr_t word = start & ~3ull; word < end; word += 4) {
        unsigned char bytes = 0;
        for (int i = 0; i < 4; i++) bytes |= (word + i >= start && word + i < end) << i;
        Access now = {blockIdx.x, threadIdx.x, epochs[blockIdx.x], my_warp_epoch(), fences[me()], bytes, code};
        (write ? note_write : note_read)(cell_of(word), now);
    }
}

Clock clock_of(void* at) {
    at = where_kept((char*)at);
    for (int i = 0; i < num_places; i++)
        if (places[i].address == at) return places[i].clock;
    if (num_places == room_for_places) {
        room_for_places = 2 * room_for_places + 16;
        places = (Place*)realloc(places, room_for_places * sizeof(Place));
    }
    places[num_places] = {at, (Clock)calloc(gridDim.x, sizeof(Known))};
    return places[num_places++].clock;
}

void acquire(void* at) {
    learn(my_pending(HEARD), clock_of(at));
}

void release(void* at) {
    Clock clock = clock_of(at);
    learn(clock, my_clock(HEARD));
    Known& mine = clock[blockIdx.x];
    unsigned epoch = epochs[blockIdx.x], fenced = fence_epochs[me()];
    if (fenced && fenced - 1 > mine.fenced) mine.fenced = fenced - 1;
    mine.arrived = epoch - 1;
    mine.thread = mine.own && mine.thread != threadIdx.x ? ANY_THREAD : threadIdx.x;
    mine.own = epoch;
}

}  // namespace

void watch_launch() {
    launches++;
    used_cells = 0;
    for (int i = 0; i < num_places; i++) free(places[i].clock);
    num_places = 0;
    free(memory);
    size_t blocks = gridDim.x, threads = blocks * blockDim.x, clock = blocks * blocks * sizeof(Known);
    size_t words = blocks + blocks * warps() + 2 * threads;
    memory = (char*)calloc(1, 4 * clock + words * sizeof(unsigned) + 2 * threads);
    Clock clocks = (Clock)memory;
    epochs = (unsigned*)(clocks + 4 * blocks * blocks);
    warp_epochs = epochs + blocks, fences = warp_epochs + blocks * warps(), fence_epochs = fences + threads;
    bool* learned = (bool*)(fence_epochs + threads);
    knowledge[HEARD] = {clocks, clocks + blocks * blocks, learned};
    knowledge[FENCED] = {clocks + 2 * blocks * blocks, clocks + 3 * blocks * blocks, learned + threads};
    for (size_t b = 0; b < blocks; b++) epochs[b] = 1;
}

void watch_barrier() {
    size_t row = (size_t)blockIdx.x * gridDim.x;
    for (Knowledge& known : knowledge) {
        learn(known.block + row, known.pending + row);
        memset(known.learned + blockIdx.x * blockDim.x, 0, blockDim.x);
    }
    epochs[blockIdx.x]++;
}

void watch_warp(int warp) { warp_epochs[blockIdx.x * warps() + warp]++; }

void watch_fence() {
    fences[me()]++;
    fence_epochs[me()] = epochs[blockIdx.x];
    learn(my_pending(FENCED), my_clock(HEARD));
}

void watch_atomic(void* at) {
    acquire(at);
    release(at);
}

}  // namespace shim

#define SHIM_ACCESS(name) \
    extern "C" SHIM_HIDDEN void __tsan_##name
#define SHIM_SIZE(size) \
    SHIM_ACCESS(read##size)(void* at) { shim::note(at, size, false, __builtin_return_address(0)); } \
    SHIM_ACCESS(write##size)(void* at) { shim::note(at, size, true, __builtin_return_address(0)); } \
    SHIM_ACCESS(unaligned_read##size)(void* at) { shim::note(at, size, false, __builtin_return_address(0)); } \
    SHIM_ACCESS(unaligned_write##size)(void* at) { shim::note(at, size, true, __builtin_return_address(0)); } \
    SHIM_ACCESS(volatile_read##size)(void* at) { if (!shim::is_local((char*)at)) shim::acquire(at); } \
    SHIM_ACCESS(volatile_write##size)(void* at) { if (!shim::is_local((char*)at)) shim::release(at); }
SHIM_SIZE(1)
SHIM_SIZE(2)
SHIM_SIZE(4)
SHIM_SIZE(8)
SHIM_SIZE(16)
SHIM_ACCESS(read_range)(void* at, size_t size) { shim::note(at, size, false, __builtin_return_address(0)); }
SHIM_ACCESS(write_range)(void* at, size_t size) { shim::note(at, size, true, __builtin_return_address(0)); }
SHIM_ACCESS(init)() { shim::watching = true; }
