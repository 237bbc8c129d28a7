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

#include "vectors.h"

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
    const bf16 *query;
    int64_t low, high;
} Part;

/* `count` queries, `row` of the state on, take one block, `wide` vectors of columns at a time. All
 * weights of a column that is not seen are exact zeros, which change nothing. */
INLINE void take(const int count, const int wide, const Heads *heads, const Part *parts,
                 const bf16 *keys, const bf16 *values, State *state, int64_t row) {
    const int64_t b = heads->block_tokens, d = heads->head_dim;
    const ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    floats scores[BATCH][MOST_BLOCK_TOKENS / LANES];
    bf16 weights[BATCH][MOST_BLOCK_TOKENS];
    floats shrink = spread(0);
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
                words pair = spread_pair(parts[r].query + i);
#pragma GCC unroll 8
                for (int w = 0; w < wide; w++)
                    sums[r][w] = add_products(sums[r][w], pairs[w], pair);
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < count; r++)
#pragma GCC unroll 8
            for (int w = 0; w < wide; w++) {
                ints at = lane + (int32_t)((v + w) * LANES);
                ints seen = (at >= (int32_t)parts[r].low) & (at < (int32_t)parts[r].high);
                scores[r][v + w] = choose(seen, sums[r][w], spread(-INFINITY));
            }
    }
    for (int r = 0; r < count; r++) {
        floats most = spread(state->peak[row + r]);
        for (int64_t v = 0; v < b / LANES; v++) most = larger(scores[r][v], most);
        float peak = largest(most);
        shrink[r] = state->peak[row + r] - peak;
        state->peak[row + r] = peak;
    }
    shrink = exponential(shrink);
    for (int r = 0; r < count; r++) {
        floats sum = state->sum[row + r] * shrink[r];
        for (int64_t v = 0; v < b / LANES; v++) {
            floats weight = exponential(scores[r][v] - state->peak[row + r]);
            sum += weight;
            store_narrow(weights[r] + v * LANES, weight);
        }
        state->sum[row + r] = sum;
    }
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
                words weight = spread_pair(weights[r] + t);
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

/* `count` queries take one block: as many as fit the registers, then fewer. */
INLINE void take_rows(const int wide, const Heads *heads, int64_t count, const Part *parts,
                      const bf16 *keys, const bf16 *values, State *state) {
    int64_t row = 0;
    for (; row + BATCH <= count; row += BATCH)
        take(BATCH, wide, heads, parts + row, keys, values, state, row);
    for (; row + BATCH / 2 <= count; row += BATCH / 2)
        take(BATCH / 2, wide, heads, parts + row, keys, values, state, row);
    for (; row < count; row++) take(1, wide, heads, parts + row, keys, values, state, row);
}

static void take_all(const Heads *heads, int64_t count, const Part *parts, const bf16 *keys,
                     const bf16 *values, State *state) {
    if (heads->block_tokens % (MOST_WIDE * LANES) == 0)
        take_rows(MOST_WIDE, heads, count, parts, keys, values, state);
    else
        take_rows(1, heads, count, parts, keys, values, state);
}

/* Writes the outputs of a tile of at most TILE_QUERIES queries. */
static void attend(const Heads *heads, const Cache *cache, const Tile *tile) {
    const int64_t b = heads->block_tokens, d = heads->head_dim, group = group_of(heads);
    const int64_t across = tile->kv_head * group, last = tile->position + tile->tokens - 1;
    State state;
    Part parts[TILE_QUERIES];
    for (int64_t row = 0; row < tile->tokens * group; row++) {
        parts[row].query = tile->queries + row / group * tile->stride + (across + row % group) * d;
        /* The sink is a score without a value. */
        state.peak[row] = cache->sinks[across + row % group];
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
        take_all(heads, tile->tokens * group, parts, cache->keys + at, cache->values + at, &state);
    }
    for (int64_t row = 0; row < tile->tokens * group; row++) {
        floats share = spread(1.0f / total(state.sum[row]));
        bf16 *to = tile->outputs + row / group * tile->stride + (across + row % group) * d;
        for (int64_t i = 0; i < d; i += LANES)
            store_narrow(to + i, load(state.output + row * d + i) * share);
    }
}

#endif
