/* Attention, for training and for reading a prompt: bands of query rows pass over blocks of keys, and keep the
   largest score, the sum of powers and the mixed values so far (Dao et al., 2022).

     out[row, :] = sum over keys of exp(score - largest) v[key, :] / sum over keys of exp(score - largest)
     score       = q[row, :] . k[key, :] * scale, for the keys that the row sees */
#ifndef LCM_SIMD_ATTENTION_H
#define LCM_SIMD_ATTENTION_H

enum {
  KEY_BLOCK = 64,           /* keys of a block: of k and v 16 KiB each, when 64 wide, which the first cache holds */
  ONE_PIECE_WORK = 4 << 20, /* below so many operations, about 40 us, threads are not worth their waking */
  PIECE_WORK = 1 << 20,
};

/* A worker's memory: y[width + LANES + BAND_TILE, BAND], q[width, BAND], s[KEY_BLOCK + BAND_TILE, BAND]. */
static int64_t band_y_floats(int64_t width) { return (width + LANES + BAND_TILE) * BAND; }

static int64_t attention_floats(const attention_t *a) {
  return band_y_floats(a->width) + (a->width + KEY_BLOCK + BAND_TILE) * BAND;
}

/* s[j, :] = the scores of key from + j, for all the block's keys; hidden ones are -infinity. */
static __attribute__((noinline)) void score_block(float *s, const attention_t *a, const band_t *band, const float *q, int64_t from, int64_t to) {
  const float *k = a->k + band->k;
  for (int64_t j = from; j < to; j += BAND_TILE) {
    const float *rows[BAND_TILE];
    vf tile[BAND_TILE][2];
    tile_rows(rows, k, a->kv_row, j, to);
    for (int64_t i = j; i < least(j + BAND_TILE, to); i++) {
      prefetch_row(k + least(i + 2 * BAND_TILE, band->seen_to - 1) * a->kv_row, a->width);
      prefetch_row(a->v + band->k + i * a->kv_row, a->width);
    }
    score_tile(tile, rows, q, a->width);
    for (int i = 0; i < BAND_TILE; i++)
      for (int half = 0; half < 2; half++) vf_store(s + (j - from + i) * BAND + half * LANES, tile[i][half]);
  }
}

static void hide(float *s, const attention_t *a, const band_t *band, int64_t from, int64_t to) {
  for (int half = 0; half < BAND; half += LANES) {
    vi last;
    memcpy(&last, band->last + half, sizeof last);
    for (int64_t j = from; j < to; j++)
      if (j < band->all_from || j >= band->all_to) {
        float *x = s + (j - from) * BAND + half;
        vf_store(x, vf_pick(sees(a, last, j), vf_load(x), vf_all(-INFINITY)));
      }
  }
}

/* e^x for x <= 0. Below e^-87, results would be subnormal and slow: they are 0. */
static inline vf power(vf x) { return vf_pick(x < -87, (vf){0}, vf_exp(vf_max(vf_all(-87), x))); }

/* s = exp(s - largest); `largest` grows to the largest of s, `sum` by the new powers; returns what all that was
   summed before has to be multiplied by. */
static __attribute__((noinline)) vf softmax_block(float *s, int64_t keys, vf *largest, vf *sum) {
  vf most = *largest, total = {0};
  for (int64_t j = 0; j < keys; j++) most = vf_max(most, vf_load(s + j * BAND));
  for (int64_t j = 0; j < keys; j++) {
    const vf p = power(vf_load(s + j * BAND) - most);
    vf_store(s + j * BAND, p);
    total += p;
  }
  const vf keep = power(*largest - most);
  *sum = *sum * keep + total;
  *largest = most;
  return keep;
}

static void attention_band(const attention_t *a, const band_t *band, float *memory) {
  float *y = memory, *q = y + band_y_floats(a->width), *s = q + a->width * BAND;
  vf largest[2], sum[2], keep[2];
  band_in(q, a->q, band->q, band->lanes, a->width, a->scale);
  memset(y, 0, (size_t)band_y_floats(a->width) * sizeof *y);
  for (int half = 0; half < 2; half++) {
    largest[half] = vf_all(-__FLT_MAX__); /* not -infinity: exp(-infinity + infinity) is no number */
    sum[half] = (vf){0};
  }
  for (int64_t from = band->seen_from; from < band->seen_to; from += KEY_BLOCK) {
    const int64_t to = least(from + KEY_BLOCK, band->seen_to);
    score_block(s, a, band, q, from, to);
    if (from < band->all_from || to > band->all_to) hide(s, a, band, from, to);
    for (int half = 0; half < 2; half++)
      keep[half] = softmax_block(s + half * LANES, to - from, &largest[half], &sum[half]);
    mix(y, keep, a->v + band->k + from * a->kv_row, a->kv_row, s, to - from, a->width);
  }
  for (int half = 0; half < 2; half++) sum[half] = 1 / sum[half];
  band_out(a->y, y, band->out, band->lanes, a->width, sum);
}

typedef struct {
  const attention_t *a;
  float *memory;
  int64_t floats;          /* a worker's part of the memory */
  int64_t units, in_piece; /* bands in all, and of each piece */
} attention_work;

static void attention_piece(const void *argument, int64_t piece, int worker) {
  const attention_work *w = argument;
  const attention_t *a = w->a;
  const int64_t bands = bands_of(a);
  for (int64_t i = piece * w->in_piece; i < least((piece + 1) * w->in_piece, w->units); i++) {
    const int64_t batch = i / (bands * a->kv_heads), kv_head = i / bands % a->kv_heads;
    const band_t band = band_of(a, batch, kv_head, bands - 1 - i % bands); /* the last sees the most keys */
    attention_band(a, &band, w->memory + worker * w->floats);
  }
}

static int32_t attention(const attention_t *a) {
  if (!a->batch || !a->rows || !a->kv_heads || !a->group || !a->width) return LCM_OK;
  const int64_t work = 4 * BAND * a->width * a->capacity; /* of a band, at most */
  attention_work w = {.a = a, .floats = (attention_floats(a) + 15) / 16 * 16};
  w.units = a->batch * a->kv_heads * bands_of(a);
  w.in_piece = w.units * work < ONE_PIECE_WORK ? w.units : 1 + PIECE_WORK / work;
  w.memory = scratch((size_t)(workers() * w.floats) * sizeof(float));
  if (!w.memory) return LCM_NO_MEMORY;
  return in_parallel((w.units + w.in_piece - 1) / w.in_piece, attention_piece, &w);
}

static attention_t attention_of(const lcm_attention_args *a) {
  return (attention_t){
      .q = a->q, .k = a->k, .v = a->v, .y = a->out, .start = a->start,
      .batch = a->batch, .rows = a->rows, .capacity = a->capacity, .kv_heads = a->kv_heads,
      .group = a->kv_heads ? a->heads / a->kv_heads : 0, .width = a->width, .window = a->window,
      .q_row = a->heads * a->width, .kv_row = a->kv_heads * a->width, .out_row = a->heads * a->width,
      .scale = a->scale,
  };
}

/* out = softmax(q k^T * scale) v, [batch, rows, heads, width]: each row over the keys that it sees */
EXPORT int32_t lcm_attention(const lcm_attention_args *a) {
  const attention_t work = attention_of(a);
  return attention(&work);
}

/* The same of the parts of one array [batch, rows, 3, heads, width]. */
EXPORT int32_t lcm_self_attention(const lcm_self_attention_args *a) {
  const int64_t one = a->heads * a->width;
  const attention_t work = {
      .q = a->qkv, .k = a->qkv + one, .v = a->qkv + 2 * one, .y = a->out,
      .batch = a->batch, .rows = a->rows, .capacity = a->rows, .kv_heads = a->heads, .group = 1,
      .width = a->width, .window = a->window,
      .q_row = 3 * one, .kv_row = 3 * one, .out_row = one, .scale = a->scale,
  };
  return attention(&work);
}

#endif
