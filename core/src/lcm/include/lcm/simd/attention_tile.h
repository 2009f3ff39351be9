/* Attention's bands and tiles. A band is 2 * LANES query rows, one to a lane: rows of all the heads that
   share a head of keys, row after row. With queries in the lanes, a key's numbers are read where they lie and
   spread over the lanes, the softmax over keys needs nothing across lanes, and only q and the result are
   transposed:

     score[key, lane] = sum over d of k[key, d] q[d, lane]
     mixed[d, lane]   = sum over keys of v[key, d] p[key, lane]

   band_of(…)                  which rows are in the lanes, and what keys they see
   band_in(…), band_out(…)     rows to lanes, and back
   head_rows(…)                a head's keys or values as f32: where they lie, or decoded a few at a time
   score_tile(…), mix(…)       the two products */
#ifndef LCM_SIMD_ATTENTION_TILE_H
#define LCM_SIMD_ATTENTION_TILE_H

#include <stddef.h>
#include <lcm/simd/formats.h>

#define INLINE static inline __attribute__((always_inline))

/* Loops that shall not share the registers with their callers' constants. */
#define NOINLINE static __attribute__((noinline))

enum {
  BAND = 2 * LANES,
  BAND_TILE = TILE_ROWS < 8 ? TILE_ROWS : 8, /* keys, or numbers of a head, in a tile; by one vector or two */
};

/* What attention works on. Strides are in numbers; heads lie `width` apart, batches all their rows. */
typedef struct {
  const float *q, *out, *out_grad;
  const void *k, *v;
  format_t format; /* of k and v; for gradients F32 */
  float *y, *q_grad, *k_grad, *v_grad;
  const float *sinks;   /* [kv_heads * group]; NULL: none */
  const int32_t *start; /* NULL: all 0 */
  int64_t batch, rows, capacity, kv_heads, group, width, window;
  int64_t q_row, kv_row, out_row;
  float scale, softcap; /* softcap 0: none */
} attention_t;

/* A band; one with no more than LANES rows has them in its second half. */
typedef struct {
  int64_t lane, lanes;        /* lane … lanes - 1 have a row */
  int64_t from, to[2];        /* each half sees some of the keys from … to[half] - 1; to[0] <= to[1] */
  int64_t q[BAND], out[BAND]; /* where the rows begin in q and its gradient, and in out and its gradient */
  bool fetch;                 /* its keys and values are not in the second cache yet */
  int64_t k;                  /* where the head's first key begins in k and v and their gradients */
  int32_t last[BAND];         /* the last key that the lane sees */
} band_t;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t wide_of(int64_t width) { return (width + LANES - 1) / LANES * LANES; }

static int64_t bands_of(const attention_t *a) { return (a->rows * a->group + BAND - 1) / BAND; }

/* Rows index * BAND … of the rows * group that share a head of keys. */
static band_t band_of(const attention_t *a, int64_t batch, int64_t kv_head, int64_t index) {
  const int64_t first = index * BAND, rows = least(BAND, a->rows * a->group - first);
  const int64_t start = a->start ? a->start[batch] : 0;
  int64_t row = first / a->group, head = first % a->group;
  band_t band = {.lane = rows <= LANES ? LANES : 0};
  band.lanes = band.lane + rows;
  band.k = batch * a->capacity * a->kv_row + kv_head * a->width;
  for (int64_t i = 0; i < BAND; i++) {
    band.q[i] = (batch * a->rows + row) * a->q_row + (kv_head * a->group + head) * a->width;
    band.out[i] = (batch * a->rows + row) * a->out_row + (kv_head * a->group + head) * a->width;
    band.last[i] = (int32_t)(start + row);
    if (i < band.lane || i + 1 >= band.lanes) continue; /* lanes without a row are like the nearest one */
    head = head + 1 < a->group ? head + 1 : 0;
    row += !head;
  }
  band.from = a->window > 0 ? most(0, band.last[0] + 1 - a->window) : 0;
  band.to[0] = band.lane ? band.from : band.last[LANES - 1] + 1;
  band.to[1] = band.last[BAND - 1] + 1;
  return band;
}

/* How many lanes' rows have been fetched ahead when a band comes to a key: all at its end. */
static int64_t fetched_at(const band_t *band, int64_t key) {
  return (least(key, band->to[1]) - band->from) * BAND / (band->to[1] - band->from);
}

/* e^x for x <= 0; below e^-87, where processors would be slow with subnormal numbers, 0. */
static inline vf power(vf x) { return vf_pick(x < -87, (vf){0}, vf_exp(vf_max(vf_all(-87), x))); }

/* Before any score: not -infinity, since exp(-infinity + infinity) is no number. */
static inline vf lowest(void) { return vf_all(-0x1.fffffep127f); }

/* A score, softly kept between -softcap and softcap; and the derivative of that, by the score that it gave:
   0 for a hidden one. */
INLINE vf capped(const attention_t *a, vf score) { return a->softcap * vf_tanh(score * (1 / a->softcap)); }

INLINE vf capped_slope(const attention_t *a, vf score) {
  const vf t = score * (1 / a->softcap);
  return 1 - vf_min(vf_all(1), t * t);
}

/* Rows on their way to the cache before they are needed: to be read, or to be written. */
static inline void fetch_row(const float *x, int64_t width) {
  for (int64_t d = 0; d < width; d += 16) __builtin_prefetch(x + d);
}

static inline void fetch_own(float *x, int64_t width) {
  for (int64_t d = 0; d < width; d += 16) __builtin_prefetch(x + d, 1);
}

/* t[d, lane] = factor * x[lane, d], where a lane's row begins at x + at[lane]; zeros in lanes without one. */
static void band_in(float *t, const float *x, const int64_t *at, const band_t *band, int64_t width,
                    float factor) {
  for (int64_t d = 0; d < width; d += LANES) {
    const int64_t left = least(LANES, width - d);
    for (int64_t half = 0; half < BAND; half += LANES) {
      vf rows[LANES];
      for (int64_t i = 0; i < LANES; i++) {
        const bool has_row = half + i >= band->lane && half + i < band->lanes;
        rows[i] = has_row ? factor * vf_load_first(x + at[half + i] + d, left) : (vf){0};
      }
      vf_transpose(rows);
      for (int64_t i = 0; i < left; i++) vf_store(t + (d + i) * BAND + half, rows[i]);
    }
  }
}

/* x[lane, d] = t[d, lane] * factor[lane], as above; t has rows up to a whole vector of them. */
static void band_out(float *x, const float *t, const int64_t *at, const band_t *band, int64_t width,
                     const vf factor[2]) {
  for (int64_t d = 0; d < width; d += LANES) {
    const int64_t left = least(LANES, width - d);
    for (int64_t half = band->lane; half < band->lanes; half += LANES) {
      vf rows[LANES];
      for (int64_t i = 0; i < LANES; i++) rows[i] = vf_load(t + (d + i) * BAND + half) * factor[half / LANES];
      vf_transpose(rows);
      for (int64_t i = 0; i < least(LANES, band->lanes - half); i++)
        vf_store_first(x + at[half + i] + d, rows[i], left);
    }
  }
}

/* Some keys or values of a head, `step` floats apart. */
typedef struct {
  const float *at;
  int64_t step;
} rows_t;

/* A row of whole blocks; each scale is read once. */
INLINE void decode_q8_0(float *to, const uint8_t *b, int64_t width) {
  for (int64_t d = 0; d < width; d += 32, b += 34) {
    const float scale = half(b);
    for (int i = 0; i < 32; i += LANES) vf_store(to + d + i, numbers(vi_from_i8(b + 2 + i)) * scale);
  }
}

/* to[keys, width] = so many keys' rows of k or v, from its number i on; those that come next are fetched. */
INLINE void decode_rows(float *to, const attention_t *a, const void *x, const format_t format, int64_t i,
                        int64_t keys) {
  const int64_t step = a->kv_row / numbers_of(format) * size_of(format);
  const int64_t size = a->width / numbers_of(format) * size_of(format);
  const char *at = number_at(x, format, i);
  for (int64_t j = 0; j < keys; j++, at += step) {
    for (int64_t line = 0; line < size; line += 64) __builtin_prefetch(at + keys * step + line);
    if (format == F16) decode_numbers(to + j * a->width, at, F16, 0, a->width);
    else decode_q8_0(to + j * a->width, (const uint8_t *)at, a->width);
  }
}

/* Those of so many keys from number i of k or v on: where they lie, or decoded into `memory`, [keys, width]. */
static rows_t head_rows(const attention_t *a, const void *x, int64_t i, int64_t keys, float *memory) {
  if (a->format == F32) return (rows_t){(const float *)x + i, a->kv_row};
  if (a->format == F16) decode_rows(memory, a, x, F16, i, keys);
  else decode_rows(memory, a, x, Q8_0, i, keys);
  return (rows_t){memory, a->width};
}

/* Rows key … key + BAND_TILE - 1 of k; from `to` on, the last one before it again. */
static inline void tile_rows(const float *row[BAND_TILE], const float *k, int64_t step, int64_t key,
                             int64_t to) {
  for (int64_t i = 0; i < BAND_TILE; i++) row[i] = k + least(key + i, to - 1) * step;
}

/* s[i, :] = sum over d of k[i][d] q[d, :], for BAND_TILE keys and a vector or two of a band's lanes. */
INLINE void score_tile(vf s[BAND_TILE][2], const float *const *k, const float *q, int64_t width,
                       const int vectors) {
  for (int i = 0; i < BAND_TILE; i++)
    for (int n = 0; n < vectors; n++) s[i][n] = (vf){0};
  for (int64_t d = 0; d < width; d++) {
    vf lanes[2];
    for (int n = 0; n < vectors; n++) lanes[n] = vf_load(q + d * BAND + n * LANES);
    for (int i = 0; i < BAND_TILE; i++) {
      const vf kd = vf_all_at(k[i] + d);
      for (int n = 0; n < vectors; n++) s[i][n] += kd * lanes[n];
    }
  }
}

/* y[i, :] = y[i, :] * keep[:] + sum over j of v[j * step + at[i]] p[j, :], for BAND_TILE numbers of a head.
   The band's second half has `keys`, of which its first half has `both`. */
INLINE void mix_tile(float *y, const vf keep[2], const float *v, int64_t step, const int64_t at[BAND_TILE],
                     const float *p, int64_t both, int64_t keys) {
  vf sum[BAND_TILE][2];
  for (int i = 0; i < BAND_TILE; i++)
    for (int n = 0; n < 2; n++) sum[i][n] = vf_load(y + i * BAND + n * LANES) * keep[n];
  int64_t j = 0;
  for (; j < both; j++, v += step) {
    const vf p0 = vf_load(p + j * BAND), p1 = vf_load(p + j * BAND + LANES);
    for (int i = 0; i < BAND_TILE; i++) {
      const vf number = vf_all_at(v + at[i]);
      sum[i][0] += number * p0;
      sum[i][1] += number * p1;
    }
  }
  for (; j < keys; j++, v += step) {
    const vf p1 = vf_load(p + j * BAND + LANES);
    for (int i = 0; i < BAND_TILE; i++) sum[i][1] += vf_all_at(v + at[i]) * p1;
  }
  for (int i = 0; i < BAND_TILE; i++)
    for (int n = 0; n < 2; n++) vf_store(y + i * BAND + n * LANES, sum[i][n]);
}

/* y[d, :] = y[d, :] * keep[:] + sum over keys of v[key, d] p[key, :]; y has rows for a whole last tile. */
NOINLINE void mix(float *y, const vf keep[2], const float *v, int64_t step, const float *p, int64_t both,
                  int64_t keys, int64_t width) {
  int64_t d = 0, at[BAND_TILE];
  for (int64_t i = 0; i < BAND_TILE; i++) at[i] = i;
  for (; d + BAND_TILE <= width; d += BAND_TILE) mix_tile(y + d * BAND, keep, v + d, step, at, p, both, keys);
  if (d == width) return;
  for (int64_t i = 0; i < BAND_TILE; i++) at[i] = least(i, width - d - 1); /* the last again, for nobody */
  mix_tile(y + d * BAND, keep, v + d, step, at, p, both, keys);
}

#endif
