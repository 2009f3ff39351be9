/* Two calls at once share the memory for what lies between. */
#include <lcm/ops.h>
#include <math.h>
#include <time.h>

int32_t lcm_abi(void) { return LCM_ABI; }

static float powers[1 << 20];

int32_t lcm_softmax(const lcm_softmax_args *a) {
  for (int64_t r = 0; r < a->rows; r++) {
    const float *x = a->x + r * a->width;
    float largest = -INFINITY, sum = 0;
    for (int64_t i = 0; i < a->width; i++) largest = x[i] > largest ? x[i] : largest;
    for (int64_t i = 0; i < a->width; i++) powers[i] = expf(x[i] - largest);
    if (r == 0) nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL); /* until another call comes */
    for (int64_t i = 0; i < a->width; i++) sum += powers[i];
    for (int64_t i = 0; i < a->width; i++) a->out[r * a->width + i] = powers[i] / sum;
  }
  return LCM_OK;
}
