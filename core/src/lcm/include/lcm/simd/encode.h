/* Numbers become f16 or q8_0: those that kernels write, into the cache of keys and values.

   encode(to, format, x, n)   n numbers, of q8_0 whole blocks; the bytes are those of lcm.formats.encode */
#ifndef LCM_SIMD_ENCODE_H
#define LCM_SIMD_ENCODE_H

#include <lcm/simd/formats.h>

/* The nearest of half precision, ties to even, in the lower halves of the lanes; what is too large is infinite. */
INLINE vi f16_of(vf x) {
  const vi bits = (vi)x, size = bits & 0x7fffffff, sign = (bits >> 16) & 0x8000;
  const vi normal = (size - ((127 - 15) << 23) + 0xfff + ((size >> 13) & 1)) >> 13;
  const vi small = (vi)((vf)size + 0.5f) - 0x3f000000; /* 0.5 has 2^-24 as its last bit, as f16 has */
  const vi large = (vi)vf_pick(size > vi_all(0x7f800000), (vf)vi_all(0x7e00), (vf)vi_all(0x7c00));
  const vi finite = (vi)vf_pick(size < vi_all((127 - 14) << 23), (vf)small, (vf)normal);
  return sign | (vi)vf_pick(size >= vi_all((127 + 16) << 23), (vf)large, (vf)finite);
}

static void encode_f16(uint16_t *to, const float *x, int64_t n) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) vi_to_16(to + i, f16_of(vf_load(x + i)));
  uint16_t last[LANES];
  vi_to_16(last, f16_of(vf_load_first(x + i, n - i)));
  memcpy(to + i, last, (size_t)(n - i) * sizeof *to);
}

/* The whole numbers nearest to 32 numbers over their scale, ties away from 0; the scale is their largest over 127,
   and what is far too small for f16 is 0. */
static void encode_block(uint8_t *to, const float *x) {
  const vi minus = vi_all(INT32_MIN);
  vi largest = {0};
  for (int i = 0; i < 32; i += LANES) {
    const vi size = (vi)vf_load(x + i) & ~minus;
    largest = (vi)vf_pick(size > largest, (vf)size, (vf)largest);
  }
  int32_t bits = 0; /* of the largest, or of a NaN: then the block is not a number */
  for (int i = 0; i < LANES; i++) bits = largest[i] > bits ? largest[i] : bits;
  float scale;
  memcpy(&scale, &bits, sizeof scale);
  scale /= 127;
  const float inverse = scale > 1e-30f ? 1 / scale : 0;
  uint16_t half[LANES];
  vi_to_16(half, f16_of(vf_all(scale)));
  memcpy(to, half, sizeof *half);
  for (int i = 0; i < 32; i += LANES) {
    const vi number = (vi)vf_load(x + i);
    const vf steps = (vf)(number & ~minus) * inverse;
    const vi whole = __builtin_convertvector(steps, vi);
    const vi nearest = whole - (steps >= numbers(whole) + 0.5f), sign = number >> 31;
    vi_to_8((int8_t *)to + 2 + i, (nearest ^ sign) - sign);
  }
}

static void encode(void *to, format_t format, const float *x, int64_t n) {
  if (format == F32) memcpy(to, x, (size_t)n * sizeof *x);
  else if (format == F16) encode_f16(to, x, n);
  else
    for (int64_t i = 0; i < n; i += 32) encode_block((uint8_t *)to + i / 32 * 34, x + i);
}

#endif
