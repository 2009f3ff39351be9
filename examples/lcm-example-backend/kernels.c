/* The kernels of the example backend: rms_norm, in plain C. */
#include <lcm/ops.h>
#include <math.h>

#define EXPORT __attribute__((visibility("default")))

EXPORT int32_t lcm_abi(void) { return LCM_ABI; }

static float sum_of_squares(const float *x, int64_t width) {
  float sum = 0;
  for (int64_t i = 0; i < width; i++) sum += x[i] * x[i];
  return sum;
}

/* out[r,:] = x[r,:] / sqrt(mean(x[r,:]^2) + eps) * weight */
EXPORT int32_t lcm_rms_norm(const lcm_rms_norm_args *a) {
  for (int64_t r = 0; r < a->rows; r++) {
    const float *x = a->x + r * a->width;
    float *out = a->out + r * a->width;
    const float scale = 1 / sqrtf(sum_of_squares(x, a->width) / (float)a->width + a->eps);
    for (int64_t i = 0; i < a->width; i++) out[i] = x[i] * scale * a->weight[i];
  }
  return LCM_OK;
}
