/* The matrix product: out[i,j] (+)= sum over k of x[i,k] y[k,j] (+ bias[j]), or flipped, with out[j,i] and bias[i].

   y is packed into panels of TILE_COLUMNS columns, once. Blocks of the result are then pieces of work: a block is
   summed in steps along k, and in each the block's rows of x are packed, and stay in the second cache, while the
   panels pass through the first one. Steps and the order within them depend on sizes alone, and so does every
   bit of the result. */
#ifndef LCM_SIMD_GEMM_H
#define LCM_SIMD_GEMM_H

#include <lcm/simd/panel.h>
#include <lcm/simd/threads.h>

typedef struct {
  int64_t rows, columns, depth;
  lines_t x, y; /* the rows of x, the columns of y */
  float *out;
  int64_t out_row; /* numbers from a row to the next */
  bool flipped, add;
  const float *bias; /* or NULL */
} product_t;

/* As many products, with so many numbers from one to the next. */
typedef struct {
  int64_t count, x, y, out;
} batch_t;

/* Bytes of the caches, for each core. */
static struct {
  int64_t l1, l2, l3;
} caches = {48 << 10, 2 << 20, 8 << 20};

EXPORT void lcm_set_caches(int64_t l1, int64_t l2, int64_t l3) {
  if (l1 > 0) caches.l1 = l1;
  if (l2 > 0) caches.l2 = l2;
  if (l3 > 0) caches.l3 = l3;
}

enum {
  GEMM_PIECE = 1 << 21, /* multiply-adds: about 25 µs of one core, and as little as a piece of work should be */
  MOST_PIECES = 64,
  MOST_ROWS = 5 * TILE_ROWS,     /* of a block */
  LEAST_ROWS = 2 * TILE_ROWS,
  MOST_COLUMNS = 1024,
  DIRECT_COLUMNS = 2 * TILE_COLUMNS, /* of y, for which packing x does not pay */
};

INLINE int64_t pieces_of(int64_t size, int64_t piece) { return (size + piece - 1) / piece; }

INLINE int64_t round_up(int64_t size, int64_t unit) { return pieces_of(size, unit) * unit; }

/* A size in equal parts of at most `most`, which are multiples of `unit`. */
INLINE int64_t equal_parts(int64_t size, int64_t most, int64_t unit) {
  return size <= most ? round_up(size, unit) : round_up(pieces_of(size, pieces_of(size, most)), unit);
}

/* f32 rows of x may stay where they are when few columns of y use them. */
static bool is_direct(const product_t *p) {
  return p->flipped && p->x.format == F32 && p->x.step == 1 && p->columns <= DIRECT_COLUMNS;
}

/* Along k, so that a panel's step fills 2/3 of the first cache. */
static int64_t step_of(const product_t *p) {
  const int64_t size = TILE_COLUMNS * (int64_t)sizeof(float);
  return p->depth ? equal_parts(p->depth, is_direct(p) ? caches.l2 / 4 / size : caches.l1 * 2 / 3 / size, 1) : 1;
}

static int64_t panels_size(const product_t *p) { return round_up(p->columns, TILE_COLUMNS) * p->depth; }

/* Columns first … last - 1 of the panels, [steps][columns / TILE_COLUMNS][step, TILE_COLUMNS]. */
static void pack_columns(float *panels, const product_t *p, int64_t first, int64_t last) {
  const int64_t step = step_of(p);
  for (int64_t k = 0; k < p->depth; k += step) {
    const int64_t depth = least_of(step, p->depth - k);
    for (int64_t j = first; j < last; j += TILE_COLUMNS)
      pack_y(panels + k * round_up(p->columns, TILE_COLUMNS) + j * depth, &p->y, j,
             least_of(TILE_COLUMNS, last - j), k, depth);
  }
}

typedef struct {
  int64_t top, bottom, left, right;
} block_t;

/* The tiles of a block for one step along k, panel by panel. */
static void block_step(const product_t *p, const block_t *b, const float *panels, const float *x, int64_t k,
                       int64_t depth) {
  const int64_t i_step = p->flipped ? 1 : p->out_row, j_step = p->flipped ? p->out_row : 1;
  const bool last = k + depth == p->depth;
  const int64_t tiles = pieces_of(b->bottom - b->top, TILE_ROWS);
  for (int64_t j = b->left; j < b->right; j += TILE_COLUMNS) {
    const bool narrow = b->right - j <= LANES;
    tile_t t = {.columns = least_of(b->right - j, TILE_COLUMNS), .depth = depth, .x_row = p->x.line,
                .y = panels + j * depth, .ahead_step = pieces_of(TILE_COLUMNS, tiles), .out_row = p->out_row,
                .add = p->add || k > 0};
    t.ahead = t.y + depth * TILE_COLUMNS;
    for (int64_t i = b->top; i < b->bottom; i += TILE_ROWS, t.ahead += depth * t.ahead_step) {
      t.rows = least_of(b->bottom - i, TILE_ROWS);
      t.x = x + (i - b->top) * depth;
      t.out = p->out + i * i_step + j * j_step;
      t.bias = p->bias && last ? p->bias + (p->flipped ? i : j) : NULL;
      if (!p->flipped) narrow ? tile_narrow(&t) : tile_wide(&t);
      else narrow ? tile_flipped_narrow(&t) : tile_flipped(&t);
    }
  }
}

/* The same with rows of x as they lie in memory; the last ones, if fewer than a tile's, are packed. */
static void block_step_direct(const product_t *p, const block_t *b, const float *panels, float *x, int64_t k,
                              int64_t depth) {
  for (int64_t i = b->top; i < b->bottom; i += TILE_ROWS) {
    const float *rows = (const float *)p->x.at + i * p->x.line + k;
    tile_t t = {.rows = least_of(b->bottom - i, TILE_ROWS), .depth = depth, .x = rows, .x_row = p->x.line,
                .ahead = rows + TILE_ROWS * p->x.line, .ahead_step = TILE_ROWS, .out_row = p->out_row,
                .add = p->add || k > 0, .bias = p->bias && k + depth == p->depth ? p->bias + i : NULL};
    const bool whole = t.rows == TILE_ROWS;
    if (!whole) {
      pack_x(x, &p->x, i, t.rows, k, depth);
      t.x = x;
    }
    for (int64_t j = b->left; j < b->right; j += TILE_COLUMNS) {
      t.columns = least_of(b->right - j, TILE_COLUMNS);
      t.y = panels + j * depth;
      t.out = p->out + i + j * p->out_row;
      if (t.columns > LANES) whole ? tile_direct(&t) : tile_flipped(&t);
      else whole ? tile_direct_narrow(&t) : tile_flipped_narrow(&t);
    }
  }
}

/* x: [rows of the block, rounded up to tiles, step], for packed rows. */
static void compute_block(const product_t *p, const block_t *b, const float *panels, float *x) {
  const int64_t step = step_of(p), wide = round_up(p->columns, TILE_COLUMNS);
  for (int64_t k = 0; k == 0 || k < p->depth; k += step) { /* without any depth, out gets zeros or the bias */
    const int64_t depth = least_of(step, p->depth - k);
    if (is_direct(p)) {
      block_step_direct(p, b, panels + k * wide, x, k, depth);
      continue;
    }
    for (int64_t i = b->top; i < b->bottom; i += TILE_ROWS)
      pack_x(x + (i - b->top) * depth, &p->x, i, least_of(b->bottom - i, TILE_ROWS), k, depth);
    block_step(p, b, panels + k * wide, x, k, depth);
  }
}

/* How a product is cut into blocks, and the memory for it. */
typedef struct {
  product_t product;
  batch_t batch;
  int64_t together; /* products of a batch that are one piece */
  int64_t rows, columns, down, across;
  float *panels, *buffers; /* shared; each worker's own, */
  int64_t buffer;          /* of so many numbers */
} gemm_t;

enum { PACK_COLUMNS = 4 * TILE_COLUMNS };

static void pack_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const gemm_t *g = work;
  const int64_t first = piece * PACK_COLUMNS;
  pack_columns(g->panels, &g->product, first, least_of(first + PACK_COLUMNS, g->product.columns));
}

static void block_piece(const void *work, int64_t piece, int worker) {
  const gemm_t *g = work;
  const product_t *p = &g->product;
  const int64_t top = piece % g->down * g->rows, left = piece / g->down * g->columns;
  const block_t b = {top, least_of(top + g->rows, p->rows), left, least_of(left + g->columns, p->columns)};
  compute_block(p, &b, g->panels, g->buffers + worker * g->buffer);
}

static product_t product_of(const product_t *p, const batch_t *batch, int64_t i) {
  product_t one = *p;
  one.x.at = (const float *)p->x.at + i * batch->x;
  one.y.at = (const float *)p->y.at + i * batch->y;
  one.out += i * batch->out;
  return one;
}

/* Some products of a batch, each by this worker alone. */
static void whole_piece(const void *work, int64_t piece, int worker) {
  const gemm_t *g = work;
  const int64_t first = piece * g->together;
  for (int64_t i = first; i < least_of(first + g->together, g->batch.count); i++) {
    const product_t p = product_of(&g->product, &g->batch, i);
    float *panels = g->buffers + worker * g->buffer, *x = panels + panels_size(&p);
    pack_columns(panels, &p, 0, p.columns);
    for (int64_t top = 0; top < p.rows; top += g->rows) {
      const block_t b = {top, least_of(top + g->rows, p.rows), 0, p.columns};
      compute_block(&p, &b, panels, x);
    }
  }
}

/* About `wanted` blocks: of few rows, since a block's rows are packed by itself, and of all columns if possible. */
static void cut(gemm_t *g, int64_t wanted) {
  const product_t *p = &g->product;
  g->columns = equal_parts(p->columns, MOST_COLUMNS, TILE_COLUMNS);
  g->across = pieces_of(p->columns, g->columns);
  const int64_t rows = round_up(pieces_of(p->rows * g->across, wanted), TILE_ROWS);
  g->rows = rows < LEAST_ROWS ? LEAST_ROWS : rows > MOST_ROWS ? MOST_ROWS : rows;
  g->down = pieces_of(p->rows, g->rows);
  while (g->down * g->across < wanted && g->columns > 4 * TILE_COLUMNS) {
    g->columns = equal_parts(g->columns, g->columns / 2, TILE_COLUMNS);
    g->across = pieces_of(p->columns, g->columns);
  }
}

static int32_t gemm_one(gemm_t *g) {
  const int32_t code = in_parallel(pieces_of(g->product.columns, PACK_COLUMNS), pack_piece, g);
  return code ? code : in_parallel(g->down * g->across, block_piece, g);
}

static int32_t gemm_batch(const product_t *p, const batch_t *batch) {
  if (!p->rows || !p->columns || !batch->count) return LCM_OK;
  gemm_t g = {.product = *p, .batch = *batch};
  const int64_t size = p->rows * p->columns * p->depth, panels = round_up(panels_size(p), 16);
  const bool whole = size <= 8 * GEMM_PIECE && panels * (int64_t)sizeof(float) <= caches.l2 && (batch->count > 1 || size <= GEMM_PIECE);
  cut(&g, whole ? 1 : 1 + least_of(size / GEMM_PIECE, MOST_PIECES));
  const int64_t x = round_up(round_up(g.rows, TILE_ROWS) * step_of(p), 16);
  g.buffer = whole ? panels + x : x;
  g.panels = scratch((size_t)((whole ? 0 : panels) + workers() * g.buffer) * sizeof(float));
  if (!g.panels) return LCM_NO_MEMORY;
  g.buffers = whole ? g.panels : g.panels + panels;
  g.together = 1 + GEMM_PIECE / (size + 1);
  if (whole) return in_parallel(pieces_of(batch->count, g.together), whole_piece, &g);
  int32_t code = LCM_OK;
  for (int64_t i = 0; !code && i < batch->count; i++) {
    g.product = product_of(p, batch, i);
    code = gemm_one(&g);
  }
  return code;
}

static int32_t gemm(const product_t *p) { return gemm_batch(p, &(batch_t){.count = 1}); }

#endif
