// Registers of a lane for weights on their way (shares.cuh), where one kernel does the work of all: persistent.cu. It
// holds what leads from phase to phase, too; with the 72 that a kernel by itself has, models of a billion weights and
// more would spill. SmolLM2-135M, whose pieces take 40, loses nothing; 32 are still 32 KB on their way in each block.
#define MOST_HELD (D < 1024 ? 40 : 32)
