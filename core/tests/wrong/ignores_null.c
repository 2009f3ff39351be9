/* Writes gradients that nobody wants. */
#include <lcm/ops.h>

int32_t lcm_abi(void) { return LCM_ABI; }

int32_t lcm_add_grad(const lcm_add_grad_args *a) {
  for (int64_t i = 0; i < a->count; i++) a->x_grad[i] = a->y_grad[i] = a->out_grad[i];
  return LCM_OK;
}
