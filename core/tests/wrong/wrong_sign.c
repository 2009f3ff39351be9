/* The gradient by way of the mean has the wrong sign. */
#include <lcm/ops.h>
#include <math.h>

int32_t lcm_abi(void) { return LCM_ABI; }

int32_t lcm_rms_norm_grad(const lcm_rms_norm_grad_args *a) {
  const int64_t width = a->width;
  for (int64_t i = 0; i < width && a->weight_grad; i++) a->weight_grad[i] = 0;
  for (int64_t r = 0; r < a->rows; r++) {
    const float *x = a->x + r * width, *g = a->out_grad + r * width, *w = a->weight;
    float squares = 0, along = 0;
    for (int64_t i = 0; i < width; i++) squares += x[i] * x[i], along += g[i] * w[i] * x[i];
    const float scale = 1 / sqrtf(squares / (float)width + a->eps);
    const float pull = scale * scale * scale * along / (float)width;
    for (int64_t i = 0; i < width && a->weight_grad; i++) a->weight_grad[i] += g[i] * x[i] * scale;
    for (int64_t i = 0; i < width && a->x_grad; i++)
      a->x_grad[r * width + i] = g[i] * w[i] * scale + x[i] * pull; /* minus is right */
  }
  return LCM_OK;
}
