/* Attention's gradient, band by band (see attention_tile.h). A band computes the powers of its keys again,
   and keeps them meanwhile, [keys, BAND] numbers. With p the shares and g the gradient of out:

     v_grad[key, :]  = sum over lanes of p[key, lane] g[lane, :]
     ds[key, lane]   = p[key, lane] (v[key, :] . g[lane, :] - out[lane, :] . g[lane, :]), times the
                       derivative of the cap on scores where there is one
     k_grad[key, :]  = sum over lanes of ds[key, lane] q[lane, :] * scale
     q_grad[lane, :] = sum over keys of ds[key, lane] k[key, :] * scale

   A row's sum of powers divides its g, in place of its p. */
#ifndef LCM_SIMD_ATTENTION_GRAD_H
#define LCM_SIMD_ATTENTION_GRAD_H

enum {
  GRAD_PIECES = 16,      /* with fewer heads of keys, a head is done in parts */
  GRAD_PART = 1 << 26,   /* operations of a part at least, 0.3 ms, or its own sums would cost too much … */
  GRAD_SUMS = 1 << 24,   /* … and floats of all parts' sums at most */
};

/* A worker's memory; wide is the width up to a whole vector. */
typedef struct {
  float *q, *g;           /* [width, BAND]: q * scale; g / sum of powers */
  float *q_rows, *g_rows; /* [BAND, wide]: the same */
  float *y;               /* q_grad / scale, as [width + LANES + BAND_TILE, BAND] */
  float *ds;              /* [KEY_BLOCK + BAND_TILE, BAND] */
  float *p;               /* [capacity + BAND_TILE, BAND] */
  float *slope;           /* the same again, for scores that are capped */
} grad_memory;

static int64_t grad_floats(const attention_t *a) {
  const int64_t keys = a->capacity + BAND_TILE;
  const int64_t rows = 2 * a->width + 2 * wide_of(a->width) + KEY_BLOCK + BAND_TILE + keys;
  return band_y_floats(a->width) + (rows + (a->softcap > 0 ? keys : 0)) * BAND;
}

static grad_memory grad_parts(const attention_t *a, float *memory) {
  grad_memory m = {.q = memory};
  m.g = m.q + a->width * BAND;
  m.q_rows = m.g + a->width * BAND;
  m.g_rows = m.q_rows + wide_of(a->width) * BAND;
  m.y = m.g_rows + wide_of(a->width) * BAND;
  m.ds = m.y + band_y_floats(a->width);
  m.p = m.ds + (KEY_BLOCK + BAND_TILE) * BAND;
  m.slope = m.p + (a->capacity + BAND_TILE) * BAND;
  return m;
}

/* y[lane, :] = x[lane, :] * factor[lane], rows of `wide` numbers; zeros where nothing is. */
static void band_rows(float *y, const float *x, const int64_t *at, const band_t *band, int64_t width,
                      const vf *factor) {
  const int64_t wide = wide_of(width);
  for (int64_t i = band->lane; i < band->lanes; i++)
    for (int64_t d = 0; d < width; d += LANES) {
      const vf row = vf_load_first(x + at[i] + d, least(LANES, width - d));
      vf_store(y + i * wide + d, row * factor[i / LANES][i % LANES]);
    }
}

/* sum over d of g[d, :] y[d, :], in the order of score_tile: a row that sees one key has a ds of 0. */
static vf band_dots(const float *g, const float *y, int64_t width) {
  vf sum = {0};
  for (int64_t d = 0; d < width; d++) sum += vf_load(g + d * BAND) * vf_load(y + d * BAND);
  return sum;
}

/* Zeros for the band's first half in the keys after its last, which share a tile of keys with it. */
static void end_half(float *p, int64_t keys) {
  for (int64_t i = keys; i < keys + BAND_TILE; i++) vf_store(p + i * BAND, (vf){0});
}

/* slope[j, :] = the derivative of the cap on the score of key from + j, from these scores. */
NOINLINE void cap_slopes(float *slope, const float *s, const attention_t *a, const band_t *band, int64_t from,
                         int64_t to) {
  for (int half = 0; half < 2; half++)
    for (int64_t j = from; j < least(to, band->to[half]); j++) {
      const int64_t at = (j - from) * BAND + half * LANES;
      vf_store(slope + at, capped_slope(a, vf_load(s + at)));
    }
}

/* ds *= slope, for the keys from … to - 1. */
NOINLINE void slow_down(float *ds, const float *slope, const band_t *band, int64_t from, int64_t to) {
  for (int half = 0; half < 2; half++)
    for (int64_t j = from; j < least(to, band->to[half]); j++) {
      const int64_t at = (j - from) * BAND + half * LANES;
      vf_store(ds + at, vf_load(ds + at) * vf_load(slope + at));
    }
}

/* p[j, :] = exp(score - the lane's largest) of key from + j; inverse = 1 / the sums of these powers. */
static void powers(const grad_memory *m, const attention_t *a, const band_t *band, vf inverse[2]) {
  float *p = m->p;
  for (int64_t from = band->from; from < band->to[1]; from += KEY_BLOCK) {
    for (int64_t i = fetched_at(band, from); i < fetched_at(band, from + KEY_BLOCK); i++) {
      fetch_row(a->out + band->out[i], a->width);
      fetch_row(a->out_grad + band->out[i], a->width);
    }
    const int64_t at = (from - band->from) * BAND, to = least(from + KEY_BLOCK, band->to[1]);
    const rows_t k = head_rows(a, a->k, band->k + from * a->kv_row, to - from, NULL);
    score_block(p + at, a, band, m->q, k, from, to);
    if (a->softcap > 0) cap_slopes(m->slope + at, p + at, a, band, from, to);
  }
  for (int half = 0; half < 2; half++) {
    vf largest = lowest(), sum = {0};
    softmax_block(p + half * LANES, band->to[half] - band->from, &largest, &sum);
    inverse[half] = 1 / sum;
  }
  end_half(p, band->to[0] - band->from);
}

/* ds = p * (v . g - dot), for all the block's keys; p and ds begin at key `from`. */
NOINLINE void ds_block(float *ds, const float *p, const attention_t *a, const band_t *band, const float *g,
                       const vf dot[2], int64_t from, int64_t to) {
  const float *v = (const float *)a->v + band->k, *row[BAND_TILE];
  const int64_t both = least(to, band->to[0]);
  vf tile[BAND_TILE][2];
  for (int64_t j = from; j < both; j += BAND_TILE) {
    tile_rows(row, v, a->kv_row, j, both);
    score_tile(tile, row, g, a->width, 2);
    for (int64_t i = 0; i < BAND_TILE; i++)
      for (int n = 0; n < 2; n++) {
        const int64_t at = (j - from + i) * BAND + n * LANES;
        vf_store(ds + at, vf_load(p + at) * (tile[i][n] - dot[n]));
      }
  }
  for (int64_t j = most(from, both); j < to; j += BAND_TILE) {
    tile_rows(row, v, a->kv_row, j, to);
    score_tile(tile, row, g + LANES, a->width, 1);
    for (int64_t i = 0; i < BAND_TILE; i++) {
      const int64_t at = (j - from + i) * BAND + LANES;
      vf_store(ds + at, vf_load(p + at) * (tile[i][0] - dot[1]));
    }
  }
  end_half(ds, most(0, both - from));
}

/* A tile of spread: BAND_TILE keys, of which `keys` are written, by one vector or two. */
typedef struct {
  float *y;                  /* y[i, :] = y + i * step */
  const float *p, *x;        /* p[i, lane] = p[i * BAND + lane]; x[lane, :] = x + lane * wide */
  int64_t step, wide, keys;
  int64_t lane, lanes, last; /* from lane to lanes - 1; numbers in the last vector */
  bool add;                  /* to what is there */
} spread_t;

/* y[i, :] (+)= sum over lanes of p[i, lane] x[lane, :]. */
INLINE void spread_tile(const spread_t *t, const int vectors) {
  vf sum[BAND_TILE][2];
  const float *p = t->p, *x = t->x + t->lane * t->wide;
  for (int i = 0; i < BAND_TILE; i++)
    for (int n = 0; n < vectors; n++) sum[i][n] = (vf){0};
  for (int64_t lane = t->lane; lane < t->lanes; lane++, x += t->wide) {
    vf row[2];
    for (int n = 0; n < vectors; n++) row[n] = vf_load(x + n * LANES);
    for (int i = 0; i < BAND_TILE; i++)
      for (int n = 0; n < vectors; n++) sum[i][n] += p[i * BAND + lane] * row[n];
  }
  for (int i = 0; i < BAND_TILE; i++)
    for (int n = 0; n < vectors && i < t->keys; n++) {
      float *y = t->y + i * t->step + n * LANES;
      const int64_t left = n + 1 < vectors ? LANES : t->last;
      vf_store_first(y, t->add ? vf_load_first(y, left) + sum[i][n] : sum[i][n], left);
    }
}

/* y[key, :] (+)= sum over the lanes that see it of p[key, lane] x[lane, :], for the keys from … to - 1. */
NOINLINE void spread(float *y, int64_t step, bool add, const float *p, const float *x, const attention_t *a,
                     const band_t *band, int64_t from, int64_t to) {
  spread_t t = {.p = p, .step = step, .wide = wide_of(a->width), .lane = band->lane, .add = add};
  y += from * step;
  for (int64_t key = from; key < to; key += BAND_TILE, y += BAND_TILE * step, t.p += BAND_TILE * BAND) {
    t.keys = least(BAND_TILE, to - key);
    while (t.lane < band->lanes && band->last[t.lane] < key) t.lane++;
    t.lanes = band->lanes;
    while (a->window > 0 && band->last[t.lanes - 1] - a->window >= key + t.keys - 1) t.lanes--;
    for (int64_t i = 2 * BAND_TILE; band->fetch && i < least(3 * BAND_TILE, band->to[1] - key); i++)
      fetch_own(y + i * step, a->width);
    for (int64_t d = 0; d < a->width; d += 2 * LANES) {
      const int64_t left = a->width - d;
      t.y = y + d;
      t.x = x + d;
      t.last = left > LANES ? least(left - LANES, LANES) : left;
      if (left > LANES) spread_tile(&t, 2);
      else spread_tile(&t, 1);
    }
  }
}

/* Where the gradients of a head's keys are summed up: that of key 0, and from a key to the next. */
typedef struct {
  float *k, *v;
  int64_t step;
  bool add; /* to what is there */
} grad_sums;

static void clear(const grad_sums *sums, int64_t from, int64_t to, int64_t width) {
  for (int64_t key = from; key < to; key++) {
    if (sums->k) memset(sums->k + key * sums->step, 0, (size_t)width * sizeof(float));
    if (sums->v) memset(sums->v + key * sums->step, 0, (size_t)width * sizeof(float));
  }
}

static void grad_band(const attention_t *a, const band_t *band, const band_t *next, const grad_sums *sums,
                      float *memory) {
  const grad_memory m = grad_parts(a, memory);
  const vf one[2] = {vf_all(1), vf_all(1)}, scale[2] = {vf_all(a->scale), vf_all(a->scale)};
  vf inverse[2], dot[2];
  band_in(m.q, a->q, band->q, band, a->width, a->scale);
  powers(&m, a, band, inverse);
  band_rows(m.q_rows, a->q, band->q, band, a->width, scale);
  band_rows(m.g_rows, a->out_grad, band->out, band, a->width, inverse);
  band_in(m.g, a->out_grad, band->out, band, a->width, 1);
  band_in(m.y, a->out, band->out, band, a->width, 1);
  for (int half = 0; half < 2; half++) {
    for (int64_t d = 0; d < a->width; d++) {
      float *g = m.g + d * BAND + half * LANES;
      vf_store(g, vf_load(g) * inverse[half]);
    }
    dot[half] = band_dots(m.g + half * LANES, m.y + half * LANES, a->width);
  }
  memset(m.y, 0, (size_t)band_y_floats(a->width) * sizeof *m.y);
  for (int64_t from = band->from; from < band->to[1]; from += KEY_BLOCK) {
    const int64_t to = least(from + KEY_BLOCK, band->to[1]), both = most(0, least(to, band->to[0]) - from);
    const float *p = m.p + (from - band->from) * BAND;
    for (int64_t i = fetched_at(band, from); i < fetched_at(band, from + KEY_BLOCK); i++) {
      fetch_row(a->q + next->q[i], a->width);
      if (a->q_grad) fetch_own(a->q_grad + band->q[i], a->width);
    }
    if (sums->v) spread(sums->v, sums->step, sums->add, p, m.g_rows, a, band, from, to);
    ds_block(m.ds, p, a, band, m.g, dot, from, to);
    if (a->softcap > 0) slow_down(m.ds, m.slope + (p - m.p), band, from, to);
    if (sums->k) spread(sums->k, sums->step, sums->add, m.ds, m.q_rows, a, band, from, to);
    if (!a->q_grad) continue;
    const float *k = (const float *)a->k + band->k + from * a->kv_row;
    mix(m.y, one, k, a->kv_row, m.ds, both, to - from, a->width);
  }
  if (a->q_grad) band_out(a->q_grad, m.y, band->q, band, a->width, scale);
}

/* The bands of a head of keys are dealt out to `parts` pieces, part, part + parts, …: about as many keys to
   each. Parts, if several, have sums of their own, [batch, kv_heads, parts, k and v, capacity, wide]. */
typedef struct {
  const attention_t *a;
  float *memory, *sums;
  int64_t floats;          /* a worker's part of the memory */
  int64_t parts, in_piece; /* in_piece heads of keys are one piece, if parts is 1 */
  atomic_bool *stop;       /* a head may take long: it is asked from band to band whether to go on */
} attention_grad_work;

/* The sums of a head of keys: a part's own ones. */
static grad_sums part_sums(const attention_grad_work *w, int64_t head, int64_t part) {
  const int64_t wide = wide_of(w->a->width), size = w->a->capacity * wide;
  float *own = w->sums + (head * w->parts + part) * 2 * size;
  return (grad_sums){.k = w->a->k_grad ? own : NULL, .v = w->a->v_grad ? own + size : NULL, .step = wide};
}

/* … and the results. */
static grad_sums whole_sums(const attention_t *a, int64_t head) {
  const int64_t at = head / a->kv_heads * a->capacity * a->kv_row + head % a->kv_heads * a->width;
  return (grad_sums){.k = a->k_grad ? a->k_grad + at : NULL, .v = a->v_grad ? a->v_grad + at : NULL,
                     .step = a->kv_row};
}

static int64_t keys_seen(const attention_t *a, int64_t head) {
  return (a->start ? a->start[head / a->kv_heads] : 0) + a->rows;
}

static void grad_part(const attention_grad_work *w, int64_t head, int64_t part, float *memory) {
  const attention_t *a = w->a;
  const int64_t batch = head / a->kv_heads, kv_head = head % a->kv_heads, bands = bands_of(a);
  const int64_t keys = w->parts > 1 ? keys_seen(a, head) : a->capacity;
  grad_sums sums = w->parts > 1 ? part_sums(w, head, part) : whole_sums(a, head);
  if (!bands) return clear(&sums, 0, keys, a->width);
  band_t band = band_of(a, batch, kv_head, bands - 1 - part); /* the others see no later key */
  clear(&sums, 0, band.from, a->width);
  clear(&sums, band.to[1], keys, a->width);
  for (int64_t n = bands - 1 - part; n >= 0 && !atomic_load(w->stop); n -= w->parts) {
    const band_t next = band_of(a, batch, kv_head, most(0, n - w->parts));
    band.fetch = !sums.add || band.to[1] * a->width > KEPT_KEYS;
    grad_band(a, &band, &next, &sums, memory);
    sums.add = true;
    band = next;
    if (interrupted()) atomic_store(w->stop, true);
  }
}

static void grad_piece(const void *argument, int64_t piece, int worker) {
  const attention_grad_work *w = argument;
  const int64_t heads = w->a->batch * w->a->kv_heads;
  float *memory = w->memory + worker * w->floats;
  if (w->parts > 1) return grad_part(w, piece / w->parts, piece % w->parts, memory);
  for (int64_t i = piece * w->in_piece; i < least((piece + 1) * w->in_piece, heads); i++)
    grad_part(w, i, 0, memory);
}

/* y[key, :] = the sum of the parts' x[key, :], in their order. */
static void add_parts(float *y, const float *x, int64_t keys, const attention_grad_work *w) {
  const int64_t width = w->a->width, wide = wide_of(width), next = 2 * w->a->capacity * wide;
  for (int64_t key = 0; key < keys; key++)
    for (int64_t d = 0; d < width; d += LANES) {
      vf sum = {0};
      for (int64_t part = 0; part < w->parts; part++) sum += vf_load(x + part * next + key * wide + d);
      vf_store_first(y + key * w->a->kv_row + d, sum, least(LANES, width - d));
    }
}

static void add_parts_piece(const void *argument, int64_t head, int worker) {
  const attention_grad_work *w = argument;
  const grad_sums to = whole_sums(w->a, head), from = part_sums(w, head, 0);
  const int64_t keys = keys_seen(w->a, head);
  (void)worker;
  if (to.k) add_parts(to.k, from.k, keys, w);
  if (to.v) add_parts(to.v, from.v, keys, w);
  clear(&to, keys, w->a->capacity, w->a->width);
}

static int32_t attention_grad(const attention_t *a) {
  const int64_t heads = a->batch * a->kv_heads, sums = heads * 2 * a->capacity * wide_of(a->width);
  if (!sums) return LCM_OK;
  const int64_t work = 10 * a->rows * a->group * a->width * a->capacity; /* of a head of keys, at most */
  atomic_bool stop = false;
  attention_grad_work w = {.a = a, .floats = wide_of(grad_floats(a)), .stop = &stop};
  w.parts = least(1 + (GRAD_PIECES - 1) / heads, bands_of(a));
  w.parts = most(1, least(w.parts, least(work / GRAD_PART, GRAD_SUMS / sums)));
  w.in_piece = heads * work < ONE_PIECE_WORK ? heads : 1 + PIECE_WORK / most(1, work);
  w.memory = scratch((size_t)(workers() * w.floats + (w.parts > 1 ? w.parts * sums : 0)) * sizeof(float));
  if (!w.memory) return LCM_NO_MEMORY;
  w.sums = w.memory + workers() * w.floats;
  const int64_t pieces = w.parts > 1 ? heads * w.parts : (heads + w.in_piece - 1) / w.in_piece;
  int32_t code = in_parallel(pieces, grad_piece, &w);
  if (code == LCM_OK && stop) code = LCM_INTERRUPTED;
  return code != LCM_OK || w.parts == 1 ? code : in_parallel(heads, add_parts_piece, &w);
}

/* The gradients of q, k and v; what no row sees of k and v has 0. */
EXPORT int32_t lcm_attention_grad(const lcm_attention_grad_args *a) {
  const attention_t work = {
      .q = a->q, .k = a->k, .v = a->v, .out = a->out, .out_grad = a->out_grad,
      .q_grad = a->q_grad, .k_grad = a->k_grad, .v_grad = a->v_grad, .start = a->start,
      .batch = a->batch, .rows = a->rows, .capacity = a->capacity, .kv_heads = a->kv_heads,
      .group = a->kv_heads ? a->heads / a->kv_heads : 0, .width = a->width, .window = a->window,
      .q_row = a->heads * a->width, .kv_row = a->kv_heads * a->width, .out_row = a->heads * a->width,
      .scale = a->scale, .softcap = a->size > offsetof(lcm_attention_grad_args, softcap) ? a->softcap : 0,
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
