/* Attention's gradient, band by band (see attention_tile.h). A band computes the powers of all its keys again,
   once, since scores are not kept: [keys, BAND] numbers a worker. With p the shares and g the gradient of out:

     v_grad[key, :] = sum over lanes of p[key, lane] g[lane, :]
     dp[key, lane]  = v[key, :] . g[lane, :]
     ds[key, lane]  = p[key, lane] (dp[key, lane] - g[lane, :] . out[lane, :])
     q_grad[lane,:] = sum over keys of ds[key, lane] k[key, :] * scale
     k_grad[key, :] = sum over lanes of ds[key, lane] q[lane, :] * scale

   A row's sum of powers divides its g, not its p. */
#ifndef LCM_SIMD_ATTENTION_GRAD_H
#define LCM_SIMD_ATTENTION_GRAD_H

/* A worker's memory; wide is the width up to a whole vector. */
typedef struct {
  float *q, *g;           /* [width, BAND]: q * scale; g / sum of powers */
  float *q_rows, *g_rows; /* [BAND, wide]: the same */
  float *y;               /* q_grad / scale, as [width + LANES + BAND_TILE, BAND] */
  float *ds;              /* [KEY_BLOCK + BAND_TILE, BAND] */
  float *p;               /* [capacity + BAND_TILE, BAND] */
} grad_memory;

static int64_t wide_of(int64_t width) { return (width + LANES - 1) / LANES * LANES; }

static int64_t grad_floats(const attention_t *a) {
  const int64_t rows = 2 * a->width + 2 * wide_of(a->width) + KEY_BLOCK + BAND_TILE + a->capacity + BAND_TILE;
  return band_y_floats(a->width) + rows * BAND;
}

static grad_memory grad_parts(const attention_t *a, float *memory) {
  grad_memory m = {.q = memory};
  m.g = m.q + a->width * BAND;
  m.q_rows = m.g + a->width * BAND;
  m.g_rows = m.q_rows + wide_of(a->width) * BAND;
  m.y = m.g_rows + wide_of(a->width) * BAND;
  m.ds = m.y + band_y_floats(a->width);
  m.p = m.ds + (KEY_BLOCK + BAND_TILE) * BAND;
  return m;
}

/* y[lane, :] = x[lane, :] * factor[lane], rows of `wide` numbers; zeros where nothing is. */
static void band_rows(float *y, const float *x, const int64_t *at, int64_t lanes, int64_t width, const vf *factor) {
  for (int64_t i = 0; i < BAND; i++)
    for (int64_t d = 0; d < width; d += LANES, y += LANES) {
      const vf row = i < lanes ? vf_load_first(x + at[i] + d, least(LANES, width - d)) : (vf){0};
      vf_store(y, row * factor[i / LANES][i % LANES]);
    }
}

/* sum over d of g[d, :] y[d, :]: in the order of score_tile, so that a row which sees one key has a ds of 0. */
static vf band_dots(const float *g, const float *y, int64_t width) {
  vf sum = {0};
  for (int64_t d = 0; d < width; d++) sum += vf_load(g + d * BAND) * vf_load(y + d * BAND);
  return sum;
}

/* p[j, :] = exp(score - the lane's largest) of key seen_from + j; returns 1 / the sums in inverse[2]. */
static void powers(float *p, const attention_t *a, const band_t *band, const float *q, vf inverse[2]) {
  const int64_t keys = band->seen_to - band->seen_from;
  for (int64_t from = band->seen_from; from < band->seen_to; from += KEY_BLOCK) {
    const int64_t to = least(from + KEY_BLOCK, band->seen_to);
    float *s = p + (from - band->seen_from) * BAND;
    score_block(s, a, band, q, from, to);
    if (from < band->all_from || to > band->all_to) hide(s, a, band, from, to);
  }
  for (int half = 0; half < 2; half++) {
    vf largest = vf_all(-__FLT_MAX__), sum = {0};
    softmax_block(p + half * LANES, keys, &largest, &sum);
    inverse[half] = 1 / sum;
  }
}

/* ds = p * (v . g - dot), for all the block's keys; p and ds begin at key `from`. */
static __attribute__((noinline)) void ds_block(float *ds, const float *p, const attention_t *a, const band_t *band,
                                               const float *g, const vf dot[2], int64_t from, int64_t to) {
  const float *v = a->v + band->k;
  for (int64_t j = 0; j < to - from; j += BAND_TILE) {
    const float *rows[BAND_TILE];
    vf tile[BAND_TILE][2];
    tile_rows(rows, v, a->kv_row, from + j, to);
    score_tile(tile, rows, g, a->width);
    for (int i = 0; i < BAND_TILE; i++)
      for (int half = 0; half < 2; half++) {
        const int64_t at = (j + i) * BAND + half * LANES;
        vf_store(ds + at, vf_load(p + at) * (tile[i][half] - dot[half]));
      }
  }
}

/* y[i, :] += sum over lanes of p[i, lane] x[lane, :], for `keys` <= BAND_TILE keys i and `vectors` vectors of x and
   y; the last of y holds `last` numbers. */
static inline __attribute__((always_inline)) void spread_tile(float *y, int64_t step, const float *p, const float *x,
                                                              int64_t wide, int64_t from, int64_t to, int64_t keys,
                                                              int vectors, int64_t last) {
  vf sum[BAND_TILE][2];
  for (int i = 0; i < BAND_TILE; i++)
    for (int n = 0; n < vectors; n++) sum[i][n] = (vf){0};
  for (int64_t lane = from; lane < to; lane++) {
    vf row[2];
    for (int n = 0; n < vectors; n++) row[n] = vf_load(x + lane * wide + n * LANES);
    for (int i = 0; i < BAND_TILE; i++)
      for (int n = 0; n < vectors; n++) sum[i][n] += p[i * BAND + lane] * row[n];
  }
  for (int i = 0; i < BAND_TILE; i++)
    for (int n = 0; n < vectors && i < keys; n++) {
      float *at = y + i * step + n * LANES;
      const int64_t left = n + 1 < vectors ? LANES : last;
      vf_store_first(at, vf_load_first(at, left) + sum[i][n], left);
    }
}

/* y[key, :] += sum over the lanes that see it of p[key, lane] x[lane, :], for the keys from … to - 1. */
static __attribute__((noinline)) void spread(float *y, int64_t step, const float *p, const float *x,
                                             const attention_t *a, const band_t *band, int64_t from, int64_t to) {
  const int64_t wide = wide_of(a->width);
  for (int64_t key = from; key < to; key += BAND_TILE, y += BAND_TILE * step, p += BAND_TILE * BAND) {
    const int64_t keys = least(BAND_TILE, to - key);
    int64_t first = 0, end = band->lanes;
    while (first < end && band->last[first] < key) first++;
    while (a->window > 0 && end > first && band->last[end - 1] - a->window >= key + keys - 1) end--;
    int64_t d = 0;
    for (; d + 2 * LANES <= a->width; d += 2 * LANES)
      spread_tile(y + d, step, p, x + d, wide, first, end, keys, 2, LANES);
    if (a->width - d > LANES) spread_tile(y + d, step, p, x + d, wide, first, end, keys, 2, a->width - d - LANES);
    else if (a->width > d) spread_tile(y + d, step, p, x + d, wide, first, end, keys, 1, a->width - d);
  }
}

/* Where the gradients of a head of keys are summed: its first key, and from a key to the next. */
typedef struct {
  float *k, *v;
  int64_t step;
} grad_sums;

static void grad_band(const attention_t *a, const band_t *band, const grad_sums *sums, float *memory) {
  const grad_memory m = grad_parts(a, memory);
  const vf one[2] = {vf_all(1), vf_all(1)}, scale[2] = {vf_all(a->scale), vf_all(a->scale)};
  vf inverse[2], dot[2];
  band_in(m.q, a->q, band->q, band->lanes, a->width, a->scale);
  powers(m.p, a, band, m.q, inverse);
  band_rows(m.q_rows, a->q, band->q, band->lanes, a->width, scale);
  band_rows(m.g_rows, a->out_grad, band->out, band->lanes, a->width, inverse);
  band_in(m.g, a->out_grad, band->out, band->lanes, a->width, 1);
  band_in(m.y, a->out, band->out, band->lanes, a->width, 1);
  for (int half = 0; half < 2; half++) {
    for (float *g = m.g + half * LANES; g < m.g + a->width * BAND; g += BAND) vf_store(g, vf_load(g) * inverse[half]);
    dot[half] = band_dots(m.g + half * LANES, m.y + half * LANES, a->width);
  }
  memset(m.y, 0, (size_t)band_y_floats(a->width) * sizeof *m.y);
  for (int64_t from = band->seen_from; from < band->seen_to; from += KEY_BLOCK) {
    const int64_t to = least(from + KEY_BLOCK, band->seen_to);
    const float *p = m.p + (from - band->seen_from) * BAND;
    if (sums->v) spread(sums->v + from * sums->step, sums->step, p, m.g_rows, a, band, from, to);
    ds_block(m.ds, p, a, band, m.g, dot, from, to);
    if (sums->k) spread(sums->k + from * sums->step, sums->step, m.ds, m.q_rows, a, band, from, to);
    if (a->q_grad) mix(m.y, one, a->k + band->k + from * a->kv_row, a->kv_row, m.ds, to - from, a->width);
  }
  if (a->q_grad) band_out(a->q_grad, m.y, band->q, band->lanes, a->width, scale);
}

typedef struct {
  const attention_t *a;
  float *memory;
  int64_t floats;          /* a worker's part of the memory */
  int64_t units, in_piece; /* heads of keys in all, and of each piece */
} attention_grad_work;

static void grad_piece(const void *argument, int64_t piece, int worker) {
  const attention_grad_work *w = argument;
  const attention_t *a = w->a;
  for (int64_t i = piece * w->in_piece; i < least((piece + 1) * w->in_piece, w->units); i++) {
    const int64_t batch = i / a->kv_heads, kv_head = i % a->kv_heads;
    const int64_t at = batch * a->capacity * a->kv_row + kv_head * a->width;
    const grad_sums sums = {a->k_grad ? a->k_grad + at : NULL, a->v_grad ? a->v_grad + at : NULL, a->kv_row};
    for (int64_t key = 0; key < a->capacity; key++) {
      if (sums.k) memset(sums.k + key * sums.step, 0, (size_t)a->width * sizeof(float));
      if (sums.v) memset(sums.v + key * sums.step, 0, (size_t)a->width * sizeof(float));
    }
    for (int64_t n = 0; n < bands_of(a); n++) {
      const band_t band = band_of(a, batch, kv_head, n);
      grad_band(a, &band, &sums, w->memory + worker * w->floats);
    }
  }
}

static int32_t attention_grad(const attention_t *a) {
  if (!a->batch || !a->kv_heads || !a->width || !a->capacity) return LCM_OK;
  attention_grad_work w = {.a = a, .floats = (grad_floats(a) + 15) / 16 * 16};
  w.units = a->batch * a->kv_heads;
  w.in_piece = 1;
  w.memory = scratch((size_t)(workers() * w.floats) * sizeof(float));
  if (!w.memory) return LCM_NO_MEMORY;
  return in_parallel((w.units + w.in_piece - 1) / w.in_piece, grad_piece, &w);
}

/* The gradients of q, k and v; what no row sees of k and v has 0. */
EXPORT int32_t lcm_attention_grad(const lcm_attention_grad_args *a) {
  const attention_t work = {
      .q = a->q, .k = a->k, .v = a->v, .out = a->out, .out_grad = a->out_grad,
      .q_grad = a->q_grad, .k_grad = a->k_grad, .v_grad = a->v_grad, .start = a->start,
      .batch = a->batch, .rows = a->rows, .capacity = a->capacity, .kv_heads = a->kv_heads,
      .group = a->kv_heads ? a->heads / a->kv_heads : 0, .width = a->width, .window = a->window,
      .q_row = a->heads * a->width, .kv_row = a->kv_heads * a->width, .out_row = a->heads * a->width,
      .scale = a->scale,
  };
  return attention_grad(&work);
}

/* The same in one array [batch, rows, 3, heads, width]. */
EXPORT int32_t lcm_self_attention_grad(const lcm_self_attention_grad_args *a) {
  if (!a->qkv_grad) return LCM_OK;
  const int64_t one = a->heads * a->width;
  const attention_t work = {
      .q = a->qkv, .k = a->qkv + one, .v = a->qkv + 2 * one, .out = a->out, .out_grad = a->out_grad,
      .q_grad = a->qkv_grad, .k_grad = a->qkv_grad + one, .v_grad = a->qkv_grad + 2 * one,
      .batch = a->batch, .rows = a->rows, .capacity = a->rows, .kv_heads = a->heads, .group = 1,
      .width = a->width, .window = a->window,
      .q_row = 3 * one, .kv_row = 3 * one, .out_row = one, .scale = a->scale,
  };
  return attention_grad(&work);
}

#endif
