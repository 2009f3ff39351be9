/* The matrix product: out[i,j] = sum over k of x[i,k] y[k,j] (+ bias[j]), or flipped, with out[j,i] and bias[i].

   First y is packed into panels, and x too if its rows cannot be read in place; all of it once, by all threads. (Of a
   small product, each thread packs and computes some columns by itself.)
   Then blocks of the result are computed, each in steps along k, in which a panel of y passes through the first
   cache while the block's rows stay in the second. Steps, and the order within them, depend on sizes alone, and
   so does every bit of the result. */
#ifndef LCM_SIMD_GEMM_H
#define LCM_SIMD_GEMM_H

#include <lcm/simd/panel.h>
#include <lcm/simd/threads.h>

typedef struct {
  int64_t rows, columns, depth;
  lines_t x, y; /* the rows of x, the columns of y, which are f32 if x's lines don't lie along memory */
  float *out;
  int64_t out_row; /* numbers from a row of out to the next */
  const float *bias; /* or NULL */
  bool flipped;
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
  GEMM_PIECE = 1 << 21, /* multiply-adds, about 25 µs of one core: as little as a piece of work should be, */
  PACK_PIECE = 1 << 16, /* and numbers to pack */
  WHOLE_PIECE = 1 << 20, /* packed and computed by one thread, which leaves nobody waiting */
  MOST_PIECES = 16,     /* wanted; blocks that have to be small may be more */
  MOST_ROWS = 5 * TILE_ROWS,
  LEAST_ROWS = 2 * TILE_ROWS,
  MOST_COLUMNS = 1024,
  LEAST_COLUMNS = 256,
  FEW_COLUMNS = 2 * TILE_COLUMNS,
};

static int64_t bytes_of(int64_t numbers) { return numbers * (int64_t)sizeof(float); }

/* A size in equal parts of at most `most`, which are multiples of `unit`. */
static int64_t equal_parts(int64_t size, int64_t most, int64_t unit) {
  return size <= most ? round_up(size, unit) : round_up(pieces_of(size, pieces_of(size, most)), unit);
}

/* Along k, in whole blocks of x: a panel of y passes through the first cache, or stays in the second where there
   are but one or two. */
static int64_t step_of(const product_t *p) {
  const int64_t most = p->columns <= FEW_COLUMNS ? caches.l2 / 4 : caches.l1 * 4 / 3;
  return p->depth ? equal_parts(p->depth, most / bytes_of(TILE_COLUMNS), numbers_of(p->x.format)) : 1;
}

/* Rows along memory are read in place; those that fill no tile are packed. */
static bool is_in_place(const product_t *p) { return p->x.step == 1; }

static side_t x_side(const product_t *p, int64_t step) {
  const int64_t first = is_in_place(p) ? p->rows / TILE_ROWS * TILE_ROWS : 0;
  return (side_t){p->x, first, p->rows - first, TILE_ROWS, p->depth, step, NULL};
}

static side_t y_side(const product_t *p, int64_t step) {
  return (side_t){p->y, 0, p->columns, TILE_COLUMNS, p->depth, step, NULL};
}

/* A part of a product along k, with what is packed of it. */
typedef struct {
  product_t product;
  side_t x, y;
  bool add; /* to what out holds */
} part_t;

typedef struct {
  int64_t top, bottom, left, right;
} block_t;

/* What a tile fetches ahead: in a block's first panel, the rows of the next tile; in the others, if panels lie far
   away, its share of the next panel. */
static void set_ahead(tile_t *t, const part_t *p, const block_t *b, int64_t i, int64_t j, bool in_place) {
  t->ahead = t->y;
  t->ahead_step = 0;
  if (j == b->left) {
    t->ahead = t->x + TILE_ROWS * (in_place ? t->x_row : t->depth);
    t->ahead_step = TILE_ROWS;
  } else if (bytes_of(side_size(&p->y)) > caches.l2 / 2) {
    t->ahead_step = pieces_of(TILE_COLUMNS, pieces_of(b->bottom - b->top, TILE_ROWS));
    t->ahead += t->depth * (TILE_COLUMNS + (i - b->top) / TILE_ROWS * t->ahead_step);
  }
}

/* One step of a block, panel by panel; its first row lies at x, x_row numbers before the next. */
static void compute_step(const part_t *part, const block_t *b, const float *x, int64_t x_row, int64_t k, int64_t depth) {
  const product_t *p = &part->product;
  const bool last = k + depth == p->depth, far = bytes_of(p->rows * p->columns) > caches.l2;
  for (int64_t j = b->left; j < b->right; j += TILE_COLUMNS)
    for (int64_t i = b->top; i < b->bottom; i += TILE_ROWS) {
      const bool in_place = i < part->x.first;
      tile_t t = {.rows = least_of(b->bottom - i, TILE_ROWS), .columns = least_of(b->right - j, TILE_COLUMNS),
                  .depth = depth, .x_row = x_row, .y = panel_at(&part->y, j, k, depth),
                  .out = p->out + (p->flipped ? i + j * p->out_row : i * p->out_row + j), .out_row = p->out_row,
                  .bias = p->bias && last ? p->bias + (p->flipped ? i : j) : NULL,
                  .add = part->add || k > 0, .fetch_out = far};
      t.x = in_place ? x + (i - b->top) * x_row : panel_at(&part->x, i - part->x.first, k, depth);
      set_ahead(&t, part, b, i, j, in_place);
      compute_tile(&t, in_place, p->flipped);
    }
}

/* decoded: [rows of the block, step], for rows in place that are not f32. */
static void compute_block(const part_t *part, const block_t *b, float *decoded) {
  const product_t *p = &part->product;
  for (int64_t k = 0; k == 0 || k < p->depth; k += part->y.step) { /* without any depth, out gets zeros or the bias */
    const int64_t depth = least_of(part->y.step, p->depth - k);
    if (p->x.format == F32) {
      compute_step(part, b, (const float *)p->x.at + b->top * p->x.line + k, p->x.line, k, depth);
    } else {
      decode_lines(decoded, &p->x, b->top, least_of(b->bottom, part->x.first) - b->top, k, depth);
      compute_step(part, b, decoded, depth, k, depth);
    }
  }
}

/* The work of the threads. */
typedef struct {
  part_t part;
  batch_t batch;
  int64_t together; /* units to pack, or whole blocks, that are one piece */
  int64_t rows, columns, down, across; /* of a block; how many there are */
  float *own;       /* memory of each worker, so many numbers */
  int64_t own_size;
} gemm_t;

static void pack_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const gemm_t *g = work;
  const side_t *x = &g->part.x, *y = &g->part.y;
  const int64_t of_y = units_of(y), all = of_y + units_of(x), first = piece * g->together;
  for (int64_t u = first; u < least_of(first + g->together, all); u++) u < of_y ? pack_unit(y, u) : pack_unit(x, u - of_y);
}

static void block_piece(const void *work, int64_t piece, int worker) {
  const gemm_t *g = work;
  const product_t *p = &g->part.product;
  const int64_t top = piece % g->down * g->rows, left = piece / g->down * g->columns;
  const block_t b = {top, least_of(top + g->rows, p->rows), left, least_of(left + g->columns, p->columns)};
  compute_block(&g->part, &b, g->own + worker * g->own_size);
}

/* Numbers k … k + depth - 1 of product i, in steps of `step`. */
static part_t part_of(const product_t *p, const batch_t *batch, int64_t i, int64_t k, int64_t depth, int64_t step) {
  part_t part = {.product = *p, .add = k > 0};
  product_t *q = &part.product;
  q->depth = depth;
  q->x.at = number_at(p->x.at, p->x.format, i * batch->x + k * p->x.step);
  q->y.at = number_at(p->y.at, p->y.format, i * batch->y + k * p->y.step);
  q->out += i * batch->out;
  if (k + depth < p->depth) q->bias = NULL;
  part.x = x_side(q, step);
  part.y = y_side(q, step);
  return part;
}

/* Some columns of a product, as a product: how many there are depends on the threads, but its steps do not. */
static product_t columns_of(const product_t *p, int64_t left, int64_t columns) {
  product_t q = *p;
  q.columns = least_of(columns, p->columns - left);
  q.y.at = number_at(p->y.at, p->y.format, left * p->y.line);
  q.out += p->flipped ? left * p->out_row : left;
  if (p->bias && !p->flipped) q.bias += left;
  return q;
}

/* Some products of a batch, or some columns of one, each packed and computed by this worker alone. */
static void whole_piece(const void *work, int64_t piece, int worker) {
  const gemm_t *g = work;
  const int64_t first = piece * g->together;
  for (int64_t i = first; i < least_of(first + g->together, g->batch.count * g->across); i++) {
    const product_t columns = columns_of(&g->part.product, i % g->across * g->columns, g->columns);
    part_t part = part_of(&columns, &g->batch, i / g->across, 0, columns.depth, g->part.y.step);
    part.y.panels = g->own + worker * g->own_size;
    part.x.panels = part.y.panels + side_size(&part.y);
    for (int64_t u = 0; u < units_of(&part.y); u++) pack_unit(&part.y, u);
    for (int64_t u = 0; u < units_of(&part.x); u++) pack_unit(&part.x, u);
    for (int64_t top = 0; top < part.product.rows; top += MOST_ROWS) {
      const block_t b = {top, least_of(top + MOST_ROWS, part.product.rows), 0, part.product.columns};
      compute_block(&part, &b, part.x.panels + side_size(&part.x));
    }
  }
}

static int32_t gemm_whole(const product_t *p, const batch_t *batch) {
  const int64_t size = p->rows * p->columns * p->depth, wanted = batch->count > 1 ? 1 : size / WHOLE_PIECE;
  gemm_t g = {.batch = *batch, .columns = round_up(p->columns, TILE_COLUMNS)};
  while (pieces_of(p->columns, g.columns) < least_of(wanted, 4 * workers()) && g.columns > FEW_COLUMNS)
    g.columns = equal_parts(g.columns, g.columns / 2, TILE_COLUMNS);
  g.across = pieces_of(p->columns, g.columns);
  g.part = part_of(p, batch, 0, 0, p->depth, step_of(p));
  const int64_t y = g.columns * p->depth, x = side_size(&g.part.x);
  g.own_size = round_up(y + x + (p->x.format == F32 ? 0 : MOST_ROWS * p->depth), 16);
  g.own = scratch((size_t)bytes_of(workers() * g.own_size));
  if (!g.own) return LCM_NO_MEMORY;
  g.together = 1 + GEMM_PIECE / (size + 1);
  return in_parallel(pieces_of(batch->count * g.across, g.together), whole_piece, &g);
}

/* At least `wanted` blocks, if they are not too small then. */
static void cut(gemm_t *g, const product_t *p, int64_t wanted) {
  g->rows = equal_parts(p->rows, MOST_ROWS, TILE_ROWS);
  g->columns = equal_parts(p->columns, MOST_COLUMNS, TILE_COLUMNS);
  for (;;) {
    g->down = pieces_of(p->rows, g->rows);
    g->across = pieces_of(p->columns, g->columns);
    if (g->down * g->across >= wanted) break;
    if (g->columns > LEAST_COLUMNS) g->columns = equal_parts(g->columns, g->columns / 2, TILE_COLUMNS);
    else if (g->rows > LEAST_ROWS) g->rows = equal_parts(g->rows, g->rows / 2, TILE_ROWS);
    else if (g->columns > FEW_COLUMNS) g->columns = equal_parts(g->columns, g->columns / 2, TILE_COLUMNS);
    else break;
  }
}

/* Long sums of small results are taken in parts: what is packed then stays in the caches. */
static int64_t part_depth(const product_t *p) {
  const bool is_small = bytes_of(p->rows * p->columns) <= 2 * caches.l2;
  return is_small && !(is_in_place(p) && p->y.step == 1) ? step_of(p) : p->depth;
}

static int32_t gemm_batch(const product_t *p, const batch_t *batch) {
  if (!p->rows || !p->columns || !batch->count) return LCM_OK;
  const int64_t size = p->rows * p->columns * p->depth, depth = part_depth(p);
  gemm_t g = {.part = part_of(p, batch, 0, 0, depth, step_of(p))};
  const int64_t x = side_size(&g.part.x), y = side_size(&g.part.y);
  if (size <= GEMM_PIECE || (batch->count > 1 && size <= 8 * GEMM_PIECE && bytes_of(x + y) <= caches.l2) ||
      (size <= 64 * GEMM_PIECE && is_in_place(p) && p->columns >= workers() * FEW_COLUMNS))
    return gemm_whole(p, batch);
  cut(&g, p, 1 + least_of(size / GEMM_PIECE, MOST_PIECES));
  g.own_size = p->x.format == F32 ? 0 : round_up(g.rows * g.part.y.step, 16);
  float *panels = scratch((size_t)bytes_of(x + y + workers() * g.own_size));
  if (!panels) return LCM_NO_MEMORY;
  g.own = panels + x + y;
  int32_t code = LCM_OK;
  for (int64_t i = 0; !code && i < batch->count; i++)
    for (int64_t k = 0; !code && k < p->depth; k += depth) {
      g.part = part_of(p, batch, i, k, least_of(depth, p->depth - k), step_of(p));
      g.part.x.panels = panels;
      g.part.y.panels = panels + x;
      const int64_t units = units_of(&g.part.x) + units_of(&g.part.y);
      g.together = pieces_of(units * PACK_PIECE, x + y + 1);
      code = in_parallel(pieces_of(units, g.together), pack_piece, &g);
      if (!code) code = in_parallel(g.down * g.across, block_piece, &g);
    }
  return code;
}

static int32_t gemm(const product_t *p) { return gemm_batch(p, &(batch_t){.count = 1}); }

#endif
