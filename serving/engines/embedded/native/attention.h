/* Attention over paged keys and values, with a sink and, in sliding layers, a window.
 *
 * A query takes the cache blocks that it can see one after another, in the order of their
 * positions, and keeps a running maximum and sum (online softmax, Milakov and Gimelshein 2018,
 * arXiv:1805.02867). So what a query gives does not depend on the queries computed beside it.
 *
 * A block of one key head holds, for each pair of components, that pair of each token's key; and
 * for each pair of tokens, that pair of each component of their values. */
#ifndef ATTENTION_H
#define ATTENTION_H

#include <math.h>

#include "tiles.h"

#define TILE_QUERIES 64 /* query heads of neighbouring tokens that take a block together */
#define MOST_HEAD_DIM 256
#define MOST_BLOCK_TOKENS 64
#define BATCH 8     /* queries whose sums are in registers together, */
#define MOST_WIDE 2 /* with so many vectors of scores each, */
#define CHUNK 2     /* or of outputs */

typedef struct {
    int64_t heads, kv_heads, head_dim, block_tokens, window;
} Heads;

/* A layer's cache. */
typedef struct {
    bf16 *keys, *values; /* (blocks, kv heads, block_tokens * head_dim) */
    const float *sinks;  /* (heads,) */
    int64_t sliding;     /* whether only the last `window` positions are seen */
} Cache;

/* Neighbouring queries of one sequence and one key head. */
typedef struct {
    const int64_t *table; /* the sequence's blocks */
    const bf16 *queries;  /* of the first token; a token's heads lie side by side */
    bf16 *outputs;
    int64_t stride; /* from token to token, in both */
    int64_t position, tokens, kv_head;
} Tile;

typedef struct {
    floats sum[TILE_QUERIES]; /* of weights, by lane */
    float peak[TILE_QUERIES];
    float output[TILE_QUERIES * MOST_HEAD_DIM];
} State;

INLINE int64_t group_of(const Heads *heads) { return heads->heads / heads->kv_heads; }

INLINE int64_t first_seen(const Heads *heads, const Cache *cache, int64_t position) {
    return cache->sliding && position >= heads->window ? position - heads->window + 1 : 0;
}

/* Puts one token's key and value, (head_dim,), into the cache. */
static void keep(const Heads *heads, const Cache *cache, int64_t block, int64_t slot,
                 int64_t kv_head, const float *key, const float *value) {
    int64_t b = heads->block_tokens, d = heads->head_dim;
    bf16 *keys = cache->keys + (block * heads->kv_heads + kv_head) * b * d;
    bf16 *values = cache->values + (block * heads->kv_heads + kv_head) * b * d;
    for (int64_t i = 0; i < d; i++) {
        keys[(i / 2 * b + slot) * 2 + i % 2] = narrow(key[i]);
        values[(slot / 2 * d + i) * 2 + slot % 2] = narrow(value[i]);
    }
}

/* A query takes part in a block with its columns `low` to `high`, which may be none. */
typedef struct {
    int64_t low, high;
} Part;

/* Makes `count` rows of scores, MOST_BLOCK_TOKENS apart, the weights of a block's columns, and
 * returns by how much what the rows had before shrinks. All weights of a column that is not seen are
 * exact zeros, which change nothing. */
ALONE floats weigh(int64_t count, int64_t b, const Part *parts, float *scores, bf16 *weights,
                   State *state, int64_t row) {
    const ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    floats shrink = spread(0);
    for (int64_t r = 0; r < count; r++) {
        floats most = spread(state->peak[row + r]);
        for (int64_t v = 0; v < b; v += LANES) {
            float *at = scores + r * MOST_BLOCK_TOKENS + v;
            ints column = lane + (int32_t)v;
            ints seen = (column >= (int32_t)parts[r].low) & (column < (int32_t)parts[r].high);
            floats score = choose(seen, load(at), spread(-INFINITY));
            most = larger(score, most);
            store(at, score);
        }
        float peak = largest(most);
        shrink[r] = state->peak[row + r] - peak;
        state->peak[row + r] = peak;
    }
    shrink = exponential(shrink);
    for (int64_t r = 0; r < count; r++) {
        floats sum = state->sum[row + r] * shrink[r];
        for (int64_t v = 0; v < b; v += LANES) {
            floats score = load(scores + r * MOST_BLOCK_TOKENS + v);
            floats weight = exponential(score - state->peak[row + r]);
            sum += weight;
            store_narrow(weights + r * MOST_BLOCK_TOKENS + v, weight);
        }
        state->sum[row + r] = sum;
    }
    return shrink;
}

/* `count` queries, `row` of the tile on, take one block, `wide` vectors of columns at a time. */
INLINE void take(const int count, const int wide, const Heads *heads, const Part *parts,
                 const bf16 *queries, const bf16 *keys, const bf16 *values, State *state,
                 int64_t row) {
    const int64_t b = heads->block_tokens, d = heads->head_dim;
    float scores[BATCH * MOST_BLOCK_TOKENS];
    bf16 weights[BATCH * MOST_BLOCK_TOKENS];
    queries += row * d;
    for (int64_t v = 0; v < b / LANES; v += wide) {
        floats sums[BATCH][MOST_WIDE];
#pragma GCC unroll 8
        for (int r = 0; r < count; r++)
#pragma GCC unroll 8
            for (int w = 0; w < wide; w++) sums[r][w] = spread(0);
        for (int64_t i = 0; i < d; i += 2) {
            words pairs[MOST_WIDE];
#pragma GCC unroll 8
            for (int w = 0; w < wide; w++) pairs[w] = load_pairs(keys + i * b + 2 * LANES * (v + w));
#pragma GCC unroll 8
            for (int r = 0; r < count; r++) {
                words pair = spread_pair(queries + r * d + i);
#pragma GCC unroll 8
                for (int w = 0; w < wide; w++)
                    sums[r][w] = add_products(sums[r][w], pairs[w], pair);
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < count; r++)
#pragma GCC unroll 8
            for (int w = 0; w < wide; w++)
                store(scores + r * MOST_BLOCK_TOKENS + (v + w) * LANES, sums[r][w]);
    }
    floats shrink = weigh(count, b, parts + row, scores, weights, state, row);
    for (int64_t i = 0; i < d; i += CHUNK * LANES) {
        floats sums[BATCH][CHUNK];
        float *output = state->output + row * d + i;
#pragma GCC unroll 8
        for (int r = 0; r < count; r++)
#pragma GCC unroll 8
            for (int c = 0; c < CHUNK; c++)
                sums[r][c] = load(output + r * d + c * LANES) * shrink[r];
        for (int64_t t = 0; t < b; t += 2) {
            words pairs[CHUNK];
#pragma GCC unroll 8
            for (int c = 0; c < CHUNK; c++)
                pairs[c] = load_pairs(values + t * d + 2 * (i + c * LANES));
#pragma GCC unroll 8
            for (int r = 0; r < count; r++) {
                words weight = spread_pair(weights + r * MOST_BLOCK_TOKENS + t);
#pragma GCC unroll 8
                for (int c = 0; c < CHUNK; c++)
                    sums[r][c] = add_products(sums[r][c], pairs[c], weight);
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < count; r++)
#pragma GCC unroll 8
            for (int c = 0; c < CHUNK; c++) store(output + r * d + c * LANES, sums[r][c]);
    }
}

#ifdef TILES
/* As `take`, for blocks and heads of whole tiles. */
static void take_in_tiles(int64_t count, const Heads *heads, const Part *parts,
                          const bf16 *queries, const bf16 *keys, const bf16 *values, State *state,
                          int64_t row) {
    const int64_t b = heads->block_tokens, d = heads->head_dim, pair = 2 * sizeof(bf16);
    const int64_t wide = MOST_BLOCK_TOKENS;
    float scores[TILE_ROWS * MOST_BLOCK_TOKENS] __attribute__((aligned(64)));
    bf16 weights[TILE_ROWS * MOST_BLOCK_TOKENS] __attribute__((aligned(64)));
    queries += row * d;
    for (int64_t t = 0; t < b; t += 2 * LANES) {
        CLEAR_TILE(0);
        CLEAR_TILE(1);
        for (int64_t i = 0; i < d; i += TILE_INPUTS) {
            LOAD_TILE(4, queries + i, d * sizeof(bf16));
            LOAD_TILE(5, keys + i * b + 2 * t, b * pair);
            ADD_TILES(0, 4, 5);
            LOAD_TILE(6, keys + i * b + 2 * (t + LANES), b * pair);
            ADD_TILES(1, 4, 6);
        }
        STORE_TILE(0, scores + t, wide * sizeof(float));
        STORE_TILE(1, scores + t + LANES, wide * sizeof(float));
    }
    floats shrink = weigh(count, b, parts + row, scores, weights, state, row);
    float *output = state->output + row * d;
    for (int64_t r = 0; r < count; r++)
        for (int64_t i = r * d; i < (r + 1) * d; i += LANES)
            store(output + i, load(output + i) * shrink[r]);
    for (int64_t i = 0; i < d; i += 4 * LANES) {
        begin_tiles(output + i, d * sizeof(float));
        for (int64_t t = 0; t < b; t += TILE_INPUTS)
            add_tiles(weights + t, wide * sizeof(bf16), values + t * d + 2 * i, d * pair);
        store_tiles(output + i, d * sizeof(float));
    }
}
#endif

/* `count` queries take one block: as many as fit the registers, then fewer. */
INLINE void take_rows(const int wide, const Heads *heads, int64_t count, const Part *parts,
                      const bf16 *queries, const bf16 *keys, const bf16 *values, State *state) {
    int64_t row = 0;
    for (; row + BATCH <= count; row += BATCH)
        take(BATCH, wide, heads, parts, queries, keys, values, state, row);
    for (; row + BATCH / 2 <= count; row += BATCH / 2)
        take(BATCH / 2, wide, heads, parts, queries, keys, values, state, row);
    for (; row < count; row++) take(1, wide, heads, parts, queries, keys, values, state, row);
}

static void take_all(const Heads *heads, int64_t count, const Part *parts, const bf16 *queries,
                     const bf16 *keys, const bf16 *values, State *state, Shaped *tiles) {
    const int64_t b = heads->block_tokens;
#ifdef TILES
    if (have_tiles && b % TILE_INPUTS == 0 && heads->head_dim % (4 * LANES) == 0) {
        for (int64_t row = 0, rows; row < count; row += rows) {
            rows = count - row < TILE_ROWS ? count - row : TILE_ROWS;
            shape_tiles(tiles, rows);
            take_in_tiles(rows, heads, parts, queries, keys, values, state, row);
        }
        return;
    }
#endif
    (void)tiles;
    if (b % (MOST_WIDE * LANES) == 0)
        take_rows(MOST_WIDE, heads, count, parts, queries, keys, values, state);
    else
        take_rows(1, heads, count, parts, queries, keys, values, state);
}

/* Writes the outputs of a tile of at most TILE_QUERIES queries. */
static void attend(const Heads *heads, const Cache *cache, const Tile *tile, Shaped *tiles) {
    const int64_t b = heads->block_tokens, d = heads->head_dim, group = group_of(heads);
    const int64_t across = tile->kv_head * group, last = tile->position + tile->tokens - 1;
    State state;
    Part parts[TILE_QUERIES];
    bf16 queries[TILE_QUERIES * MOST_HEAD_DIM] __attribute__((aligned(64)));
    for (int64_t row = 0; row < tile->tokens * group; row++) {
        int64_t head = across + row % group;
        memcpy(queries + row * d, tile->queries + row / group * tile->stride + head * d,
               d * sizeof(bf16));
        /* The sink is a score without a value. */
        state.peak[row] = cache->sinks[head];
        state.sum[row] = (floats){1.0f};
        memset(state.output + row * d, 0, d * sizeof(float));
    }
    for (int64_t i = first_seen(heads, cache, tile->position) / b; i <= last / b; i++) {
        int64_t at = (tile->table[i] * heads->kv_heads + tile->kv_head) * b * d;
        for (int64_t row = 0; row < tile->tokens * group; row++) {
            int64_t position = tile->position + row / group;
            parts[row].low = first_seen(heads, cache, position) - i * b;
            parts[row].high = position + 1 - i * b;
        }
        take_all(heads, tile->tokens * group, parts, queries, cache->keys + at, cache->values + at,
                 &state, tiles);
    }
    for (int64_t row = 0; row < tile->tokens * group; row++) {
        floats share = spread(1.0f / total(state.sum[row]));
        bf16 *to = tile->outputs + row / group * tile->stride + (across + row % group) * d;
        for (int64_t i = 0; i < d; i += LANES)
            store_narrow(to + i, load(state.output + row * d + i) * share);
    }
}

#endif
