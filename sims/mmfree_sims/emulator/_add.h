/* Payloads times weights, compiled for every instruction set: NAME and TARGET say which.

   The k-th of n payloads, value[k], goes to axon which[k] of some neighbours, whose weights for `count` neurons begin
   `stride` words apart.  Sums are kept in 32 bits; the caller gives so few payloads that they fit. */

#define BLOCK 256 /* neurons at a time */

TARGET static void NAME(widen)(const int32_t *part, int64_t *sums, long count, int exponent)
{
    IVDEP for (long j = 0; j < count; j++) {
        sums[j] = (int64_t)((uint64_t)sums[j] + ((uint64_t)(int64_t)part[j] << exponent));
    }
}

/* The sum of elements step * which[k]; `dense` where these are neighbours. */
TARGET static int64_t NAME(total)(const uint16_t *counts, const int32_t *which, long n, long step, int dense)
{
    int64_t total = 0;
    if (dense) {
        uint32_t sum = 0; /* of at most LANES numbers of 16 bits */
        counts += which[0];
        IVDEP for (long k = 0; k < n; k++) sum += counts[k];
        return sum;
    }
    for (long k = 0; k < n; k++) total += counts[which[k] * step];
    return total;
}

#ifndef OWN_PARTS
/* The payloads that are not zero, from `begin` on; how many, and the size of the largest. */
TARGET static long NAME(compact)(const int32_t *payload, long count, long begin, int32_t *which, int32_t *value,
                                 int64_t *largest)
{
    long n = 0;
    uint32_t size = 0;
    for (long i = 0; i < count; i++) {
        const uint32_t here = payload[i] < 0 ? 0 - (uint32_t)payload[i] : (uint32_t)payload[i];
        size = here > size ? here : size;
        which[n] = (int32_t)(begin + i);
        value[n] = payload[i];
        n += payload[i] != 0;
    }
    *largest = size;
    return n;
}

TARGET static void NAME(ternary)(const uint64_t *words, long stride, const int32_t *which, const int32_t *value, long n,
                                 int64_t *sums, long count, int exponent)
{
    for (long begin = 0; begin < count; begin += BLOCK, words += BLOCK / 32) {
        int32_t part[BLOCK] __attribute__((aligned(64))) = {0};
        const long here = count - begin < BLOCK ? count - begin : BLOCK, wide = (here + 31) / 32;
        for (long k = 0; k < n; k++) {
            const uint64_t *row = words + which[k] * stride;
            const int32_t x = value[k];
            for (long w = 0; w < wide; w++) {
                const uint32_t plus = (uint32_t)row[w], minus = (uint32_t)(row[w] >> 32);
                int32_t *p = part + 32 * w;
                IVDEP for (int j = 0; j < 32; j++) p[j] += (x & -(int32_t)((plus & BIT[j]) == BIT[j])) - (x & -(int32_t)((minus & BIT[j]) == BIT[j]));
            }
        }
        NAME(widen)(part, sums + begin, here, exponent);
    }
}
#endif

TARGET static void NAME(eight_bits)(const uint64_t *words, long stride, const int32_t *which, const int32_t *value,
                                    long n, int64_t *sums, long count, int exponent)
{
    for (long begin = 0; begin < count; begin += BLOCK, words += BLOCK / 8) {
        int32_t part[BLOCK] __attribute__((aligned(64))) = {0};
        const long here = count - begin < BLOCK ? count - begin : BLOCK;
        for (long k = 0; k < n; k++) {
            const int8_t *row = (const int8_t *)(words + which[k] * stride);
            const int32_t x = value[k];
            IVDEP for (long j = 0; j < here; j++) part[j] += x * row[j];
        }
        NAME(widen)(part, sums + begin, here, exponent);
    }
}

#undef BLOCK
