/* Sixteen floats at a time, bfloat16 in memory. The types are GCC's vectors: where a processor has
 * narrower registers, the compiler uses several. PORTABLE leaves out what only some have. */
#ifndef VECTORS_H
#define VECTORS_H

#include <stdint.h>
#include <string.h>
#if defined(__AVX512BF16__) && !defined(PORTABLE)
#define PAIRS_IN_HARDWARE
#include <immintrin.h>
#endif

#define LANES 16
#define INLINE static inline __attribute__((always_inline))
/* Never a part of other functions: whether the compiler rounds between a product and a sum may
 * depend on what is around them, and a row's bits must not. */
#define ALONE static __attribute__((noinline, noclone))

typedef uint16_t bf16; /* the upper half of a float */
typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));
typedef uint8_t octets __attribute__((vector_size(LANES)));

INLINE floats load(const float *from) {
    floats value;
    memcpy(&value, from, sizeof value);
    return value;
}

INLINE void store(float *to, floats value) { memcpy(to, &value, sizeof value); }

INLINE words load_pairs(const bf16 *from) {
    words value;
    memcpy(&value, from, sizeof value);
    return value;
}

/* One pair of bfloat16 in every lane. */
INLINE words spread_pair(const bf16 *from) {
    uint32_t pair;
    memcpy(&pair, from, sizeof pair);
    return (words){0} + pair;
}

INLINE floats spread(float value) { return (floats){0} + value; }

/* a where the mask is all ones, b where it is zero. */
INLINE floats choose(ints mask, floats a, floats b) {
    return (floats)(((ints)a & mask) | ((ints)b & ~mask));
}

/* sum + a0 * b0 + a1 * b1 of the pairs in each lane. */
INLINE floats add_products(floats sum, words a, words b) {
#ifdef PAIRS_IN_HARDWARE
    return (floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    sum += (floats)(a << 16) * (floats)(b << 16);
    return sum + (floats)(a & 0xFFFF0000u) * (floats)(b & 0xFFFF0000u);
#endif
}

/* To the nearest bfloat16, ties to even; what is not a number stays none. */
INLINE void store_narrow(bf16 *to, floats value) {
    words bits = (words)value, wrong = (words)(value != value);
    bits = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    bits = (bits & ~wrong) | (wrong & 0x7FC0u);
    halves narrow = __builtin_convertvector(bits, halves);
    memcpy(to, &narrow, sizeof narrow);
}

INLINE bf16 narrow(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (value != value) return 0x7FC0;
    return (bf16)((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

INLINE float widen(bf16 value) {
    uint32_t bits = (uint32_t)value << 16;
    float wide;
    memcpy(&wide, &bits, sizeof wide);
    return wide;
}

#define SWAPPED(v, n)                                                                             \
    __builtin_shuffle(v, (ints){0 ^ n, 1 ^ n, 2 ^ n, 3 ^ n, 4 ^ n, 5 ^ n, 6 ^ n, 7 ^ n, 8 ^ n,    \
                                9 ^ n, 10 ^ n, 11 ^ n, 12 ^ n, 13 ^ n, 14 ^ n, 15 ^ n})

INLINE float total(floats v) {
    v += SWAPPED(v, 8);
    v += SWAPPED(v, 4);
    v += SWAPPED(v, 2);
    v += SWAPPED(v, 1);
    return v[0];
}

INLINE floats larger(floats a, floats b) { return choose(a > b, a, b); }

INLINE float largest(floats v) {
    v = larger(v, SWAPPED(v, 8));
    v = larger(v, SWAPPED(v, 4));
    v = larger(v, SWAPPED(v, 2));
    v = larger(v, SWAPPED(v, 1));
    return v[0];
}

/* e^x to about 2 units in the last place; 0 below -87, held at 88 above.
 *
 * x = n ln 2 + f with |f| <= ln 2 / 2, and a polynomial of degree 6 in f with the coefficients of
 * Cephes' expf (S. L. Moshier, 1992). Adding 1.5 * 2^23 rounds to a whole number and leaves it in
 * the low bits, from where it is shifted into the exponent. */
INLINE floats exponential(floats x) {
    const float round = 12582912.0f;
    ints gone = x < -87.0f;
    x = choose(x > 88.0f, spread(88.0f), x);
    x = choose(gone, spread(-87.0f), x);
    floats shifted = x * 1.44269504f + round;
    floats n = shifted - round;
    floats f = x - n * 0.693359375f + n * 2.12194440e-4f;
    floats y = f * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * f + 8.3334519073e-3f;
    y = y * f + 4.1665795894e-2f;
    y = y * f + 1.6666665459e-1f;
    y = y * f + 5.0000001201e-1f;
    y = y * (f * f) + f + 1.0f;
    words scaled = (words)y + ((words)shifted << 23);
    return choose(gone, spread(0.0f), (floats)scaled);
}

#endif
