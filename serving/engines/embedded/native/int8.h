/* INT8 codes as bfloat16.
 *
 * A code is a byte, sign and magnitude: at most 127, so bfloat16 holds it exactly. 64 bytes are the
 * pairs of 32 outputs in this order: 0-3, 16-19, 4-7, 20-23, 8-11, 24-27, 12-15, 28-31. */
#ifndef INT8_H
#define INT8_H

#include "vectors.h"

#if defined(PAIRS_IN_HARDWARE) && defined(__AVX512VBMI__)

#define WIDENED_GROUPS 3 /* as WIDENED_TILES */
#define A_OR_B_AND_C 0xF8

/* The bits of a magnitude m below 64 in bfloat16. */
#define EXPONENT(m) ((m) < 2 ? 0 : (m) < 4 ? 1 : (m) < 8 ? 2 : (m) < 16 ? 3 : (m) < 32 ? 4 : 5)
#define BITS(m) ((m) ? (127 + EXPONENT(m)) << 7 | ((m) << (7 - EXPONENT(m)) & 127) : 0)
#define LOWER(m) (BITS(m) & 255)
#define UPPER(m) (BITS(m) >> 8)
#define FOUR(of, m) of(m), of(m + 1), of(m + 2), of(m + 3)
#define SIXTEEN(of, m) FOUR(of, m), FOUR(of, m + 4), FOUR(of, m + 8), FOUR(of, m + 12)
#define ALL(of) SIXTEEN(of, 0), SIXTEEN(of, 16), SIXTEEN(of, 32), SIXTEEN(of, 48)

static const uint8_t lower_bytes[64] __attribute__((aligned(64))) = {ALL(LOWER)};
static const uint8_t upper_bytes[64] __attribute__((aligned(64))) = {ALL(UPPER)};

/* Widens 64 codes to the pairs of 32 outputs. Both bytes of a number are looked up by the six low
 * bits of its code; from 64 on the upper is 0x42, and the lower is twice the code. */
INLINE void widen_codes(const uint8_t *from, words *to) {
    __m512i codes = _mm512_loadu_si512(from);
    __mmask64 below = _mm512_testn_epi8_mask(codes, _mm512_set1_epi8(64));
    __m512i lower = _mm512_mask_permutexvar_epi8(_mm512_add_epi8(codes, codes), below, codes,
                                                 _mm512_load_si512(lower_bytes));
    __m512i upper = _mm512_mask_permutexvar_epi8(_mm512_set1_epi8(0x42), below, codes,
                                                 _mm512_load_si512(upper_bytes));
    upper = _mm512_ternarylogic_epi32(upper, codes, _mm512_set1_epi8((char)0x80), A_OR_B_AND_C);
    to[0] = (words)_mm512_unpacklo_epi8(lower, upper);
    to[1] = (words)_mm512_unpackhi_epi8(lower, upper);
}

#else

#define WIDENED_GROUPS 1

/* Eight bytes, the pairs of four outputs, each. */
typedef uint64_t fours __attribute__((vector_size(4 * LANES)));

/* As above. */
INLINE void widen_codes(const uint8_t *from, words *to) {
    fours codes;
    halves pairs[2];
    memcpy(&codes, from, sizeof codes);
    codes = __builtin_shuffle(codes, (fours){0, 2, 4, 6, 1, 3, 5, 7});
    memcpy(pairs, &codes, sizeof pairs);
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        words pair = __builtin_convertvector(pairs[half], words);
        words even = (words)__builtin_convertvector((ints)(pair & 0x7Fu), floats);
        words odd = (words)__builtin_convertvector((ints)(pair >> 8 & 0x7Fu), floats);
        to[half] = even >> 16 | (pair & 0x80u) << 8 | odd | (pair & 0x8000u) << 16;
    }
}

#endif
#endif
