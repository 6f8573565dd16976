// How the product of a few rows is shared out: lanes to a row, pieces to a lane, batches, tiles. All of it is known
// when the kernel is compiled, so that loops unroll and weights on their way have registers of their own.
//
// - LANES neighbouring lanes share an output row. For 576 numbers in bfloat16, 72 pieces of 16 bytes, 16 lanes take 5
//   pieces each and idle a tenth of their loads; a whole warp to a row would idle a quarter.
// - A lane holds DEPTH pieces of each of its J rows at once, all of them asked for before the first is used. Little's
//   law: 3.35 TB/s times 0.7 us of latency is 2.3 MB in flight, 18 KB a multiprocessor; 256 threads with 5 pieces each
//   hold 20 KB.
// - Activations lie in shared memory as float32. What does not fit, as 8 rows of 8192 inputs, is staged in tiles.
// - Each number that comes out of shared memory is multiplied with J output rows: from 4 rows on two, because else the
//   way out of shared memory would take longer than the weights' way out of memory.
#include "common.cuh"
#include "weights.cuh"

constexpr int PRODUCT_THREADS = 256;
constexpr int STAGED = 16384;            // floats of activations in shared memory: 64 KB, so that two blocks fit
#ifndef MOST_HELD
#define MOST_HELD 72
#endif
constexpr int HELD = T < 4 ? MOST_HELD : 48;  // registers of a lane for weights on their way; the others hold sums
constexpr int FEW_LANES = 2 * 132 * 32;  // lanes: two warps for each multiprocessor of an H100

__device__ constexpr int divided(int number, int by) { return (number + by - 1) / by; }
__device__ constexpr int within(int low, int number, int high) {
    return number < low ? low : number > high ? high : number;
}
__device__ constexpr int lanes_for(int pieces, int lanes = 32) {  // the most that idle an eighth or less; at least 4
    return lanes > 4 && 8 * (divided(pieces, lanes) * lanes - pieces) > pieces ? lanes_for(pieces, lanes / 2) : lanes;
}

template <typename Weight, int M, int J> struct Plan {
    using Part = Piece<Weight, M>;
    static constexpr int LANES = lanes_for(Part::PIECES), EACH = divided(Part::PIECES, LANES);
    static constexpr int ROUND = T * LANES * Part::CODES * Part::PLANES;  // activations for a piece of each lane
    static constexpr int MOST = HELD / (Part::PLANES > 1 ? 3 : 1);  // unpacking several planes takes registers, too
    static constexpr int BATCHES = divided(EACH, within(1, MOST / Part::REGISTERS / J, STAGED / ROUND));
    static constexpr int DEPTH = divided(EACH, BATCHES);  // pieces of a row that a lane holds at once
    static constexpr int PER_TILE = within(1, STAGED / (ROUND * DEPTH), BATCHES);  // batches
    static constexpr int TILES = divided(BATCHES, PER_TILE);
    static constexpr int UNITS = TILES == 1 ? Part::PIECES : PER_TILE * DEPTH * LANES;  // pieces of a row in a tile
    static constexpr int VECTOR = power_of_two_in(M, power_of_two_in(Part::CODES, 4)), VECTORS = Part::CODES / VECTOR;
    static constexpr int WAYS = J * T >= VECTOR ? 1 : VECTOR;  // sums that do not wait for each other
};

template <typename Weight, int M> __device__ constexpr int rows_at_once(int outputs, int rows = T >= 4 ? 2 : 1) {
    const bool few = outputs / rows * Plan<Weight, M, 1>::LANES < FEW_LANES;
    return rows > 1 && (outputs % rows || few) ? rows_at_once<Weight, M>(outputs, rows / 2) : rows;
}
