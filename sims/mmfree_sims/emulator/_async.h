/* Without a barrier: groups run for a token when the end markers of all entries that lead to them have come.

   What is under way lies in a bag of trains: the payloads of an entry for one token, and behind them their end marker.
   Each turn draws a train, and some of its payloads arrive, or a new token enters.  Ports have an accumulator of each
   neuron for each token under way, in the place of their slots. */

#define UNDER_WAY 4 /* tokens at a time */
#define BURST 64    /* payloads of a train that arrive in one turn at most */

typedef struct {
    Entry *entry;
    int64_t token;
    long at;
    int32_t *payload;
} Train;

typedef struct {
    Machine *m;
    Scratch *scratch;
    uint64_t drawn;
    Train *bag;
    long trains, room;
    long *leads, *leads_from; /* groups that each entry leads to, and [entries + 1] where they begin */
    long *needed, *came;      /* markers: [groups], and [groups, UNDER_WAY] */
    int64_t *ran;             /* tokens that each group ran for */
    long left[UNDER_WAY];     /* groups that have not run for a token under way */
    int64_t entered, finished, tokens;
    const int32_t *token, *mark;
    int64_t *rows;
    long *ready, readies;
} Async;

static uint64_t draw(Async *a, uint64_t below)
{
    a->drawn ^= a->drawn << 13;
    a->drawn ^= a->drawn >> 7;
    a->drawn ^= a->drawn << 17;
    return (a->drawn >> 11) % below;
}

/* Which groups lists of the axons of each entry lead to. */
static int find_leads(Async *a)
{
    Machine *m = a->m;
    long used = 0, room = 0, *seen = zeros(m->groups, sizeof *seen);
    for (long e = 0; seen && e < m->entries; e++) {
        const Entry *entry = &m->entry[e];
        a->leads_from[e] = used;
        if (entry->core < 0) continue;
        const Core *core = &m->core[entry->core];
        const Stretch *stretch = core->stretch + entry->stretch;
        for (long axon = entry->axon; axon < entry->axon + entry->count; axon = stretch->axon + stretch->axons, stretch++) {
            const uint64_t *lists = core->syn + stretch->word;
            for (uint32_t k = 0; k < stretch->lists; k++) {
                const List list = list_of(*lists);
                const long group = m->port[core->port + list.port].group;
                lists += 1 + list.words;
                if (seen[group] == e + 1) continue;
                seen[group] = e + 1;
                a->needed[group]++;
                if (used == room) {
                    room = room ? 2 * room : 1024;
                    long *more = realloc(a->leads, room * sizeof *more);
                    if (!more) {
                        free(seen);
                        PyErr_NoMemory();
                        return -1;
                    }
                    a->leads = more;
                }
                a->leads[used++] = group;
            }
            if (stretch->axon + stretch->axons >= entry->axon + entry->count) break;
        }
    }
    a->leads_from[m->entries] = used;
    free(seen);
    return seen ? 0 : -1;
}

/* The payloads of an entry leave, and their marker; those of a result are there at once. */
static int leave(Async *a, Entry *entry, int64_t token)
{
    long some = 0;
    for (long i = 0; i < entry->count; i++) some += entry->payload[i] != 0;
    entry->messages += some;
    entry->markers++;
    if (entry->core < 0) {
        int64_t *row = a->rows + token * a->m->results + entry->axon;
        for (long i = 0; i < entry->count; i++) row[i] = entry->payload[i];
        return 0;
    }
    if (a->trains == a->room) {
        const long room = a->room ? 2 * a->room : 1024;
        Train *more = realloc(a->bag, room * sizeof *more);
        if (!more) return -1;
        a->bag = more;
        a->room = room;
    }
    int32_t *payload = malloc(entry->count * sizeof *payload);
    if (!payload) return -1;
    memcpy(payload, entry->payload, entry->count * sizeof *payload);
    a->bag[a->trains++] = (Train){entry, token, 0, payload};
    return 0;
}

/* Whether a group has all that it needs for its next token. */
static int may_run(const Async *a, long group)
{
    const int64_t token = a->ran[group];
    return token < a->entered && a->came[group * UNDER_WAY + token % UNDER_WAY] == a->needed[group];
}

/* Groups that can run do; 1 where a neuron traps, -1 where memory ends. */
static int run_ready(Async *a)
{
    Machine *m = a->m;
    while (a->readies) {
        const long number = a->ready[--a->readies];
        Group *g = &m->group[number];
        while (may_run(a, number)) {
            const int64_t token = m->step = a->ran[number];
            Trap trap;
            if (g->embeds) enter(m, a->token[token], a->mark[token]);
            if (m->level.run(m, g, a->scratch, 0, g->neurons, &trap)) {
                trap_at(m, g, a->scratch, trap.neuron);
                return 1;
            }
            for (Port *port = g->port; port < g->port + g->ports; port++) {
                memset(port->sums + token % UNDER_WAY * port->neurons, 0, port->neurons * sizeof *port->sums);
                port->dirty[token % UNDER_WAY] = 0;
            }
            a->came[number * UNDER_WAY + token % UNDER_WAY] = 0;
            a->ran[number]++;
            if (!--a->left[token % UNDER_WAY]) a->finished++;
            for (Entry *entry = g->entry; entry < g->entry + g->entries; entry++)
                if (leave(a, entry, token)) return -1;
        }
    }
    return 0;
}

/* A token begins: groups that wait for nothing run for it. */
static void begin_token(Async *a)
{
    a->left[a->entered % UNDER_WAY] = a->m->groups;
    a->entered++;
    for (long g = 0; g < a->m->groups; g++)
        if (!a->needed[g]) a->ready[a->readies++] = g;
}

/* Some payloads of a train arrive, or its marker, which is its end. */
static void arrive(Async *a, long number)
{
    Machine *m = a->m;
    Train *train = &a->bag[number];
    Entry *entry = train->entry;
    if (train->at < entry->count) {
        const long left = entry->count - train->at, burst = 1 + (long)draw(a, BURST), some = left < burst ? left : burst;
        Core *core = &m->core[entry->core];
        Entry part = {.payload = train->payload + train->at, .count = some, .axon = entry->axon + train->at};
        part.stretch = stretch_of(core, part.axon);
        deliver(m, core, a->scratch, &part, train->token);
        train->at += some;
        return;
    }
    for (long k = a->leads_from[entry - m->entry]; k < a->leads_from[entry - m->entry + 1]; k++) {
        const long group = a->leads[k];
        a->came[group * UNDER_WAY + train->token % UNDER_WAY]++;
        if (may_run(a, group)) a->ready[a->readies++] = group;
    }
    free(train->payload);
    *train = a->bag[--a->trains];
}

/* All tokens; 1 where a neuron traps, 2 where groups wait for each other, 3 where a signal came, -1 where memory ends. */
static int fall_through(Async *a)
{
    long turns = 0;
    while (a->finished < a->tokens) {
        const int may_enter = a->entered < a->tokens && a->entered < a->finished + UNDER_WAY;
        if (!a->trains && !may_enter) return 2;
        const long chosen = (long)draw(a, a->trains + may_enter);
        if (chosen == a->trains) begin_token(a);
        else arrive(a, chosen);
        const int problem = run_ready(a);
        if (problem) return problem;
        if (++turns % 4096 == 0) {
            PyGILState_STATE held = PyGILState_Ensure();
            const int stopped = PyErr_CheckSignals();
            PyGILState_Release(held);
            if (stopped) return 3;
        }
    }
    return 0;
}

/* Ports as they are while there is no barrier: an accumulator for each token under way. */
static int open_async(Async *a, Port *kept, int64_t **sums, uint8_t **dirty)
{
    Machine *m = a->m;
    long all = 0;
    for (long p = 0; p < m->ports; p++) all += m->port[p].neurons;
    if (!(*sums = zeros(all * UNDER_WAY, sizeof **sums)) || !(*dirty = zeros(m->ports * UNDER_WAY, 1))
        || !(a->leads_from = zeros(m->entries + 1, sizeof *a->leads_from))
        || !(a->needed = zeros(m->groups, sizeof *a->needed))
        || !(a->came = zeros(m->groups * UNDER_WAY, sizeof *a->came)) || !(a->ran = zeros(m->groups, sizeof *a->ran))
        || !(a->ready = zeros(2 * m->groups + m->entries, sizeof *a->ready)) || find_leads(a))
        return -1;
    memcpy(kept, m->port, m->ports * sizeof *kept);
    int64_t *sum = *sums;
    for (long p = 0; p < m->ports; p++) {
        m->port[p].slots = UNDER_WAY;
        m->port[p].sums = sum;
        m->port[p].dirty = *dirty + p * UNDER_WAY;
        sum += m->port[p].neurons * UNDER_WAY;
    }
    m->asynchronous = 1;
    return 0;
}

static void close_async(Async *a)
{
    while (a->trains) free(a->bag[--a->trains].payload);
    void *const all[] = {a->bag, a->leads, a->leads_from, a->needed, a->came, a->ran, a->ready};
    for (size_t k = 0; k < sizeof all / sizeof *all; k++) free(all[k]);
}
