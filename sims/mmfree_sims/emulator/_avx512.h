/* What is written by hand for AVX-512: payloads that are not zero, and payloads times ternary weights, where bits of a
   word are masks of additions.

   Sums of up to 256 neurons stay in registers, so every word is read once and nothing else is. */

#define WIDE __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")))

/* `words` words of each axon's list, known when this is compiled; `last` neurons of the last word. */
WIDE __attribute__((always_inline)) static inline void avx512_block(const uint64_t *begin, long stride, const int32_t *which, const int32_t *value,
                                         long n, int64_t *sums, long last, int exponent, const int words)
{
    __m512i part[16];
    for (int w = 0; w < 2 * words; w++) part[w] = _mm512_setzero_si512();
    for (long k = 0; k < n; k++) {
        const uint64_t *row = begin + which[k] * stride;
        const __m512i x = _mm512_set1_epi32(value[k]);
#pragma GCC unroll 8
        for (int w = 0; w < words; w++) {
            /* Masks are read from memory: the compiler would take a word apart by slow moves between masks. */
            const __mmask16 *bits = (const __mmask16 *)(row + w);
            part[2 * w] = _mm512_mask_add_epi32(part[2 * w], _load_mask16((__mmask16 *)bits), part[2 * w], x);
            part[2 * w + 1] = _mm512_mask_add_epi32(part[2 * w + 1], _load_mask16((__mmask16 *)bits + 1), part[2 * w + 1], x);
            part[2 * w] = _mm512_mask_sub_epi32(part[2 * w], _load_mask16((__mmask16 *)bits + 2), part[2 * w], x);
            part[2 * w + 1] = _mm512_mask_sub_epi32(part[2 * w + 1], _load_mask16((__mmask16 *)bits + 3), part[2 * w + 1], x);
        }
    }
    const __m128i shift = _mm_cvtsi32_si128(exponent);
#pragma GCC unroll 32
    for (int q = 0; q < 4 * words; q++) {
        const __m256i half = q & 1 ? _mm512_extracti64x4_epi64(part[q / 2], 1) : _mm512_castsi512_si256(part[q / 2]);
        const __m512i added = _mm512_sll_epi64(_mm512_cvtepi32_epi64(half), shift);
        const long left = q < 4 * (words - 1) ? 8 : last - 8 * (q - 4 * (words - 1));
        const __mmask8 mask = left >= 8 ? 0xFF : left <= 0 ? 0 : (__mmask8)((1 << left) - 1);
        const __m512i old = _mm512_maskz_loadu_epi64(mask, sums + 8 * q);
        _mm512_mask_storeu_epi64(sums + 8 * q, mask, _mm512_add_epi64(old, added));
    }
}

WIDE static void avx512_ternary(const uint64_t *words, long stride, const int32_t *which, const int32_t *value, long n,
                            int64_t *sums, long count, int exponent)
{
    for (; count > 0; count -= 256, words += 8, sums += 256) {
        const long wide = count >= 256 ? 8 : (count + 31) / 32, last = count >= 256 ? 32 : count - 32 * (wide - 1);
        switch (wide) {
#define OF(W) case W: avx512_block(words, stride, which, value, n, sums, last, exponent, W); break
            OF(1); OF(2); OF(3); OF(4); OF(5); OF(6); OF(7); OF(8);
#undef OF
        }
    }
}

WIDE static long avx512_compact(const int32_t *payload, long count, long begin, int32_t *which, int32_t *value,
                                int64_t *largest)
{
    long n = 0;
    __m512i sizes = _mm512_setzero_si512();
    __m512i places = _mm512_add_epi32(_mm512_set1_epi32((int)begin), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10,
                                                                                        11, 12, 13, 14, 15));
    for (long i = 0; i < count; i += 16, places = _mm512_add_epi32(places, _mm512_set1_epi32(16))) {
        const __mmask16 there = count - i >= 16 ? 0xFFFF : (__mmask16)((1 << (count - i)) - 1);
        const __m512i x = _mm512_maskz_loadu_epi32(there, payload + i);
        const __mmask16 some = _mm512_test_epi32_mask(x, x);
        sizes = _mm512_max_epu32(sizes, _mm512_abs_epi32(x));
        _mm512_mask_compressstoreu_epi32(which + n, some, places);
        _mm512_mask_compressstoreu_epi32(value + n, some, x);
        n += __builtin_popcount(some);
    }
    *largest = (uint32_t)_mm512_reduce_max_epu32(sizes);
    return n;
}
