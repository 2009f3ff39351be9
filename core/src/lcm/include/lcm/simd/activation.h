/* Activations and their gradients, number by number.

   lcm_gelu          out = x Phi(x) = x (1 + erf(x / sqrt 2)) / 2,  or with tanh: x sigmoid(2 u)
   lcm_gelu_grad     x_grad = out_grad (Phi(x) + x phi(x)),  or out_grad (s + x s (1 - s) 2 u')
   lcm_silu          out = x sigmoid(x)
   lcm_silu_grad     x_grad = out_grad (s + x s (1 - s))
   lcm_swiglu        out = gate sigmoid(gate) up
   lcm_swiglu_grad   gate_grad = out_grad up (s + gate s (1 - s));  up_grad = out_grad gate s
   lcm_geglu         out = gelu(gate) up
   lcm_geglu_grad    gate_grad = out_grad up gelu'(gate);  up_grad = out_grad gelu(gate)

   With u = sqrt(2 / pi) (x + 0.044715 x^3): (1 + tanh u) / 2 = sigmoid(2 u), which cancels nothing. */
#ifndef LCM_SIMD_ACTIVATION_H
#define LCM_SIMD_ACTIVATION_H

#include <lcm/simd/elementwise.h>
#include <lcm/simd/functions.h>

/* sigmoid(x), and its derivative s (1 - s) = e / (1 + e)^2 with e = exp(-|x|), exact near s = 1 too. */
INLINE vf sigmoid_and_slope(vf x, vf *slope) {
  const vf e = vf_exp_negative(-vf_abs(x)), inverse = 1 / (1 + e);
  *slope = e * inverse * inverse;
  return vf_pick(x < 0, e, vf_all(1)) * inverse;
}

/* 2 sqrt(2 / pi), and 0.044715 times it. */
static const float TWO_U = 0x1.988454p0f, TWO_U_CUBE = 0x1.2444f2p-4f;

INLINE vf gelu_of(vf x) { return x * 0.5f * (1 + vf_erf(x * 0x1.6a09e6p-1f)); }

INLINE vf gelu_tanh_of(vf x) { return x * vf_sigmoid(x * (x * x * TWO_U_CUBE + TWO_U)); }

INLINE vf gelu_slope(vf x) {
  const vf density = vf_exp_negative(x * x * -0.5f) * 0x1.988454p-2f;
  return 0.5f * (1 + vf_erf(x * 0x1.6a09e6p-1f)) + x * density;
}

INLINE vf gelu_tanh_slope(vf x) {
  const vf near = vf_max(vf_all(-100), vf_min(vf_all(100), x)); /* x^2 must not overflow; s is 0 or 1 here */
  const vf square = near * near;
  vf slope;
  const vf s = sigmoid_and_slope(near * (square * TWO_U_CUBE + TWO_U), &slope);
  return s + x * slope * (square * (3 * TWO_U_CUBE) + TWO_U);
}

INLINE void gelu_vector(const void *args, int64_t i, int64_t n) {
  const lcm_gelu_args *a = args;
  vf_store_some(a->out + i, gelu_of(vf_load_some(a->x + i, n)), n);
}

INLINE void gelu_tanh_vector(const void *args, int64_t i, int64_t n) {
  const lcm_gelu_args *a = args;
  vf_store_some(a->out + i, gelu_tanh_of(vf_load_some(a->x + i, n)), n);
}

static void gelu_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const lcm_gelu_args a = *(const lcm_gelu_args *)work;
  if (a.tanh) each_vector(piece, a.count, &a, gelu_tanh_vector);
  else each_vector(piece, a.count, &a, gelu_vector);
}

EXPORT int32_t lcm_gelu(const lcm_gelu_args *a) { return in_parallel(spans(a->count, PIECE), gelu_piece, a); }

INLINE void gelu_grad_vector(const void *args, int64_t i, int64_t n) {
  const lcm_gelu_grad_args *a = args;
  const vf x = vf_load_some(a->x + i, n), g = vf_load_some(a->out_grad + i, n);
  vf_store_some(a->x_grad + i, g * gelu_slope(x), n);
}

INLINE void gelu_tanh_grad_vector(const void *args, int64_t i, int64_t n) {
  const lcm_gelu_grad_args *a = args;
  const vf x = vf_load_some(a->x + i, n), g = vf_load_some(a->out_grad + i, n);
  vf_store_some(a->x_grad + i, g * gelu_tanh_slope(x), n);
}

static void gelu_grad_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const lcm_gelu_grad_args a = *(const lcm_gelu_grad_args *)work;
  if (a.tanh) each_vector(piece, a.count, &a, gelu_tanh_grad_vector);
  else each_vector(piece, a.count, &a, gelu_grad_vector);
}

EXPORT int32_t lcm_gelu_grad(const lcm_gelu_grad_args *a) {
  return a->x_grad ? in_parallel(spans(a->count, PIECE), gelu_grad_piece, a) : LCM_OK;
}

INLINE void silu_vector(const void *args, int64_t i, int64_t n) {
  const lcm_silu_args *a = args;
  const vf x = vf_load_some(a->x + i, n);
  vf_store_some(a->out + i, x * vf_sigmoid(x), n);
}

static void silu_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const lcm_silu_args a = *(const lcm_silu_args *)work;
  each_vector(piece, a.count, &a, silu_vector);
}

EXPORT int32_t lcm_silu(const lcm_silu_args *a) { return in_parallel(spans(a->count, PIECE), silu_piece, a); }

INLINE void silu_grad_vector(const void *args, int64_t i, int64_t n) {
  const lcm_silu_grad_args *a = args;
  const vf x = vf_load_some(a->x + i, n), g = vf_load_some(a->out_grad + i, n);
  vf slope;
  const vf s = sigmoid_and_slope(x, &slope);
  vf_store_some(a->x_grad + i, g * (s + x * slope), n);
}

static void silu_grad_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const lcm_silu_grad_args a = *(const lcm_silu_grad_args *)work;
  each_vector(piece, a.count, &a, silu_grad_vector);
}

EXPORT int32_t lcm_silu_grad(const lcm_silu_grad_args *a) {
  return a->x_grad ? in_parallel(spans(a->count, PIECE), silu_grad_piece, a) : LCM_OK;
}

INLINE void swiglu_vector(const void *args, int64_t i, int64_t n) {
  const lcm_swiglu_args *a = args;
  const vf gate = vf_load_some(a->gate + i, n);
  vf_store_some(a->out + i, gate * vf_sigmoid(gate) * vf_load_some(a->up + i, n), n);
}

static void swiglu_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const lcm_swiglu_args a = *(const lcm_swiglu_args *)work;
  each_vector(piece, a.count, &a, swiglu_vector);
}

EXPORT int32_t lcm_swiglu(const lcm_swiglu_args *a) {
  return in_parallel(spans(a->count, PIECE), swiglu_piece, a);
}

INLINE void swiglu_grad_vector(const void *args, int64_t i, int64_t n) {
  const lcm_swiglu_grad_args *a = args;
  const vf gate = vf_load_some(a->gate + i, n), g = vf_load_some(a->out_grad + i, n);
  vf slope;
  const vf s = sigmoid_and_slope(gate, &slope);
  if (a->gate_grad) vf_store_some(a->gate_grad + i, g * vf_load_some(a->up + i, n) * (s + gate * slope), n);
  if (a->up_grad) vf_store_some(a->up_grad + i, g * gate * s, n);
}

static void swiglu_grad_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const lcm_swiglu_grad_args a = *(const lcm_swiglu_grad_args *)work;
  each_vector(piece, a.count, &a, swiglu_grad_vector);
}

EXPORT int32_t lcm_swiglu_grad(const lcm_swiglu_grad_args *a) {
  return in_parallel(spans(a->count, PIECE), swiglu_grad_piece, a);
}

INLINE void geglu_vector(const void *args, int64_t i, int64_t n) {
  const lcm_geglu_args *a = args;
  vf_store_some(a->out + i, gelu_of(vf_load_some(a->gate + i, n)) * vf_load_some(a->up + i, n), n);
}

INLINE void geglu_tanh_vector(const void *args, int64_t i, int64_t n) {
  const lcm_geglu_args *a = args;
  vf_store_some(a->out + i, gelu_tanh_of(vf_load_some(a->gate + i, n)) * vf_load_some(a->up + i, n), n);
}

static void geglu_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const lcm_geglu_args a = *(const lcm_geglu_args *)work;
  if (a.tanh) each_vector(piece, a.count, &a, geglu_tanh_vector);
  else each_vector(piece, a.count, &a, geglu_vector);
}

EXPORT int32_t lcm_geglu(const lcm_geglu_args *a) { return in_parallel(spans(a->count, PIECE), geglu_piece, a); }

INLINE void geglu_grad_store(const lcm_geglu_grad_args *a, int64_t i, int64_t n, vf value, vf slope) {
  const vf g = vf_load_some(a->out_grad + i, n);
  if (a->gate_grad) vf_store_some(a->gate_grad + i, g * vf_load_some(a->up + i, n) * slope, n);
  if (a->up_grad) vf_store_some(a->up_grad + i, g * value, n);
}

INLINE void geglu_grad_vector(const void *args, int64_t i, int64_t n) {
  const lcm_geglu_grad_args *a = args;
  const vf gate = vf_load_some(a->gate + i, n);
  geglu_grad_store(a, i, n, gelu_of(gate), gelu_slope(gate));
}

INLINE void geglu_tanh_grad_vector(const void *args, int64_t i, int64_t n) {
  const lcm_geglu_grad_args *a = args;
  const vf gate = vf_load_some(a->gate + i, n);
  geglu_grad_store(a, i, n, gelu_tanh_of(gate), gelu_tanh_slope(gate));
}

static void geglu_grad_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const lcm_geglu_grad_args a = *(const lcm_geglu_grad_args *)work;
  if (a.tanh) each_vector(piece, a.count, &a, geglu_tanh_grad_vector);
  else each_vector(piece, a.count, &a, geglu_grad_vector);
}

EXPORT int32_t lcm_geglu_grad(const lcm_geglu_grad_args *a) {
  return in_parallel(spans(a->count, PIECE), geglu_grad_piece, a);
}

#endif
