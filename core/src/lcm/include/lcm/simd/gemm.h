/* The matrix product: out[i,j] (+)= sum over k of x[i,k] y[k,j] (+ bias[j]), in f32.

   y is packed once, into panels of TILE_COLUMNS columns; then blocks of the result are computed, each by one
   worker over all of k, in steps that fit the caches. A panel's step stays in the first cache while the tiles
   of x that stay in the second pass by. */
#ifndef LCM_SIMD_GEMM_H
#define LCM_SIMD_GEMM_H

#include <lcm/simd/threads.h>
#include <lcm/simd/tile.h>

typedef struct {
  int64_t rows, columns, depth;
  lines_t x, y; /* the rows of x, the columns of y */
  format_t y_format;
  float *out;
  int64_t out_row; /* numbers from a row to the next */
  bool add;        /* to what out holds */
  const float *bias;
} product_t;

/* Bytes of the caches, for each core. */
static struct {
  int64_t l1, l2, l3;
} caches = {48 << 10, 2 << 20, 8 << 20};

EXPORT void lcm_set_caches(int64_t l1, int64_t l2, int64_t l3) {
  if (l1 > 0) caches.l1 = l1;
  if (l2 > 0) caches.l2 = l2;
  if (l3 > 0) caches.l3 = l3;
}

static int64_t least_of(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t pieces_of(int64_t size, int64_t piece) { return (size + piece - 1) / piece; }

static int64_t round_up(int64_t size, int64_t unit) { return pieces_of(size, unit) * unit; }

/* The step along k: a panel's is 2/3 of the first cache, and the last step is not a short one. */
static int64_t depth_step(int64_t depth) {
  const int64_t most = caches.l1 * 2 / 3 / (TILE_COLUMNS * (int64_t)sizeof(float));
  return depth <= most ? depth : pieces_of(depth, pieces_of(depth, most));
}

/* Work of a size, cut so that pieces are about equal and multiples of a unit. */
static int64_t piece_size(int64_t size, int64_t most, int64_t unit) {
  return size <= most ? round_up(size, unit) : round_up(pieces_of(size, pieces_of(size, most)), unit);
}

/* Panels of columns first … last - 1, of all k: [panels, depth, TILE_COLUMNS]. */
static void pack_columns(const product_t *p, int64_t first, int64_t last, float *to) {
  for (int64_t j = first; j < last; j += TILE_COLUMNS, to += p->depth * TILE_COLUMNS) {
    const int64_t count = least_of(last - j, TILE_COLUMNS);
    if (p->y_format == F32) pack(to, TILE_COLUMNS, &p->y, F32, j, count, 0, p->depth);
    else if (p->y_format == BF16) pack(to, TILE_COLUMNS, &p->y, BF16, j, count, 0, p->depth);
    else pack(to, TILE_COLUMNS, &p->y, F16, j, count, 0, p->depth);
  }
}

/* Rows top … bottom - 1 of columns left … right - 1, whose panels are given; x is for packed rows. */
static void block(const product_t *p, int64_t top, int64_t bottom, int64_t left, int64_t right,
                  const float *panels, float *x) {
  const int64_t step = depth_step(p->depth);
  const bool direct = p->x.step == 1;
  for (int64_t k = 0; k == 0 || k < p->depth; k += step) {
    const int64_t depth = least_of(step, p->depth - k);
    for (int64_t i = top; i < bottom; i += TILE_ROWS)
      if (!direct || bottom - i < TILE_ROWS)
        pack(x + (i - top) * depth, TILE_ROWS, &p->x, F32, i, least_of(bottom - i, TILE_ROWS), k, depth);
    for (int64_t j = left; j < right; j += TILE_COLUMNS) {
      const bool narrow = right - j <= LANES;
      tile_t t = {.columns = least_of(right - j, TILE_COLUMNS),
                  .depth = depth,
                  .x_row = p->x.line,
                  .y = panels + (j - left) * p->depth + k * TILE_COLUMNS,
                  .out_row = p->out_row,
                  .add = p->add || k > 0,
                  .bias = p->bias && k + step >= p->depth ? p->bias + j : NULL};
      for (int64_t i = top; i < bottom; i += TILE_ROWS) {
        t.rows = least_of(bottom - i, TILE_ROWS);
        t.out = p->out + i * p->out_row + j;
        if (direct && t.rows == TILE_ROWS) {
          t.x = (const float *)p->x.at + i * p->x.line + k;
          narrow ? tile_direct_narrow(&t) : tile_direct(&t);
        } else {
          t.x = x + (i - top) * depth;
          narrow ? tile_narrow(&t) : tile_wide(&t);
        }
      }
    }
    if (step == 0) break;
  }
}

typedef struct {
  product_t product;
  int64_t batch, x_batch, y_batch, out_batch; /* how many products, and the numbers from one to the next */
  int64_t left, right;                        /* the columns whose panels there are now */
  int64_t block_rows, block_columns, block_rows_count;
  float *panels;
  float *buffers; /* each worker's */
  int64_t buffer;
} gemm_t;

enum { PACK_COLUMNS = 4 * TILE_COLUMNS };

static void pack_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const gemm_t *g = work;
  const int64_t first = g->left + piece * PACK_COLUMNS;
  pack_columns(&g->product, first, least_of(first + PACK_COLUMNS, g->right),
               g->panels + piece * PACK_COLUMNS * g->product.depth);
}

static void block_piece(const void *work, int64_t piece, int worker) {
  const gemm_t *g = work;
  const int64_t top = piece % g->block_rows_count * g->block_rows;
  const int64_t offset = piece / g->block_rows_count * g->block_columns, left = g->left + offset;
  block(&g->product, top, least_of(top + g->block_rows, g->product.rows), left,
        least_of(left + g->block_columns, g->right), g->panels + offset * g->product.depth,
        g->buffers + worker * g->buffer);
}

/* One product of a batch, by one worker. */
static void whole_piece(const void *work, int64_t piece, int worker) {
  const gemm_t *g = work;
  product_t p = g->product;
  p.x.at = (const float *)p.x.at + piece * g->x_batch;
  p.y.at = (const float *)p.y.at + piece * g->y_batch;
  p.out += piece * g->out_batch;
  float *panels = g->buffers + worker * g->buffer, *x = panels + p.depth * round_up(p.columns, TILE_COLUMNS);
  pack_columns(&p, 0, p.columns, panels);
  for (int64_t top = 0; top < p.rows; top += g->block_rows)
    block(&p, top, least_of(top + g->block_rows, p.rows), 0, p.columns, panels, x);
}

enum { SMALL = 1 << 20, BLOCK_ROWS = 10 * TILE_ROWS, BLOCK_COLUMNS = 16 * TILE_COLUMNS };

static int32_t gemm_batch(gemm_t *g) {
  const product_t p = g->product;
  if (!p.rows || !p.columns || !g->batch) return LCM_OK;
  g->block_rows = piece_size(p.rows, BLOCK_ROWS, TILE_ROWS);
  g->block_columns = piece_size(p.columns, BLOCK_COLUMNS, TILE_COLUMNS);
  g->block_rows_count = pieces_of(p.rows, g->block_rows);
  const int64_t rows = g->block_rows * depth_step(p.depth);
  const int64_t wide = least_of(round_up(p.columns, g->block_columns),
                             round_up(1 + caches.l3 / ((p.depth + 1) * (int64_t)sizeof(float)), g->block_columns));
  const bool whole = p.rows * p.columns * p.depth <= SMALL || g->batch > 8;
  const int64_t panels = p.depth * (whole ? round_up(p.columns, TILE_COLUMNS) : wide);
  g->buffer = round_up(whole ? panels + rows : rows, 16);
  const int64_t shared = whole ? 0 : round_up(panels, 16);
  g->panels = scratch((size_t)(shared + workers() * g->buffer + 16) * sizeof(float));
  if (!g->panels) return LCM_NO_MEMORY;
  g->buffers = g->panels + shared;
  if (whole) return in_parallel(g->batch, whole_piece, g);
  for (int64_t b = 0; b < g->batch; b++) {
    g->product.x.at = (const float *)p.x.at + b * g->x_batch;
    g->product.y.at = (const float *)p.y.at + b * g->y_batch;
    g->product.out = p.out + b * g->out_batch;
    for (g->left = 0; g->left < p.columns; g->left += wide) {
      g->right = least_of(g->left + wide, p.columns);
      int32_t code = in_parallel(pieces_of(g->right - g->left, PACK_COLUMNS), pack_piece, g);
      if (code) return code;
      const int64_t columns = pieces_of(g->right - g->left, g->block_columns);
      code = in_parallel(g->block_rows_count * columns, block_piece, g);
      if (code) return code;
    }
  }
  return LCM_OK;
}

static int32_t gemm(const product_t *p) {
  gemm_t g = {.product = *p, .batch = 1};
  return gemm_batch(&g);
}

#endif
