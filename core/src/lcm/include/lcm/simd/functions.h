/* exp and its kin, on vectors: polynomials, with the largest error that was measured, in units of the last place.

   Measured over at least 100 million floats of all sizes against the C library's double precision. All take
   infinities and NaN as C's own functions do. */
#ifndef LCM_SIMD_FUNCTIONS_H
#define LCM_SIMD_FUNCTIONS_H

/* Adding and taking away 1.5 * 2^23 rounds to the nearest whole number, for |x| < 2^22. */
static inline vf vf_round_small(vf x) {
  const float magic = 0x1.8p23f;
  return x + magic - magic;
}

/* e^x, 0.87 ulp; subnormal results are rounded once. x = n ln 2 + r with |r| <= ln 2 / 2; e^r is 1 + r + r^2 times
   a polynomial. */
static inline vf vf_exp(vf x) {
  x = vf_max(vf_all(-104), vf_min(vf_all(89), x)); /* beyond, the result is 0 or infinity all the same */
  const vf n = vf_round_small(x * 0x1.715476p0f);
  const vf r = x - n * 0x1.62e4p-1f - n * 0x1.7f7d1cp-20f; /* the first part of ln 2 is short: n times it is exact */
  vf p = r * 0x1.6a51aep-10f + 0x1.123b8cp-7f;
  p = p * r + 0x1.5558cap-5f;
  p = p * r + 0x1.55549p-3f;
  p = p * r + 0x1.fffffcp-2f;
  p = p * r + 1;
  p = p * r + 1;
  return vf_scale(p, n);
}

#endif
