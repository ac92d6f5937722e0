/* The interpreter of neuron programs, compiled for every instruction set: NAME and TARGET say which.

   Neurons first … last - 1 of a group run LANES at a time, one instruction after another.  A lane that skips keeps its
   registers and counts nothing.  Returns whether a lane trapped; then `trap` tells where, and which one only if a
   single neuron was run. */

#define EACH IVDEP for (long i = 0; i < lanes; i++)
#define PUT(value) EACH d[i] = ((value) & live[i]) | (d[i] & ~live[i])
#define PUT_AND_WATCH(type, value, wrong)                                                                              \
    EACH {                                                                                                             \
        const type x = (value);                                                                                        \
        bad |= (wrong) ? live[i] : 0;                                                                                  \
        d[i] = ((int32_t)x & live[i]) | (d[i] & ~live[i]);                                                             \
    }

TARGET static int NAME(run)(const Machine *m, Group *g, Scratch *s, long first, long last, Trap *trap)
{
    int32_t *const live = s->live, *const until = s->until;
    const int sign = 64 - m->accumulator_bits;
    const int32_t most = m->most_payload;
    int64_t executed = 0, idle = 0, saturated = 0, wrapped = 0;
    long lanes = last - first < LANES ? (last - first + 15) & ~15L : LANES;
    for (int k = 0; k < g->immediates; k++) {
        const int32_t value = g->immediate[k];
        EACH s->row[64 + k][i] = value;
    }
    for (long begin = first; begin < last; begin += LANES) {
        const long valid = last - begin < LANES ? last - begin : LANES;
        lanes = (valid + 15) & ~15L;
        for (long i = 0; i < lanes; i++) {
            live[i] = -(i < valid);
            until[i] = 0;
        }
        for (int k = 0; k < g->constants; k++)
            memcpy(s->row[128 + k], g->constant + k * g->neurons + begin, valid * sizeof(int32_t));
        int32_t *const after = s->row[STATE_ROW + 1], *const which = s->row[STATE_ROW + 2];
        if (g->state) {
            memcpy(s->row[STATE_ROW], g->state + begin, valid * sizeof *after);
            memset(which, -1, sizeof s->row[0]); /* nothing is written yet */
        }
        for (int k = 0; k < g->outputs; k++) memset(g->sent[k] + begin, 0, valid * sizeof(int32_t));
        long active = valid;
        for (long pc = 0; pc < g->instructions; pc++) {
            if (active < valid) {
                int32_t next = INT32_MAX, some = 0;
                EACH {
                    const int32_t here = -((until[i] <= pc) & (i < valid));
                    live[i] = here;
                    some -= here;
                    const int32_t later = here | (i >= valid) ? INT32_MAX : until[i];
                    next = later < next ? later : next;
                }
                active = some;
                if (!active) {
                    pc = next - 1;
                    continue;
                }
            }
            executed += active;
            const uint64_t word = g->code[pc];
            const int shift = (int)(word >> 40 & 255), counts = (int)(word >> 48 & 1);
            int32_t *d = s->row[word >> 8 & 255];
            const int32_t *a = s->row[word >> 16 & 255], *b = s->row[word >> 24 & 255], *c = s->row[word >> 32 & 255];
            int32_t bad = 0;
            const int32_t first_a = a[0], first_b = b[0]; /* d may be one of them */
            switch (word & 255) {
            case RDC: {
                const Port *port = &g->port[shift];
                const long slot = (long)(m->step % port->slots);
                if (!port->dirty[slot]) {
                    PUT(0);
                    break;
                }
                const int64_t *sums = port->sums + slot * port->neurons + begin;
                int64_t differ = 0;
                IVDEP for (long i = 0; i < valid; i++) {
                    const int64_t kept = (int64_t)((uint64_t)sums[i] << sign) >> sign;
                    differ += (kept != sums[i]) & live[i];
                    d[i] = ((int32_t)kept & live[i]) | (d[i] & ~live[i]);
                }
                wrapped += differ;
                break;
            }
            case RMW:
                EACH bad |= (uint32_t)b[i] >= (uint32_t)g->states ? live[i] : 0;
                EACH after[i] = (a[i] & live[i]) | (after[i] & ~live[i]);
                EACH which[i] = (b[i] & live[i]) | (which[i] & ~live[i]);
                break;
            case MOV: {
                if (shift == OWN_STATES) {
                    EACH bad |= (uint32_t)a[i] >= (uint32_t)g->states ? live[i] : 0;
                    if (!bad)
                        for (long i = 0; i < valid; i++)
                            if (live[i]) d[i] = g->state[a[i] * g->neurons + begin + i];
                    break;
                }
                const uint32_t entries = g->table_rows[2 * shift + 1];
                const int32_t *table = g->table + g->table_rows[2 * shift];
                EACH bad |= (uint32_t)a[i] >= entries ? live[i] : 0;
                if (!bad) EACH d[i] = live[i] ? table[a[i]] : d[i];
                break;
            }
            case SEL:
                if (counts) EACH saturated += (a[i] != 0) & live[i];
                PUT(a[i] ? b[i] : c[i]);
                break;
            case AND: PUT(a[i] & b[i]); break;
            case OR: PUT(a[i] | b[i]); break;
            case SHL: PUT_AND_WATCH(int32_t, (int32_t)((uint32_t)a[i] << shift), x >> shift != a[i]); break;
            case ADD:
                PUT_AND_WATCH(int32_t, (int32_t)((uint32_t)a[i] + (uint32_t)b[i]), ((a[i] ^ x) & (b[i] ^ x)) < 0);
                break;
            case NEG: PUT_AND_WATCH(int32_t, (int32_t)(0 - (uint32_t)a[i]), x == INT32_MIN); break;
            case MIN:
                if (counts) EACH saturated += (b[i] < a[i]) & live[i];
                PUT(a[i] < b[i] ? a[i] : b[i]);
                break;
            case MUL_SHR:
                EACH {
                    const int64_t x = ((int64_t)a[i] * b[i]) >> shift;
                    const int64_t low = x < INT32_MIN ? INT32_MIN : x;
                    const int32_t fit = (int32_t)(low > INT32_MAX ? INT32_MAX : low);
                    d[i] = (fit & live[i]) | (d[i] & ~live[i]);
                }
                break;
            case LT: PUT(a[i] < b[i]); break;
            case GE: PUT(a[i] >= b[i]); break;
            case EQ: PUT(a[i] == b[i]); break;
            case SKP_C: {
                const int32_t target = (int32_t)(shift == THE_REST ? g->instructions : pc + 1 + shift);
                int64_t taken = 0;
                EACH {
                    const int32_t skips = live[i] & -(a[i] == 0);
                    until[i] = (target & skips) | (until[i] & ~skips);
                    taken -= skips;
                }
                if (pc == g->first_skip) idle += taken;
                active -= taken;
                break;
            }
            case SPIKE:
                EACH bad |= (a[i] > most) | (a[i] < -most - 1) ? live[i] : 0;
                d = g->sent[shift] + begin;
                IVDEP for (long i = 0; i < valid; i++) d[i] = a[i] & live[i];
                break;
            }
            if (bad) {
                *trap = (Trap){g->core, g->number, begin, pc, (int)(word & 255), first_a, first_b};
                return 1;
            }
        }
        if (g->state)
            for (long i = 0; i < valid; i++)
                if (which[i] >= 0) g->state[which[i] * g->neurons + begin + i] = after[i];
    }
    g->executed += executed;
    g->idle += idle;
    g->runs += idle < last - first;
    g->saturated += saturated;
    g->wrapped += wrapped;
    return 0;
}

#undef EACH
#undef PUT
#undef PUT_AND_WATCH
