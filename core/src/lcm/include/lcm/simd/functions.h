/* exp and its kin on vectors: polynomials, each with its largest error in units of the last place (ulp).

   It was measured against the C library's double precision: for all floats of 2^-25 … 128 and their
   negatives, and for every 51st float beyond. Infinities and NaN are taken as C's own functions take them;
   results that underflow are rounded as any others are. */
#ifndef LCM_SIMD_FUNCTIONS_H
#define LCM_SIMD_FUNCTIONS_H

/* The nearest whole number, for |x| < 2^22: at 1.5 * 2^23 the last place of a float is 1. */
static inline vf vf_round_small(vf x) {
  const float magic = 0x1.8p23f;
  return x + magic - magic;
}

static inline vf vf_abs(vf x) { return (vf)((vi)x & 0x7fffffff); }

/* |size| with the sign of x. */
static inline vf vf_signed_as(vf size, vf x) { return (vf)(((vi)size & 0x7fffffff) | ((vi)x & INT32_MIN)); }

/* e^r for |r| <= ln 2 / 2. */
static inline vf vf_exp_near_0(vf r) {
  vf p = r * 0x1.6a51aep-10f + 0x1.123b8cp-7f;
  p = p * r + 0x1.5558cap-5f;
  p = p * r + 0x1.55549p-3f;
  p = p * r + 0x1.fffffcp-2f;
  p = p * r + 1;
  return p * r + 1;
}

/* x - n ln 2; the first part of ln 2 is short, so that n times it is exact. */
static inline vf vf_less_ln2(vf x, vf n) { return x - n * 0x1.62e4p-1f - n * 0x1.7f7d1cp-20f; }

/* e^x, 0.90 ulp. Far below 0 the result is a true 0: processors take some 200 cycles for a product that
   underflows. */
static inline vf vf_exp(vf x) {
  const vi seen = ~(x < -104); /* NaN too */
  x = vf_min(vf_all(89), x);   /* beyond, the result is infinity all the same */
  const vf n = vf_round_small(x * 0x1.715476p0f);
  return vf_scale((vf)(seen & (vi)vf_exp_near_0(vf_less_ln2(x, n))), n);
}

/* The same for x <= 0 only, in fewer steps. */
static inline vf vf_exp_negative(vf x) {
  const vi seen = ~(x < -104);
  const vf n = vf_round_small(x * 0x1.715476p0f);
  return vf_scale_down((vf)(seen & (vi)vf_exp_near_0(vf_less_ln2(x, n))), n);
}

/* ln x, 0.89 ulp. x = m 2^e with m in sqrt(1/2) … sqrt(2); subnormal numbers are made larger first. */
static inline vf vf_log(vf x) {
  const vf size = vf_abs(x);
  const vi small = size < 0x1p-126f, bits = (vi)vf_pick(small, size * 0x1p23f, size);
  const vi power = (bits - 0x3f3504f3) >> 23;
  const vf e = __builtin_convertvector(power, vf) - vf_pick(small, vf_all(23), vf_all(0));
  const vf f = (vf)(bits - (power << 23)) - 1;
  vf p = f * -0x1.4172fp-4f + 0x1.07d188p-3f;
  p = p * f - 0x1.0cf58cp-3f;
  p = p * f + 0x1.226f3ep-3f;
  p = p * f - 0x1.5476bp-3f;
  p = p * f + 0x1.99a582p-3f;
  p = p * f - 0x1.000226p-2f;
  p = p * f + 0x1.55554ap-2f;
  p = p * f - 0.5f;
  const vf log = e * 0x1.62e4p-1f + (f + (p * f * f + e * 0x1.7f7d1cp-20f));
  const vf of_zero = vf_pick(x == 0, vf_all(-INFINITY), log);
  return vf_pick((x >= 0) & (x < INFINITY), of_zero, vf_pick(x > 0, x, vf_all(NAN)));
}

/* tanh x, 1.5 ulp: x times a polynomial of x^2 near 0, 1 - 2 / (e^(2 |x|) + 1) elsewhere. */
static inline vf vf_tanh(vf x) {
  const vf size = vf_abs(x), s = size * size;
  vf near = s * -0x1.82585ap-8f + 0x1.54b8a2p-6f;
  near = near * s - 0x1.b898dep-5f;
  near = near * s + 0x1.1109aep-3f;
  near = near * s - 0x1.55553ep-2f;
  const vf far = 1 - 2 / (vf_exp(2 * size) + 1);
  return vf_signed_as(vf_pick(size < 0.6f, near * s * size + size, far), x);
}

/* The error function, 1.3 ulp: x times a polynomial of x^2 near 0, 1 - exp(a polynomial of |x|) elsewhere. */
static inline vf vf_erf(vf x) {
  const vf size = vf_min(vf_all(4), vf_abs(x)), s = size * size; /* beyond, the result is 1 all the same */
  vf near = s * -0x1.3825cap-11f + 0x1.46c236p-8f;
  near = near * s - 0x1.b676cap-6f;
  near = near * s + 0x1.ce1904p-4f;
  near = near * s - 0x1.8126dcp-2f;
  near = near * s + 0x1.06eba6p-3f;
  vf far = size * -0x1.c0b5eap-13f + 0x1.a55d9ep-9f;
  far = far * size - 0x1.7704e8p-6f;
  far = far * size + 0x1.af260ap-4f;
  far = far * size + 0x1.457cf8p-1f;
  far = far * size + 0x1.20e64ep0f;
  far = 1 - vf_exp_negative(-size * far);
  return vf_signed_as(vf_pick(size < 0.93f, near * size + size, far), x);
}

/* 1 / (1 + e^-x), 2.5 ulp: both signs by e^-|x|, which does not overflow. Where the quotient falls below
   a power of two, the error of e^-|x| counts twice. */
static inline vf vf_sigmoid(vf x) {
  const vf e = vf_exp_negative(-vf_abs(x));
  return vf_pick(x < 0, e, vf_all(1)) / (1 + e);
}

#endif
