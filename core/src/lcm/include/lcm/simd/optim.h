/* Optimiser steps: one pass, in which every number is read once and written once.

   lcm_adamw_step   m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;  with g = grad grad_scale
                    param = (1 - lr weight_decay) param - lr m / (1 - beta1^step)
                                                          / (sqrt(v / (1 - beta2^step)) + eps)
   lcm_sgd_step     velocity = momentum velocity + g;  param = (1 - lr weight_decay) param - lr velocity */
#ifndef LCM_SIMD_OPTIM_H
#define LCM_SIMD_OPTIM_H

#include <lcm/simd/elementwise.h>

typedef struct {
  float *param, *m, *v;
  const float *grad;
  int64_t count;
  float grad_scale, beta1, rest1, beta2, rest2, eps; /* rest = 1 - beta */
  float keep, rate, unbias; /* 1 - lr weight_decay, lr / (1 - beta1^step), 1 / (1 - beta2^step) */
} adamw_t;

INLINE void adamw_vector(const void *args, int64_t i, int64_t n) {
  const adamw_t *a = args;
  const vf g = vf_load_some(a->grad + i, n) * a->grad_scale;
  const vf m = vf_load_some(a->m + i, n) * a->beta1 + g * a->rest1;
  const vf v = vf_load_some(a->v + i, n) * a->beta2 + g * g * a->rest2;
  const vf step = m * a->rate / (vf_sqrt(v * a->unbias) + a->eps);
  vf_store_some(a->m + i, m, n);
  vf_store_some(a->v + i, v, n);
  vf_store_some(a->param + i, vf_load_some(a->param + i, n) * a->keep - step, n);
}

static void adamw_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const adamw_t a = *(const adamw_t *)work;
  each_vector(piece, a.count, &a, adamw_vector);
}

EXPORT int32_t lcm_adamw_step(const lcm_adamw_step_args *a) {
  const double beta1 = a->beta1, beta2 = a->beta2, lr = a->lr;
  const adamw_t work = {.param = a->param, .m = a->m, .v = a->v, .grad = a->grad, .count = a->count,
                        .grad_scale = a->grad_scale, .beta1 = a->beta1, .rest1 = (float)(1 - beta1),
                        .beta2 = a->beta2, .rest2 = (float)(1 - beta2), .eps = a->eps,
                        .keep = (float)(1 - lr * a->weight_decay),
                        .rate = (float)(lr / (1 - pow(beta1, (double)a->step))),
                        .unbias = (float)(1 / (1 - pow(beta2, (double)a->step)))};
  return in_parallel(spans(a->count, PIECE), adamw_piece, &work);
}

INLINE void sgd_vector(const void *args, int64_t i, int64_t n) {
  const lcm_sgd_step_args *a = args;
  const vf g = vf_load_some(a->grad + i, n) * a->grad_scale;
  const vf velocity = vf_load_some(a->velocity + i, n) * a->momentum + g;
  const float keep = (float)(1 - (double)a->lr * a->weight_decay);
  vf_store_some(a->velocity + i, velocity, n);
  vf_store_some(a->param + i, vf_load_some(a->param + i, n) * keep - velocity * a->lr, n);
}

static void sgd_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const lcm_sgd_step_args a = *(const lcm_sgd_step_args *)work;
  each_vector(piece, a.count, &a, sgd_vector);
}

EXPORT int32_t lcm_sgd_step(const lcm_sgd_step_args *a) {
  return in_parallel(spans(a->count, PIECE), sgd_piece, a);
}

#endif
