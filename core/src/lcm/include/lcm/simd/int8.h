/* x8 weight^T + bias, where x8 is x rounded to whole numbers of 8 bits, with a scale for each 32 of them; so the
   product is one of whole numbers too, but for the scales.

   lcm_linear_int8__<format>, __<format>_x16 */
#ifndef LCM_SIMD_INT8_H
#define LCM_SIMD_INT8_H

#include <lcm/simd/int8_tile.h>

typedef struct {
  const lcm_linear_int8_args *args;
  rounded_t x;
  format_t format;
  bool interleaved, tiles;
  int64_t line;      /* bytes of a row of the weight */
  int64_t each;      /* times LANES outputs in a piece */
  int64_t together;  /* of these, whose strips are unpacked together, or that are streams of one row */
  int64_t rows_each; /* rows of x in a piece */
  uint8_t *own;      /* for each worker: the strips, and rows of the weight made up to LANES */
  int64_t own_bytes, strip_bytes;
} int8_work_t;

INLINE void one_row(const int8_work_t *w, const format_t format, const bool stored, const place_t *p, int64_t count,
                    vf *total) {
  if (!stored && numbers_of(format) == STRIP && count == STREAMS)
    int8_row(&w->x, format, stored, STREAMS, p, total);
  else
    for (int64_t i = 0; i < count; i++) int8_row(&w->x, format, stored, 1, p + i, total + i);
}

static void one_row_any(const int8_work_t *w, const place_t *p, int64_t count, vf *total) {
#define USE(format) p->line ? one_row(w, format, true, p, count, total) : one_row(w, format, false, p, count, total)
  WITH_FORMAT(w->format, USE)
#undef USE
}

static void unpack_any(strip_t *to, const int8_work_t *w, const place_t *p) {
#define USE(format) p->line ? unpack(to, format, true, w->tiles, p) : unpack(to, format, false, w->tiles, p)
  WITH_FORMAT(w->format, USE)
#undef USE
}

INLINE void store(const lcm_linear_int8_args *a, int64_t r, int64_t o, const vf *total, int64_t rows) {
  const int64_t count = least_of(LANES, a->outputs - o);
  const vf bias = a->bias ? vf_load_first(a->bias + o, count) : vf_all(0);
  for (int64_t i = 0; i < rows; i++) vf_store_first(a->out + (r + i) * a->outputs + o, total[i] + bias, count);
}

/* Unpacked strips of `count` times LANES outputs, o …, for rows … end - 1 of x; what is unpacked next is fetched
   meanwhile, a share with each tile. */
typedef struct {
  const strip_t *strips;
  int64_t o, count, end;
  const uint8_t *next;
  int64_t share;
} unpacked_t;

INLINE void fetch_share(unpacked_t *u) {
  fetch(u->next, u->share);
  u->next += u->share;
}

/* As many rows from r on as there are tiles of so many; the first row that is left over. */
INLINE int64_t rows_by(const int rows, const int8_work_t *w, const format_t format, unpacked_t *u, int64_t r) {
  for (; r + rows <= u->end; r += rows)
    for (int64_t i = 0; i < u->count; i++) {
      vf total[TILE_INT8];
      if (rows == TILE_INT8) fetch_share(u);
      int8_rows(&w->x, format, rows, u->strips + i * w->x.strips, r, total);
      store(w->args, r, u->o + i * LANES, total, rows);
    }
  return r;
}

INLINE void many_rows(const int8_work_t *w, const format_t format, unpacked_t *u, int64_t r) {
#ifdef TILE_OF_ROWS
  for (; w->tiles && r < u->end; r += TILE_OF_ROWS)
    for (int64_t i = 0; i < u->count; i++) {
      vf total[TILE_OF_ROWS];
      fetch_share(u);
      int8_tiles(&w->x, format, u->strips + i * w->x.strips, r, total);
      store(w->args, r, u->o + i * LANES, total, least_of(TILE_OF_ROWS, u->end - r));
    }
#endif
  r = rows_by(TILE_INT8, w, format, u, r);
  r = rows_by(2, w, format, u, r);
  rows_by(1, w, format, u, r);
}

static void many_rows_any(const int8_work_t *w, unpacked_t *u, int64_t r) {
#define USE(format) many_rows(w, format, u, r)
  WITH_FORMAT(w->format, USE)
#undef USE
}

/* Where the weights of LANES outputs lie, o …; where there are fewer, they are made up with the last row. */
static place_t place_of(const int8_work_t *w, int64_t o, uint8_t *made_up) {
  const int64_t blocks = w->line / size_of(w->format), left = w->args->outputs - o;
  const uint8_t *weight = w->args->weight;
  if (w->interleaved) return (place_t){weight + o / ROWS * ROWS * w->line, blocks, 0, (int)(o % ROWS)};
  if (left >= LANES) return (place_t){weight + o * w->line, blocks, w->line, 0};
  for (int64_t i = 0; i < LANES; i++)
    memcpy(made_up + i * w->line, weight + (o + least_of(i, left - 1)) * w->line, (size_t)w->line);
  return (place_t){made_up, blocks, w->line, 0};
}

/* Times LANES outputs that share their memory: of an interleaved group, if several are met together. */
static int64_t beside_of(const int8_work_t *w) { return w->together == STREAMS && LANES < ROWS ? ROWS / LANES : 1; }

/* All outputs of a piece for the only row of x, in streams that are far from each other: each is read from its
   beginning to its end, all rows of an interleaved group together. */
static void one_row_piece(const int8_work_t *w, int64_t begin, int64_t end, uint8_t *made_up) {
  const int64_t beside = beside_of(w), apart = round_up(pieces_of((end - begin) * beside, w->together), beside);
  for (int64_t first = begin; first < begin + apart; first += beside) {
    place_t places[STREAMS];
    vf total[STREAMS];
    int64_t outputs[STREAMS], count = 0;
    for (int64_t at = first; at < end; at += apart)
      for (int64_t i = at; i < at + beside; i++) {
        outputs[count] = i * LANES;
        places[count++] = place_of(w, i * LANES, made_up);
      }
    one_row_any(w, places, count, total);
    for (int64_t i = 0; i < count; i++) store(w->args, 0, outputs[i], &total[i], 1);
  }
}

static void int8_piece(const void *work, int64_t piece, int worker) {
  const int8_work_t *w = work;
  const lcm_linear_int8_args *a = w->args;
  const int64_t outputs = pieces_of(a->outputs, LANES), pieces = pieces_of(outputs, w->each);
  const int64_t r = piece / pieces * w->rows_each, rows = least_of(r + w->rows_each, a->rows);
  const int64_t begin = piece % pieces * w->each, end = least_of(begin + w->each, outputs);
  strip_t *strips = (strip_t *)(w->own + worker * w->own_bytes);
  uint8_t *made_up = (uint8_t *)strips + w->together * w->strip_bytes;
  if (a->rows == 1) {
    one_row_piece(w, begin, end, made_up);
    return;
  }
#ifdef TILE_OF_ROWS
  if (w->tiles) tiles_begin(STRIP / 4 / parts_of(w->format));
#endif
  for (int64_t at = begin; at < end; at += w->together) {
    const int64_t count = least_of(w->together, end - at), tiles = pieces_of(rows - r, w->tiles ? 16 : TILE_INT8);
    const int64_t next = count * LANES * w->line;
    unpacked_t u = {strips, at * LANES, count, rows, (const uint8_t *)a->weight + (at + count) * LANES * w->line,
                    at + count < end ? round_up(pieces_of(next, tiles * count), 64) : 0};
    for (int64_t i = 0; i < u.count; i++) {
      const place_t p = place_of(w, u.o + i * LANES, made_up);
      unpack_any(strips + i * w->x.strips, w, &p);
    }
    many_rows_any(w, &u, r);
  }
#ifdef TILE_OF_ROWS
  if (w->tiles) tiles_end();
#endif
}

enum {
  INT8_PIECES = 16,            /* for each worker, of many rows */
  ROW_BYTES = 4 << 20,         /* of weights in a piece that meets one row, at most: long streams are faster */
  LEAST_BYTES = 64 * 1024,     /* of weights in a piece: few rows stream them */
  MOST_BYTES = 1536 * 1024,    /* of rows of x in a piece, which shall stay in the cache */
  UNPACKED_BYTES = 256 * 1024, /* of strips at a time: outputs are written in longer parts than by one */
};

enum { NO_TILES = 8 /* rows: tiles do not pay for so few */ };

static bool use_tiles(int64_t rows) {
#ifdef TILE_OF_ROWS
  return rows > NO_TILES && tiles_allowed();
#else
  (void)rows;
  return false;
#endif
}

/* Interleaved blocks of 32 are met in several streams, so that there is enough to do at a time; of a block of 256
   the strips are. */
static int64_t streams_of(const int8_work_t *w) {
  return w->interleaved && numbers_of(w->format) == STRIP ? STREAMS : 1;
}

/* How the outputs are cut in pieces, and the rows of x where there would be too few of them. */
static int64_t cut_int8(int8_work_t *w) {
  const lcm_linear_int8_args *a = w->args;
  const bool many = a->rows > 1;
  const int64_t outputs = pieces_of(a->outputs, LANES), wanted = 4 * workers();
  const int64_t bytes = LANES * w->line * most_of(1, a->rows / 2) + 1;
  const int64_t turns = many ? INT8_PIECES : pieces_of(outputs * LANES * w->line + 1, workers() * ROW_BYTES);
  const int64_t shares = turns * workers();
  w->strip_bytes = many ? w->x.strips * (int64_t)sizeof(strip_t) : 0;
  w->together = many ? most_of(1, least_of(8, UNPACKED_BYTES / most_of(1, w->strip_bytes))) : streams_of(w);
  w->each = round_up(most_of(pieces_of(LEAST_BYTES, bytes), pieces_of(outputs, shares)), many ? w->together : beside_of(w));
  w->rows_each = most_of(16, MOST_BYTES / most_of(1, a->inputs) / 16 * 16);
  const int64_t pieces = pieces_of(outputs, w->each), fewer = round_up(pieces_of(a->rows * pieces, wanted), 16);
  if (pieces < wanted) w->rows_each = least_of(w->rows_each, most_of(16, fewer));
  return pieces * pieces_of(a->rows, w->rows_each);
}

static int32_t linear_int8(const lcm_linear_int8_args *a, format_t format, bool interleaved) {
  const int parts = parts_of(format);
  const int64_t strips = a->inputs / STRIP, group = a->rows == 1 ? 1 : GROUP, all = round_up(a->rows, group) * strips;
  int8_work_t w = {
    .args = a, .format = format, .interleaved = interleaved, .tiles = use_tiles(a->rows),
    .x = {.x = a->x, .rows = a->rows, .strips = strips, .all = all, .group = (int)group, .bias = bias_of(format),
          .parts = parts},
    .line = a->inputs / numbers_of(format) * size_of(format),
  };
  const int64_t pieces = cut_int8(&w);
  w.own_bytes = round_up(w.together * w.strip_bytes + (a->outputs % LANES ? LANES * w.line : 0), 64);
  const int64_t of_a_strip = STRIP + (int64_t)sizeof(float) * ((1 + parts) << PAIRS) + parts * (int64_t)sizeof(int32_t);
  w.own = scratch((size_t)(workers() * w.own_bytes + all * of_a_strip));
  if (!w.own) return LCM_NO_MEMORY;
  w.x.scale = (float *)(w.own + workers() * w.own_bytes);
  w.x.sum = w.x.scale + (all << PAIRS);
  w.x.start = (int32_t *)(w.x.sum + (parts * all << PAIRS));
  w.x.whole = (int8_t *)(w.x.start + parts * all);
  const int32_t code = round_all(&w.x);
  return code ? code : in_parallel(pieces, int8_piece, &w);
}

EXPORT int32_t lcm_linear_int8__q8_0(const lcm_linear_int8_args *a) { return linear_int8(a, Q8_0, false); }

EXPORT int32_t lcm_linear_int8__q8_0_x16(const lcm_linear_int8_args *a) { return linear_int8(a, Q8_0, true); }

EXPORT int32_t lcm_linear_int8__q4_0(const lcm_linear_int8_args *a) { return linear_int8(a, Q4_0, false); }

EXPORT int32_t lcm_linear_int8__q4_0_x16(const lcm_linear_int8_args *a) { return linear_int8(a, Q4_0, true); }

EXPORT int32_t lcm_linear_int8__q4_1(const lcm_linear_int8_args *a) { return linear_int8(a, Q4_1, false); }

EXPORT int32_t lcm_linear_int8__q4_1_x16(const lcm_linear_int8_args *a) { return linear_int8(a, Q4_1, true); }

EXPORT int32_t lcm_linear_int8__q5_0(const lcm_linear_int8_args *a) { return linear_int8(a, Q5_0, false); }

EXPORT int32_t lcm_linear_int8__q5_0_x16(const lcm_linear_int8_args *a) { return linear_int8(a, Q5_0, true); }

EXPORT int32_t lcm_linear_int8__q5_1(const lcm_linear_int8_args *a) { return linear_int8(a, Q5_1, false); }

EXPORT int32_t lcm_linear_int8__q5_1_x16(const lcm_linear_int8_args *a) { return linear_int8(a, Q5_1, true); }

EXPORT int32_t lcm_linear_int8__iq4_nl(const lcm_linear_int8_args *a) { return linear_int8(a, IQ4_NL, false); }

EXPORT int32_t lcm_linear_int8__iq4_nl_x16(const lcm_linear_int8_args *a) { return linear_int8(a, IQ4_NL, true); }

EXPORT int32_t lcm_linear_int8__mxfp4(const lcm_linear_int8_args *a) { return linear_int8(a, MXFP4, false); }

EXPORT int32_t lcm_linear_int8__mxfp4_x16(const lcm_linear_int8_args *a) { return linear_int8(a, MXFP4, true); }

EXPORT int32_t lcm_linear_int8__q2_k(const lcm_linear_int8_args *a) { return linear_int8(a, Q2_K, false); }

EXPORT int32_t lcm_linear_int8__q2_k_x16(const lcm_linear_int8_args *a) { return linear_int8(a, Q2_K, true); }

EXPORT int32_t lcm_linear_int8__q3_k(const lcm_linear_int8_args *a) { return linear_int8(a, Q3_K, false); }

EXPORT int32_t lcm_linear_int8__q3_k_x16(const lcm_linear_int8_args *a) { return linear_int8(a, Q3_K, true); }

EXPORT int32_t lcm_linear_int8__q4_k(const lcm_linear_int8_args *a) { return linear_int8(a, Q4_K, false); }

EXPORT int32_t lcm_linear_int8__q4_k_x16(const lcm_linear_int8_args *a) { return linear_int8(a, Q4_K, true); }

EXPORT int32_t lcm_linear_int8__q5_k(const lcm_linear_int8_args *a) { return linear_int8(a, Q5_K, false); }

EXPORT int32_t lcm_linear_int8__q5_k_x16(const lcm_linear_int8_args *a) { return linear_int8(a, Q5_K, true); }

EXPORT int32_t lcm_linear_int8__q6_k(const lcm_linear_int8_args *a) { return linear_int8(a, Q6_K, false); }

EXPORT int32_t lcm_linear_int8__q6_k_x16(const lcm_linear_int8_args *a) { return linear_int8(a, Q6_K, true); }

EXPORT int32_t lcm_linear_int8__iq4_xs(const lcm_linear_int8_args *a) { return linear_int8(a, IQ4_XS, false); }

EXPORT int32_t lcm_linear_int8__iq4_xs_x16(const lcm_linear_int8_args *a) { return linear_int8(a, IQ4_XS, true); }

#endif
