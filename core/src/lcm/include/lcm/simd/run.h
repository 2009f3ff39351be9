/* Programs: kernels with their arguments, run one after the other. */
#ifndef LCM_SIMD_RUN_H
#define LCM_SIMD_RUN_H

#include <lcm/simd/own.h>

EXPORT int32_t lcm_run(const lcm_step *steps, int64_t count, int64_t *at) {
  for (*at = 0; *at < count; ++*at) {
    if (interrupted()) return LCM_INTERRUPTED; /* a kernel need not ask */
    const int32_t code = steps[*at].kernel(steps[*at].args);
    if (code) return code;
  }
  return LCM_OK;
}

#endif
