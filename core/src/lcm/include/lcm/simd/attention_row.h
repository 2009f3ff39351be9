/* Attention of few query rows to many keys, as when a model writes: what counts is how fast keys and values come
   from memory. A piece takes some keys of all heads, which lie together, and finds for each query the largest of
   their scores, the sum of their powers, and their values mixed by these powers; what the pieces found is put
   together in the order of the keys. */
#ifndef LCM_SIMD_ATTENTION_ROW_H
#define LCM_SIMD_ATTENTION_ROW_H

enum {
  ROW_QUERIES = LANES,              /* the most queries to a head of keys for which bands are not faster */
  ROW_TILE = 4,                     /* queries that share a load of values */
  ROW_VECTORS = TILE_ROWS < 8 ? 2 : 4,
  ROW_PIECE = 1 << 15,              /* numbers of k, and of v, in a piece: 128 KiB each */
  ROW_ONE_PIECE = 1 << 16,          /* below so many numbers of k in all, threads are not worth their waking */
};

/* What pieces of a batch find: [pieces, kv_heads, group * rows, wide + 2], mixed values, largest score, sum. */
typedef struct {
  const attention_t *a;
  int64_t queries, wide;            /* queries to a head of keys; the width up to a whole vector */
  int64_t keys, pieces;             /* keys of a piece; pieces of a batch, at most */
  int64_t in_piece;                 /* of these, done as one piece by a thread */
  int64_t q_floats, p_floats;       /* a worker's memory: q[queries, wide] of all heads, p[queries, keys + LANES] */
  float *found, *memory;
} row_work;

/* p[i, :] = q[i, :] . k for LANES keys from k on, and some queries; keys from `keys` on are the last one again. */
INLINE void row_scores(float *p, int64_t p_row, const float *q, int64_t wide, const float *k, int64_t step,
                       int64_t keys, int64_t width, int queries) {
  enum { KEYS = 4 };
  vf sums[ROW_TILE][LANES];
  for (int first = 0; first < LANES; first += KEYS) {
    const float *row[KEYS];
    vf sum[ROW_TILE][KEYS];
    for (int j = 0; j < KEYS; j++) row[j] = k + least(first + j, keys - 1) * step;
    for (int i = 0; i < queries; i++)
      for (int j = 0; j < KEYS; j++) sum[i][j] = (vf){0};
    for (int64_t d = 0; d < width; d += LANES) {
      vf x[KEYS];
      for (int j = 0; j < KEYS; j++)
        x[j] = d + LANES <= width ? vf_load(row[j] + d) : vf_load_first(row[j] + d, width - d);
      for (int j = 0; queries == ROW_TILE && j < KEYS; j++) __builtin_prefetch(row[j] + d + LANES * step);
      for (int i = 0; i < queries; i++) {
        const vf one = vf_load(q + i * wide + d);
        for (int j = 0; j < KEYS; j++) sum[i][j] += x[j] * one;
      }
    }
    for (int i = 0; i < queries; i++)
      for (int j = 0; j < KEYS; j++) sums[i][first + j] = sum[i][j];
  }
  for (int i = 0; i < queries; i++) vf_store(p + i * p_row, vf_sums(sums[i]));
}

/* y[i, :] = sum over keys of p[i, key] v[key, :] for some queries and vectors; the last vector holds `last` numbers. */
INLINE void row_mix_tile(float *y, int64_t y_row, const float *p, int64_t p_row, const float *v, int64_t step,
                         int64_t keys, int queries, int vectors, int64_t last) {
  vf sum[ROW_TILE][ROW_VECTORS];
  for (int i = 0; i < queries; i++)
    for (int n = 0; n < vectors; n++) sum[i][n] = (vf){0};
  for (int64_t j = 0; j < keys; j++, v += step) {
    vf x[ROW_VECTORS];
    for (int n = 0; n < vectors; n++)
      x[n] = last == LANES ? vf_load(v + n * LANES) : vf_load_first(v + n * LANES, last);
    for (int n = 0; queries == ROW_TILE && n < vectors; n++) __builtin_prefetch(v + 8 * step + n * LANES);
    for (int i = 0; i < queries; i++)
      for (int n = 0; n < vectors; n++) sum[i][n] += p[i * p_row + j] * x[n];
  }
  for (int i = 0; i < queries; i++)
    for (int n = 0; n < vectors; n++) vf_store(y + i * y_row + n * LANES, sum[i][n]);
}

INLINE void row_mix(float *y, int64_t y_row, const float *p, int64_t p_row, const float *v, const attention_t *a,
                    int64_t keys, int queries) {
  int64_t d = 0;
  for (; d + ROW_VECTORS * LANES <= a->width; d += ROW_VECTORS * LANES)
    row_mix_tile(y + d, y_row, p, p_row, v + d, a->kv_row, keys, queries, ROW_VECTORS, LANES);
  for (; d + LANES <= a->width; d += LANES)
    row_mix_tile(y + d, y_row, p, p_row, v + d, a->kv_row, keys, queries, 1, LANES);
  if (d < a->width) row_mix_tile(y + d, y_row, p, p_row, v + d, a->kv_row, keys, queries, 1, a->width - d);
}

/* Powers in place of scores, which are -infinity where a key is not seen; found = their largest, and their sum. */
static void row_powers(float *p, int64_t keys, float *found) {
  vf most = lowest(), sum = {0};
  for (int64_t j = 0; j < keys; j += LANES) most = vf_max(most, vf_load(p + j));
  most = vf_all(vf_largest(most));
  for (int64_t j = 0; j < keys; j += LANES) {
    const vf x = power(vf_load(p + j) - most);
    vf_store(p + j, x);
    sum += x;
  }
  found[0] = most[0];
  found[1] = vf_sum(sum);
}

/* The keys of a piece that some row sees: from the returned one to the one before *to. */
static int64_t row_keys(const row_work *w, int64_t batch, int64_t piece, int64_t *to) {
  const attention_t *a = w->a;
  const int64_t start = a->start ? a->start[batch] : 0, end = start + a->rows;
  const int64_t first = (a->window > 0 ? most(0, start + 1 - a->window) : 0) + piece * w->keys;
  *to = least(end, first + w->keys);
  return least(first, end);
}

/* p[i, :] = the scores of the keys from … to - 1, of all heads' queries i; up to a whole vector of -infinity. */
static void row_all_scores(const row_work *w, float *p, const float *q, int64_t batch, int64_t from, int64_t to) {
  const attention_t *a = w->a;
  const int64_t start = a->start ? a->start[batch] : 0, p_row = w->keys + LANES;
  for (int64_t j = from; j < to; j += LANES)
    for (int64_t head = 0; head < a->kv_heads; head++) {
      const float *k = a->k + (batch * a->capacity + j) * a->kv_row + head * a->width;
      for (int64_t i = 0; i < w->queries; i += ROW_TILE) {
        float *at = p + (head * w->queries + i) * p_row + j - from;
        const float *x = q + (head * w->queries + i) * w->wide;
        const int64_t left = w->queries - i;
        if (left > 3) row_scores(at, p_row, x, w->wide, k, a->kv_row, to - j, a->width, 4);
        if (left == 3) row_scores(at, p_row, x, w->wide, k, a->kv_row, to - j, a->width, 3);
        if (left == 2) row_scores(at, p_row, x, w->wide, k, a->kv_row, to - j, a->width, 2);
        if (left == 1) row_scores(at, p_row, x, w->wide, k, a->kv_row, to - j, a->width, 1);
      }
    }
  for (int64_t i = 0; i < w->queries * a->kv_heads; i++) {
    const int64_t last = start + i % w->queries / a->group, end = (to - from + LANES - 1) / LANES * LANES;
    for (int64_t j = most(0, least(to, last + 1) - from); j < end; j++) p[i * p_row + j] = -INFINITY;
    for (int64_t j = 0; a->window > 0 && j < least(end, last + 1 - a->window - from); j++) p[i * p_row + j] = -INFINITY;
  }
}

static void row_part(const row_work *w, int64_t batch, int64_t piece, float *memory) {
  const attention_t *a = w->a;
  float *q = memory, *p = memory + w->q_floats;
  int64_t to;
  const int64_t from = row_keys(w, batch, piece, &to), keys = to - from;
  const int64_t y_row = w->wide + 2, p_row = w->keys + LANES;
  if (keys <= 0) return;
  for (int64_t i = 0; i < w->queries * a->kv_heads; i++) {
    const int64_t n = i % w->queries, head = i / w->queries * a->group + n % a->group;
    const float *x = a->q + (batch * a->rows + n / a->group) * a->q_row + head * a->width;
    for (int64_t d = 0; d < a->width; d += LANES)
      vf_store(q + i * w->wide + d, a->scale * vf_load_first(x + d, least(LANES, a->width - d)));
  }
  row_all_scores(w, p, q, batch, from, to);
  float *found = w->found + (batch * w->pieces + piece) * a->kv_heads * w->queries * y_row;
  for (int64_t i = 0; i < w->queries * a->kv_heads; i++) row_powers(p + i * p_row, keys, found + i * y_row + w->wide);
  for (int64_t head = 0; head < a->kv_heads; head++) {
    const float *v = a->v + (batch * a->capacity + from) * a->kv_row + head * a->width;
    int64_t i = head * w->queries;
    for (int64_t left; (left = (head + 1) * w->queries - i) > 0; i += ROW_TILE) {
      float *y = found + i * y_row;
      const float *powers = p + i * p_row;
      if (left > 3) row_mix(y, y_row, powers, p_row, v, a, keys, 4);
      if (left == 3) row_mix(y, y_row, powers, p_row, v, a, keys, 3);
      if (left == 2) row_mix(y, y_row, powers, p_row, v, a, keys, 2);
      if (left == 1) row_mix(y, y_row, powers, p_row, v, a, keys, 1);
    }
  }
}

static void row_pieces(const void *argument, int64_t piece, int worker) {
  const row_work *w = argument;
  for (int64_t i = piece * w->in_piece; i < least((piece + 1) * w->in_piece, w->a->batch * w->pieces); i++)
    row_part(w, i / w->pieces, i % w->pieces, w->memory + worker * (w->q_floats + w->p_floats));
}

/* What the pieces found for a query, put together: the first `pieces` of them saw keys. */
static void row_whole(const row_work *w, float *y, const float *found, int64_t pieces) {
  const int64_t width = w->a->width, next = w->a->kv_heads * w->queries * (w->wide + 2);
  float largest = lowest()[0];
  vf sum = {0};
  for (int64_t n = 0; n < pieces; n++) largest = largest < found[n * next + w->wide] ? found[n * next + w->wide] : largest;
  for (int64_t n = 0; n < pieces; n++) sum += power(vf_all(found[n * next + w->wide] - largest)) * found[n * next + w->wide + 1];
  for (int64_t d = 0; d < width; d += LANES) {
    vf total = {0};
    for (int64_t n = 0; n < pieces; n++)
      total += power(vf_all(found[n * next + w->wide] - largest)) * vf_load(found + n * next + d);
    vf_store_first(y + d, total / sum, least(LANES, width - d));
  }
}

static int32_t attention_row(const attention_t *a) {
  row_work w = {.a = a, .queries = a->rows * a->group, .wide = (a->width + LANES - 1) / LANES * LANES};
  const int64_t queries = w.queries * a->kv_heads, seen = a->window > 0 ? a->window + a->rows - 1 : a->capacity;
  w.keys = (ROW_PIECE / (a->kv_heads * a->width) / LANES + 1) * LANES;
  w.pieces = (least(seen, a->capacity) + w.keys - 1) / w.keys;
  w.q_floats = queries * w.wide;
  w.p_floats = queries * (w.keys + LANES);
  const int64_t found = a->batch * w.pieces * queries * (w.wide + 2);
  int64_t numbers = 0;
  for (int64_t i = 0; i < a->batch; i++) numbers += ((a->start ? a->start[i] : 0) + a->rows) * a->kv_row;
  w.in_piece = numbers < ROW_ONE_PIECE ? a->batch * w.pieces : 1;
  w.found = scratch((size_t)(found + LANES + workers() * (w.q_floats + w.p_floats)) * sizeof(float));
  if (!w.found) return LCM_NO_MEMORY;
  w.memory = w.found + (found + LANES - 1) / LANES * LANES;
  const int32_t code = in_parallel((a->batch * w.pieces + w.in_piece - 1) / w.in_piece, row_pieces, &w);
  for (int64_t batch = 0; code == LCM_OK && batch < a->batch; batch++) {
    const int64_t all = (a->start ? a->start[batch] : 0) + a->rows - row_keys(&w, batch, 0, &(int64_t){0});
    for (int64_t i = 0; i < queries; i++) {
      const int64_t n = i % w.queries, head = i / w.queries * a->group + n % a->group;
      row_whole(&w, a->y + (batch * a->rows + n / a->group) * a->out_row + head * a->width,
                w.found + (batch * w.pieces * queries + i) * (w.wide + 2), (all + w.keys - 1) / w.keys);
    }
  }
  return code;
}

#endif
