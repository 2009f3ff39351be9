/* Attention, for training and for reading a prompt: bands of query rows pass over blocks of keys, and keep
   the largest score, the sum of powers and the mixed values so far (Dao et al., 2022).

     score       = q[row, :] . k[key, :] * scale, for the keys that the row sees; with a softcap,
                   softcap tanh(that / softcap)
     out[row, :] = sum over keys of exp(score - largest) v[key, :] / sum over keys of exp(score - largest) */
#ifndef LCM_SIMD_ATTENTION_H
#define LCM_SIMD_ATTENTION_H

enum {
  KEY_BLOCK = 64,           /* keys of a block: of k and v 16 KiB each when 64 wide, for the first cache */
  ATTENTION_PIECES = 64,    /* bands of a head of keys are one piece, if there are as many pieces then */
  ONE_PIECE_WORK = 4 << 20, /* below so many operations, about 40 µs, threads are not worth their waking */
  PIECE_WORK = 1 << 20,     /* a piece's, at least */
  KEPT_KEYS = 1 << 17,      /* numbers of a head's k that, with v, the second cache keeps till the next band */
};

/* Where the vector's lanes see the key. */
static inline vi sees(const attention_t *a, vi last, int64_t key) {
  const vi seen = last >= vi_all((int32_t)key);
  return a->window > 0 ? seen & (last < vi_all((int32_t)least(key + a->window, INT32_MAX))) : seen;
}

/* Scores that are hidden from their lane become -infinity. */
static void hide(float *s, const attention_t *a, const band_t *band, int64_t from, int64_t to) {
  for (int half = 0; half < 2; half++) {
    vi last;
    memcpy(&last, band->last + half * LANES, sizeof last);
    const int64_t all_from = a->window > 0 ? last[LANES - 1] + 1 - a->window : 0, all_to = last[0] + 1;
    for (int64_t j = from; j < least(to, band->to[half]); j++)
      if (j < all_from || j >= all_to) {
        float *x = s + (j - from) * BAND + half * LANES;
        vf_store(x, vf_pick(sees(a, last, j), vf_load(x), vf_all(-INFINITY)));
      }
  }
}

/* The scores of keys from … to - 1, for each half of the band those before to[half], are capped. */
NOINLINE void cap(float *s, const attention_t *a, const band_t *band, int64_t from, int64_t to) {
  for (int half = 0; half < 2; half++)
    for (int64_t j = from; j < least(to, band->to[half]); j++) {
      float *x = s + (j - from) * BAND + half * LANES;
      vf_store(x, capped(a, vf_load(x)));
    }
}

/* While a tile's scores are made: its values, and the keys of the tile after the next. */
static void fetch_keys(const attention_t *a, const band_t *band, int64_t key) {
  for (int64_t i = key; i < least(key + BAND_TILE, band->to[1]); i++) {
    fetch_row((const float *)a->v + band->k + i * a->kv_row, a->width);
    fetch_row((const float *)a->k + band->k + least(i + 2 * BAND_TILE, band->to[1] - 1) * a->kv_row, a->width);
  }
}

/* s[j, :] = the scores of key from + j, row j of k: those of the keys before to[half] for each half of the
   band. */
NOINLINE void score_block(float *s, const attention_t *a, const band_t *band, const float *q, rows_t k,
                          int64_t from, int64_t to) {
  const float *row[BAND_TILE];
  const int64_t both = most(0, least(to, band->to[0]) - from), keys = to - from;
  vf tile[BAND_TILE][2];
  for (int64_t j = 0; j < both; j += BAND_TILE) {
    tile_rows(row, k.at, k.step, j, both);
    if (band->fetch) fetch_keys(a, band, from + j);
    score_tile(tile, row, q, a->width, 2);
    for (int i = 0; i < BAND_TILE; i++)
      for (int n = 0; n < 2; n++) vf_store(s + (j + i) * BAND + n * LANES, tile[i][n]);
  }
  for (int64_t j = both; j < keys; j += BAND_TILE) {
    tile_rows(row, k.at, k.step, j, keys);
    score_tile(tile, row, q + LANES, a->width, 1);
    for (int i = 0; i < BAND_TILE; i++) vf_store(s + (j + i) * BAND + LANES, tile[i][0]);
  }
  if (a->softcap > 0) cap(s, a, band, from, to);
  hide(s, a, band, from, to);
}

/* s = exp(s - largest), where `largest` grows to the largest of s, and `sum` by the new powers. Returns what
   all that was summed before has to be multiplied by. */
NOINLINE vf softmax_block(float *s, int64_t keys, vf *largest, vf *sum) {
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

/* A sink is a score that comes before all others, and has no value. */
static void begin_with_sinks(const attention_t *a, const band_t *band, vf largest[2], vf sum[2]) {
  float sinks[BAND];
  for (int64_t i = 0; i < BAND; i++) sinks[i] = a->sinks[band->q[i] % a->q_row / a->width];
  for (int half = 0; half < 2; half++) {
    const vf sink = vf_load(sinks + half * LANES);
    largest[half] = vf_max(largest[half], sink);
    sum[half] = power(sink - largest[half]);
  }
}

/* A worker's memory: y[width + LANES + BAND_TILE, BAND], q[width, BAND], s[KEY_BLOCK + BAND_TILE, BAND], and for a
   block that has to be decoded [KEY_BLOCK, width]. */
static int64_t band_y_floats(int64_t width) { return (width + LANES + BAND_TILE) * BAND; }

static int64_t attention_floats(const attention_t *a) {
  const int64_t decoded = a->format == F32 ? 0 : KEY_BLOCK * wide_of(a->width);
  return band_y_floats(a->width) + (a->width + KEY_BLOCK + BAND_TILE) * BAND + decoded;
}

static void attention_band(const attention_t *a, const band_t *band, const band_t *next, float *memory) {
  float *y = memory, *q = y + band_y_floats(a->width), *s = q + a->width * BAND;
  float *decoded = s + (KEY_BLOCK + BAND_TILE) * BAND;
  vf largest[2] = {lowest(), lowest()}, sum[2] = {{0}, {0}}, keep[2];
  if (a->sinks) begin_with_sinks(a, band, largest, sum);
  band_in(q, a->q, band->q, band, a->width, a->scale);
  memset(y, 0, (size_t)band_y_floats(a->width) * sizeof *y);
  for (int64_t from = band->from; from < band->to[1]; from += KEY_BLOCK) {
    const int64_t to = least(from + KEY_BLOCK, band->to[1]), both = most(0, least(to, band->to[0]) - from);
    for (int64_t i = fetched_at(band, from); i < fetched_at(band, to); i++) {
      fetch_own(a->y + band->out[i], a->width);
      fetch_row(a->q + next->q[i], a->width);
    }
    const int64_t at = band->k + from * a->kv_row;
    score_block(s, a, band, q, head_rows(a, a->k, at, to - from, decoded), from, to);
    keep[0] = softmax_block(s, both, &largest[0], &sum[0]);
    keep[1] = softmax_block(s + LANES, to - from, &largest[1], &sum[1]);
    const rows_t v = head_rows(a, a->v, at, to - from, decoded);
    mix(y, keep, v.at, v.step, s, both, to - from, a->width);
  }
  for (int half = 0; half < 2; half++) sum[half] = 1 / sum[half];
  band_out(a->y, y, band->out, band, a->width, sum);
}

typedef struct {
  const attention_t *a;
  float *memory;
  int64_t floats;          /* a worker's part of the memory */
  int64_t bands, in_piece; /* bands in all, and of each piece */
} attention_work;

/* The i-th band: of each head of keys the last one first, which sees the most keys, so that the work ends
   with short ones. */
static band_t nth_band(const attention_t *a, int64_t i) {
  const int64_t bands = bands_of(a), head = i / bands;
  return band_of(a, head / a->kv_heads, head % a->kv_heads, bands - 1 - i % bands);
}

static void attention_piece(const void *argument, int64_t piece, int worker) {
  const attention_work *w = argument;
  const int64_t first = piece * w->in_piece, end = least(first + w->in_piece, w->bands);
  band_t band = nth_band(w->a, first);
  for (int64_t i = first; i < end; i++) {
    const band_t next = nth_band(w->a, least(i + 1, end - 1));
    band.fetch = i == first || i % bands_of(w->a) == 0 || band.to[1] * w->a->width > KEPT_KEYS;
    band.fetch &= w->a->format == F32; /* else keys come in order, and the processor foresees them */
    attention_band(w->a, &band, &next, w->memory + worker * w->floats);
    band = next;
  }
}

static int32_t attention(const attention_t *a) {
  if (!a->batch || !a->rows || !a->kv_heads || !a->group || !a->width) return LCM_OK;
  if (row_is_faster(a)) return attention_row(a);
  const int64_t work = 4 * BAND * a->width * a->capacity, heads = a->batch * a->kv_heads;
  attention_work w = {.a = a, .floats = wide_of(attention_floats(a)), .bands = heads * bands_of(a)};
  w.in_piece = most(1 + PIECE_WORK / work, heads >= ATTENTION_PIECES ? bands_of(a) : 1);
  if (w.bands * work < ONE_PIECE_WORK) w.in_piece = w.bands;
  w.memory = scratch((size_t)(workers() * w.floats) * sizeof(float));
  if (!w.memory) return LCM_NO_MEMORY;
  return in_parallel((w.bands + w.in_piece - 1) / w.in_piece, attention_piece, &w);
}

/* out = softmax(q k^T * scale) v, [batch, rows, heads, width]: each row over the keys that it sees. */
static int32_t attention_over(const lcm_attention_args *a, format_t format) {
  const attention_t work = {
      .q = a->q, .k = a->k, .v = a->v, .format = format, .y = a->out, .start = a->start,
      .batch = a->batch, .rows = a->rows, .capacity = a->capacity, .kv_heads = a->kv_heads,
      .group = a->kv_heads ? a->heads / a->kv_heads : 0, .width = a->width, .window = a->window,
      .q_row = a->heads * a->width, .kv_row = a->kv_heads * a->width, .out_row = a->heads * a->width,
      .scale = a->scale, .softcap = a->size > offsetof(lcm_attention_args, softcap) ? a->softcap : 0,
  };
  return attention(&work);
}

EXPORT int32_t lcm_attention(const lcm_attention_args *a) { return attention_over(a, F32); }

EXPORT int32_t lcm_attention__f16(const lcm_attention_args *a) { return attention_over(a, F16); }

EXPORT int32_t lcm_attention__q8_0(const lcm_attention_args *a) { return attention_over(a, Q8_0); }

/* The same, where each head has one score more, of nothing: sinks[heads]. */
static int32_t attention_with_sinks_over(const lcm_attention_with_sinks_args *a, format_t format) {
  const attention_t work = {
      .q = a->q, .k = a->k, .v = a->v, .format = format, .y = a->out, .sinks = a->sinks, .start = a->start,
      .batch = a->batch, .rows = a->rows, .capacity = a->capacity, .kv_heads = a->kv_heads,
      .group = a->kv_heads ? a->heads / a->kv_heads : 0, .width = a->width, .window = a->window,
      .q_row = a->heads * a->width, .kv_row = a->kv_heads * a->width, .out_row = a->heads * a->width,
      .scale = a->scale,
  };
  return attention(&work);
}

EXPORT int32_t lcm_attention_with_sinks(const lcm_attention_with_sinks_args *a) {
  return attention_with_sinks_over(a, F32);
}

EXPORT int32_t lcm_attention_with_sinks__f16(const lcm_attention_with_sinks_args *a) {
  return attention_with_sinks_over(a, F16);
}

EXPORT int32_t lcm_attention_with_sinks__q8_0(const lcm_attention_with_sinks_args *a) {
  return attention_with_sinks_over(a, Q8_0);
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
