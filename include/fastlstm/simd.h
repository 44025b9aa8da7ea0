/* simd.h: vectors of reals. The only file that knows an instruction set.
 *
 * Before it: real.h, and one of FL_ISA_AVX512, FL_ISA_AVX2, FL_ISA_NEON, FL_ISA_ONE or nothing (generic: 16-byte GNU vectors,
 * or one lane for compilers without them, CUDA and microcontrollers). The intrinsics' header must stand outside the target pragma:
 * kernels.h does both.
 *
 * Types: vec (FL_W reals), ivec (as many integers of the same size), vmask (one truth value a lane). + - * / work on vec.
 *   v_set(x) v_load(p) v_store(p,a)   v_load_n(p,n) v_store_n(p,a,n): the first n lanes, 0 <= n <= FL_W, the others read as 0
 *   v_fma(a,b,c) = a*b + c            one rounding, except on generic (two)
 *   v_min(a,b) v_max(a,b)             where a or b is NaN: b.  So v_min(limit, x) lets NaN through
 *   v_abs v_copysign(magnitude, sign) v_sqrt
 *   v_sum(a) -> real                  the lanes by halves: (0 + W/2) + (1 + W/2 + 1) …
 *   v_lt v_le v_eq -> vmask, v_select(m, a, b): a where m
 *   v_bits(a) v_unbits(i): the same bits as ivec / vec; v_iset(k), + - & | on ivec, v_shl(i, n), v_shr(i, n) (logical)
 * Alignment: none is asked for. Errors: none.
 */

#define vec FL(vec_t)
#define ivec FL(ivec_t)
#define vmask FL(vmask_t)
#define v_set FL(vset)
#define v_iset FL(viset)
#define v_load FL(vload)
#define v_store FL(vstore)
#define v_load_n FL(vload_n)
#define v_store_n FL(vstore_n)
#define v_fma FL(vfma)
#define v_min FL(vmin)
#define v_max FL(vmax)
#define v_abs FL(vabs)
#define v_copysign FL(vcopysign)
#define v_sqrt FL(vsqrt)
#define v_sum FL(vsum)
#define v_lt FL(vlt)
#define v_le FL(vle)
#define v_eq FL(veq)
#define v_select FL(vselect)
#define v_bits FL(vbits)
#define v_unbits FL(vunbits)
#define v_shl FL(vshl)
#define v_shr FL(vshr)

#undef FL_W
#undef FL_VECTOR_BYTES
#if defined(FL_ISA_AVX512)
#define FL_VECTOR_BYTES 64
#elif defined(FL_ISA_AVX2)
#define FL_VECTOR_BYTES 32
#elif defined(FL_ISA_ONE) || !(defined(__GNUC__) || defined(__clang__)) || defined(FL_CUDA)
#define FL_VECTOR_BYTES (FL_BITS / 8)
#ifndef FL_ISA_ONE
#define FL_ISA_ONE
#endif
#else /* NEON, generic */
#define FL_VECTOR_BYTES 16
#endif

#if defined(FL_ISA_ONE)
#define FL_W 1
typedef real vec;
typedef ireal ivec;
typedef int vmask;
#else
#if FL_BITS == 32
#define FL_W (FL_VECTOR_BYTES / 4)
#else
#define FL_W (FL_VECTOR_BYTES / 8)
#endif
typedef real vec __attribute__((vector_size(FL_VECTOR_BYTES)));
typedef ireal ivec __attribute__((vector_size(FL_VECTOR_BYTES)));
#endif

/* Asks for the cache line at p; nothing else. */
#undef FL_PREFETCH
#if (defined(__GNUC__) || defined(__clang__)) && !defined(FL_CUDA)
#define FL_PREFETCH(p) __builtin_prefetch(p)
#else
#define FL_PREFETCH(p) ((void)(p))
#endif

/* ---- what every instruction set shares ------------------------------------------------------------------------------ */
FL_INLINE ivec v_bits(vec a) {
  ivec i;
  memcpy(&i, &a, sizeof i);
  return i;
}
FL_INLINE vec v_unbits(ivec i) {
  vec a;
  memcpy(&a, &i, sizeof a);
  return a;
}
FL_INLINE vec v_set(real x);
FL_INLINE ivec v_iset(ireal k);
FL_INLINE vec v_load(const real *p) {
  vec a;
  memcpy(&a, p, sizeof a);
  return a;
}
FL_INLINE void v_store(real *p, vec a) { memcpy(p, &a, sizeof a); }

#if defined(FL_ISA_ONE)
FL_INLINE vec v_set(real x) { return x; }
FL_INLINE ivec v_iset(ireal k) { return k; }
#elif FL_BITS == 32
FL_INLINE vec v_set(real x) {
#if FL_VECTOR_BYTES == 64
  return (vec){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
#elif FL_VECTOR_BYTES == 32
  return (vec){x, x, x, x, x, x, x, x};
#else
  return (vec){x, x, x, x};
#endif
}
FL_INLINE ivec v_iset(ireal k) { return (ivec){0} + k; }
#else
FL_INLINE vec v_set(real x) {
#if FL_VECTOR_BYTES == 64
  return (vec){x, x, x, x, x, x, x, x};
#elif FL_VECTOR_BYTES == 32
  return (vec){x, x, x, x};
#else
  return (vec){x, x};
#endif
}
FL_INLINE ivec v_iset(ireal k) { return (ivec){0} + k; }
#endif

/* Shifts by a constant; the right shift fills with zeros. */
FL_INLINE ivec v_shl(ivec i, int n) {
#if defined(FL_ISA_ONE)
#if FL_BITS == 32
  return (ireal)((uint32_t)i << n);
#else
  return (ireal)((uint64_t)i << n);
#endif
#else
  return i << n;
#endif
}
FL_INLINE ivec v_shr(ivec i, int n) {
#if FL_BITS == 32
  return (i >> n) & v_iset((ireal)(0xffffffffu >> n));
#else
  return (i >> n) & v_iset((ireal)(0xffffffffffffffffull >> n));
#endif
}

/* ---- AVX-512 -------------------------------------------------------------------------------------------------------- */
#if defined(FL_ISA_AVX512)
#if FL_BITS == 32
#define FL_X(name) _mm512_##name##_ps
#define FL_M __mmask16
#define FL_CMP _mm512_cmp_ps_mask
#else
#define FL_X(name) _mm512_##name##_pd
#define FL_M __mmask8
#define FL_CMP _mm512_cmp_pd_mask
#endif
typedef FL_M vmask;
FL_INLINE vec v_fma(vec a, vec b, vec c) { return (vec)FL_X(fmadd)(a, b, c); }
FL_INLINE vec v_min(vec a, vec b) { return (vec)FL_X(min)(a, b); }
FL_INLINE vec v_max(vec a, vec b) { return (vec)FL_X(max)(a, b); }
FL_INLINE vec v_sqrt(vec a) { return (vec)FL_X(sqrt)(a); }
FL_INLINE vmask v_lt(vec a, vec b) { return FL_CMP(a, b, _CMP_LT_OQ); }
FL_INLINE vmask v_le(vec a, vec b) { return FL_CMP(a, b, _CMP_LE_OQ); }
FL_INLINE vmask v_eq(vec a, vec b) { return FL_CMP(a, b, _CMP_EQ_OQ); }
FL_INLINE vec v_select(vmask m, vec a, vec b) { return (vec)FL_X(mask_blend)(m, b, a); }
FL_INLINE vec v_load_n(const real *p, ptrdiff_t n) { return (vec)FL_X(maskz_loadu)((FL_M)((1u << n) - 1), p); }
FL_INLINE void v_store_n(real *p, vec a, ptrdiff_t n) { FL_X(mask_storeu)(p, (FL_M)((1u << n) - 1), a); }
#undef FL_X
#undef FL_M
#undef FL_CMP

/* ---- AVX2 + FMA ----------------------------------------------------------------------------------------------------- */
#elif defined(FL_ISA_AVX2)
#if FL_BITS == 32
#define FL_X(name) _mm256_##name##_ps
#define FL_CAST __m256i
#else
#define FL_X(name) _mm256_##name##_pd
#define FL_CAST __m256i
#endif
typedef ivec vmask;
FL_INLINE ivec FL(first_lanes)(ptrdiff_t n) {
#if FL_BITS == 32
  const ivec lane = {0, 1, 2, 3, 4, 5, 6, 7};
#else
  const ivec lane = {0, 1, 2, 3};
#endif
  return lane < v_iset((ireal)n);
}
FL_INLINE vec v_fma(vec a, vec b, vec c) { return (vec)FL_X(fmadd)(a, b, c); }
FL_INLINE vec v_min(vec a, vec b) { return (vec)FL_X(min)(a, b); }
FL_INLINE vec v_max(vec a, vec b) { return (vec)FL_X(max)(a, b); }
FL_INLINE vec v_sqrt(vec a) { return (vec)FL_X(sqrt)(a); }
FL_INLINE vmask v_lt(vec a, vec b) { return v_bits((vec)FL_X(cmp)(a, b, _CMP_LT_OQ)); }
FL_INLINE vmask v_le(vec a, vec b) { return v_bits((vec)FL_X(cmp)(a, b, _CMP_LE_OQ)); }
FL_INLINE vmask v_eq(vec a, vec b) { return v_bits((vec)FL_X(cmp)(a, b, _CMP_EQ_OQ)); }
FL_INLINE vec v_select(vmask m, vec a, vec b) { return (vec)FL_X(blendv)(b, a, v_unbits(m)); }
FL_INLINE vec v_load_n(const real *p, ptrdiff_t n) { return (vec)FL_X(maskload)(p, (FL_CAST)FL(first_lanes)(n)); }
FL_INLINE void v_store_n(real *p, vec a, ptrdiff_t n) { FL_X(maskstore)(p, (FL_CAST)FL(first_lanes)(n), a); }
#undef FL_X
#undef FL_CAST

/* ---- NEON (aarch64) ------------------------------------------------------------------------------------------------- */
#elif defined(FL_ISA_NEON)
#if FL_BITS == 32
#define FL_X(name) name##_f32
#define FL_V float32x4_t
#else
#define FL_X(name) name##_f64
#define FL_V float64x2_t
#endif
typedef ivec vmask;
FL_INLINE vec v_fma(vec a, vec b, vec c) { return (vec)FL_X(vfmaq)((FL_V)c, (FL_V)a, (FL_V)b); }
FL_INLINE vmask v_lt(vec a, vec b) { return (vmask)(a < b); }
FL_INLINE vmask v_le(vec a, vec b) { return (vmask)(a <= b); }
FL_INLINE vmask v_eq(vec a, vec b) { return (vmask)(a == b); }
FL_INLINE vec v_select(vmask m, vec a, vec b) { return v_unbits((m & v_bits(a)) | (~m & v_bits(b))); }
FL_INLINE vec v_min(vec a, vec b) { return v_select(v_lt(a, b), a, b); }
FL_INLINE vec v_max(vec a, vec b) { return v_select(v_lt(b, a), a, b); }
FL_INLINE vec v_sqrt(vec a) { return (vec)FL_X(vsqrtq)((FL_V)a); }
#undef FL_X
#undef FL_V

/* ---- one lane ------------------------------------------------------------------------------------------------------- */
#elif defined(FL_ISA_ONE)
FL_INLINE vec v_fma(vec a, vec b, vec c) {
#if defined(FL_CUDA) || defined(FP_FAST_FMA)
  return FL_BITS == 32 ? (vec)fmaf((float)a, (float)b, (float)c) : (vec)fma(a, b, c);
#else
  return a * b + c;
#endif
}
FL_INLINE vmask v_lt(vec a, vec b) { return a < b; }
FL_INLINE vmask v_le(vec a, vec b) { return a <= b; }
FL_INLINE vmask v_eq(vec a, vec b) { return a == b; }
FL_INLINE vec v_select(vmask m, vec a, vec b) { return m ? a : b; }
FL_INLINE vec v_min(vec a, vec b) { return a < b ? a : b; }
FL_INLINE vec v_max(vec a, vec b) { return a > b ? a : b; }
FL_INLINE vec v_sqrt(vec a) { return FL_BITS == 32 ? (vec)sqrtf((float)a) : (vec)sqrt((double)a); }

/* ---- generic: what the compiler makes of GNU vectors ---------------------------------------------------------------- */
#else
typedef ivec vmask;
FL_INLINE vec v_fma(vec a, vec b, vec c) { return a * b + c; }
FL_INLINE vmask v_lt(vec a, vec b) { return (vmask)(a < b); }
FL_INLINE vmask v_le(vec a, vec b) { return (vmask)(a <= b); }
FL_INLINE vmask v_eq(vec a, vec b) { return (vmask)(a == b); }
FL_INLINE vec v_select(vmask m, vec a, vec b) { return v_unbits((m & v_bits(a)) | (~m & v_bits(b))); }
FL_INLINE vec v_min(vec a, vec b) { return v_select(v_lt(a, b), a, b); }
FL_INLINE vec v_max(vec a, vec b) { return v_select(v_lt(b, a), a, b); }
FL_INLINE vec v_sqrt(vec a) {
  for (int k = 0; k < FL_W; k++) a[k] = FL_BITS == 32 ? (real)sqrtf((float)a[k]) : (real)sqrt((double)a[k]);
  return a;
}
#endif

#if !defined(FL_ISA_AVX512) && !defined(FL_ISA_AVX2)
FL_INLINE vec v_load_n(const real *p, ptrdiff_t n) {
  if (n >= FL_W) return v_load(p);
  real lanes[FL_W] = {0};
  for (ptrdiff_t k = 0; k < n; k++) lanes[k] = p[k];
  return v_load(lanes);
}
FL_INLINE void v_store_n(real *p, vec a, ptrdiff_t n) {
  real lanes[FL_W];
  if (n >= FL_W) {
    v_store(p, a);
    return;
  }
  v_store(lanes, a);
  for (ptrdiff_t k = 0; k < n; k++) p[k] = lanes[k];
}
#endif

FL_INLINE real v_sum(vec a) {
#if defined(FL_ISA_ONE)
  return a;
#else
  real lanes[FL_W];
  v_store(lanes, a);
  FL_UNROLL
  for (int half = FL_W / 2; half > 0; half /= 2) {
    FL_UNROLL
    for (int k = 0; k < half; k++) lanes[k] += lanes[k + half];
  }
  return lanes[0];
#endif
}

/* The sign bit, by the shift of an all-ones word: no constant of implementation-defined conversion. */
FL_INLINE ivec FL(sign_bit)(void) { return v_shl(v_iset((ireal)-1), FL_BITS - 1); }
FL_INLINE vec v_abs(vec a) { return v_unbits(v_bits(a) & ~FL(sign_bit)()); }
FL_INLINE vec v_copysign(vec magnitude, vec sign) {
  return v_unbits((v_bits(magnitude) & ~FL(sign_bit)()) | (v_bits(sign) & FL(sign_bit)()));
}
