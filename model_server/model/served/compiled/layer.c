/* What a layer does between its products, each in one pass over its rows. The torch beside it (convolution.py,
 * attention.py, mlp.py) says what is right; names of sizes are the same. All is float32 unless it says otherwise. */

#include <math.h>

#include "lanes.h"

/* Rows [count, width], each divided by its root mean square. */
void normed(long count, long width, float eps, const float *rows, float *out)
{
    for (long n = 0; n < count; n++, rows += width, out += width) {
        Lanes squares = {};
        for (long c = 0; c < width; c += LANES) squares += load(rows + c) * load(rows + c);
        float inverse = 1 / sqrtf(sum_of(squares) / width + eps);
        for (long c = 0; c < width; c += LANES) store(out + c, load(rows + c) * inverse);
    }
}

/* SiLU(gate) * up: rows [count, 2 width], the gate first, to [count, width]. */
void gated(long count, long width, const float *rows, float *out)
{
    for (long n = 0; n < count; n++, rows += 2 * width, out += width)
        for (long c = 0; c < width; c += LANES) {
            Lanes gate = load(rows + c);
            store(out + c, gate / (1 + exponential(-gate)) * load(rows + width + c));
        }
}

/* Rows that go through a gated MLP together: what they need in between stays in the cache. */
#define CHUNK (8 * ROWS)

/* Whole blocks of rows [count, in] times a matrix [in, width], both multiples of their block. A line of blocks after
 * another: what of the matrix it needs is read once. */
INLINE void blocks(long count, long in, long width, const float *matrix, const float *rows, float *out)
{
    for (long from = 0; from < width; from += COLUMNS * LANES) {
        long left = width - from;
        for (long n = 0; n < count; n += ROWS) {
            float *here[ROWS];
            for (long r = 0; r < ROWS; r++) here[r] = out + (n + r) * width + from;
            multiply(0, left < COLUMNS * LANES ? left : COLUMNS * LANES, here, in, rows + n * in, in, matrix + from,
                     width, NULL);
        }
    }
}

INLINE long filled_up(long rows) { return (rows + ROWS - 1) / ROWS * ROWS; }

/* Rows [count, in] times a matrix [in, width]. `memory`: ROWS rows of in and of width. */
void product(long count, long in, long width, const float *matrix, const float *rows, float *memory, float *out)
{
    long whole = count / ROWS * ROWS, left = count - whole;
    blocks(whole, in, width, matrix, rows, out);
    if (left) {
        float *last = memory + ROWS * in;
        memset(memory, 0, ROWS * in * sizeof(float));
        memcpy(memory, rows + whole * in, left * in * sizeof(float));
        blocks(ROWS, in, width, matrix, memory, last);
        memcpy(out + whole * width, last, left * width * sizeof(float));
    }
}

/* A gated MLP, `down (SiLU(gate x) * up x)`: gate and up side by side [hidden, 2 width], down [width, hidden]. */
struct Gated {
    long width;
    const float *gate_up, *down;
};

struct MlpMemory {
    float *rows, *inner, *gated, *out;
};

INLINE struct MlpMemory mlp_memory(long hidden, long width, float *memory)
{
    float *inner = memory + CHUNK * hidden, *gated = inner + CHUNK * 2 * width;
    return (struct MlpMemory){memory, inner, gated, gated + CHUNK * width};
}

long mlp_floats(long hidden, long width) { return CHUNK * (2 * hidden + 3 * width); }

/* Of rows that are in the memory, and whose outputs are left there. */
INLINE void through(const struct Gated *mlp, long count, long hidden, const struct MlpMemory *memory)
{
    long rows = filled_up(count);
    memset(memory->rows + count * hidden, 0, (rows - count) * hidden * sizeof(float));
    blocks(rows, hidden, 2 * mlp->width, mlp->gate_up, memory->rows, memory->inner);
    gated(rows, mlp->width, memory->inner, memory->gated);
    blocks(rows, mlp->width, hidden, mlp->down, memory->gated, memory->out);
}

/* Rows [count, hidden] through one MLP for all. */
void dense(long count, long hidden, const struct Gated *mlp, const float *rows, float *memory, float *out)
{
    struct MlpMemory at = mlp_memory(hidden, mlp->width, memory);
    for (long n = 0; n < count; n += CHUNK) {
        long here = count - n < CHUNK ? count - n : CHUNK;
        memcpy(at.rows, rows + n * hidden, here * hidden * sizeof(float));
        through(mlp, here, hidden, &at);
        memcpy(out + n * hidden, at.out, here * hidden * sizeof(float));
    }
}

INLINE float log_sigmoid(float x) { return (x < 0 ? x : 0) - log1pf(expf(-fabsf(x))); }

/* Of each row of `logits`, of routed experts and then of shared ones, `choices` routed experts with the largest
 * sigmoid and balance, and all shared ones: who they are and how much each counts, `choices` + `shared` a row. */
void route(long count, long experts, long choices, long shared, long logits_row, float scale, const float *balance,
           const float *logits, int64_t *chosen, float *weights)
{
    long all = choices + shared;
    for (long n = 0; n < count; n++, logits += logits_row, chosen += all, weights += all) {
        float scores[experts], most = -INFINITY, sum = 0;
        for (long e = 0; e < experts; e++) scores[e] = 1 / (1 + expf(-logits[e])) + balance[e];
        for (long k = 0; k < all; k++) {
            long best = 0;
            for (long e = 1; e < experts; e++) best = scores[e] > scores[best] ? e : best;
            chosen[k] = k < choices ? best : experts + k - choices;
            if (k < choices) scores[best] = -INFINITY;
            weights[k] = log_sigmoid(logits[chosen[k]]);
            most = weights[k] > most ? weights[k] : most;
        }
        for (long k = 0; k < all; k++) sum += weights[k] = expf(weights[k] - most);
        for (long k = 0; k < all; k++) weights[k] *= scale / sum;
    }
}

/* Rows [count, hidden] through those `experts` that are chosen for each, int64 [count, choices], times their weights;
 * an expert of width 0 is elsewhere. Sums are in the order of the experts. `widest`: of them. */
void mixture(long count, long hidden, long experts, long choices, long widest, const struct Gated *mlps,
             const int64_t *chosen, const float *weights, const float *rows, float *memory, float *out)
{
    struct MlpMemory at = mlp_memory(hidden, widest, memory);
    memset(out, 0, count * hidden * sizeof(float));
    for (long expert = 0; expert < experts; expert++) {
        if (!mlps[expert].width) continue;
        long taken[CHUNK], held = 0; /* places in `chosen` */
        for (long place = 0; place < count * choices; place++) {
            if (chosen[place] == expert) {
                memcpy(at.rows + held * hidden, rows + place / choices * hidden, hidden * sizeof(float));
                taken[held++] = place;
            }
            if (held && (held == CHUNK || place + 1 == count * choices)) {
                through(&mlps[expert], held, hidden, &at);
                for (long r = 0; r < held; r++) {
                    float weight = weights[taken[r]], *sum = out + taken[r] / choices * hidden;
                    for (long d = 0; d < hidden; d++) sum[d] += weight * at.out[r * hidden + d];
                }
                held = 0;
            }
        }
    }
}

/* The short convolution of new rows y [calls, longest, channels], y_row apart, plus x if there is one. `before` has
 * the kept rows of the state [., kept, channels]; they move on. Past and new rows go to `of_pass`. `counts` NULL: all
 * are new. */
void convolved(long calls, long longest, long channels, long kept, const float *taps, const float *y, long y_row,
               const float *x, const int64_t *rows, const int64_t *counts, float *before, float *of_pass, float *out)
{
    for (long b = 0; b < calls; b++) {
        float *past = before + rows[b] * kept * channels;
        memcpy(of_pass, past, kept * channels * sizeof(float));
        for (long t = 0; t < longest; t++, y += y_row)
            memcpy(of_pass + (kept + t) * channels, y, channels * sizeof(float));
        memcpy(past, of_pass + (counts ? counts[b] : longest) * channels, kept * channels * sizeof(float));
        for (long t = 0; t < longest; t++, of_pass += channels, out += channels) {
            for (long c = 0; c < channels; c += LANES) {
                Lanes sum = x ? load(x + c) : (Lanes){};
                for (long tap = 0; tap <= kept; tap++)
                    sum += load(of_pass + tap * channels + c) * load(taps + tap * channels + c);
                store(out + c, sum);
            }
            if (x) x += channels;
        }
        of_pass += kept * channels;
    }
}

/* New keys and values [calls, longest, 2, heads, width] to their places: keys are normalised and scaled. Keys lie
 * [., heads, width, places], values [., heads, places, width]. A position goes into the ring, which follows `first`
 * places, and one of the first to its own place, too. */
void keep(long calls, long longest, long heads, long width, long first, long places, float eps, const float *scale,
          const float *kv, const int64_t *rows, const int64_t *positions, const int64_t *counts, float *keys,
          float *values)
{
    long ring = places - first, each = heads * width;
    for (long b = 0; b < calls; b++)
        for (long t = 0; t < (counts ? counts[b] : longest); t++) {
            long position = positions[b * longest + t], to[2] = {first + position % ring, position};
            const float *row = kv + (b * longest + t) * 2 * each;
            for (long head = 0; head < heads; head++, row += width) {
                float *key = keys + (rows[b] * heads + head) * width * places;
                float *value = values + (rows[b] * heads + head) * places * width;
                Lanes squares = {};
                for (long d = 0; d < width; d += LANES) squares += load(row + d) * load(row + d);
                float inverse = 1 / sqrtf(sum_of(squares) / width + eps);
                for (int copy = 0; copy < (position < first ? 2 : 1); copy++) {
                    for (long d = 0; d < width; d++) key[d * places + to[copy]] = row[d] * inverse * scale[d];
                    memcpy(value + to[copy] * width, row + each, width * sizeof(float));
                }
            }
        }
}

/* Scores to weights, [places], which are not divided by their sum: that is returned. */
INLINE float exponentials(long places, float *scores)
{
    Lanes most = load(scores), sum = {};
    for (long s = LANES; s < places; s += LANES) most = larger(most, load(scores + s));
    float largest = largest_of(most);
    for (long s = 0; s < places; s += LANES) {
        Lanes weight = exponential(load(scores + s) - largest);
        sum += weight;
        store(scores + s, weight);
    }
    return sum_of(sum);
}

struct Sizes {
    long longest, heads, kv_heads, width, profiles, first, places;
};

/* Where what is computed for one call lies: rows of a KV head are those of its query heads, one head's positions
 * after another's, filled up to whole blocks; and rows that blocks write and nobody reads. */
struct Workspace {
    long rows;
    float *queries, *weights, *scores, *heads, *unread;
};

long workspace_floats(const struct Sizes *sizes)
{
    long rows = filled_up(sizes->heads / sizes->kv_heads * sizes->longest) * sizes->kv_heads;
    return rows * (2 * sizes->width + sizes->places) + sizes->longest * filled_up(sizes->heads) * sizes->profiles +
           sizes->places + sizes->width;
}

INLINE struct Workspace laid_out(const struct Sizes *sizes, float *memory)
{
    struct Workspace space = {.rows = filled_up(sizes->heads / sizes->kv_heads * sizes->longest)};
    long rows = space.rows * sizes->kv_heads;
    space.queries = memory;
    space.scores = space.queries + rows * sizes->width;
    space.heads = space.scores + rows * sizes->places;
    space.weights = space.heads + rows * sizes->width;
    space.unread = space.weights + sizes->longest * filled_up(sizes->heads) * sizes->profiles;
    return space;
}

INLINE long row_of(const struct Sizes *sizes, const struct Workspace *space, long head, long t)
{
    long each = sizes->heads / sizes->kv_heads;
    return head / each * space->rows + head % each * sizes->longest + t;
}

/* Queries of one call, normalised, and what each weighs the profiles with: 1 for the last, which hides. */
INLINE void read_queries(const struct Sizes *sizes, const struct Workspace *space, const float *inputs,
                         long inputs_row, long rho_at, const float *tau, float eps)
{
    long heads = filled_up(sizes->heads), rank = sizes->profiles - 1;
    for (long t = 0; t < sizes->longest; t++, inputs += inputs_row) {
        float scale = tau ? tau[t] : 1;
        for (long head = 0; head < sizes->heads; head++) {
            const float *query = inputs + head * sizes->width, *rho = inputs + rho_at + head * rank;
            normed(1, sizes->width, eps, query, space->queries + row_of(sizes, space, head, t) * sizes->width);
            float *row = space->queries + row_of(sizes, space, head, t) * sizes->width;
            float *weights = space->weights + (t * heads + head) * sizes->profiles;
            for (long d = 0; d < sizes->width; d++) row[d] *= scale;
            for (long j = 0; j < rank; j++) weights[j] = rho[j] * scale;
            weights[rank] = 1;
        }
    }
}

/* Scores begin as the bias: of the ring a product with the part of the tape that begins at the newest position's
 * distances, of the first places what `unseen` says. */
INLINE void begin_scores(const struct Sizes *sizes, const struct Workspace *space, const float *tape,
                         long tape_row, const float *unseen)
{
    long heads = filled_up(sizes->heads), ring = sizes->places - sizes->first, whole = ring / LANES * LANES;
    for (long t = 0; t < sizes->longest; t++)
        for (long from = 0; from < heads; from += ROWS) {
            const float *weights = space->weights + (t * heads + from) * sizes->profiles;
            const float *columns = tape + sizes->longest - 1 - t;
            float *out[ROWS], *last[ROWS];
            for (long r = 0; r < ROWS; r++) {
                int is_head = from + r < sizes->heads;
                float *row = is_head ? space->scores + row_of(sizes, space, from + r, t) * sizes->places : space->unread;
                for (long s = 0; s < sizes->first; s++) row[s] = unseen ? unseen[t * sizes->first + s] : 0;
                out[r] = row + sizes->first;
                last[r] = row + sizes->places - LANES;
            }
            multiply(0, whole, out, sizes->profiles, weights, sizes->profiles, columns, tape_row, NULL);
            if (whole < ring) multiply(0, LANES, last, sizes->profiles, weights, sizes->profiles, columns + ring - LANES, tape_row, NULL);
        }
}

/* Rows of one KV head over its keys and values; those of the next one are fetched meanwhile. */
INLINE void attend_head(const struct Sizes *sizes, const struct Workspace *space, long head, const float *keys,
                        const float *values, const float *next_keys, const float *next_values)
{
    long places = sizes->places, width = sizes->width, blocks = space->rows / ROWS, half = (blocks + 1) / 2;
    for (long i = 0; i < blocks; i++) {
        long from = head * space->rows + i * ROWS;
        const float *next = i < half ? next_keys : next_values;
        float *scores[ROWS], *heads[ROWS];
        for (long r = 0; r < ROWS; r++) {
            scores[r] = space->scores + (from + r) * places;
            heads[r] = space->heads + (from + r) * width;
        }
        multiply(1, places, scores, width, space->queries + from * width, width, keys, places, NULL);
        float sums[ROWS];
        for (long r = 0; r < ROWS; r++) sums[r] = exponentials(places, scores[r]);
        multiply(0, width, heads, places, scores[0], places, values, width,
                 next + (i < half ? i : i - half) * LINE * places);
        for (long r = 0; r < ROWS; r++)
            for (long d = 0; d < width; d++) heads[r][d] /= sums[r];
    }
}

/* Attention of new positions: `inputs` [calls * longest, .] has queries first and rho at `rho_at`; `tape` [profiles, .]
 * the profiles by column, of which those of a call begin at `starts`; `tau` [calls, longest] scales, NULL is 1;
 * `unseen` [calls, longest, first] is added to scores of the first places, NULL is 0. Out comes [calls * longest,
 * heads * width]. */
void attend(long calls, const struct Sizes *sizes, const float *inputs, long inputs_row, long rho_at,
            const float *tau, float eps, const float *tape, long tape_row, const int64_t *starts,
            const float *unseen, const int64_t *rows, const float *keys, const float *values, float *memory,
            float *out)
{
    struct Workspace space = laid_out(sizes, memory);
    long width = sizes->width, ring = sizes->kv_heads * sizes->places * width;
    memset(memory, 0, workspace_floats(sizes) * sizeof(float));
    for (long b = 0; b < calls; b++) {
        long first_row = b * sizes->longest;
        read_queries(sizes, &space, inputs + first_row * inputs_row, inputs_row, rho_at,
                     tau ? tau + first_row : NULL, eps);
        begin_scores(sizes, &space, tape + starts[b], tape_row, unseen ? unseen + first_row * sizes->first : NULL);
        for (long head = 0; head < sizes->kv_heads; head++) {
            long at = rows[b] * ring + head * sizes->places * width, last = head + 1 == sizes->kv_heads;
            long next = last && b + 1 < calls ? rows[b + 1] * ring : at + sizes->places * width;
            attend_head(sizes, &space, head, keys + at, values + at, keys + next, values + next);
        }
        for (long t = 0; t < sizes->longest; t++)
            for (long head = 0; head < sizes->heads; head++, out += width)
                memcpy(out, space.heads + row_of(sizes, &space, head, t) * width, width * sizeof(float));
    }
}
