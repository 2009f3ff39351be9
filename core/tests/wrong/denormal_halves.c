/* Half-precision numbers below 2^-14, which have no leading one, are taken for zero. */
#include <lcm/ops.h>
#include <math.h>

int32_t lcm_abi(void) { return LCM_ABI; }

static float from_f16(uint16_t bits) {
  const int sign = bits >> 15, exponent = bits >> 10 & 31, rest = bits & 1023;
  float x = exponent ? ldexpf((float)(1024 + rest), exponent - 25) : 0;
  if (exponent == 31) x = rest ? NAN : INFINITY;
  return sign ? -x : x;
}

int32_t lcm_embedding__f16(const lcm_embedding_args *a) {
  const uint16_t *weight = a->weight;
  for (int64_t r = 0; r < a->rows; r++)
    for (int64_t i = 0; i < a->width; i++)
      a->out[r * a->width + i] = from_f16(weight[(int64_t)a->ids[r] * a->width + i]);
  return LCM_OK;
}
