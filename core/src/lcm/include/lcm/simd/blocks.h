/* Block formats (ggml's): some numbers together, as a few bits each and the scales they share, become f32.

   block_<format>(b, i)   LANES numbers of the block at b, from number i on; i is a multiple of LANES, at most 16.
   The layout of a block stands above its function; "d" is always an f16. */
#ifndef LCM_SIMD_BLOCKS_H
#define LCM_SIMD_BLOCKS_H

#include <lcm/simd/tile.h>

_Static_assert(LANES <= 16, "a vector of numbers must lie in one half of a block of 32");

/* One f16, by hand. */
#ifndef f32_from_f16
static inline float f32_from_f16(uint16_t x) {
  const uint32_t rest = (uint32_t)(x & 0x7fff) << 13, sign = (uint32_t)(x & 0x8000) << 16;
  float scaled;
  memcpy(&scaled, &rest, sizeof scaled);
  scaled *= 0x1p112f; /* from f16's bias of the exponent to f32's */
  uint32_t bits;
  memcpy(&bits, &scaled, sizeof bits);
  bits |= sign | (rest >= 0x7c00u << 13 ? 0x7f800000 : 0);
  memcpy(&scaled, &bits, sizeof scaled);
  return scaled;
}
#endif

INLINE int half_word(const uint8_t *p) { return p[0] | p[1] << 8; }

INLINE float half(const uint8_t *p) { return f32_from_f16((uint16_t)half_word(p)); }

INLINE vf numbers(vi x) { return __builtin_convertvector(x, vf); }

/* Numbers i … of 32 that lie as 4 bits in 16 bytes: in the low halves, then in the high ones. */
INLINE vi nibbles(const uint8_t *p, int i) { return (vi_from_u8(p + i % 16) >> (i / 16 * 4)) & 15; }

/* Bits i … of a word. */
INLINE vi bits_of(uint32_t word, int i) {
  vi lane;
  for (int j = 0; j < LANES; j++) lane[j] = j;
  return (vi_all((int32_t)(word >> i)) >> lane) & 1;
}

INLINE vi looked_up(const int8_t table[16], vi at) {
  for (int j = 0; j < LANES; j++) at[j] = table[at[j]];
  return at;
}

/* d, 32 signed bytes: q d */
INLINE vf block_q8_0(const uint8_t *b, int i) { return numbers(vi_from_i8(b + 2 + i)) * half(b); }

/* d, 16 bytes of nibbles: (q - 8) d */
INLINE vf block_q4_0(const uint8_t *b, int i) { return numbers(nibbles(b + 2, i) - 8) * half(b); }

/* d, m, 16 bytes of nibbles: q d + m */
INLINE vf block_q4_1(const uint8_t *b, int i) { return numbers(nibbles(b + 4, i)) * half(b) + half(b + 2); }

/* The nibbles at q with a fifth bit each, from the four bytes at h. */
INLINE vi five_bits(const uint8_t *q, const uint8_t *h, int i) {
  uint32_t word;
  memcpy(&word, h, sizeof word);
  return nibbles(q, i) | bits_of(word, i) << 4;
}

/* d, 4 bytes of fifth bits, 16 bytes of nibbles: (q - 16) d */
INLINE vf block_q5_0(const uint8_t *b, int i) { return numbers(five_bits(b + 6, b + 2, i) - 16) * half(b); }

/* d, m, 4 bytes of fifth bits, 16 bytes of nibbles: q d + m */
INLINE vf block_q5_1(const uint8_t *b, int i) {
  return numbers(five_bits(b + 8, b + 4, i)) * half(b) + half(b + 2);
}

/* 2 bits for each of 128 numbers, in 32 bytes. */
INLINE vi pairs(const uint8_t *p, int i) { return (vi_from_u8(p + i % 32) >> (i / 32 * 2)) & 3; }

/* 16 bytes of a scale and a minimum of 4 bits for 16 numbers, 64 bytes of pairs, d, m: q d scale - m minimum */
INLINE vf block_q2_k(const uint8_t *b, int i) {
  const int shared = b[i / 16];
  const vi q = pairs(b + 16 + i / 128 * 32, i % 128);
  return numbers(q) * (half(b + 80) * (float)(shared & 15)) - half(b + 82) * (float)(shared >> 4);
}

/* 32 bytes of third bits, 64 bytes of pairs, 12 bytes of scales of 6 bits for 16 numbers, d:
   (q - 4) d (scale - 32) */
INLINE vf block_q3_k(const uint8_t *b, int i) {
  const uint8_t *s = b + 96;
  const int n = i / 16, low = n < 8 ? s[n] & 15 : s[n - 8] >> 4, high = (s[8 + n % 4] >> (n / 4 * 2)) & 3;
  const vi third = (vi_from_u8(b + i % 32) >> (i / 32)) & 1;
  const vi q = pairs(b + 32 + i / 128 * 32, i % 128) | third << 2;
  return numbers(q - 4) * (half(b + 108) * (float)((low | high << 4) - 32));
}

/* 8 scales and 8 minima of 6 bits each, for 32 numbers, in 12 bytes. */
INLINE int scale_of(const uint8_t *s, int n) { return n < 4 ? s[n] & 63 : (s[n + 4] & 15) | s[n - 4] >> 6 << 4; }

INLINE int minimum_of(const uint8_t *s, int n) { return n < 4 ? s[n + 4] & 63 : s[n + 4] >> 4 | s[n] >> 6 << 4; }

/* Of 64 numbers in 32 bytes, the first 32 in the low halves. */
INLINE vi wide_nibbles(const uint8_t *p, int i) { return (vi_from_u8(p + i / 64 * 32 + i % 32) >> (i / 32 % 2 * 4)) & 15; }

INLINE vf with_minimum(const uint8_t *b, vi q, int i) {
  const float d = half(b) * (float)scale_of(b + 4, i / 32), m = half(b + 2) * (float)minimum_of(b + 4, i / 32);
  return numbers(q) * d - m;
}

/* d, m, 12 bytes of scales and minima, 128 bytes of nibbles: q d scale - m minimum */
INLINE vf block_q4_k(const uint8_t *b, int i) { return with_minimum(b, wide_nibbles(b + 16, i), i); }

/* d, m, 12 bytes of scales and minima, 32 bytes of fifth bits, 128 bytes of nibbles: q d scale - m minimum */
INLINE vf block_q5_k(const uint8_t *b, int i) {
  const vi fifth = (vi_from_u8(b + 16 + i % 32) >> (i / 32)) & 1;
  return with_minimum(b, wide_nibbles(b + 48, i) | fifth << 4, i);
}

/* 128 bytes of nibbles, 64 bytes of 2 more bits, 16 signed bytes of scales for 16 numbers, d: (q - 32) d scale */
INLINE vf block_q6_k(const uint8_t *b, int i) {
  const int half_of_it = i / 128, j = i % 128;
  const vi low = (vi_from_u8(b + half_of_it * 64 + j % 64) >> (j / 64 * 4)) & 15;
  const vi q = low | pairs(b + 128 + half_of_it * 32, j) << 4;
  return numbers(q - 32) * (half(b + 208) * (float)(int8_t)b[192 + i / 16]);
}

/* What the nibbles of IQ4 stand for. */
static const int8_t IQ4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/* d, 16 bytes of nibbles: IQ4[q] d */
INLINE vf block_iq4_nl(const uint8_t *b, int i) { return numbers(looked_up(IQ4, nibbles(b + 2, i))) * half(b); }

/* d, the upper 2 bits of 8 scales in 2 bytes, their lower 4 in 4, 128 bytes of nibbles: IQ4[q] d (scale - 32) */
INLINE vf block_iq4_xs(const uint8_t *b, int i) {
  const int n = i / 32, low = b[4 + n / 2] >> (n % 2 * 4) & 15, high = half_word(b + 2) >> (2 * n) & 3;
  return numbers(looked_up(IQ4, nibbles(b + 8 + n * 16, i % 32))) * (half(b) * (float)((low | high << 4) - 32));
}

/* Twice what the 4 bits of FP4 (E2M1) stand for. */
static const int8_t FP4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* An exponent e, 16 bytes of nibbles: FP4[q] 2^(e - 128) */
INLINE vf block_mxfp4(const uint8_t *b, int i) {
  const uint32_t bits = b[0] < 2 ? UINT32_C(0x200000) << b[0] : (uint32_t)(b[0] - 1) << 23;
  float scale;
  memcpy(&scale, &bits, sizeof scale);
  return numbers(looked_up(FP4, nibbles(b + 1, i))) * scale;
}

#endif
