// What the scheduler (shim.cpp) and the detector of races (races.cpp) know of each other.
#pragma once
#include "shim.h"

namespace shim {

SHIM_HIDDEN extern bool watching;  // whether the kernel was compiled to report its accesses

// The scheduler tells what happens to the thread that runs.
SHIM_HIDDEN void watch_launch();
SHIM_HIDDEN void watch_barrier();            // of its whole block
SHIM_HIDDEN void watch_warp(int warp);       // __syncwarp
SHIM_HIDDEN void watch_fence();
SHIM_HIDDEN void watch_atomic(void* at);

// The detector asks.
SHIM_HIDDEN bool is_local(char* at);         // a variable of one thread
SHIM_HIDDEN bool is_shared(char* at);        // shared memory of a resident block
SHIM_HIDDEN char* where_kept(char* at);      // a static shared variable: the address in its block's own copy
SHIM_HIDDEN void stop(const char* sentence);  // ends the launch

}  // namespace shim
