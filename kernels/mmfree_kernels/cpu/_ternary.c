/* Exact integer products of activations with packed ternary weights; mmfree_neuro/integers/ternary.py has the layout.
 *
 * Every kernel computes S[token, row] = sum over the columns of code * x, where a code is what the packed bits say: the
 * weight plus one (0, 1, 2) under mask 3, or "the weight is zero" (0, 1) under mask 1.  The weights' own product is
 * S - sum(x), so that no kernel subtracts; the padding's codes meet activations of zero.  Activations of 16 bits go
 * as two vectors of bytes, the signed x >> 8 and the unsigned x & 255: S = 256 * S_high + S_low.
 *
 * Exact: S, the sums of x and of vectors may wrap modulo 2^32, as they are only added, subtracted and multiplied, so
 * the result is right whenever the true product fits int32.  What is divided or widened later must not wrap, and its
 * bound stands there.  A code is at most 2; a byte is -128 to 127 when signed and 0 to 255 when unsigned.
 *
 * The work is cut into strips of rows, blocks of columns, whose activations stay in the first cache, and blocks of
 * tokens, which share the unpacking.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { TILE = 16, GROUP = 16, TILE_BYTES = 64, STRIP = 16, STRIP_ROWS = STRIP * TILE, BLOCK = 256, MOST_VECTORS = 8 };

/* Writes S of a strip of up to STRIP tiles, `stride` bytes apart, as [tokens, STRIP_ROWS]; x is [groups, 4, vectors] of
 * four neighbouring bytes each, a token's low bytes after its high ones. */
#define ARGUMENTS \
    const uint8_t *data, size_t stride, int tiles, size_t groups, const uint8_t *x, int mask, int32_t *sums
typedef void kernel(ARGUMENTS);

/* Written once for all numbers of vectors, which are constants where it is inlined; `wide`: they come in pairs. */
#define BODY static inline __attribute__((always_inline)) void
#define KERNEL(target, name, body, vectors, wide) \
    target static void name(ARGUMENTS) { body(data, stride, tiles, groups, x, mask, sums, vectors, wide); }
#define IS_LOW(v) (wide && (v) % 2 == 1)
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* To the second cache: the tiles that follow those at work would not fit the first. */
#define PREFETCH(address) __builtin_prefetch(address, 0, 2)

static inline size_t least(size_t a, size_t b) { return a < b ? a : b; }

static inline int32_t four_bytes(const uint8_t *x, size_t at)
{
    int32_t four;
    memcpy(&four, x + 4 * at, 4);
    return four;
}

/* Groups whose sums fit int16: each adds at most 8 * 2 * 128, or 8 * 2 * 255 of low bytes, to a lane of two bytes. */
#define RUN(wide) ((wide) ? 8 : 15)

/* ---- portable: vectors of 8 int16, two to a row ---- */

#define BASELINE

typedef int16_t lanes __attribute__((vector_size(16)));
typedef uint16_t fields __attribute__((vector_size(16)));
typedef int32_t pairs __attribute__((vector_size(16)));

/* A lane's 8 codes c_k of two bits need no mask: with y_k = x_k - 4 x_(k-1), the sum of (packed >> 2k) y_k is that of
 * c_k x_k, as packed >> 2k is c_k + 4 (packed >> 2(k+1)).  The steps wrap modulo 2^16, the sums of a run fit. */
BODY portable(ARGUMENTS, const int vectors, const int wide)
{
    const int abreast = vectors == 1 ? 4 : vectors == 2 ? 2 : 1;
    const uint16_t all = (uint16_t)(mask * 0x5555);
    memset(sums, 0, sizeof(int32_t) * (wide ? vectors / 2 : vectors) * STRIP_ROWS);
    for (size_t first = 0; first < groups; first += RUN(wide)) {
        size_t run = least(RUN(wide), groups - first);
        fields y[RUN(0) * 8 * 4]; /* [groups, 8, vectors] */
        for (size_t g = 0; g < run; g++)
            for (int v = 0; v < vectors; v++) {
                fields before = {0};
                for (int k = 0; k < 8; k++) { /* bytes 0 and 2 of each four, then 1 and 3 */
                    int32_t four = four_bytes(x, (4 * (first + g) + k % 4) * vectors + v);
                    fields both = (fields)(pairs){four, four, four, four} << (k < 4 ? 8 : 0);
                    fields now = IS_LOW(v) ? both >> 8 : (fields)((lanes)both >> 8);
                    y[(8 * g + k) * vectors + v] = now - (before << 2);
                    before = now;
                }
            }
        for (int part = 0; part < tiles * 4; part += abreast) {
            const uint8_t *from = data + part / 4 * stride + TILE_BYTES * first + 16 * (part % 4);
            fields total[4][MOST_VECTORS] = {{{0}}};
            for (size_t g = 0; g < run; g++) {
                const fields *at_g = y + 8 * g * vectors;
                fields packed[4];
                PREFETCH(from + TILE_BYTES * g + STRIP * stride);
                UNROLL for (int i = 0; i < abreast; i++) {
                    memcpy(&packed[i], from + TILE_BYTES * g + 16 * i, 16);
                    packed[i] &= all;
                }
                UNROLL for (int k = 0; k < 8; k++)
                    UNROLL for (int i = 0; i < abreast; i++)
                        UNROLL for (int v = 0; v < vectors; v++)
                            total[i][v] += (packed[i] >> 2 * k) * at_g[k * vectors + v];
            }
            UNROLL for (int i = 0; i < abreast; i++)
                UNROLL for (int v = 0; v < vectors; v++) {
                    pairs even = (pairs)((pairs)total[i][v] << 16) >> 16, sum = even + ((pairs)total[i][v] >> 16);
                    int32_t *at = sums + (wide ? v / 2 : v) * STRIP_ROWS + 4 * (part + i);
                    pairs old;
                    memcpy(&old, at, 16);
                    old += wide && !IS_LOW(v) ? sum << 8 : sum;
                    memcpy(at, &old, 16);
                }
        }
    }
}

KERNEL(BASELINE, portable_one_narrow, portable, 1, 0)
KERNEL(BASELINE, portable_one_wide, portable, 2, 1)
KERNEL(BASELINE, portable_many_narrow, portable, 4, 0)
KERNEL(BASELINE, portable_many_wide, portable, 4, 1)

static int always(void) { return 1; }

#if defined(__x86_64__)
#include <immintrin.h>

/* ---- avx2: products of bytes, added in pairs to int16 ---- */

#define AVX2 __attribute__((target("avx2")))

AVX2 BODY avx2(ARGUMENTS, const int vectors, const int wide)
{
    const __m256i code = _mm256_set1_epi8((char)mask), ones = _mm256_set1_epi16(1);
    memset(sums, 0, sizeof(int32_t) * (wide ? vectors / 2 : vectors) * STRIP_ROWS);
    for (int tile = 0; tile < tiles; tile++)
        for (size_t first = 0; first < groups; first += RUN(wide)) {
            size_t last = least(groups, first + RUN(wide));
            __m256i total[2][4] = {{{0}}};
            for (size_t g = first; g < last; g++) {
                const uint8_t *at = data + tile * stride + TILE_BYTES * g;
                PREFETCH(at + stride);
                UNROLL for (int p = 0; p < 4; p++)
                    UNROLL for (int h = 0; h < 2; h++) {
                        __m256i packed = _mm256_loadu_si256((const __m256i *)(at + 32 * h));
                        __m256i codes = _mm256_and_si256(_mm256_srli_epi16(packed, 2 * p), code);
                        UNROLL for (int v = 0; v < vectors; v++) {
                            __m256i four = _mm256_set1_epi32(four_bytes(x, (4 * g + p) * vectors + v));
                            __m256i added = IS_LOW(v) ? _mm256_maddubs_epi16(four, codes)
                                                      : _mm256_maddubs_epi16(codes, four);
                            total[h][v] = _mm256_add_epi16(total[h][v], added);
                        }
                    }
            }
            UNROLL for (int h = 0; h < 2; h++)
                UNROLL for (int v = 0; v < vectors; v++) {
                    __m256i *at = (__m256i *)(sums + (wide ? v / 2 : v) * STRIP_ROWS + TILE * tile + 8 * h);
                    __m256i sum = _mm256_madd_epi16(total[h][v], ones);
                    sum = wide && !IS_LOW(v) ? _mm256_slli_epi32(sum, 8) : sum;
                    _mm256_storeu_si256(at, _mm256_add_epi32(_mm256_loadu_si256(at), sum));
                }
        }
}

KERNEL(AVX2, avx2_one_narrow, avx2, 1, 0)
KERNEL(AVX2, avx2_one_wide, avx2, 2, 1)
KERNEL(AVX2, avx2_many_narrow, avx2, 4, 0)
KERNEL(AVX2, avx2_many_wide, avx2, 4, 1)

static int has_avx2(void) { return __builtin_cpu_supports("avx2"); }

/* ---- avx512-vnni: a row in each of 16 lanes, which adds four products of bytes at once ---- */

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))

/* Assembly, since gcc 12 copies and spills the sums around the intrinsic. */
AVX512 BODY add_products(__m512i *total, __m512i unsigned_bytes, __m512i signed_bytes)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*total) : "v"(unsigned_bytes), "v"(signed_bytes));
}

/* One token does not shift its codes: each of their positions has its own sum, 4^p times too large, at most
 * BLOCK * 4 * 64 * 2 * 128 < 2^31.  With low bytes the codes are the signed ones, and the last would be negative. */
AVX512 BODY avx512_one(ARGUMENTS, const int vectors, const int wide)
{
    enum { MOST = 4 };
    const int abreast = MOST / vectors, shifted = wide ? 3 : 4;
    __m512i code[4];
    UNROLL for (int p = 0; p < 4; p++) code[p] = _mm512_set1_epi8((char)(mask << 2 * (p % shifted)));
    for (int from = 0; from < tiles; from += abreast) {
        __m512i total[MOST][4] = {{{0}}}; /* [tiles and vectors, positions] */
        const uint8_t *tile[MOST];
        UNROLL for (int n = 0; n < abreast; n++) tile[n] = data + least(from + n, tiles - 1) * stride;
        for (size_t g = 0; g < groups; g++) {
            __m512i packed[MOST];
            UNROLL for (int n = 0; n < abreast; n++) {
                packed[n] = _mm512_loadu_si512(tile[n] + TILE_BYTES * g);
                PREFETCH(tile[n] + TILE_BYTES * g + abreast * stride);
            }
            UNROLL for (int p = 0; p < 4; p++)
                UNROLL for (int v = 0; v < vectors; v++) {
                    __m512i four = _mm512_set1_epi32(four_bytes(x, (4 * g + p) * vectors + v));
                    UNROLL for (int n = 0; n < abreast; n++) {
                        __m512i packed_here = p == shifted ? _mm512_srli_epi16(packed[n], 6) : packed[n];
                        __m512i codes = _mm512_and_si512(packed_here, code[p]);
                        add_products(&total[n * vectors + v][p], IS_LOW(v) ? four : codes, IS_LOW(v) ? codes : four);
                    }
                }
        }
        UNROLL for (int n = 0; n < abreast; n++) {
            __m512i sum = _mm512_setzero_si512();
            UNROLL for (int v = 0; v < vectors; v++) {
                sum = _mm512_slli_epi32(sum, 8);
                UNROLL for (int p = 0; p < 4; p++)
                    sum = _mm512_add_epi32(sum, _mm512_srai_epi32(total[n * vectors + v][p], 2 * (p % shifted)));
            }
            _mm512_storeu_si512(sums + TILE * (from + n), sum);
        }
    }
}

AVX512 BODY avx512_many(ARGUMENTS, const int vectors, const int wide)
{
    enum { ABREAST = 2 };
    const __m512i code = _mm512_set1_epi8((char)mask);
    for (int from = 0; from < tiles; from += ABREAST) {
        const uint8_t *tile[ABREAST] = {data + from * stride, data + least(from + 1, tiles - 1) * stride};
        __m512i total[ABREAST][MOST_VECTORS] = {{{0}}};
        for (size_t g = 0; g < groups; g++)
            UNROLL for (int p = 0; p < 4; p++) {
                __m512i codes[ABREAST];
                UNROLL for (int n = 0; n < ABREAST; n++) {
                    __m512i packed = _mm512_loadu_si512(tile[n] + TILE_BYTES * g);
                    codes[n] = _mm512_and_si512(_mm512_srli_epi16(packed, 2 * p), code);
                }
                UNROLL for (int v = 0; v < vectors; v++) {
                    __m512i four = _mm512_set1_epi32(four_bytes(x, (4 * g + p) * vectors + v));
                    UNROLL for (int n = 0; n < ABREAST; n++)
                        add_products(&total[n][v], IS_LOW(v) ? four : codes[n], IS_LOW(v) ? codes[n] : four);
                }
            }
        UNROLL for (int n = 0; n < ABREAST; n++)
            UNROLL for (int v = 0; v < vectors; v += wide ? 2 : 1) {
                __m512i sum = wide ? _mm512_add_epi32(_mm512_slli_epi32(total[n][v], 8), total[n][v + 1]) : total[n][v];
                _mm512_storeu_si512(sums + (wide ? v / 2 : v) * STRIP_ROWS + TILE * (from + n), sum);
            }
    }
}

KERNEL(AVX512, avx512_one_narrow, avx512_one, 1, 0)
KERNEL(AVX512, avx512_one_wide, avx512_one, 2, 1)
KERNEL(AVX512, avx512_many_narrow, avx512_many, 8, 0)
KERNEL(AVX512, avx512_many_wide, avx512_many, 8, 1)

static int has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}
#endif

/* ---- the cutting of the work, the same for every level ---- */

typedef struct {
    const char *name;
    int (*is_here)(void);
    size_t vectors;           /* that `many` computes together */
    kernel *one[2], *many[2]; /* narrow, wide */
} level;

static const level LEVELS[] = {
#if defined(__x86_64__)
    {"avx512-vnni", has_avx512, 8, {avx512_one_narrow, avx512_one_wide}, {avx512_many_narrow, avx512_many_wide}},
    {"avx2", has_avx2, 4, {avx2_one_narrow, avx2_one_wide}, {avx2_many_narrow, avx2_many_wide}},
#endif
    {"portable", always, 4, {portable_one_narrow, portable_one_wide}, {portable_many_narrow, portable_many_wide}},
};
enum { LEVEL_COUNT = sizeof LEVELS / sizeof *LEVELS };

typedef struct {
    const level *level;
    const uint8_t *data;    /* [tiles, groups, TILE_BYTES] */
    const uint8_t *vectors; /* the blocks of tokens, each as kernels read it */
    int32_t *out;           /* [tokens, stop - start], minus the sums of x at first */
    size_t groups, tokens, start, stop; /* the rows wanted: start to stop - 1 */
    size_t first, last;                 /* the tiles of this part */
    int wide, mask;
} work;

/* How many tokens the block at a token has. */
static size_t block_at(const work *w, size_t token)
{
    size_t many = w->level->vectors >> w->wide;
    return w->tokens - token < many ? 1 : many;
}

/* Add the sums of a block of tokens to the wanted ones of a strip's rows. */
static void add(const work *w, size_t row, size_t token, size_t tokens, const int32_t *sums)
{
    size_t from = row < w->start ? w->start : row;
    size_t to = least(least(row + STRIP_ROWS, w->last * TILE), w->stop);
    for (size_t t = 0; t < tokens; t++) {
        uint32_t *out = (uint32_t *)w->out + (token + t) * (w->stop - w->start) + (from - w->start);
        const int32_t *in = sums + t * STRIP_ROWS + (from - row);
        for (size_t i = 0; i < to - from; i++) out[i] += (uint32_t)in[i];
    }
}

static void *strips(void *argument)
{
    const work *w = argument;
    size_t stride = w->groups * TILE_BYTES;
    int32_t sums[MOST_VECTORS * STRIP_ROWS];
    for (size_t tile = w->first; tile < w->last; tile += STRIP)
        for (size_t g = 0; g < w->groups; g += BLOCK) {
            const uint8_t *data = w->data + tile * stride + g * TILE_BYTES;
            int tiles = (int)least(STRIP, w->last - tile);
            size_t groups = least(BLOCK, w->groups - g);
            for (size_t t = 0, n; t < w->tokens; t += n) {
                n = block_at(w, t);
                const uint8_t *x = w->vectors + (t * w->groups + g * n) * GROUP * (1 + w->wide);
                kernel *sum = (n == 1 ? w->level->one : w->level->many)[w->wide];
                sum(data, stride, tiles, groups, x, w->mask, sums);
                add(w, tile * TILE, t, n, sums);
            }
        }
    return NULL;
}

/* Whether x fits its width; the high and low bytes of one token, and the sum of x. */
static int narrow(const int32_t *x, size_t columns, int wide, uint8_t *high, uint8_t *low, uint32_t *sum)
{
    uint32_t total = 0, outside = 0, half = wide ? 1 << 15 : 1 << 7;
    for (size_t j = 0; j < columns; j++) {
        total += (uint32_t)x[j];
        outside |= (uint32_t)x[j] + half;
    }
    for (size_t j = 0; j < columns; j++) high[j] = (uint8_t)(wide ? x[j] >> 8 : x[j]);
    for (size_t j = 0; wide && j < columns; j++) low[j] = (uint8_t)x[j];
    *sum = total;
    return outside < 2 * half;
}

/* Fill the vectors and start `out` with minus the sums of x; `row` is room for the bytes of a token. */
static int spread(const work *w, const int32_t *x, size_t columns, uint8_t *vectors, uint8_t *row)
{
    size_t stride = w->groups * GROUP, rows = w->stop - w->start, planes = 1 + w->wide;
    memset(row, 0, planes * stride);
    for (size_t first = 0, n; first < w->tokens; first += n) {
        n = block_at(w, first);
        for (size_t t = first; t < first + n; t++) {
            uint32_t sum;
            if (!narrow(x + t * columns, columns, w->wide, row, row + stride, &sum)) return 0;
            for (size_t plane = 0; plane < planes; plane++) {
                uint8_t *to = vectors + first * planes * stride + 4 * ((t - first) * planes + plane);
                const uint8_t *from = row + plane * stride;
                if (n * planes == 1)
                    memcpy(to, from, stride);
                else
                    for (size_t q = 0; q < stride; q += 4) memcpy(to + n * planes * q, from + q, 4);
            }
            for (size_t i = 0; i < rows; i++) w->out[t * rows + i] = (int32_t)-sum;
        }
    }
    return 1;
}

/* Products that earn the time it takes to start a thread. */
enum { MOST_THREADS = 64, THREAD_WORTH = 1 << 25 };

static void run(const work *whole, size_t threads)
{
    size_t first = whole->start / TILE, tiles = (whole->stop - 1) / TILE + 1 - first;
    size_t products = tiles * TILE * whole->groups * GROUP * whole->tokens * (1 + whole->wide);
    work part[MOST_THREADS];
    pthread_t thread[MOST_THREADS];
    int started[MOST_THREADS];
    threads = least(least(threads, MOST_THREADS), least(tiles, 1 + products / THREAD_WORTH));
    for (size_t i = threads; i-- > 0;) { /* the first part, and what finds no thread, is done here */
        part[i] = *whole;
        part[i].first = first + i * tiles / threads;
        part[i].last = first + (i + 1) * tiles / threads;
        started[i] = i > 0 && pthread_create(&thread[i], NULL, strips, &part[i]) == 0;
        if (!started[i]) strips(&part[i]);
    }
    for (size_t i = 0; i < threads; i++)
        if (started[i]) pthread_join(thread[i], NULL);
}

/* ---- Python ---- */

enum { BITS, START, STOP, MASK, THREADS, NUMBERS };

static int compute(const level *chosen, Py_buffer *data, Py_buffer *x, Py_buffer *out, const long *numbers)
{
    int fits, wide = numbers[BITS] == 16;
    work w = {.level = chosen, .data = data->buf, .out = out->buf, .groups = (size_t)data->shape[1],
              .tokens = (size_t)x->shape[0], .start = (size_t)numbers[START], .stop = (size_t)numbers[STOP],
              .wide = wide, .mask = (int)numbers[MASK]};
    size_t bytes = w.groups * GROUP * (1 + wide);
    uint8_t *vectors = malloc((w.tokens + 1) * bytes + 1);
    if (vectors == NULL) {
        PyErr_NoMemory();
        return 0;
    }
    w.vectors = vectors;
    Py_BEGIN_ALLOW_THREADS
    fits = spread(&w, x->buf, (size_t)x->shape[1], vectors, vectors + w.tokens * bytes);
    if (fits && w.tokens > 0 && w.stop > w.start) run(&w, (size_t)numbers[THREADS]);
    Py_END_ALLOW_THREADS
    free(vectors);
    if (!fits) PyErr_Format(PyExc_ValueError, "an activation does not fit %ld bits", numbers[BITS]);
    return fits;
}

static int agree(const Py_buffer *data, const Py_buffer *x, const Py_buffer *out, const long *numbers)
{
    if (data->ndim != 3 || x->ndim != 2 || out->ndim != 2) return 0;
    if (data->itemsize != 1 || x->itemsize != 4 || out->itemsize != 4) return 0;
    if (numbers[BITS] != 8 && numbers[BITS] != 16) return 0;
    if (numbers[START] < 0 || numbers[START] > numbers[STOP] || numbers[STOP] > data->shape[0] * TILE) return 0;
    if (data->shape[2] != TILE_BYTES || data->shape[1] != (x->shape[1] + GROUP - 1) / GROUP) return 0;
    return numbers[THREADS] > 0 && out->shape[0] == x->shape[0] && out->shape[1] == numbers[STOP] - numbers[START];
}

static PyObject *product(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    long numbers[NUMBERS];
    if (count != 9) return PyErr_Format(PyExc_TypeError, "product takes 9 arguments, not %zd", count);
    long chosen = PyLong_AsLong(args[0]);
    for (int i = 0; i < NUMBERS; i++) numbers[i] = PyLong_AsLong(args[4 + i]);
    if (PyErr_Occurred()) return NULL;
    Py_buffer buffer[3];
    int taken = 0, done = 0;
    while (taken < 3) { /* without strides a buffer is contiguous */
        int flags = taken == 2 ? PyBUF_ND | PyBUF_WRITABLE : PyBUF_ND;
        if (PyObject_GetBuffer(args[1 + taken], &buffer[taken], flags) < 0) break;
        taken++;
    }
    if (taken == 3) {
        if (chosen < 0 || chosen >= LEVEL_COUNT || !LEVELS[chosen].is_here() ||
            !agree(&buffer[0], &buffer[1], &buffer[2], numbers))
            PyErr_SetString(PyExc_ValueError, "the arguments of a ternary product do not agree");
        else
            done = compute(&LEVELS[chosen], &buffer[0], &buffer[1], &buffer[2], numbers);
    }
    while (taken > 0) PyBuffer_Release(&buffer[--taken]);
    return done ? Py_NewRef(Py_None) : NULL;
}

static PyObject *levels(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    PyObject *found = PyDict_New();
    for (long i = 0; found != NULL && i < LEVEL_COUNT; i++) {
        PyObject *index = LEVELS[i].is_here() ? PyLong_FromLong(i) : NULL;
        if (index != NULL) PyDict_SetItemString(found, LEVELS[i].name, index);
        Py_XDECREF(index);
    }
    return found;
}

/* Whether no two bits of packed weights are 11, which stands for no weight. */
static int holds_weights(const uint8_t *data, Py_ssize_t bytes)
{
    const uint64_t lower = 0x5555555555555555u;
    uint64_t bad = 0, word;
    Py_ssize_t at = 0;
    for (; at + 8 <= bytes; at += 8) {
        memcpy(&word, data + at, 8);
        bad |= word & word >> 1 & lower;
    }
    for (; at < bytes; at++) bad |= data[at] & data[at] >> 1 & 0x55;
    return bad == 0;
}

static PyObject *legal(PyObject *Py_UNUSED(module), PyObject *data)
{
    Py_buffer buffer;
    int found;
    if (PyObject_GetBuffer(data, &buffer, PyBUF_ND) < 0) return NULL;
    Py_BEGIN_ALLOW_THREADS
    found = holds_weights(buffer.buf, buffer.len);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&buffer);
    return PyBool_FromLong(found);
}

static PyMethodDef METHODS[] = {
    {"levels", levels, METH_NOARGS, "The levels that this processor has, fastest first, with their numbers."},
    {"legal", legal, METH_O, "legal(data): whether no weight of the packed ones has the bits 11."},
    {"product", (PyCFunction)(void (*)(void))product, METH_FASTCALL,
     "product(level, data, x, out, bits, start, stop, mask, threads): fill out with S - sum(x)."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, .m_name = "_ternary", .m_size = 0, .m_methods = METHODS};

PyMODINIT_FUNC PyInit__ternary(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
    return PyModuleDef_Init(&MODULE);
}
