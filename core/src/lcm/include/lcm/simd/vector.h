/* The vocabulary of the kernels: vectors of floats, in C that every compiler with vector extensions takes.

   A plugin's `vec.h` says LANES, the floats in a vector, and TILE_ROWS and TILE_VECTORS, the shape of the matrix
   product's tile in registers; it includes <lcm/simd/types.h>, and defines those of the primitives below that C
   cannot say well, each with a macro of its own name: `#define vf_max vf_max`. The rest is defined here. */
#ifndef LCM_SIMD_VECTOR_H
#define LCM_SIMD_VECTOR_H

static inline vf vf_load(const float *p) { return *(const vf_anywhere *)p; }

static inline void vf_store(float *p, vf x) { *(vf_anywhere *)p = x; }

static inline vf vf_all(float x) { return x - (vf){0}; }

static inline vi vi_all(int32_t x) { return x - (vi){0}; }

/* The number at p in every lane. */
#ifndef vf_all_at
static inline vf vf_all_at(const float *p) { return vf_all(*p); }
#endif

/* Four bytes in every lane. */
static inline vb vb_all_at(const int8_t *p) {
  int32_t bits;
  memcpy(&bits, p, sizeof bits);
  return (vb)vi_all(bits);
}

/* a where the mask's lane is -1, b where it is 0. */
#ifndef vf_pick
static inline vf vf_pick(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }
#endif

/* The first n lanes from memory, 0 <= n <= LANES; the others are zero, and are not touched in memory. */
#ifndef vf_load_first
static inline vf vf_load_first(const float *p, int64_t n) {
  vf x = {0};
  memcpy(&x, p, (size_t)n * sizeof *p);
  return x;
}
#endif

/* The first n lanes to memory, 0 <= n <= LANES. */
#ifndef vf_store_first
static inline void vf_store_first(float *p, vf x, int64_t n) { memcpy(p, &x, (size_t)n * sizeof *p); }
#endif

/* The larger of two numbers, lane by lane; a NaN in b stays. */
#ifndef vf_max
static inline vf vf_max(vf a, vf b) { return vf_pick(a > b, a, b); }
#endif

#ifndef vf_min
static inline vf vf_min(vf a, vf b) { return vf_pick(a < b, a, b); }
#endif

#ifndef vf_sqrt
static inline vf vf_sqrt(vf x) {
  for (int i = 0; i < LANES; i++) x[i] = sqrtf(x[i]);
  return x;
}
#endif

/* x * 2^n, rounded once, for whole numbers n up to 250; if n is below -250, or no number, x must be 0 or NaN. */
#ifndef vf_scale
static inline vf vf_scale(vf x, vf n) {
  const vi power = __builtin_convertvector(vf_max(vf_all(-250), n), vi), half = power >> 1;
  return x * (vf)((half + 127) << 23) * (vf)((power - half + 127) << 23);
}
#endif

/* The same for n <= 0 only: 2^(n + 64) has an exponent of its own, and 2^-64 is the rest. */
#ifndef vf_scale_down
static inline vf vf_scale_down(vf x, vf n) {
  const vi power = __builtin_convertvector(vf_max(vf_all(-190), n), vi);
  return x * (vf)((power + (64 + 127)) << 23) * 0x1p-64f;
}
#endif

/* The sum of all lanes, always in the same order. */
#ifndef vf_sum
static inline float vf_sum(vf x) {
  float part[LANES];
  memcpy(part, &x, sizeof part);
  for (int half = LANES / 2; half; half /= 2)
    for (int i = 0; i < half; i++) part[i] += part[i + half];
  return part[0];
}
#endif

/* The largest of all lanes. */
#ifndef vf_largest
static inline float vf_largest(vf x) {
  float part[LANES];
  memcpy(part, &x, sizeof part);
  for (int half = LANES / 2; half; half /= 2)
    for (int i = 0; i < half; i++) part[i] = part[i] > part[i + half] ? part[i] : part[i + half];
  return part[0];
}
#endif

/* The same of whole numbers. */
#ifndef vi_sum
static inline int32_t vi_sum(vi x) {
  int32_t sum = 0;
  for (int i = 0; i < LANES; i++) sum += x[i];
  return sum;
}
#endif

#ifndef vi_largest
static inline int32_t vi_largest(vi x) {
  int32_t largest = x[0];
  for (int i = 1; i < LANES; i++) largest = x[i] > largest ? x[i] : largest;
  return largest;
}
#endif

/* a0 b0 a1 b1 … of the lower halves, and of the upper ones: together all numbers of both. */
#ifndef vf_zip_low
static inline vf vf_zip_low(vf a, vf b) {
  vf x;
  for (int i = 0; i < LANES; i++) x[i] = (i % 2 ? b : a)[i / 2];
  return x;
}
#endif

#ifndef vf_zip_high
static inline vf vf_zip_high(vf a, vf b) {
  vf x;
  for (int i = 0; i < LANES; i++) x[i] = (i % 2 ? b : a)[LANES / 2 + i / 2];
  return x;
}
#endif

/* x[i][j] and x[j][i] change places: rows i and i + LANES / 2 are zipped, as often as halves LANES. */
static inline void vf_transpose(vf x[LANES]) {
  vf zipped[LANES];
#pragma GCC unroll 8
  for (int half = LANES / 2; half; half /= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < LANES / 2; i++) {
      zipped[2 * i] = vf_zip_low(x[i], x[i + LANES / 2]);
      zipped[2 * i + 1] = vf_zip_high(x[i], x[i + LANES / 2]);
    }
#pragma GCC unroll 32
    for (int i = 0; i < LANES; i++) x[i] = zipped[i];
  }
}

/* Lane i is the sum of the lanes of x[i], which is lost: as vf_transpose, but what has been zipped is added. */
static inline vf vf_sums(vf x[LANES]) {
#pragma GCC unroll 8
  for (int half = LANES / 2; half; half /= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < half; i++) x[i] = vf_zip_low(x[i], x[i + half]) + vf_zip_high(x[i], x[i + half]);
  }
  return x[0];
}

/* Plain C for what every instruction set has an instruction for: inlined, it would take minutes to compile. */
#define APART __attribute__((noinline, unused))

/* LANES bytes, without and with a sign. */
#ifndef vi_from_u8
static APART vi vi_from_u8(const uint8_t *p) {
  vi x;
  for (int i = 0; i < LANES; i++) x[i] = p[i];
  return x;
}
#endif

#ifndef vi_from_i8
static APART vi vi_from_i8(const uint8_t *p) {
  vi x;
  for (int i = 0; i < LANES; i++) x[i] = (int8_t)p[i];
  return x;
}
#endif

/* The lowest bytes of the lanes, and their lower halves. */
#ifndef vi_to_8
static APART void vi_to_8(int8_t *p, vi x) {
  for (int i = 0; i < LANES; i++) p[i] = (int8_t)x[i];
}
#endif

#ifndef vi_to_16
static APART void vi_to_16(uint16_t *p, vi x) {
  for (int i = 0; i < LANES; i++) p[i] = (uint16_t)x[i];
}
#endif

/* Lane i of the sum, and the products of its four bytes of a and b. A `vec.h` whose instruction takes a without
   a sign adds DOT_BIAS to every byte of a, and so DOT_BIAS times every byte of b to the sum; one whose instruction
   takes both with their signs says DOT_SIGNS, and has no other for small numbers. */
#ifndef vi_dot
#define DOT_BIAS 0
static APART vi vi_dot(vi sum, vb a, vb b) {
  for (int i = 0; i < 4 * LANES; i++) sum[i / 4] += a[i] * b[i];
  return sum;
}
#endif

/* The same for bytes of a that are 0 to 63, and nothing is added. */
#ifdef DOT_SIGNS
#define vi_dot_small vi_dot
enum { SIGNS = 1 };
#else
enum { SIGNS = 0 };
#endif
#ifndef vi_dot_small
static APART vi vi_dot_small(vi sum, vb a, vb b) {
  for (int i = 0; i < 4 * LANES; i++) sum[i / 4] += a[i] * b[i];
  return sum;
}
#endif

/* The sum, and the products of w[0] with the first four bytes at x, which are in every lane, of w[1] with the next … */
#ifndef vi_dots
static inline vi vi_dots(vi sum, const vb *w, const int8_t *x, const int count) {
#pragma GCC unroll 8
  for (int j = 0; j < count; j++) sum = vi_dot(sum, w[j], vb_all_at(x + 4 * j));
  return sum;
}
#endif

/* The same as vi_dot_small has it. */
#ifdef DOT_SIGNS
#define vi_dots_small vi_dots
#endif
#ifndef vi_dots_small
static inline vi vi_dots_small(vi sum, const vb *w, const int8_t *x, const int count) {
#pragma GCC unroll 8
  for (int j = 0; j < count; j++) sum = vi_dot_small(sum, w[j], vb_all_at(x + 4 * j));
  return sum;
}
#endif

/* A `vec.h` with products of small matrices has these five: in each 16 bytes of the sum stand those of two rows of 8
   bytes of x with two of w, {x0 w0, x0 w1, x1 w0, x1 w1}.

   vi_dot_pairs(sum, x, w)
   vb_quad(p)                    16 bytes, in every 16
   vf_zip_pairs_low(a, b)        a0 a1 b0 b1 a2 a3 b2 b3 … of the lower halves; vf_zip_pairs_high of the upper ones
   vf_pairs_of_rows(even, a, b)  of a and then of b, the even pairs, or the odd ones */
#ifdef vi_dot_pairs
enum { PAIRS = 1 };
#else
enum { PAIRS = 0 };
#endif

/* Byte i is table[at[i]], where at[i] is 0 to 15. */
#ifndef vb_look_up
static APART vb vb_look_up(const int8_t table[16], vb at) {
  for (int i = 0; i < 4 * LANES; i++) at[i] = table[at[i]];
  return at;
}
#endif

/* The lowest four bits of each lane, one in each of its bytes. */
#ifndef vi_spread_bits
static inline vi vi_spread_bits(vi x) { return ((x & 15) * 0x204081) & 0x01010101; }
#endif

/* 16 bytes from each of LANES / 4 places, so many bytes apart, one behind the other. */
#ifndef vi_gather_quads
static APART vi vi_gather_quads(const uint8_t *p, int64_t step) {
  vi x;
  for (int i = 0; i < LANES / 4; i++) memcpy((char *)&x + 16 * i, p + i * step, 16);
  return x;
}
#endif

/* In each 16 bytes, x[i][j] and x[j][i] change places. */
#ifndef vi_transpose_quads
static APART void vi_transpose_quads(vi x[4]) {
  vi y[4];
  for (int i = 0; i < 4; i++)
    for (int j = 0; j < LANES; j++) y[i][j] = x[j % 4][j / 4 * 4 + i];
  memcpy(x, y, sizeof y);
}
#endif

/* LANES numbers of bf16, the upper half of an f32. */
#ifndef vf_from_bf16
static inline vf vf_from_bf16(const uint16_t *p) {
  vi x;
  for (int i = 0; i < LANES; i++) x[i] = (int32_t)((uint32_t)p[i] << 16);
  return (vf)x;
}
#endif

/* LANES numbers of IEEE half precision, by hand: compilers have had _Float16 on all processors only lately. */
#ifndef vf_from_f16
static inline vf vf_from_f16(const uint16_t *p) {
  vi sign, rest;
  for (int i = 0; i < LANES; i++) {
    sign[i] = (int32_t)((uint32_t)(p[i] & 0x8000) << 16);
    rest[i] = (p[i] & 0x7fff) << 13;
  }
  const vi scaled = (vi)((vf)rest * vf_all(0x1p112f)); /* from f16's bias of the exponent to f32's */
  const vi not_finite = (rest >= vi_all(0x7c00 << 13)) & vi_all(0x7f800000);
  return (vf)(scaled | not_finite | sign);
}
#endif

#endif
