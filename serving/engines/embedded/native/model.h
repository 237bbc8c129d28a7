/* The model, what is asked of it, and the memory that one pass works in. The structs that the
 * caller fills are mirrored in library.py. */
#ifndef MODEL_H
#define MODEL_H

#include "attention.h"
#include "matrix.h"

typedef struct {
    const float *attention_norm, *experts_norm; /* (hidden,) */
    Matrix qkv, out, router;
    Matrix gate_up, down; /* the first expert's; the others follow */
    Cache cache;
} Layer;

typedef struct {
    Heads heads;
    int64_t layers, hidden, vocabulary, experts, per_token, inner;
    float epsilon, alpha, limit, magnitude;
    const float *frequencies; /* (head_dim / 2,), of the rotation */
    const bf16 *embedding;    /* (vocabulary, hidden) */
    const Layer *layer;
    const float *final_norm;
    Matrix head;
} Model;

/* Tokens `start` to `start + count` of one sequence. Positions before `kept` are in the cache
 * already. With `samples` the logits of the last are wanted. */
typedef struct {
    const int64_t *tokens, *full_table, *sliding_table;
    int64_t start, count, kept, samples;
} Span;

/* What one token needs; `span` is its sequence's. */
typedef struct {
    const Span *span;
    int64_t position;
} Token;

/* The memory of one pass. Rows are padded to whole panels where a product writes them. */
typedef struct {
    Token *tokens;
    float *residual;  /* (tokens, hidden) */
    bf16 *input;      /* (tokens, hidden): what a product reads */
    float *turns;     /* (tokens, head_dim): cosine and sine of each pair's angle */
    float *qkv;       /* (tokens, queries, keys and values of all heads) */
    bf16 *queries;    /* (tokens, heads * head_dim) */
    bf16 *mixed;      /* the same, of outputs */
    float *scores;    /* (tokens, experts) */
    float *weights;   /* (tokens, per_token) of the chosen experts */
    int32_t *chosen;  /* (tokens, per_token): experts */
    int32_t *place;   /* (tokens, per_token): where the pair is in the order of experts */
    int32_t *source;  /* (pairs,): the token of a pair, in the order of experts */
    int64_t *bounds;  /* (experts + 1,): where an expert's pairs begin */
    bf16 *pair_rows;  /* (pairs, hidden): the rows of `input`, in that order */
    float *gate_up;   /* (pairs, 2 * inner): all gates, then all ups */
    bf16 *inner_rows; /* (pairs, inner) */
    float *outputs;   /* (pairs, hidden) */
    bf16 *panels;     /* (threads,): one of any matrix each, in bfloat16 */
} Room;

typedef struct {
    const Model *model;
    const Span *spans;
    int64_t span_count;
    bf16 *logits; /* (sampled spans, vocabulary padded to whole panels) */
    void *room;
    int threads; /* for large products; small ones use fewer */
} Step;

static int64_t qkv_width(const Heads *heads) {
    return (heads->heads + 2 * heads->kv_heads) * heads->head_dim;
}

static void *place(char **next, int64_t count, int64_t bytes) {
    void *here = *next;
    *next += (count * bytes + 63) / 64 * 64;
    return here;
}

/* Of one panel of the matrix that has most inputs. */
static int64_t panel_size(const Model *model) {
    int64_t most = model->heads.heads * model->heads.head_dim;
    if (most < model->hidden) most = model->hidden;
    if (most < model->inner) most = model->inner;
    return most * PANEL;
}

/* Lays the room out from `base` on and returns how many bytes it takes. */
static int64_t lay_out(const Model *model, int64_t tokens, int threads, char *base, Room *room) {
    char *next = base;
    const Heads *heads = &model->heads;
    int64_t pairs = tokens * model->per_token, width = heads->heads * heads->head_dim;
    room->tokens = place(&next, tokens, sizeof(Token));
    room->residual = place(&next, tokens * padded(model->hidden), sizeof(float));
    room->input = place(&next, tokens * model->hidden, sizeof(bf16));
    room->turns = place(&next, tokens * heads->head_dim, sizeof(float));
    room->qkv = place(&next, tokens * padded(qkv_width(heads)), sizeof(float));
    room->queries = place(&next, tokens * width, sizeof(bf16));
    room->mixed = place(&next, tokens * width, sizeof(bf16));
    room->scores = place(&next, tokens * padded(model->experts), sizeof(float));
    room->weights = place(&next, pairs, sizeof(float));
    room->chosen = place(&next, pairs, sizeof(int32_t));
    room->place = place(&next, pairs, sizeof(int32_t));
    room->source = place(&next, pairs, sizeof(int32_t));
    room->bounds = place(&next, model->experts + 1, sizeof(int64_t));
    room->pair_rows = place(&next, pairs * model->hidden, sizeof(bf16));
    room->gate_up = place(&next, pairs * padded(2 * model->inner), sizeof(float));
    room->inner_rows = place(&next, pairs * model->inner, sizeof(bf16));
    room->outputs = place(&next, pairs * padded(model->hidden), sizeof(float));
    room->panels = place(&next, threads * panel_size(model), sizeof(bf16));
    return next - base;
}

#endif
