/* One step of the machine: all groups run, then each core takes what was sent to it. */

/* Where a trap was: its neurons once more, one by one. */
static void trap_at(Machine *m, Group *g, Scratch *s, long begin)
{
    Trap trap = {0};
    long neuron = begin;
    while (neuron < g->neurons && !m->level.run(m, g, s, neuron, neuron + 1, &trap)) neuron++;
    long before = atomic_load(&m->trapped);
    while (g->core < before)
        if (atomic_compare_exchange_weak(&m->trapped, &before, g->core)) break;
    while (atomic_flag_test_and_set(&m->trap_lock)) {}
    if (m->trap.core < 0 || trap.core < m->trap.core) m->trap = trap;
    atomic_flag_clear(&m->trap_lock);
}

/* What a group sent is on its way. */
static void send(Machine *m, Group *g)
{
    for (Entry *entry = g->entry; entry < g->entry + g->entries; entry++) {
        const int32_t *payload = entry->payload;
        long some = 0;
        for (long i = 0; i < entry->count; i++) some += payload[i] != 0;
        if (!some) continue;
        entry->messages += some;
        if (entry->core < 0) {
            int64_t *result = m->result + entry->axon;
            for (long i = 0; i < entry->count; i++) result[i] = payload[i];
            m->result_sent = 1;
            continue;
        }
        Core *core = &m->core[entry->core];
        entry->next = atomic_exchange(&core->arrived, entry);
        if (!entry->next) m->item[m->cores + atomic_fetch_add(&m->arrivals, 1)] = entry->core;
        atomic_fetch_add(&m->work, entry->words * some / entry->count);
    }
}

/* All groups of a core run; what their accumulators held is cleared. */
static void run_core(Machine *m, long number, Scratch *s)
{
    Core *core = &m->core[number];
    if (atomic_load(&m->trapped) < number) return;
    m->due[(m->step % RING) * m->cores + number] = 0;
    for (Group *g = m->group + core->group; g < m->group + core->group + core->groups; g++) {
        int runs = !g->inert && !g->embeds;
        for (Port *port = g->port; port < g->port + g->ports; port++) runs |= port->dirty[m->step % port->slots];
        if (!runs) continue;
        g->visited++;
        Trap trap;
        if (m->level.run(m, g, s, 0, g->neurons, &trap)) {
            trap_at(m, g, s, trap.neuron);
            return;
        }
        for (Port *port = g->port; port < g->port + g->ports; port++) {
            const long slot = (long)(m->step % port->slots);
            if (port->dirty[slot]) memset(port->sums + slot * port->neurons, 0, port->neurons * sizeof *port->sums);
            port->dirty[slot] = 0;
        }
        send(m, g);
    }
}

/* A core takes what was sent to it. */
static void take_core(Machine *m, long number, Scratch *s)
{
    Core *core = &m->core[number];
    Entry *entry = atomic_exchange(&core->arrived, NULL);
    while (entry) {
        Entry *next = entry->next;
        deliver(m, core, s, entry, m->step);
        entry = next;
    }
}

/* A token enters: the host's group finds its codes, its scale, and its mark where it reads one. */
static void enter(Machine *m, int32_t token, int32_t mark)
{
    Group *g = &m->group[m->embed_group];
    Port *codes = &g->port[m->code_port], *scales = &g->port[m->scale_port];
    const long at = (long)(m->step % codes->slots), beside = (long)(m->step % scales->slots);
    int64_t *code = codes->sums + at * codes->neurons, *scale = scales->sums + beside * scales->neurons;
    for (long i = 0; i < g->neurons; i++) {
        const long place = token * g->neurons + i;
        code[i] = m->code_bytes == 1 ? ((const int8_t *)m->codes)[place] : ((const int16_t *)m->codes)[place];
        scale[i] = m->scales[token];
    }
    codes->dirty[at] = scales->dirty[beside] = 1;
    if (m->mark_port >= 0) {
        Port *marks = &g->port[m->mark_port];
        const long there = (long)(m->step % marks->slots);
        for (long i = 0; i < g->neurons; i++) marks->sums[there * marks->neurons + i] = mark;
        marks->dirty[there] = 1;
    }
    m->due[(m->step % RING) * m->cores + g->core] = 1;
}

/* One step; whether a neuron trapped. */
static int step(Machine *m, Pool *pool, int32_t token, int32_t mark)
{
    if (m->result_sent) memset(m->result, 0, m->results * sizeof *m->result);
    m->result_sent = 0;
    if (token >= 0) enter(m, token, mark);
    const uint8_t *due = m->due + (m->step % RING) * m->cores;
    long running = 0;
    int64_t work = 0;
    for (long c = 0; c < m->cores; c++)
        if (due[c] | m->core[c].always) {
            m->item[running++] = c;
            work += m->core[c].effort;
        }
    atomic_store(&m->arrivals, 0);
    atomic_store(&m->work, 0);
    spread(pool, run_core, m->item, running, work);
    if (atomic_load(&m->trapped) < m->cores) return 1;
    spread(pool, take_core, m->item + m->cores, atomic_load(&m->arrivals), atomic_load(&m->work));
    m->step++;
    return 0;
}
