/* AMX: 16 rows times 16 outputs over 32 inputs in one instruction, on processors that have it.
 *
 * Panels of weights and blocks of the cache are tiles as they lie: a row of a tile is a pair of
 * inputs of 16 outputs. The even ones of 32 inputs are one chain of additions, the odd ones another,
 * and both are then added to the sum (Intel's Software Developer's Manual, TDPBF16PS). The tile's
 * other rows do not matter to a row's sums. */
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

/* For how many rows a thread's tiles have their shape, or 0. */
typedef struct {
    int64_t rows;
} Shaped;

#ifdef TILES

#include <sys/syscall.h>
#include <unistd.h>

/* Whether Linux lets this process use tiles. */
static int have_tiles;

__attribute__((constructor)) static void ask_for_tiles(void) {
    have_tiles = syscall(SYS_arch_prctl, ASK_FOR_REGISTERS, TILE_REGISTERS) == 0;
}

/* Not the compiler's own functions: GCC's do not say what memory they read and write. Strides are
 * in bytes. */
#define LOAD_TILE(tile, from, stride)                                                             \
    __asm__ volatile("tileloadd (%0,%1), %%tmm" #tile ::"r"(from), "r"((int64_t)(stride)) : "memory")
#define STORE_TILE(tile, to, stride)                                                              \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1)" ::"r"(to), "r"((int64_t)(stride))        \
                     : "memory")
#define ADD_TILES(sums, rows, weights)                                                            \
    __asm__ volatile("tdpbf16ps %tmm" #weights ", %tmm" #rows ", %tmm" #sums)
#define CLEAR_TILE(tile) __asm__ volatile("tilezero %tmm" #tile)

/* Tiles 0 to 3 are the sums of so many rows, 4 the rows, 5 to 7 weights. */
INLINE void shape_tiles(Shaped *shaped, int64_t rows) {
    if (shaped->rows == rows) return;
    shaped->rows = rows;
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

INLINE void release_tiles(const Shaped *shaped) {
    if (shaped->rows) __asm__ volatile("tilerelease");
}

/* Begins the sums of 64 outputs. A stride of 0 gives all rows the same. */
INLINE void begin_tiles(const float *from, int64_t stride) {
    LOAD_TILE(0, from, stride);
    LOAD_TILE(1, from + 16, stride);
    LOAD_TILE(2, from + 32, stride);
    LOAD_TILE(3, from + 48, stride);
}

/* Adds what 32 inputs give to 64 outputs. */
INLINE void add_tiles(const bf16 *rows, int64_t stride, const bf16 *weights, int64_t across) {
    LOAD_TILE(4, rows, stride);
    LOAD_TILE(5, weights, across);
    ADD_TILES(0, 4, 5);
    LOAD_TILE(6, weights + 32, across);
    ADD_TILES(1, 4, 6);
    LOAD_TILE(7, weights + 64, across);
    ADD_TILES(2, 4, 7);
    LOAD_TILE(5, weights + 96, across);
    ADD_TILES(3, 4, 5);
}

INLINE void store_tiles(float *to, int64_t stride) {
    STORE_TILE(0, to, stride);
    STORE_TILE(1, to + 16, stride);
    STORE_TILE(2, to + 32, stride);
    STORE_TILE(3, to + 48, stride);
}

#else

static const int have_tiles = 0;

INLINE void release_tiles(const Shaped *shaped) { (void)shaped; }

#endif
#endif
