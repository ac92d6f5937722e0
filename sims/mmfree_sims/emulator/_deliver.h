/* What a synapse list says, and payloads on their way through the lists of a core to its accumulators. */

typedef struct {
    int format, delay, exponent;
    long count, port, offset, words; /* words behind the header */
} List;

static List list_of(uint64_t header)
{
    List list = {(int)(header & 15), (int)(header >> 4 & 63), (int)(header >> 10 & 63), (long)(header >> 16 & 0xFFFF),
                 (long)(header >> 32 & 0xFFF), (long)(header >> 44), 0};
    list.words = list.format == TERNARY ? (list.count + 31) / 32 : list.format == EIGHT_BITS ? (list.count + 7) / 8 : 0;
    return list;
}

static long weight_of(const List *list, const uint64_t *words, long j)
{
    if (list->format == ALL_ONES) return 1;
    if (list->format == EIGHT_BITS) return ((const int8_t *)words)[j];
    return (long)(words[j / 32] >> j % 32 & 1) - (long)(words[j / 32] >> (32 + j % 32) & 1);
}

/* One payload through one list, weight by weight. */
static void add_one(const List *list, const uint64_t *words, int32_t value, int64_t *sums)
{
    for (long j = 0; j < list->count; j++) {
        const uint64_t product = (uint64_t)((int64_t)value * weight_of(list, words, j));
        sums[j] = (int64_t)((uint64_t)sums[j] + (product << list->exponent));
    }
}

/* Payloads through lists of neighbouring axons that all reach the same neurons. */
static void add_rows(const Machine *m, const List *list, const uint64_t *words, long stride, const int32_t *which,
                     const int32_t *value, long n, int64_t largest, int64_t *sums)
{
    if (list->format == ALL_ONES) {
        uint64_t total = 0;
        for (long k = 0; k < n; k++) total += (uint64_t)(int64_t)value[k];
        for (long j = 0; j < list->count; j++) sums[j] = (int64_t)((uint64_t)sums[j] + (total << list->exponent));
        return;
    }
    const int64_t fit = INT32_MAX / (list->format == TERNARY ? largest : 128 * largest);
    for (long k = 0; k < n;) {
        const long some = fit < n - k ? (long)fit : n - k;
        if (!some) {
            add_one(list, words + which[k] * stride, value[k], sums);
            k++;
            continue;
        }
        (list->format == TERNARY ? m->level.ternary : m->level.eight_bits)(words, stride, which + k, value + k, some,
                                                                          sums, list->count, list->exponent);
        k += some;
    }
}

/* Payloads through the lists of a stretch of axons: `which` counts from its first.  Without a barrier `step` is the
   number of a token, and delays change nothing. */
static void add_stretch(Machine *m, Core *core, const Stretch *stretch, const int32_t *which, const int32_t *value,
                        long n, int64_t largest, int64_t step)
{
    const uint64_t *lists = core->syn + stretch->word;
    const long stride = stretch->stride;
    const int dense = stretch->lists == 1 && which[n - 1] - which[0] == n - 1;
    for (long k = 0; k < stretch->lists; k++) {
        const List list = list_of(*lists);
        const int grows = stretch->axons > 1 && lists[stride] != lists[0];
        Port *port = &m->port[core->port + list.port];
        Group *group = &m->group[port->group];
        const int64_t due = m->asynchronous ? step : step + 1 + list.delay;
        const long slot = (long)(due % port->slots);
        int64_t *sums = port->sums + slot * port->neurons + list.offset;
        const uint16_t *nonzero = core->nonzero + stretch->list + k;
        group->operations += m->level.total(nonzero, which, n, stretch->lists, dense);
        group->synapses += n * list.count;
        port->dirty[slot] = 1;
        m->due[(due % RING) * m->cores + (core - m->core)] = 1;
        if (grows)
            for (long i = 0; i < n; i++) add_one(&list, lists + 1 + which[i] * stride, value[i], sums + which[i]);
        else
            add_rows(m, &list, lists + 1, stride, which, value, n, largest, sums);
        lists += 1 + list.words;
    }
    core->deliveries += n;
    core->words += n * stride;
}

/* The payloads of an entry that are not zero, to its axons. */
static void deliver(Machine *m, Core *core, Scratch *s, const Entry *entry, int64_t step)
{
    const int32_t *payload = entry->payload;
    const Stretch *stretch = core->stretch + entry->stretch;
    long axon = entry->axon, left = entry->count;
    while (left) {
        const long begin = axon - stretch->axon, inside = (long)stretch->axons - begin;
        long here = left < inside ? left : inside;
        here = here < LANES ? here : LANES;
        int64_t largest;
        const long n = m->level.compact(payload, here, begin, s->which, s->value, &largest);
        if (n) add_stretch(m, core, stretch, s->which, s->value, n, largest, step);
        if (here == inside) stretch++;
        payload += here;
        axon += here;
        left -= here;
    }
}
