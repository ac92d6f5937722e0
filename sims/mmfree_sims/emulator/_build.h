/* A machine from the sections of an image, which the loader has proved: every range lies where it must. */

enum { CHIP, NUMBER, GROUP, PORT, CODE, POOL, TABLES, TABLE, CONST, STATE, AXON, SYN, OUT, PARTS };

/* The array at some place of a tuple, for as long as the machine lives. */
static const void *array_of(Machine *m, PyObject *object, long *bytes)
{
    Py_buffer *view = &m->view[m->views];
    if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS)) return NULL;
    m->views++;
    if (bytes) *bytes = (long)view->len;
    return view->buf;
}

static void *zeros(long count, size_t size)
{
    void *room = calloc(count ? (size_t)count : 1, size);
    if (!room) PyErr_NoMemory();
    return room;
}

/* Whether the lists of an axon continue those of a stretch. */
static int continues(const Stretch *t, const uint64_t *syn, uint32_t axon, uint32_t row)
{
    if (row >> 24 != t->lists) return 0;
    if (!t->lists) return 1;
    const uint64_t begin = row & 0xFFFFFF;
    if (begin != t->word + (uint64_t)(axon - t->axon) * t->stride) return 0;
    for (uint64_t k = 0, at = 0; k < t->lists; k++) {
        const uint64_t *header = syn + begin + at, grown = *header - header[-(long)t->stride];
        if (grown != 0 && grown != (uint64_t)1 << 44) return 0;
        if (t->axons > 1 && grown != syn[t->word + t->stride + at] - syn[t->word + at]) return 0;
        at += 1 + list_of(*header).words;
    }
    return 1;
}

static int build_lists(Core *core, const uint32_t *axon, long axons)
{
    long lists = 0, most = 0;
    for (long a = 0; a < axons; a++) lists += axon[a] >> 24;
    if (!(core->nonzero = zeros(lists, sizeof *core->nonzero))) return -1;
    lists = 0;
    for (long a = 0; a < axons; a++) {
        const uint64_t *at = core->syn + (axon[a] & 0xFFFFFF), *begin = at;
        const long first = lists;
        for (uint32_t k = 0; k < axon[a] >> 24; k++) {
            const List list = list_of(*at++);
            long some = list.format == ALL_ONES ? list.count : 0;
            if (list.format == TERNARY)
                for (long w = 0; w < list.words; w++) some += __builtin_popcountll(at[w]);
            if (list.format == EIGHT_BITS)
                for (long j = 0; j < list.count; j++) some += ((const int8_t *)at)[j] != 0;
            core->nonzero[lists++] = (uint16_t)some;
            at += list.words;
        }
        Stretch *last = core->stretches ? &core->stretch[core->stretches - 1] : NULL;
        if (last && continues(last, core->syn, (uint32_t)a, axon[a])) {
            last->axons++;
            continue;
        }
        if (core->stretches == most) {
            most = most ? 2 * most : 8;
            Stretch *more = realloc(core->stretch, most * sizeof *more);
            if (!more) {
                PyErr_NoMemory();
                return -1;
            }
            core->stretch = more;
        }
        core->stretch[core->stretches++] = (Stretch){(uint32_t)a, 1, axon[a] >> 24, (uint32_t)(at - begin),
                                                     axon[a] & 0xFFFFFF, (uint64_t)first};
    }
    return 0;
}

/* Which stretch an axon is in. */
static long stretch_of(const Core *core, long axon)
{
    long low = 0, high = core->stretches - 1;
    while (low < high) {
        const long middle = (low + high + 1) / 2;
        if ((long)core->stretch[middle].axon <= axon) low = middle;
        else high = middle - 1;
    }
    return low;
}

static void build_group(Machine *m, Core *core, Group *g, const uint32_t *row, const void *const *part)
{
    *g = (Group){.core = core - m->core, .number = g - m->group - core->group, .instructions = row[1],
                 .neurons = row[2], .ports = row[4], .immediates = (int)row[6], .constants = (int)row[8],
                 .tables = row[12], .entries = row[14], .outputs = (int)row[15], .first_skip = -1};
    g->code = (const uint64_t *)part[CODE] + row[0];
    g->immediate = (const int32_t *)part[POOL] + row[5];
    g->constant = (const int32_t *)part[CONST] + row[7];
    g->table_rows = (const uint32_t *)part[TABLES] + 2 * (size_t)row[11];
    g->table = part[TABLE];
    core->effort += (g->neurons + 15) / 16 * g->instructions;
    if (row[10]) {
        g->states = row[10];
        const long states = g->states * g->neurons;
        memcpy(m->states + m->all_states, (const int32_t *)part[STATE] + row[9], states * sizeof(int32_t));
        g->state = m->states + m->all_states;
        m->all_states += states;
    }
    for (long pc = 0; pc < g->instructions; pc++)
        if ((g->code[pc] & 255) == SKP_C) {
            const long skips = (long)(g->code[pc] >> 40 & 255);
            if (skips == THE_REST || pc + 1 + skips == g->instructions) g->first_skip = pc;
            break;
        }
}

/* Counts of what is to be allocated, and the arrays of all cores. */
typedef struct {
    const void *part[PARTS];
    long bytes[PARTS];
} Sections;

static int read_core(Machine *m, PyObject *tuple, long number, Sections *sections)
{
    Core *core = &m->core[number];
    core->chip = PyLong_AsLong(PyTuple_GetItem(tuple, CHIP));
    core->number = PyLong_AsLong(PyTuple_GetItem(tuple, NUMBER));
    for (int k = GROUP; k < PARTS; k++)
        if (!(sections->part[k] = array_of(m, PyTuple_GetItem(tuple, k), &sections->bytes[k]))) return -1;
    core->syn = sections->part[SYN];
    core->group = m->groups;
    core->groups = sections->bytes[GROUP] / 64;
    core->port = m->ports;
    m->groups += core->groups;
    m->ports += sections->bytes[PORT] / 8;
    m->entries += sections->bytes[OUT] / 16;
    m->all_states += sections->bytes[STATE] / 4;
    const uint32_t *row = sections->part[GROUP], *port = sections->part[PORT];
    for (long g = 0; g < core->groups; g++, row += 16) {
        m->all_sent += (long)row[2] * row[15];
        for (uint32_t p = row[3]; p < row[3] + row[4]; p++) {
            m->all_sums += (long)row[2] * port[2 * (size_t)p + 1];
            m->all_slots += port[2 * (size_t)p + 1];
        }
    }
    return build_lists(core, sections->part[AXON], sections->bytes[AXON] / 4);
}

/* The groups, ports and entries of a core, from the places that are given in turn. */
static void build_core(Machine *m, Core *core, const Sections *sections, Entry *entry, const int32_t *target)
{
    const uint32_t *row = sections->part[GROUP], *port = sections->part[PORT], *out = sections->part[OUT];
    for (Group *g = m->group + core->group; g < m->group + core->group + core->groups; g++, row += 16) {
        build_group(m, core, g, row, sections->part);
        g->port = m->port + core->port + row[3];
        for (long p = 0; p < g->ports; p++) {
            const long slots = port[2 * (row[3] + (size_t)p) + 1];
            g->port[p] = (Port){g - m->group, g->neurons, slots, m->sums + m->all_sums, m->dirty + m->all_slots};
            m->all_sums += slots * g->neurons;
            m->all_slots += slots;
        }
        for (int k = 0; k < g->outputs; k++, m->all_sent += g->neurons) g->sent[k] = m->sent + m->all_sent;
        g->entry = entry + row[13];
        for (long e = row[13]; e < (long)row[13] + (long)row[14]; e++) {
            const uint32_t *numbers = out + 4 * e;
            entry[e] = (Entry){.payload = g->sent[numbers[0] & 15] + numbers[1], .core = target[e],
                               .group = g - m->group, .count = numbers[2], .axon = numbers[3]};
        }
    }
}

/* Where the payloads of an entry go first, and how many words of lists they meet. */
static void aim(Machine *m, Entry *entry)
{
    if (entry->core < 0) return;
    const Core *core = &m->core[entry->core];
    entry->stretch = stretch_of(core, entry->axon);
    const Stretch *stretch = core->stretch + entry->stretch;
    for (long axon = entry->axon, end = axon + entry->count; axon < end; stretch++) {
        const long behind = (long)stretch->axon + stretch->axons, here = (behind < end ? behind : end) - axon;
        entry->words += here * (stretch->stride + 1);
        axon += here;
    }
}

/* Whether a group answers empty accumulators with nothing: its first skip, tried on them, takes every neuron to the
   end, and nothing before it depends on states, changes them, or sends. */
static int is_inert(const Machine *m, Group *g, Scratch *s)
{
    if (g->first_skip < 0) return 0;
    for (long pc = 0; pc <= g->first_skip; pc++) {
        const uint64_t word = g->code[pc];
        const int op = (int)(word & 255);
        if (op == RMW || op == SPIKE || (op == MOV && (word >> 40 & 255) == OWN_STATES) || (word >> 16 & 255) == STATE_ROW || (word >> 24 & 255) == STATE_ROW
            || (word >> 32 & 255) == STATE_ROW)
            return 0;
    }
    Group tried = *g;
    Trap trap;
    tried.instructions = g->first_skip + 1;
    tried.state = NULL;
    tried.outputs = 0;
    if (m->level.run(m, &tried, s, 0, g->neurons, &trap) || tried.idle < g->neurons) return 0;
    g->idle_saturated = tried.saturated;
    return 1;
}
