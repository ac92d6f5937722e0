/* The interpreter of neuron programs, compiled for every instruction set and for many lanes and few: NAME, TARGET and
   LANES say which.

   Neurons are taken LANES at a time.  For such a block the registers are rows of 32-bit lanes that stay in the first
   cache, every instruction is one loop over them, and the tokens follow each other inside, because the state of a
   recurrent neuron passes from token to token of a sequence. */

#define EACH for (int i = 0; i < LANES; i++)

TARGET static void NAME(const Job *job, int32_t *registers, long first, long last)
{
    for (long begin = first; begin < last; begin += LANES) {
        int32_t lost[LANES]; /* whether an instruction changed a lane's value */
        const int live = (int)(last - begin < LANES ? last - begin : LANES);
        int32_t *preset = registers;
        for (int k = 0; k < job->immediates; k++, preset += LANES)
            EACH preset[i] = job->immediate[k];
        for (int k = 0; k < job->constants; k++, preset += LANES) {
            memset(preset, 0, LANES * sizeof *preset);
            memcpy(preset, job->constant[k] + begin, live * sizeof *preset);
        }
        for (long token = 0; token < job->tokens; token++) {
            const long counted = job->slot[token] * job->neurons + begin;
            for (const int32_t *row = job->code; row < job->code + WIDTH * job->instructions; row += WIDTH) {
                int32_t *d = registers + (long)row[1] * LANES;
                const int32_t *a = registers + (long)row[2] * LANES;
                const int32_t *b = registers + (long)row[3] * LANES;
                const int32_t *c = registers + (long)row[4] * LANES;
                const int shift = row[5];
                const int32_t k = row[6];
                const int64_t half = shift ? (int64_t)1 << (shift - 1) : 0;
                switch (row[0]) {
                case INPUT: {
                    const Stream *in = &job->input[row[2]];
                    const int32_t *x = in->data + token * in->token_stride + begin * in->lane_stride;
                    if (in->lane_stride == 0) {
                        const int32_t value = *x;
                        EACH d[i] = value;
                    } else {
                        memset(d, 0, LANES * sizeof *d);
                        if (in->lane_stride == 1)
                            memcpy(d, x, live * sizeof *d);
                        else
                            for (int i = 0; i < live; i++) d[i] = x[i * in->lane_stride];
                    }
                    break;
                }
                case ADD: IVDEP EACH d[i] = a[i] + b[i]; break;
                case SUB: IVDEP EACH d[i] = a[i] - b[i]; break;
                case NEG: IVDEP EACH d[i] = -a[i]; break;
                case ABS: IVDEP EACH d[i] = a[i] < 0 ? -a[i] : a[i]; break;
                case MIN: IVDEP EACH d[i] = a[i] < b[i] ? a[i] : b[i]; break;
                case MAX: IVDEP EACH d[i] = a[i] > b[i] ? a[i] : b[i]; break;
                case LESS: IVDEP EACH d[i] = a[i] < b[i]; break;
                case AND: IVDEP EACH d[i] = a[i] & k; break;
                case SHL: IVDEP EACH d[i] = (int32_t)((uint32_t)a[i] << shift); break;
                case SELECT: IVDEP EACH d[i] = a[i] ? b[i] : c[i]; break;
                case LOOKUP: {
                    const int32_t *table = job->table[row[3]];
                    IVDEP EACH d[i] = table[a[i]];
                    break;
                }
                case MUL_SHR: IVDEP EACH d[i] = (int32_t)(((int64_t)a[i] * b[i]) >> shift); break;
                case MUL_ROUND: IVDEP EACH d[i] = (int32_t)(((int64_t)a[i] * b[i] + half) >> shift); break;
                case FIT: {
                    int32_t changed = 0;
                    IVDEP EACH {
                        const int32_t x = a[i];
                        changed |= lost[i] = (x > k) | (x < -k);
                        const int32_t low = x < -k ? -k : x;
                        d[i] = low > k ? k : low;
                    }
                    if (changed)
                        for (int i = 0; i < live; i++) job->saturated[counted + i] += lost[i];
                    break;
                }
                case MUL_FIT: {
                    int32_t changed = 0;
                    IVDEP EACH {
                        const int64_t x = ((int64_t)a[i] * b[i] + half) >> shift;
                        const int64_t low = x < -(int64_t)k ? -(int64_t)k : x;
                        const int64_t kept = low > k ? k : low;
                        changed |= lost[i] = kept != x;
                        d[i] = (int32_t)kept;
                    }
                    if (changed)
                        for (int i = 0; i < live; i++) job->saturated[counted + i] += lost[i];
                    break;
                }
                case SIGMOID: {
                    const int up = shift < SIGMOID_FRAC ? SIGMOID_FRAC - shift : 0;
                    const int past = shift < SIGMOID_FRAC ? 0 : shift - SIGMOID_FRAC, down = past < 31 ? past : 31;
                    const int32_t most = up >= SIGMOID_BITS ? 1 : 1 << (SIGMOID_BITS - up);
                    const int raise = up < SIGMOID_BITS ? up : SIGMOID_BITS;
                    const int bits = job->segment_bits;
                    const int32_t rest = (1 << bits) - 1, round = bits ? 1 << (bits - 1) : 0;
                    const int32_t *values = job->values, *slopes = job->slopes;
                    IVDEP EACH {
                        int32_t m = a[i] < 0 ? -a[i] : a[i];
                        m = up ? (m < most ? m : most) << raise : m >> down;
                        m = m < (1 << SIGMOID_BITS) - 1 ? m : (1 << SIGMOID_BITS) - 1;
                        /* a rise over a segment is below 2^20 and the rest of a magnitude below 2^15 */
                        const int32_t rise = (int32_t)(((int64_t)slopes[m >> bits] * (m & rest) + round) >> bits);
                        const int32_t y = values[m >> bits] + rise;
                        d[i] = a[i] < 0 ? (1 << GATE_FRAC) - y : y;
                    }
                    break;
                }
                case OUTPUT: {
                    int32_t *out = job->output[row[1]] + token * job->neurons + begin;
                    int32_t *events = job->events[row[1]] + counted;
                    memcpy(out, a, live * sizeof *out);
                    for (int i = 0; i < live; i++) events[i] += a[i] != 0;
                    break;
                }
                case LOAD: /* the slot is the same in all lanes */
                    memset(d + live, 0, (LANES - live) * sizeof *d);
                    memcpy(d, job->state + a[0] * job->neurons + begin, live * sizeof *d);
                    break;
                case STORE: memcpy(job->state + b[0] * job->neurons + begin, a, live * sizeof *a); break;
                }
            }
        }
    }
}

#undef EACH
#undef NAME
#undef LANES
