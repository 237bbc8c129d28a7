/* y = x W^T + b for rows of bfloat16, with sums in float32.
 *
 * An output is one chain of additions over the inputs, in their order or as tiles.h has it, whatever
 * rows and outputs are computed beside it: a row gives the same bits alone and in any batch. */
#ifndef MATRIX_H
#define MATRIX_H

#include <omp.h>

#include "int8.h"
#include "tiles.h"

#define PANEL 64       /* outputs that are computed together */
#define PANEL_VECTORS (PANEL / LANES)
#define GROUP_ROWS 6   /* rows that are computed together: 24 sums stay in registers */
#define TASK_ROWS 96   /* rows of one task */
#define AHEAD 4096     /* bytes of weights that are read ahead */
#define WIDENED_TILES 2 /* for as many, widening again costs less than keeping what was widened */
#define SHARED_SCALE 32 /* inputs that share a scale in MXFP4 */

/* `weights` holds a panel after another: for each pair of inputs, that pair of each of the panel's
 * outputs. Outputs are padded to whole panels with zeros, in `bias` (which may be null) too.
 *
 * Weights are bfloat16, or with `scales` MXFP4: a pair is a byte, the first of it in the low bits,
 * and every 32 inputs of an output share a scale byte, in panels too. Such a panel is unpacked
 * before it is used: the sums are those of the same weights in bfloat16.
 *
 * With `row_scales`, one for each output, they are INT8 codes (int8.h). For a few groups of
 * rows they are widened as they are read, for more a panel is unpacked first: the sums are those of the
 * codes in bfloat16. Scale and bias come last. */
typedef struct {
    const void *weights;
    const uint8_t *scales;
    const float *row_scales;
    const float *bias;
    int64_t outputs, inputs;
} Matrix;

/* Row i begins at from + stride * i. */
typedef struct {
    const bf16 *from;
    int64_t stride;
} Rows;

typedef enum { WRITE, ADD, WRITE_NARROW } Ending;

/* What becomes of the sums: rows of float, or of bf16 for WRITE_NARROW, padded to whole panels. */
typedef struct {
    void *to;
    int64_t stride;
    Ending ending;
} Target;

INLINE int64_t panels(const Matrix *matrix) { return (matrix->outputs + PANEL - 1) / PANEL; }

INLINE int64_t padded(int64_t outputs) { return (outputs + PANEL - 1) / PANEL * PANEL; }

INLINE void finish(const Target *target, int64_t row, int64_t column, const floats *sums) {
    int64_t at = row * target->stride + column;
    for (int c = 0; c < PANEL_VECTORS; c++, at += LANES) {
        if (target->ending == WRITE_NARROW) {
            store_narrow((bf16 *)target->to + at, sums[c]);
        } else {
            float *to = (float *)target->to + at;
            store(to, target->ending == ADD ? load(to) + sums[c] : sums[c]);
        }
    }
}

INLINE words load_bytes(const uint8_t *from) {
#ifdef PAIRS_IN_HARDWARE
    return (words)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i_u *)from));
#endif
    octets value;
    memcpy(&value, from, sizeof value);
    return __builtin_convertvector(value, words);
}

/* Writes one panel of a matrix in MXFP4 as bfloat16, which holds it exactly but for what is below
 * 2^-126: that becomes zero. */
static void unpack(const Matrix *matrix, int64_t panel, bf16 *to) {
    const floats values = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                           -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};
    const uint8_t *codes = (const uint8_t *)matrix->weights + panel * (matrix->inputs / 2 * PANEL);
    const uint8_t *scales = matrix->scales + panel * (matrix->inputs / SHARED_SCALE * PANEL);
    for (int64_t block = 0; block < matrix->inputs / SHARED_SCALE; block++) {
        for (int64_t c = 0; c < PANEL; c += LANES) {
            /* The byte is the biased exponent of a float that is a power of two. */
            floats scale = (floats)(load_bytes(scales + block * PANEL + c) << 23);
            for (int64_t k = block * (SHARED_SCALE / 2); k < (block + 1) * (SHARED_SCALE / 2); k++) {
                words code = load_bytes(codes + k * PANEL + c);
                floats even = __builtin_shuffle(values, (ints)(code & 15)) * scale;
                floats odd = __builtin_shuffle(values, (ints)(code >> 4)) * scale;
                words pair = ((words)even >> 16) | ((words)odd & 0xFFFF0000u);
                memcpy(to + 2 * (k * PANEL + c), &pair, sizeof pair);
            }
        }
    }
}

/* Writes one panel of codes as bfloat16. */
static void widen_panel(const Matrix *matrix, int64_t panel, bf16 *to) {
    int64_t size = matrix->inputs * PANEL;
    const uint8_t *from = (const uint8_t *)matrix->weights + panel * size;
    for (int64_t at = 0; at < size; at += 4 * LANES) {
        words pairs[2];
        widen_codes(from + at, pairs);
        memcpy(to + at, pairs, sizeof pairs);
        __builtin_prefetch(from + at + size);
    }
}

/* Of sixteen outputs. */
INLINE floats bias_of(const Matrix *matrix, int64_t at) {
    return matrix->bias ? load(matrix->bias + at) : spread(0);
}

/* Scale and bias of a row's sums. */
ALONE void scale_sums(const Matrix *matrix, int64_t panel, floats *sums) {
    for (int c = 0; c < PANEL_VECTORS; c++) {
        int64_t at = panel * PANEL + c * LANES;
        sums[c] = sums[c] * load(matrix->row_scales + at) + bias_of(matrix, at);
    }
}

/* Weights of one panel, and where to read ahead while they are used: nowhere new where they are
 * unpacked, because what follows them is another thread's. */
typedef struct {
    const void *weights, *next;
} Panel;

/* Reads the weights of inputs `k` and `k + 1`. */
INLINE void load_weights(const int coded, const Panel *panel, int64_t k, words *to) {
    if (coded) {
        const uint8_t *from = (const uint8_t *)panel->weights + k * PANEL;
        const uint8_t *next = (const uint8_t *)panel->next + k * PANEL;
#pragma GCC unroll 8
        for (int c = 0; c < PANEL_VECTORS; c += 2) {
            widen_codes(from + 2 * LANES * c, to + c);
            __builtin_prefetch(next + 2 * LANES * c);
        }
    } else {
        const bf16 *from = (const bf16 *)panel->weights + k * PANEL;
        const bf16 *next = (const bf16 *)panel->next + k * PANEL;
#pragma GCC unroll 8
        for (int c = 0; c < PANEL_VECTORS; c++) {
            to[c] = load_pairs(from + 2 * LANES * c);
            __builtin_prefetch(next + 2 * LANES * c);
        }
    }
}

/* `count` rows times one panel, of codes or of bfloat16: both are constants where this is inlined. */
INLINE void multiply_group(const int count, const int coded, const Matrix *matrix,
                          const Panel *weights, int64_t panel, const Rows *rows, int64_t first,
                          const Target *target) {
    const bf16 *x[GROUP_ROWS];
    const float *scales = matrix->row_scales;
    floats sums[GROUP_ROWS][PANEL_VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < count; r++) {
        x[r] = rows->from + rows->stride * (first + r);
#pragma GCC unroll 8
        for (int c = 0; c < PANEL_VECTORS; c++)
            sums[r][c] = scales ? spread(0) : bias_of(matrix, panel * PANEL + c * LANES);
    }
    for (int64_t k = 0; k < matrix->inputs; k += 2) {
        words w[PANEL_VECTORS];
        load_weights(coded, weights, k, w);
#pragma GCC unroll 8
        for (int r = 0; r < count; r++) {
            words pair = spread_pair(x[r] + k);
#pragma GCC unroll 8
            for (int c = 0; c < PANEL_VECTORS; c++)
                sums[r][c] = add_products(sums[r][c], w[c], pair);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < count; r++) {
        if (scales) scale_sums(matrix, panel, sums[r]);
        finish(target, first + r, panel * PANEL, sums[r]);
    }
}

/* Rows `first` to `last` times one panel, in groups. */
INLINE void multiply_groups(const int coded, const Matrix *matrix, const Panel *weights,
                           int64_t panel, const Rows *rows, int64_t first, int64_t last,
                           const Target *target) {
    for (; first + GROUP_ROWS <= last; first += GROUP_ROWS)
        multiply_group(GROUP_ROWS, coded, matrix, weights, panel, rows, first, target);
    switch (last - first) {
    case 5: multiply_group(5, coded, matrix, weights, panel, rows, first, target); break;
    case 4: multiply_group(4, coded, matrix, weights, panel, rows, first, target); break;
    case 3: multiply_group(3, coded, matrix, weights, panel, rows, first, target); break;
    case 2: multiply_group(2, coded, matrix, weights, panel, rows, first, target); break;
    case 1: multiply_group(1, coded, matrix, weights, panel, rows, first, target); break;
    default: break;
    }
}

/* What a thread works with: room for a panel in bfloat16, and its tiles. */
typedef struct {
    bf16 *unpacked;
    Shaped tiles;
} Worker;

INLINE Worker begin_work(bf16 *room, int64_t panel_size) {
    return (Worker){room + omp_get_thread_num() * panel_size, {0}};
}

/* By the matrix alone, not by the rows: the two forms differ in their rounding. */
INLINE int in_tiles(const Matrix *matrix) {
    return have_tiles && matrix->inputs % TILE_INPUTS == 0;
}

#ifdef TILES
/* As multiply_groups, for inputs that are a multiple of TILE_INPUTS. */
INLINE void multiply_in_tiles(const int coded, const Matrix *matrix, const Panel *weights,
                              int64_t panel, const Rows *rows, int64_t first, int64_t last,
                              const Target *target, Worker *worker) {
    const float *scales = matrix->row_scales;
    const int64_t stride = rows->stride * sizeof(bf16), across = 2 * PANEL * sizeof(bf16);
    float sums[TILE_ROWS * PANEL] __attribute__((aligned(64)));
    bf16 widened[TILE_INPUTS * PANEL] __attribute__((aligned(64)));
    for (int64_t row = first, count; row < last; row += count) {
        count = last - row < TILE_ROWS ? last - row : TILE_ROWS;
        shape_tiles(&worker->tiles, count);
        for (int c = 0; c < PANEL_VECTORS; c++)
            store(sums + c * LANES,
                  scales ? spread(0) : bias_of(matrix, panel * PANEL + c * LANES));
        begin_tiles(sums, 0);
        for (int64_t k = 0; k < matrix->inputs; k += TILE_INPUTS) {
            const bf16 *tiles = (const bf16 *)weights->weights + k * PANEL;
            const bf16 *next = (const bf16 *)weights->next + k * PANEL;
            if (coded) {
                for (int64_t i = 0; i < TILE_INPUTS; i += 2) {
                    words w[PANEL_VECTORS];
                    load_weights(1, weights, k + i, w);
                    memcpy(widened + i * PANEL, w, sizeof w);
                }
                tiles = widened;
            } else if (row == first) {
                for (int64_t i = 0; i < TILE_INPUTS * PANEL; i += 2 * LANES)
                    __builtin_prefetch(next + i);
            }
            add_tiles(rows->from + rows->stride * row + k, stride, tiles, across);
        }
        store_tiles(sums, PANEL * sizeof(float));
        for (int64_t r = 0; r < count; r++) {
            floats found[PANEL_VECTORS];
            memcpy(found, sums + r * PANEL, sizeof found);
            if (scales) scale_sums(matrix, panel, found);
            finish(target, row + r, panel * PANEL, found);
        }
    }
}
#endif

/* Rows `first` to `last` times one panel. */
static void multiply_panel(const Matrix *matrix, int64_t panel, const Rows *rows, int64_t first,
                           int64_t last, const Target *target, Worker *worker) {
    if (first == last) return;
    int64_t size = matrix->inputs * PANEL;
    int64_t widened = in_tiles(matrix) ? WIDENED_TILES * TILE_ROWS : WIDENED_GROUPS * GROUP_ROWS;
    const int coded = matrix->row_scales && last - first <= widened;
    Panel weights = {worker->unpacked, worker->unpacked};
    if (coded) {
        const uint8_t *codes = (const uint8_t *)matrix->weights + panel * size;
        weights = (Panel){codes, codes + AHEAD};
    } else if (matrix->row_scales) {
        widen_panel(matrix, panel, worker->unpacked);
    } else if (matrix->scales) {
        unpack(matrix, panel, worker->unpacked);
    } else {
        const bf16 *plain = (const bf16 *)matrix->weights + panel * size;
        weights = (Panel){plain, plain + AHEAD / sizeof(bf16)};
    }
#ifdef TILES
    if (in_tiles(matrix)) {
        if (coded)
            multiply_in_tiles(1, matrix, &weights, panel, rows, first, last, target, worker);
        else
            multiply_in_tiles(0, matrix, &weights, panel, rows, first, last, target, worker);
        return;
    }
#endif
    if (coded)
        multiply_groups(1, matrix, &weights, panel, rows, first, last, target);
    else
        multiply_groups(0, matrix, &weights, panel, rows, first, last, target);
}

/* Rows 0 to `count` times the whole matrix on up to `threads` threads. `room` has a panel in
 * bfloat16 for each. */
static void multiply(const Matrix *matrix, const Rows *rows, int64_t count, const Target *target,
                     int threads, bf16 *room) {
    int64_t across = panels(matrix), down = (count + TASK_ROWS - 1) / TASK_ROWS;
    /* A large matrix is given out in runs of panels, so that memory is read in long stretches. */
    int64_t run = across > 256 ? 8 : 1;
    int64_t runs = (across + run - 1) / run;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Worker worker = begin_work(room, matrix->inputs * PANEL);
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < runs * down; task++) {
            int64_t first = task / runs * TASK_ROWS, panel = task % runs * run;
            int64_t last = first + TASK_ROWS < count ? first + TASK_ROWS : count;
            int64_t end = panel + run < across ? panel + run : across;
            for (; panel < end; panel++)
                multiply_panel(matrix, panel, rows, first, last, target, &worker);
        }
        release_tiles(&worker.tiles);
    }
}

#endif
