/* AMX: 16 rows times 16 outputs over 32 inputs in one instruction, on processors that have it.
 *
 * A panel's weights are tiles as they lie: a row of a tile is a pair of inputs of 16 outputs. The
 * even ones of 32 inputs are one chain of additions, the odd ones another, and both are then added
 * to the sum (Intel's Software Developer's Manual, TDPBF16PS). The tile's other rows do not matter
 * to a row's sums. */
#ifndef TILES_H
#define TILES_H

#include "vectors.h"

#if defined(PAIRS_IN_HARDWARE) && defined(__AMX_BF16__) && !defined(NO_TILES)
#define TILES
#endif

#define TILE_ROWS 16
#define TILE_INPUTS 32
#define TILE_BYTES 64 /* of a row */
#define ASK_FOR_REGISTERS 0x1023 /* ARCH_REQ_XCOMP_PERM */
#define TILE_REGISTERS 18        /* XFEATURE_XTILE_DATA */

#ifdef TILES

#include <sys/syscall.h>
#include <unistd.h>

/* Whether Linux lets this process use tiles. */
static int have_tiles;

__attribute__((constructor)) static void ask_for_tiles(void) {
    have_tiles = syscall(SYS_arch_prctl, ASK_FOR_REGISTERS, TILE_REGISTERS) == 0;
}

/* Not the compiler's own functions: GCC's do not say what memory they read and write. */
#define LOAD_TILE(tile, from, stride)                                                             \
    __asm__ volatile("tileloadd (%0,%1), %%tmm" #tile ::"r"(from), "r"((int64_t)(stride)) : "memory")
#define STORE_TILE(tile, to)                                                                      \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1)" ::"r"(to), "r"(4 * (int64_t)TILE_BYTES)  \
                     : "memory")
#define ADD_TILES(sums, rows, weights)                                                            \
    __asm__ volatile("tdpbf16ps %tmm" #weights ", %tmm" #rows ", %tmm" #sums)

/* Tiles 0 to 3 are the sums of so many rows, 4 the rows, 5 to 7 weights. */
static void shape_tiles(int64_t rows) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) {
        shape.row_bytes[tile] = TILE_BYTES;
        shape.rows[tile] = tile < 5 ? (uint8_t)rows : TILE_ROWS;
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(shape));
}

INLINE void release_tiles(void) { __asm__ volatile("tilerelease"); }

/* Begins all rows' sums with the same 64 numbers. */
INLINE void begin_tiles(const float *from) {
    LOAD_TILE(0, from, 0);
    LOAD_TILE(1, from + 16, 0);
    LOAD_TILE(2, from + 32, 0);
    LOAD_TILE(3, from + 48, 0);
}

/* Adds what 32 inputs give. `stride` is of the rows, in bytes. */
INLINE void add_tiles(const bf16 *rows, int64_t stride, const bf16 *weights) {
    LOAD_TILE(4, rows, stride);
    LOAD_TILE(5, weights, 4 * TILE_BYTES);
    ADD_TILES(0, 4, 5);
    LOAD_TILE(6, weights + 32, 4 * TILE_BYTES);
    ADD_TILES(1, 4, 6);
    LOAD_TILE(7, weights + 64, 4 * TILE_BYTES);
    ADD_TILES(2, 4, 7);
    LOAD_TILE(5, weights + 96, 4 * TILE_BYTES);
    ADD_TILES(3, 4, 5);
}

/* Writes rows of 64 sums. */
INLINE void store_tiles(float *to) {
    STORE_TILE(0, to);
    STORE_TILE(1, to + 16);
    STORE_TILE(2, to + 32);
    STORE_TILE(3, to + 48);
}

#else

static const int have_tiles = 0;

#endif
#endif
