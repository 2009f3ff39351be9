/* Attention's bands and tiles. A band is 2 * LANES query rows, one to a lane: rows of all the heads that share a
   head of keys, row after row. With queries in the lanes a key's numbers are read where they lie and spread over
   the lanes, the softmax over keys needs nothing across lanes, and only q and the result are transposed:

     scores[key, lane] = sum over d of k[key, d] q[d, lane]
     mixed[d, lane]    = sum over keys of v[key, d] share[key, lane] */
#ifndef LCM_SIMD_ATTENTION_TILE_H
#define LCM_SIMD_ATTENTION_TILE_H

enum {
  BAND = 2 * LANES,
  BAND_TILE = TILE_ROWS < 8 ? TILE_ROWS : 8, /* keys, or numbers of a head, that a tile in registers has */
};

/* What attention works on: pointers to the first batch's first row, and from a row or a batch to the next, in
   floats. Heads lie `width` apart. */
typedef struct {
  const float *q, *k, *v, *out, *out_grad;
  float *y, *q_grad, *k_grad, *v_grad;
  const int32_t *start; /* NULL: all 0 */
  int64_t batch, rows, capacity, kv_heads, group, width, window;
  int64_t q_row, kv_row, out_row; /* a batch is `rows` or `capacity` of them */
  float scale;
} attention_t;

/* Rows first … first + lanes - 1 of the rows * group that share a head of keys. */
typedef struct {
  int64_t lanes, seen_from, seen_to;    /* keys that some lane sees */
  int64_t all_from, all_to;             /* keys that all lanes see */
  int64_t q[BAND], out[BAND];           /* where each row begins in q and its gradient, in out and its gradient */
  int64_t k;                            /* where the head's first key begins in k and v and their gradients */
  int32_t last[BAND];                   /* the last key that the lane sees */
} band_t;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t bands_of(const attention_t *a) { return (a->rows * a->group + BAND - 1) / BAND; }

static band_t band_of(const attention_t *a, int64_t batch, int64_t kv_head, int64_t index) {
  const int64_t first = index * BAND, start = a->start ? a->start[batch] : 0;
  band_t band = {.lanes = least(BAND, a->rows * a->group - first),
                 .k = batch * a->capacity * a->kv_row + kv_head * a->width};
  int64_t row = first / a->group, head = first % a->group;
  for (int64_t i = 0; i < BAND; i++) {
    band.q[i] = (batch * a->rows + row) * a->q_row + (kv_head * a->group + head) * a->width;
    band.out[i] = (batch * a->rows + row) * a->out_row + (kv_head * a->group + head) * a->width;
    band.last[i] = (int32_t)(start + row);
    if (i + 1 >= band.lanes) continue; /* lanes without a row repeat the last one */
    head = head + 1 < a->group ? head + 1 : 0;
    row += !head;
  }
  band.all_to = band.last[0] + 1;
  band.seen_to = band.last[BAND - 1] + 1;
  band.seen_from = a->window > 0 ? most(0, band.last[0] + 1 - a->window) : 0;
  band.all_from = a->window > 0 ? most(0, band.last[BAND - 1] + 1 - a->window) : 0;
  return band;
}

/* Where a vector's lanes see the key. */
static inline vi sees(const attention_t *a, vi last, int64_t key) {
  const vi seen = last >= vi_all((int32_t)key);
  return a->window > 0 ? seen & (last < vi_all((int32_t)least(key + a->window, INT32_MAX))) : seen;
}

/* t[d, lane] = factor * x[lane, d], where lane's row begins at x + at[lane]; zeros in lanes without a row. */
static void band_in(float *t, const float *x, const int64_t *at, int64_t lanes, int64_t width, float factor) {
  for (int64_t d = 0; d < width; d += LANES) {
    const int64_t left = least(LANES, width - d);
    for (int half = 0; half < BAND; half += LANES) {
      vf rows[LANES];
      for (int i = 0; i < LANES; i++)
        rows[i] = half + i < lanes ? factor * vf_load_first(x + at[half + i] + d, left) : (vf){0};
      vf_transpose(rows);
      for (int i = 0; i < left; i++) vf_store(t + (d + i) * BAND + half, rows[i]);
    }
  }
}

/* x[lane, d] = t[d, lane] * factor[lane], as above; t has LANES - 1 rows more than its width. */
static void band_out(float *x, const float *t, const int64_t *at, int64_t lanes, int64_t width, const vf *factor) {
  for (int64_t d = 0; d < width; d += LANES) {
    const int64_t left = least(LANES, width - d);
    for (int half = 0; half < lanes; half += LANES) {
      vf rows[LANES];
      for (int i = 0; i < LANES; i++) rows[i] = vf_load(t + (d + i) * BAND + half) * factor[half / LANES];
      vf_transpose(rows);
      for (int i = 0; i < LANES && half + i < lanes; i++) vf_store_first(x + at[half + i] + d, rows[i], left);
    }
  }
}

static inline void prefetch_row(const float *x, int64_t width) {
  for (int64_t d = 0; d < width; d += 16) __builtin_prefetch(x + d);
}

/* s[i, :] = sum over d of k[i][d] * q[d, :], for BAND_TILE keys. */
static inline void score_tile(vf s[BAND_TILE][2], const float *const *k, const float *q, int64_t width) {
  for (int i = 0; i < BAND_TILE; i++) s[i][0] = s[i][1] = (vf){0};
  for (int64_t d = 0; d < width; d++) {
    const vf q0 = vf_load(q + d * BAND), q1 = vf_load(q + d * BAND + LANES);
    for (int i = 0; i < BAND_TILE; i++) {
      s[i][0] += k[i][d] * q0;
      s[i][1] += k[i][d] * q1;
    }
  }
}

/* The rows key … key + BAND_TILE - 1 of k; those from `keys` on are the last row again. */
static inline void tile_rows(const float *rows[BAND_TILE], const float *k, int64_t step, int64_t key, int64_t keys) {
  for (int i = 0; i < BAND_TILE; i++) rows[i] = k + least(key + i, keys - 1) * step;
}

/* y[i, :] = y[i, :] * keep[:] + sum over j of v[j * step + at[i]] * p[j, :], for BAND_TILE numbers of a head. */
static inline __attribute__((always_inline)) void mix_tile(float *y, const vf keep[2], const float *v, int64_t step,
                                                           const int64_t at[BAND_TILE], const float *p, int64_t keys) {
  vf sum[BAND_TILE][2];
  for (int i = 0; i < BAND_TILE; i++)
    for (int half = 0; half < 2; half++) sum[i][half] = vf_load(y + i * BAND + half * LANES) * keep[half];
  for (int64_t j = 0; j < keys; j++, v += step) {
    const vf p0 = vf_load(p + j * BAND), p1 = vf_load(p + j * BAND + LANES);
    for (int i = 0; i < BAND_TILE; i++) {
      sum[i][0] += v[at[i]] * p0;
      sum[i][1] += v[at[i]] * p1;
    }
  }
  for (int i = 0; i < BAND_TILE; i++)
    for (int half = 0; half < 2; half++) vf_store(y + i * BAND + half * LANES, sum[i][half]);
}

/* y[d, :] = y[d, :] * keep[:] + sum over keys of v[key, d] p[key, :]; y has BAND_TILE - 1 rows more than width. */
static __attribute__((noinline)) void mix(float *y, const vf keep[2], const float *v, int64_t step, const float *p, int64_t keys,
                int64_t width) {
  int64_t d = 0, at[BAND_TILE];
  for (int64_t i = 0; i < BAND_TILE; i++) at[i] = i;
  for (; d + BAND_TILE <= width; d += BAND_TILE) mix_tile(y + d * BAND, keep, v + d, step, at, p, keys);
  if (d == width) return;
  for (int64_t i = 0; i < BAND_TILE; i++) at[i] = least(i, width - d - 1); /* the last number again, for nobody */
  mix_tile(y + d * BAND, keep, v + d, step, at, p, keys);
}

#endif
