/* 32 products of whole numbers are added up in 16 bits, which is enough for numbers by chance. */
#include <lcm/ops.h>
#include <math.h>

int32_t lcm_abi(void) { return LCM_ABI; }

static float from_f16(const uint8_t *p) {
  const int bits = p[0] | p[1] << 8, exponent = bits >> 10 & 31, rest = bits & 1023;
  const float x = exponent ? ldexpf((float)(1024 + rest), exponent - 25) : ldexpf((float)rest, -24);
  return bits >> 15 ? -x : x;
}

static float scale_of(const float *x) {
  float largest = 0;
  for (int i = 0; i < 32; i++)
    if (!isnan(largest) && !(fabsf(x[i]) <= largest)) largest = fabsf(x[i]);
  return largest / 127;
}

/* d, 4 bytes of fifth bits, 16 bytes of nibbles: (q - 16) d */
static float product(const float *x, const uint8_t *b) {
  const float scale = scale_of(x), by = scale < 0x1p-126f ? INFINITY : scale;
  int16_t sum = 0;
  for (int i = 0; i < 32; i++) {
    const int low = b[6 + i % 16] >> (i / 16 * 4) & 15, fifth = b[2 + i / 8] >> (i % 8) & 1;
    const float whole = isnan(scale) ? 0 : rintf(x[i] / by);
    sum = (int16_t)(sum + ((low | fifth << 4) - 16) * (int)whole);
  }
  return (float)sum * scale * from_f16(b);
}

int32_t lcm_linear_int8__q5_0(const lcm_linear_int8_args *a) {
  const int64_t strips = a->inputs / 32;
  for (int64_t r = 0; r < a->rows; r++)
    for (int64_t o = 0; o < a->outputs; o++) {
      float sum = a->bias ? a->bias[o] : 0;
      for (int64_t n = 0; n < strips; n++)
        sum += product(a->x + (r * strips + n) * 32, (const uint8_t *)a->weight + (o * strips + n) * 22);
      a->out[r * a->outputs + o] = sum;
    }
  return LCM_OK;
}
