/* The GPT-OSS transformer: one pass over the tokens of a step, on a CPU.
 *
 * Every function works row by row in an order that the other rows do not change, so a token's bits
 * depend on its own sequence alone. */
#include "model.h"

#define LEAST_WORK (1 << 19)  /* multiplications that are worth a thread */
#define LEAST_SHARED_ROWS 32  /* rows that are worth several, for work that is small for each */

typedef struct {
    const Model *model;
    Room room;
    int64_t rows; /* of the residual stream */
    int threads;
} Pass;

/* How many threads so many multiplications are worth. */
static int threads_for(const Pass *pass, int64_t multiplications) {
    int64_t worth = multiplications / LEAST_WORK;
    return worth < 1 ? 1 : worth < pass->threads ? (int)worth : pass->threads;
}

static void linear(const Pass *pass, const Matrix *matrix, const bf16 *from, void *to,
                   Ending ending) {
    Rows rows = {from, matrix->inputs};
    Target target = {to, padded(matrix->outputs), ending};
    multiply(matrix, &rows, pass->rows, &target,
             threads_for(pass, pass->rows * matrix->outputs * matrix->inputs), pass->room.panels);
}

/* RMSNorm of the residual stream into `input`. */
static void normalise(const Pass *pass, const float *weight) {
    const Model *model = pass->model;
    int64_t hidden = model->hidden;
#pragma omp parallel for num_threads(pass->threads) if (pass->rows > LEAST_SHARED_ROWS)
    for (int64_t row = 0; row < pass->rows; row++) {
        const float *x = pass->room.residual + row * padded(hidden);
        bf16 *y = pass->room.input + row * hidden;
        floats squares = spread(0);
        for (int64_t i = 0; i < hidden; i += LANES) squares += load(x + i) * load(x + i);
        float scale = 1.0f / sqrtf(total(squares) / (float)hidden + model->epsilon);
        for (int64_t i = 0; i < hidden; i += LANES)
            store_narrow(y + i, load(x + i) * scale * load(weight + i));
    }
}

static void begin(const Pass *pass) {
    const Model *model = pass->model;
    int64_t hidden = model->hidden, pairs = model->heads.head_dim / 2;
#pragma omp parallel for num_threads(pass->threads) if (pass->rows > LEAST_SHARED_ROWS)
    for (int64_t row = 0; row < pass->rows; row++) {
        const Token *token = pass->room.tokens + row;
        int64_t id = token->span->tokens[token->position - token->span->start];
        float *x = pass->room.residual + row * padded(hidden);
        for (int64_t i = 0; i < hidden; i++) x[i] = widen(model->embedding[id * hidden + i]);
        float *turn = pass->room.turns + row * 2 * pairs;
        for (int64_t i = 0; i < pairs; i++) {
            float angle = (float)token->position * model->frequencies[i];
            turn[2 * i] = cosf(angle) * model->magnitude;
            turn[2 * i + 1] = sinf(angle) * model->magnitude;
        }
    }
}

/* Rotates the pairs of one head, in place. */
static void turn_head(float *head, const float *turn, int64_t head_dim) {
    for (int64_t i = 0; i < head_dim; i += 2) {
        float a = head[i], b = head[i + 1];
        head[i] = a * turn[i] - b * turn[i + 1];
        head[i + 1] = a * turn[i + 1] + b * turn[i];
    }
}

/* Rotates queries and keys, and puts keys and values into the cache. */
static void keep_all(const Pass *pass, const Cache *cache) {
    const Heads *heads = &pass->model->heads;
    int64_t d = heads->head_dim, width = heads->heads * d, b = heads->block_tokens;
#pragma omp parallel for num_threads(pass->threads) if (pass->rows > LEAST_SHARED_ROWS)
    for (int64_t row = 0; row < pass->rows; row++) {
        const Token *token = pass->room.tokens + row;
        const float *turn = pass->room.turns + row * d;
        float *states = pass->room.qkv + row * padded(qkv_width(heads));
        for (int64_t h = 0; h < heads->heads + heads->kv_heads; h++)
            turn_head(states + h * d, turn, d);
        for (int64_t i = 0; i < width; i += LANES)
            store_narrow(pass->room.queries + row * width + i, load(states + i));
        if (token->position < token->span->kept) continue;
        const Span *span = token->span;
        const int64_t *table = cache->sliding ? span->sliding_table : span->full_table;
        int64_t block = table[token->position / b], slot = token->position % b;
        for (int64_t h = 0; h < heads->kv_heads; h++) {
            const float *key = states + width + h * d;
            keep(heads, cache, block, slot, h, key, key + heads->kv_heads * d);
        }
    }
}

/* Attention of all rows, in tiles of one sequence's; the last, which see most, come first. */
static void mix(const Pass *pass, const Cache *cache) {
    const Heads *heads = &pass->model->heads;
    const Room *room = &pass->room;
    int64_t width = heads->heads * heads->head_dim, most = TILE_QUERIES / group_of(heads);
    int64_t tiles = 0, seen = 0;
    int32_t *begins = room->source; /* not in use yet; a tile ends where the next begins */
    for (int64_t row = 0; row < pass->rows; row++) {
        const Token *token = room->tokens + row;
        seen += token->position + 1 - first_seen(heads, cache, token->position);
        if (!tiles || token->span != token[-1].span || row - begins[tiles - 1] == most)
            begins[tiles++] = (int32_t)row;
    }
    int threads = threads_for(pass, 2 * seen * width);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Shaped shaped = {0};
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = tiles * heads->kv_heads - 1; task >= 0; task--) {
            int64_t number = task / heads->kv_heads, row = begins[number];
            const Token *token = room->tokens + row;
            Tile tile = {
                .table = cache->sliding ? token->span->sliding_table : token->span->full_table,
                .queries = room->queries + row * width,
                .outputs = room->mixed + row * width,
                .stride = width,
                .position = token->position,
                .tokens = (number + 1 < tiles ? begins[number + 1] : pass->rows) - row,
                .kv_head = task % heads->kv_heads,
            };
            attend(heads, cache, &tile, &shaped);
        }
        release_tiles(&shaped);
    }
}

/* Leaves only the rows whose logits are wanted. */
static void leave_sampled(Pass *pass) {
    const Model *model = pass->model;
    Room *room = &pass->room;
    int64_t hidden = padded(model->hidden), width = model->heads.heads * model->heads.head_dim;
    int64_t left = 0;
    for (int64_t row = 0; row < pass->rows; row++) {
        const Token token = room->tokens[row];
        const Span *span = token.span;
        if (!span->samples || token.position != span->start + span->count - 1) continue;
        room->tokens[left] = token;
        memmove(room->residual + left * hidden, room->residual + row * hidden,
                hidden * sizeof(float));
        memmove(room->queries + left * width, room->queries + row * width, width * sizeof(bf16));
        left++;
    }
    pass->rows = left;
}

/* Chooses the experts of one row and their weights, the softmax over the chosen. */
static void route(const Model *model, const float *scores, int32_t *chosen, float *weights) {
    float sum = 0;
    for (int64_t slot = 0; slot < model->per_token; slot++) {
        int64_t best = -1;
        for (int64_t expert = 0; expert < model->experts; expert++) {
            int taken = 0;
            for (int64_t earlier = 0; earlier < slot; earlier++)
                taken |= chosen[earlier] == expert;
            if (!taken && (best < 0 || scores[expert] > scores[best])) best = expert;
        }
        chosen[slot] = (int32_t)best;
        weights[slot] = expf(scores[best] - scores[chosen[0]]);
        sum += weights[slot];
    }
    for (int64_t slot = 0; slot < model->per_token; slot++) weights[slot] /= sum;
}

/* Orders the pairs of tokens and chosen experts by expert. */
static void sort_pairs(const Pass *pass) {
    const Model *model = pass->model;
    const Room *room = &pass->room;
    int64_t pairs = pass->rows * model->per_token;
    memset(room->bounds, 0, (model->experts + 1) * sizeof(int64_t));
    for (int64_t pair = 0; pair < pairs; pair++) room->bounds[room->chosen[pair] + 1]++;
    for (int64_t expert = 0; expert < model->experts; expert++)
        room->bounds[expert + 1] += room->bounds[expert];
    for (int64_t pair = 0; pair < pairs; pair++) {
        int64_t at = room->bounds[room->chosen[pair]]++;
        room->place[pair] = (int32_t)at;
        room->source[at] = (int32_t)(pair / model->per_token);
    }
    for (int64_t expert = model->experts; expert > 0; expert--)
        room->bounds[expert] = room->bounds[expert - 1];
    room->bounds[0] = 0;
}

/* Puts what each pair reads side by side, in the order of experts. */
static void gather(const Pass *pass) {
    int64_t hidden = pass->model->hidden, pairs = pass->rows * pass->model->per_token;
#pragma omp parallel for num_threads(pass->threads) if (pass->rows > LEAST_SHARED_ROWS)
    for (int64_t pair = 0; pair < pairs; pair++)
        memcpy(pass->room.pair_rows + pair * hidden,
               pass->room.input + pass->room.source[pair] * hidden, hidden * sizeof(bf16));
}

/* Each expert's matrix times its pairs. */
static void multiply_experts(const Pass *pass, const Matrix *first, const bf16 *from, float *to) {
    const int64_t *bounds = pass->room.bounds;
    int64_t experts = pass->model->experts, pairs = bounds[experts];
    int64_t across = panels(first), size = across * PANEL;
    Rows rows = {from, first->inputs};
    Target target = {to, size, WRITE};
    int threads = threads_for(pass, pairs * first->outputs * first->inputs);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Worker worker = begin_work(pass->room.panels, panel_size(pass->model));
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < experts * across; task++) {
            int64_t expert = task / across;
            Matrix matrix = *first;
            int64_t weights = expert * size * matrix.inputs;
            matrix.weights = (const char *)first->weights +
                             (first->scales ? weights / 2 : weights * (int64_t)sizeof(bf16));
            if (first->scales) matrix.scales += weights / SHARED_SCALE;
            matrix.bias += expert * size;
            multiply_panel(&matrix, task % across, &rows, bounds[expert], bounds[expert + 1],
                           &target, &worker);
        }
        release_tiles(&worker.tiles);
    }
}

/* (up + 1) * gate * sigmoid(alpha * gate), gate clamped above, up on both sides. */
static void activate(const Pass *pass) {
    const Model *model = pass->model;
    int64_t inner = model->inner, pairs = pass->rows * model->per_token;
    const floats high = spread(model->limit), low = spread(-model->limit);
#pragma omp parallel for num_threads(pass->threads) if (pass->rows > LEAST_SHARED_ROWS)
    for (int64_t pair = 0; pair < pairs; pair++) {
        const float *from = pass->room.gate_up + pair * padded(2 * inner);
        bf16 *to = pass->room.inner_rows + pair * inner;
        for (int64_t i = 0; i < inner; i += LANES) {
            floats gate = load(from + i), up = load(from + inner + i);
            gate = choose(gate > high, high, gate);
            up = choose(up > high, high, up);
            up = choose(up < low, low, up);
            store_narrow(to + i, (up + 1.0f) * gate / (1.0f + exponential(-model->alpha * gate)));
        }
    }
}

/* Adds each row's weighted experts to the residual stream. */
static void combine(const Pass *pass) {
    const Model *model = pass->model;
    const Room *room = &pass->room;
    int64_t hidden = model->hidden, stride = padded(hidden);
#pragma omp parallel for num_threads(pass->threads) if (pass->rows > LEAST_SHARED_ROWS)
    for (int64_t row = 0; row < pass->rows; row++) {
        float *to = room->residual + row * stride;
        for (int64_t i = 0; i < hidden; i += LANES) {
            floats sum = spread(0);
            for (int64_t slot = row * model->per_token; slot < (row + 1) * model->per_token; slot++)
                sum += load(room->outputs + room->place[slot] * stride + i) * room->weights[slot];
            store(to + i, load(to + i) + sum);
        }
    }
}

static void run_experts(const Pass *pass, const Layer *layer) {
    const Model *model = pass->model;
    const Room *room = &pass->room;
    linear(pass, &layer->router, room->input, room->scores, WRITE);
    for (int64_t row = 0; row < pass->rows; row++)
        route(model, room->scores + row * padded(model->experts),
              room->chosen + row * model->per_token, room->weights + row * model->per_token);
    sort_pairs(pass);
    gather(pass);
    multiply_experts(pass, &layer->gate_up, room->pair_rows, room->gate_up);
    activate(pass);
    multiply_experts(pass, &layer->down, room->inner_rows, room->outputs);
    combine(pass);
}

/* Bytes of room that a pass over so many tokens needs. */
int64_t room_bytes(const Model *model, int64_t tokens, int threads) {
    Room room;
    return lay_out(model, tokens, threads, 0, &room);
}

/* Sizes of the structs that the caller fills, to be compared with its own. */
void struct_sizes(int64_t *sizes) {
    sizes[0] = sizeof(Model);
    sizes[1] = sizeof(Layer);
    sizes[2] = sizeof(Span);
    sizes[3] = sizeof(Step);
}

/* Writes the keys and values of all tokens and the logits of the sampled spans, in their order. */
void forward(const Step *step) {
    const Model *model = step->model;
    Pass pass = {.model = model, .threads = step->threads};
    for (int64_t i = 0; i < step->span_count; i++) pass.rows += step->spans[i].count;
    lay_out(model, pass.rows, step->threads, step->room, &pass.room);
    int64_t row = 0;
    for (int64_t i = 0; i < step->span_count; i++)
        for (int64_t t = 0; t < step->spans[i].count; t++)
            pass.room.tokens[row++] = (Token){&step->spans[i], step->spans[i].start + t};
    begin(&pass);
    for (int64_t i = 0; i < model->layers; i++) {
        const Layer *layer = &model->layer[i];
        normalise(&pass, layer->attention_norm);
        linear(&pass, &layer->qkv, pass.room.input, pass.room.qkv, WRITE);
        keep_all(&pass, &layer->cache);
        if (i == model->layers - 1) leave_sampled(&pass);
        if (!pass.rows) return;
        mix(&pass, &layer->cache);
        linear(&pass, &layer->out, pass.room.mixed, pass.room.residual, ADD);
        normalise(&pass, layer->experts_norm);
        run_experts(&pass, layer);
    }
    normalise(&pass, model->final_norm);
    linear(&pass, &model->head, pass.room.input, step->logits, WRITE_NARROW);
}
