// Random numbers by counter, bit for bit those of tinyinfer/noise.py: Philox 4x32-10 (Salmon et al. 2011).
//
//     key      the low and the high 32 bits of the seed
//     counter  token / 4, position, stream, 0
//     x        word token % 4 of the four 32-bit words that come out
//     u        (x + 0.5) / 2^32, exact in a double
//     g        -log(-log u), Gumbel noise
//
// A generator by counter has no state: every lane computes the number of its own token, a captured graph stores nothing
// between steps but the positions, and the host can compute any of the numbers again.
// Cost: 20 products of 64 bits for four tokens, and two logarithms in double for each one that needs its noise.

// One round: two products of 64 bits, whose high halves are mixed with the key and the words that were not multiplied.
__device__ inline void philox_round(unsigned (&c)[4], unsigned k0, unsigned k1) {
    const unsigned long long first = 0xD2511F53ull * c[0], second = 0xCD9E8D57ull * c[2];
    c[0] = (unsigned)(second >> 32) ^ c[1] ^ k0;
    c[1] = (unsigned)second;
    c[2] = (unsigned)(first >> 32) ^ c[3] ^ k1;
    c[3] = (unsigned)first;
}

// The words of the tokens 4 four, 4 four + 1, 4 four + 2 and 4 four + 3.
struct Words { unsigned at[4]; };
__device__ inline Words words_of(unsigned long long seed, int position, int four, int stream) {
    Words words = {(unsigned)four, (unsigned)position, (unsigned)stream, 0};
    unsigned k0 = (unsigned)seed, k1 = (unsigned)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        philox_round(words.at, k0, k1);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return words;
}
__device__ inline unsigned word_of(unsigned long long seed, int position, int token, int stream) {
    const Words words = words_of(seed, position, (unsigned)token / 4, stream);
    return token % 4 == 0 ? words.at[0] : token % 4 == 1 ? words.at[1] : token % 4 == 2 ? words.at[2] : words.at[3];
}

__device__ inline double uniform(unsigned word) { return (word + 0.5) * 0x1p-32; }  // strictly between 0 and 1
__device__ inline double gumbel(unsigned word) { return -log(-log(uniform(word))); }
