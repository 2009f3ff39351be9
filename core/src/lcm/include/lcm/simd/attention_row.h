/* Attention of few query rows to many keys, as when a model writes: what counts is how fast keys and values
   come from memory. A piece takes some keys of all heads, which lie together, and finds for each query the
   largest of their scores, the sum of their powers, and their values mixed by these powers. What pieces found
   is put together in the order of the keys:

     out = sum over pieces of exp(largest - largest of all) mixed / sum over pieces of exp(…) sum */
#ifndef LCM_SIMD_ATTENTION_ROW_H
#define LCM_SIMD_ATTENTION_ROW_H

enum {
  ROW_QUERIES = LANES * 3 / 4,  /* queries to a head of keys, up to which bands are not faster … */
  ROW_HEADS = 4,                /* … and with fewer such heads, up to BAND: bands would leave threads idle */
  ROW_TILE = 4,                 /* queries, and keys, that share a load */
  ROW_VECTORS = TILE_ROWS < 8 ? 2 : 4,
  ROW_DECODED = 2 * LANES,      /* keys whose values are decoded at a time, to be in the first cache */
  ROW_AHEAD = 8,                /* from the key whose values are in use to the one whose are fetched */
  ROW_PIECE = 1 << 15,          /* numbers of k, and of v, in a piece: 128 KiB each */
  ROW_ONE_PIECE = 1 << 16,      /* below so many numbers of k in all, threads are not worth their waking */
};

typedef struct {
  const attention_t *a;
  int64_t queries, all, wide; /* queries to a head of keys; to all; the width up to a whole vector */
  int64_t keys, pieces;       /* keys of a piece; pieces of a batch, at most */
  int64_t p_row, y_row;       /* keys up to a whole vector; wide + 2 */
  int64_t in_piece;           /* so many pieces are done as one by a thread */
  float *found;               /* [batch, pieces, all, wide + 2]: mixed values, largest score, sum of powers */
  float *memory;              /* a worker's: q[all, wide], p[all, p_row], decoded[ROW_DECODED, wide] */
} row_work;

/* p[i, :] = q[i, :] . k for the LANES keys from k on and some queries; from `keys` on, the last one again. */
INLINE void row_scores(const row_work *w, float *p, const float *q, rows_t k, int64_t keys, const int queries) {
  const int64_t width = w->a->width, step = k.step;
  vf sums[ROW_TILE][LANES];
  for (int first = 0; first < LANES; first += ROW_TILE) {
    const float *row[ROW_TILE];
    vf sum[ROW_TILE][ROW_TILE];
    for (int j = 0; j < ROW_TILE; j++) row[j] = k.at + least(first + j, keys - 1) * step;
    for (int i = 0; i < queries; i++)
      for (int j = 0; j < ROW_TILE; j++) sum[i][j] = (vf){0};
    for (int64_t d = 0; d < width; d += LANES) {
      vf x[ROW_TILE];
      for (int j = 0; j < ROW_TILE; j++)
        x[j] = d + LANES <= width ? vf_load(row[j] + d) : vf_load_first(row[j] + d, width - d);
      for (int j = 0; queries == ROW_TILE && j < ROW_TILE; j++) __builtin_prefetch(row[j] + d + LANES * step);
      for (int i = 0; i < queries; i++) {
        const vf one = vf_load(q + i * w->wide + d);
        for (int j = 0; j < ROW_TILE; j++) sum[i][j] += x[j] * one;
      }
    }
    for (int i = 0; i < queries; i++)
      for (int j = 0; j < ROW_TILE; j++) sums[i][first + j] = sum[i][j];
  }
  for (int i = 0; i < queries; i++) vf_store(p + i * w->p_row, vf_sums(sums[i]));
}

/* y[i, :] += sum over keys of p[i, key] v[key, :] for some queries and vectors, the last of `last` numbers. */
INLINE void row_mix_tile(const row_work *w, float *y, const float *p, const float *v, int64_t step, int64_t keys,
                         const int queries, const int vectors, int64_t last) {
  vf sum[ROW_TILE][ROW_VECTORS];
  for (int i = 0; i < queries; i++)
    for (int n = 0; n < vectors; n++) sum[i][n] = vf_load(y + i * w->y_row + n * LANES);
  for (int64_t j = 0; j < keys; j++, v += step) {
    vf x[ROW_VECTORS];
    for (int n = 0; n < vectors; n++)
      x[n] = last == LANES ? vf_load(v + n * LANES) : vf_load_first(v + n * LANES, last);
    for (int n = 0; queries == ROW_TILE && n < vectors; n++)
      __builtin_prefetch(v + ROW_AHEAD * step + n * LANES);
    for (int i = 0; i < queries; i++)
      for (int n = 0; n < vectors; n++) sum[i][n] += p[i * w->p_row + j] * x[n];
  }
  for (int i = 0; i < queries; i++)
    for (int n = 0; n < vectors; n++) vf_store(y + i * w->y_row + n * LANES, sum[i][n]);
}

INLINE void row_mix(const row_work *w, float *y, const float *p, rows_t v, int64_t keys, const int queries) {
  const int64_t width = w->a->width, step = v.step;
  int64_t d = 0;
  for (; d + ROW_VECTORS * LANES <= width; d += ROW_VECTORS * LANES)
    row_mix_tile(w, y + d, p, v.at + d, step, keys, queries, ROW_VECTORS, LANES);
  for (; d + LANES <= width; d += LANES) row_mix_tile(w, y + d, p, v.at + d, step, keys, queries, 1, LANES);
  if (d < width) row_mix_tile(w, y + d, p, v.at + d, step, keys, queries, 1, width - d);
}

/* Powers in place of scores; found = their largest, and the sum of the powers. */
static void row_powers(float *p, int64_t keys, float found[2]) {
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

static int64_t row_start(const attention_t *a, int64_t batch) { return a->start ? a->start[batch] : 0; }

/* The first key that some row of the batch sees. */
static int64_t row_first(const attention_t *a, int64_t batch) {
  return a->window > 0 ? most(0, row_start(a, batch) + 1 - a->window) : 0;
}

/* p[i, :] = the scores of the keys from … to - 1, for all queries; -infinity where a query does not see the
   key, and up to a whole vector. */
static void row_all_scores(const row_work *w, float *p, const float *q, int64_t batch, int64_t from,
                           int64_t to, float *decoded) {
  const attention_t *a = w->a;
  rows_t k = {0};
  for (int64_t j = from; j < to; j += LANES)
    for (int64_t i = 0; i < w->all;) {
      const int64_t number = (batch * a->capacity + j) * a->kv_row + i / w->queries * a->width;
      if (i % w->queries == 0) k = head_rows(a, a->k, number, least(LANES, to - j), decoded);
      const int64_t queries = least(ROW_TILE, w->queries - i % w->queries);
      float *at = p + i * w->p_row + j - from;
      if (queries == 4) row_scores(w, at, q + i * w->wide, k, to - j, 4);
      if (queries == 3) row_scores(w, at, q + i * w->wide, k, to - j, 3);
      if (queries == 2) row_scores(w, at, q + i * w->wide, k, to - j, 2);
      if (queries == 1) row_scores(w, at, q + i * w->wide, k, to - j, 1);
      i += queries;
    }
  for (int64_t i = 0; i < w->all && a->softcap > 0; i++)
    for (int64_t j = 0; j < to - from; j += LANES)
      vf_store(p + i * w->p_row + j, capped(a, vf_load(p + i * w->p_row + j)));
  for (int64_t i = 0; i < w->all; i++, p += w->p_row) {
    const int64_t last = row_start(a, batch) + i % w->queries / a->group, end = wide_of(to - from);
    for (int64_t j = most(0, least(to, last + 1) - from); j < end; j++) p[j] = -INFINITY;
    for (int64_t j = 0; a->window > 0 && j < least(end, last + 1 - a->window - from); j++) p[j] = -INFINITY;
  }
}

/* y[i, :] = the values of the keys from … to - 1, times the powers p[i, :], for all queries. */
static void row_all_mixed(const row_work *w, float *y, const float *p, int64_t batch, int64_t from, int64_t to,
                          float *decoded) {
  const attention_t *a = w->a;
  const int64_t each = a->format == F32 ? to - from : ROW_DECODED;
  for (int64_t i = 0; i < w->all; i++) memset(y + i * w->y_row, 0, (size_t)w->wide * sizeof *y);
  for (int64_t head = 0; head < w->all; head += w->queries)
    for (int64_t j = from; j < to; j += each) {
      const int64_t at = (batch * a->capacity + j) * a->kv_row + head / w->queries * a->width;
      const int64_t keys = least(each, to - j);
      const rows_t v = head_rows(a, a->v, at, keys, decoded);
      for (int64_t i = head; i < head + w->queries;) {
        const int64_t queries = least(ROW_TILE, head + w->queries - i);
        float *mixed = y + i * w->y_row;
        const float *powers = p + i * w->p_row + j - from;
        if (queries == 4) row_mix(w, mixed, powers, v, keys, 4);
        if (queries == 3) row_mix(w, mixed, powers, v, keys, 3);
        if (queries == 2) row_mix(w, mixed, powers, v, keys, 2);
        if (queries == 1) row_mix(w, mixed, powers, v, keys, 1);
        i += queries;
      }
    }
}

static void row_piece(const row_work *w, int64_t batch, int64_t piece, float *memory) {
  const attention_t *a = w->a;
  const int64_t from = row_first(a, batch) + piece * w->keys;
  const int64_t to = least(from + w->keys, row_start(a, batch) + a->rows);
  float *q = memory, *p = q + w->all * w->wide, *decoded = p + w->all * w->p_row;
  float *found = w->found + (batch * w->pieces + piece) * w->all * w->y_row;
  if (from >= to) return;
  for (int64_t i = 0; i < w->all; i++) {
    const int64_t query = i % w->queries, row = query / a->group;
    const int64_t head = i / w->queries * a->group + query % a->group;
    const float *x = a->q + (batch * a->rows + row) * a->q_row + head * a->width;
    for (int64_t d = 0; d < a->width; d += LANES)
      vf_store(q + i * w->wide + d, a->scale * vf_load_first(x + d, least(LANES, a->width - d)));
  }
  row_all_scores(w, p, q, batch, from, to, decoded);
  for (int64_t i = 0; i < w->all; i++)
    row_powers(p + i * w->p_row, to - from, found + i * w->y_row + w->wide);
  row_all_mixed(w, found, p, batch, from, to, decoded);
}

/* Floats of a worker's memory. */
static int64_t row_floats(const row_work *w) {
  return w->all * (w->wide + w->p_row) + (w->a->format == F32 ? 0 : ROW_DECODED * w->wide);
}

static void row_pieces(const void *argument, int64_t piece, int worker) {
  const row_work *w = argument;
  float *memory = w->memory + worker * row_floats(w);
  for (int64_t i = piece * w->in_piece; i < least((piece + 1) * w->in_piece, w->a->batch * w->pieces); i++)
    row_piece(w, i / w->pieces, i % w->pieces, memory);
}

/* y = what some pieces found for a query, and its sink, if it has one, put together. */
static void row_whole(const row_work *w, float *y, const float *found, int64_t pieces, const float *sink) {
  const int64_t next = w->all * w->y_row, width = w->a->width;
  float largest = lowest()[0];
  vf sum = {0};
  for (int64_t n = 0; n < pieces; n++) {
    const float x = found[n * next + w->wide];
    if (x > largest) largest = x;
  }
  if (sink && *sink > largest) largest = *sink;
  if (sink) sum = power(vf_all(*sink - largest));
  for (int64_t n = 0; n < pieces; n++)
    sum += power(vf_all(found[n * next + w->wide] - largest)) * found[n * next + w->wide + 1];
  for (int64_t d = 0; d < width; d += LANES) {
    vf mixed = {0};
    for (int64_t n = 0; n < pieces; n++)
      mixed += power(vf_all(found[n * next + w->wide] - largest)) * vf_load(found + n * next + d);
    vf_store_first(y + d, mixed / sum, least(LANES, width - d));
  }
}

static bool row_is_faster(const attention_t *a) {
  const int64_t queries = a->rows * a->group;
  return queries <= ROW_QUERIES || (queries <= BAND && a->batch * a->kv_heads < ROW_HEADS);
}

static int32_t attention_row(const attention_t *a) {
  row_work w = {.a = a, .queries = a->rows * a->group, .wide = wide_of(a->width)};
  w.all = w.queries * a->kv_heads;
  w.y_row = w.wide + 2;
  w.keys = w.p_row = wide_of(1 + ROW_PIECE / (a->kv_heads * a->width));
  const int64_t seen = a->window > 0 ? least(a->window + a->rows - 1, a->capacity) : a->capacity;
  w.pieces = (seen + w.keys - 1) / w.keys;
  const int64_t found = wide_of(a->batch * w.pieces * w.all * w.y_row);
  int64_t numbers = 0;
  for (int64_t i = 0; i < a->batch; i++) numbers += (row_start(a, i) + a->rows - row_first(a, i)) * a->kv_row;
  w.in_piece = numbers < ROW_ONE_PIECE ? a->batch * w.pieces : 1;
  w.found = scratch((size_t)(found + workers() * row_floats(&w)) * sizeof(float));
  if (!w.found) return LCM_NO_MEMORY;
  w.memory = w.found + found;
  const int32_t code = in_parallel((a->batch * w.pieces + w.in_piece - 1) / w.in_piece, row_pieces, &w);
  for (int64_t i = 0; code == LCM_OK && i < a->batch * w.all; i++) {
    const int64_t batch = i / w.all, query = i % w.queries, kv_head = i % w.all / w.queries;
    const int64_t keys = row_start(a, batch) + a->rows - row_first(a, batch);
    float *y = a->y + (batch * a->rows + query / a->group) * a->out_row;
    const int64_t head = kv_head * a->group + query % a->group;
    const float *first = w.found + (batch * w.pieces * w.all + i % w.all) * w.y_row;
    const float *sink = a->sinks ? a->sinks + head : NULL;
    row_whole(&w, y + head * a->width, first, (keys + w.keys - 1) / w.keys, sink);
  }
  return code;
}

#endif
