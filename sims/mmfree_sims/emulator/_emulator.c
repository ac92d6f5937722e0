/* The emulator of the reference machine of docs/machine.md; mmfree_sims.emulator.emulator is its Python face.

   Machine(cores, targets, (accumulator_bits, payload_bits, results, threads), embedding, level)

   A core is a tuple of its chip, its number and its sections; `targets` has the core that each output entry leads to,
   or -1 for a result; the embedding is a tuple of codes, bytes of a code, scales, group, and the ports for codes, for
   scales and for marks, -1 where there are none.  The loader has proved all of it: nothing is checked here. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "_machine.h"

static const uint32_t BIT[32] = {
    1u << 0,  1u << 1,  1u << 2,  1u << 3,  1u << 4,  1u << 5,  1u << 6,  1u << 7,  1u << 8,  1u << 9,  1u << 10,
    1u << 11, 1u << 12, 1u << 13, 1u << 14, 1u << 15, 1u << 16, 1u << 17, 1u << 18, 1u << 19, 1u << 20, 1u << 21,
    1u << 22, 1u << 23, 1u << 24, 1u << 25, 1u << 26, 1u << 27, 1u << 28, 1u << 29, 1u << 30, 1u << 31};

#if defined(__clang__)
#define IVDEP _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define IVDEP _Pragma("GCC ivdep")
#else
#define IVDEP
#endif

#if defined(__x86_64__) && defined(__GNUC__)
#define X86 1
#include <immintrin.h>
#include "_avx512.h"
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")))
#define NAME(what) avx512_##what
#define OWN_PARTS
#include "_interpret.h"
#include "_add.h"
#undef OWN_PARTS
#undef TARGET
#undef NAME
#define TARGET __attribute__((target("avx2")))
#define NAME(what) avx2_##what
#include "_interpret.h"
#include "_add.h"
#undef TARGET
#undef NAME
#endif
#define TARGET
#define NAME(what) portable_##what
#include "_interpret.h"
#include "_add.h"

static const struct {
    const char *name;
    Level level;
} LEVELS[] = {
#ifdef X86
    {"avx512", {avx512_run, avx512_compact, avx512_total, avx512_ternary, avx512_eight_bits}},
    {"avx2", {avx2_run, avx2_compact, avx2_total, avx2_ternary, avx2_eight_bits}},
#endif
    {"portable", {portable_run, portable_compact, portable_total, portable_ternary, portable_eight_bits}},
};

static int has(const char *level)
{
#ifdef X86
    __builtin_cpu_init();
    if (!strcmp(level, "avx512"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
            && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (!strcmp(level, "avx2")) return __builtin_cpu_supports("avx2");
#endif
    return !strcmp(level, "portable");
}

#include "_deliver.h"
#include "_pool.h"
#include "_step.h"
#include "_build.h"
#include "_async.h"

static void empty(Machine *m)
{
    for (Port *port = m->port; port < m->port + m->ports; port++)
        for (long slot = 0; slot < port->slots; slot++) {
            if (port->dirty[slot]) memset(port->sums + slot * port->neurons, 0, port->neurons * sizeof *port->sums);
            port->dirty[slot] = 0;
        }
    memset(m->due, 0, (size_t)RING * m->cores);
    for (long c = 0; c < m->cores; c++) atomic_store(&m->core[c].arrived, NULL);
    memset(m->result, 0, m->results * sizeof *m->result);
    m->trap.core = -1;
    atomic_store(&m->trapped, m->cores);
}

static int allocate(Machine *m)
{
    const long states = m->all_states;
    if (!(m->group = zeros(m->groups, sizeof *m->group)) || !(m->port = zeros(m->ports, sizeof *m->port))
        || !(m->entry = zeros(m->entries, sizeof *m->entry)) || !(m->sums = zeros(m->all_sums, sizeof *m->sums))
        || !(m->dirty = zeros(m->all_slots, 1)) || !(m->states = zeros(2 * states, sizeof *m->states))
        || !(m->sent = zeros(m->all_sent, sizeof *m->sent)) || !(m->due = zeros(RING * m->cores, 1))
        || !(m->result = zeros(m->results, sizeof *m->result))
        || !(m->item = zeros(2 * m->cores, sizeof *m->item)))
        return -1;
    m->all_sums = m->all_slots = m->all_states = m->all_sent = 0;
    return 0;
}

static int build(Machine *m, PyObject *cores, PyObject *targets)
{
    m->cores = (long)PyTuple_Size(cores);
    Sections *sections = zeros(m->cores, sizeof *sections);
    int failed = -1;
    if (!sections || !(m->core = zeros(m->cores, sizeof *m->core))
        || !(m->view = zeros(PARTS * m->cores + 3, sizeof *m->view)))
        goto done;
    for (long c = 0; c < m->cores; c++)
        if (read_core(m, PyTuple_GetItem(cores, c), c, &sections[c])) goto done;
    const int32_t *target = array_of(m, targets, NULL);
    if (!target || allocate(m)) goto done;
    long entries = 0;
    for (long c = 0; c < m->cores; c++) {
        build_core(m, &m->core[c], &sections[c], m->entry + entries, target + entries);
        entries += sections[c].bytes[OUT] / 16;
    }
    memcpy(m->states + m->all_states, m->states, m->all_states * sizeof *m->states);
    for (Entry *entry = m->entry; entry < m->entry + m->entries; entry++) aim(m, entry);
    failed = 0;
done:
    free(sections);
    return failed;
}

static int find_inert(Machine *m)
{
    void *room = NULL;
    if (posix_memalign(&room, 64, sizeof(Scratch))) {
        PyErr_NoMemory();
        return -1;
    }
    memset(room, 0, sizeof(Scratch));
    m->group[m->embed_group].embeds = 1;
    for (Group *g = m->group; g < m->group + m->groups; g++) {
        g->inert = !g->embeds && is_inert(m, g, room);
        m->core[g->core].always |= !g->inert && !g->embeds;
    }
    free(room);
    return 0;
}

static int machine_init(PyObject *self, PyObject *args, PyObject *names)
{
    Machine *m = (Machine *)self;
    PyObject *cores, *targets, *codes, *scales;
    const char *level;
    int payload_bits;
    if (m->core || !PyArg_ParseTuple(args, "O!O(iill)(OiOllll)s", &PyTuple_Type, &cores, &targets, &m->accumulator_bits,
                                     &payload_bits, &m->results, &m->threads, &codes, &m->code_bytes, &scales,
                                     &m->embed_group, &m->code_port, &m->scale_port, &m->mark_port, &level))
        return -1;
    m->most_payload = (int32_t)(((int64_t)1 << (payload_bits - 1)) - 1);
    m->threads = m->threads < 1 ? 1 : m->threads > MOST_THREADS ? MOST_THREADS : m->threads;
    for (size_t k = 0; k < sizeof LEVELS / sizeof *LEVELS; k++)
        if (!strcmp(LEVELS[k].name, level)) m->level = LEVELS[k].level;
    if (build(m, cores, targets)) return -1;
    if (!(m->codes = array_of(m, codes, NULL)) || !(m->scales = array_of(m, scales, NULL))) return -1;
    if (find_inert(m)) return -1;
    empty(m);
    return 0;
}

static void machine_free(PyObject *self)
{
    Machine *m = (Machine *)self;
    for (long c = 0; m->core && c < m->cores; c++) {
        free(m->core[c].stretch);
        free(m->core[c].nonzero);
    }
    while (m->views) PyBuffer_Release(&m->view[--m->views]);
    void *const all[] = {m->core, m->group, m->port, m->entry, m->view, m->sums, m->dirty,
                         m->states, m->sent, m->result, m->due, m->item};
    for (size_t k = 0; k < sizeof all / sizeof *all; k++) free(all[k]);
    PyTypeObject *type = Py_TYPE(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *trap_found(const Machine *m)
{
    const Trap *t = &m->trap;
    return Py_BuildValue("lllliii", t->core, t->group, t->neuron, t->instruction, t->op, (int)t->a, (int)t->b);
}

/* advance(tokens, marks, rows, first): a step for each token, -1 for none; the results of the steps from `first` on go to
   the rows.  None, or where it trapped. */
static PyObject *advance(PyObject *self, PyObject *args)
{
    Machine *m = (Machine *)self;
    Py_buffer tokens, marks, rows;
    long first;
    if (!PyArg_ParseTuple(args, "y*y*w*l", &tokens, &marks, &rows, &first)) return NULL;
    Pool pool;
    PyObject *result = NULL;
    int trapped = 0, stopped = 0;
    if (open_pool(&pool, m)) {
        PyErr_NoMemory();
        goto done;
    }
    const int32_t *token = tokens.buf, *mark = marks.buf;
    const long steps = (long)(tokens.len / (long)sizeof *token);
    int64_t *row = rows.buf;
    Py_BEGIN_ALLOW_THREADS
    for (long k = 0; k < steps && !trapped && !stopped; k++) {
        trapped = step(m, &pool, token[k], mark[k]);
        if (k >= first && !trapped) {
            memcpy(row, m->result, m->results * sizeof *row);
            row += m->results;
        }
        if (k % 16 == 15) {
            Py_BLOCK_THREADS
            stopped = PyErr_CheckSignals();
            Py_UNBLOCK_THREADS
        }
    }
    close_pool(&pool);
    Py_END_ALLOW_THREADS
    if (!stopped) result = trapped ? trap_found(m) : Py_NewRef(Py_None);
done:
    PyBuffer_Release(&tokens);
    PyBuffer_Release(&marks);
    PyBuffer_Release(&rows);
    return result;
}

/* asynchronous(tokens, marks, rows, order): the results of all tokens, without a barrier.  None, where it trapped, or the group
   that waits in vain. */
static PyObject *asynchronous(PyObject *self, PyObject *args)
{
    Machine *m = (Machine *)self;
    Py_buffer tokens, marks, rows;
    unsigned long long order;
    if (!PyArg_ParseTuple(args, "y*y*w*K", &tokens, &marks, &rows, &order)) return NULL;
    Async a = {.m = m, .token = tokens.buf, .mark = marks.buf, .tokens = (int64_t)(tokens.len / 4), .rows = rows.buf};
    a.drawn = (order + 1) * 0x9E3779B97F4A7C15ull | 1;
    Port *kept = zeros(m->ports, sizeof *kept);
    int64_t *sums = NULL;
    uint8_t *dirty = NULL;
    PyObject *result = NULL;
    Pool pool;
    if (kept && open_pool(&pool, m)) PyErr_NoMemory();
    else if (kept) {
        if (!open_async(&a, kept, &sums, &dirty)) {
            const int64_t step = m->step;
            int problem;
            a.scratch = pool.scratch;
            Py_BEGIN_ALLOW_THREADS
            problem = fall_through(&a);
            Py_END_ALLOW_THREADS
            m->step = step;
            memcpy(m->port, kept, m->ports * sizeof *kept);
            m->asynchronous = 0;
            if (problem == 0) result = Py_NewRef(Py_None);
            if (problem == 1) result = trap_found(m);
            if (problem == 2) {
                long group = 0;
                while (a.ran[group] > a.finished) group++;
                result = Py_BuildValue("ll", m->group[group].core, m->group[group].number);
            }
            if (problem < 0) PyErr_NoMemory();
        }
        close_pool(&pool);
    }
    close_async(&a);
    free(kept);
    free(sums);
    free(dirty);
    PyBuffer_Release(&tokens);
    PyBuffer_Release(&marks);
    PyBuffer_Release(&rows);
    return result;
}

static PyObject *reset(PyObject *self, PyObject *none)
{
    Machine *m = (Machine *)self;
    empty(m);
    memcpy(m->states, m->states + m->all_states, m->all_states * sizeof *m->states);
    Py_RETURN_NONE;
}

/* Copies bytes between an array of the emulator and one of Python that is as long. */
static PyObject *copied(PyObject *array, void *own, long bytes, int out)
{
    Py_buffer view;
    if (PyObject_GetBuffer(array, &view, out ? PyBUF_CONTIG : PyBUF_CONTIG_RO)) return NULL;
    if (out) memcpy(view.buf, own, bytes);
    else memcpy(own, view.buf, bytes);
    PyBuffer_Release(&view);
    Py_RETURN_NONE;
}

static PyObject *read_results(PyObject *self, PyObject *array)
{
    Machine *m = (Machine *)self;
    return copied(array, m->result, m->results * (long)sizeof *m->result, 1);
}

static PyObject *read_states(PyObject *self, PyObject *array)
{
    Machine *m = (Machine *)self;
    return copied(array, m->states, m->all_states * (long)sizeof *m->states, 1);
}

static PyObject *write_states(PyObject *self, PyObject *array)
{
    Machine *m = (Machine *)self;
    return copied(array, m->states, m->all_states * (long)sizeof *m->states, 0);
}

/* take_counts(groups [groups, 7], entries [entries, 2], cores [cores, 2]): fills them and begins anew. */
static PyObject *take_counts(PyObject *self, PyObject *args)
{
    Machine *m = (Machine *)self;
    Py_buffer groups, entries, cores;
    if (!PyArg_ParseTuple(args, "w*w*w*", &groups, &entries, &cores)) return NULL;
    int64_t *row = groups.buf;
    for (Group *g = m->group; g < m->group + m->groups; g++, row += 7) {
        const int64_t steps = g->inert ? m->step - m->counted - g->visited : 0, idle = steps * g->neurons;
        const int64_t counts[7] = {g->operations, g->synapses, g->executed + idle * (g->first_skip + 1),
                                   g->idle + idle, g->runs, g->saturated + steps * g->idle_saturated, g->wrapped};
        memcpy(row, counts, sizeof counts);
        g->operations = g->synapses = g->executed = g->idle = g->runs = g->saturated = g->wrapped = g->visited = 0;
    }
    row = entries.buf;
    for (Entry *entry = m->entry; entry < m->entry + m->entries; entry++) {
        *row++ = entry->messages;
        *row++ = entry->markers;
        entry->messages = entry->markers = 0;
    }
    row = cores.buf;
    for (Core *core = m->core; core < m->core + m->cores; core++) {
        *row++ = core->deliveries;
        *row++ = core->words;
        core->deliveries = core->words = 0;
    }
    m->counted = m->step;
    PyBuffer_Release(&groups);
    PyBuffer_Release(&entries);
    PyBuffer_Release(&cores);
    Py_RETURN_NONE;
}

static PyMethodDef machine_methods[] = {
    {"advance", advance, METH_VARARGS, "Some steps."},
    {"asynchronous", asynchronous, METH_VARARGS, "Tokens, without a barrier."},
    {"reset", reset, METH_NOARGS, "First states, and empty accumulators."},
    {"read_results", read_results, METH_O, "What the last step sent as result."},
    {"read_states", read_states, METH_O, "The states of all neurons."},
    {"write_states", write_states, METH_O, "Other states of all neurons."},
    {"take_counts", take_counts, METH_VARARGS, "What was counted since it was last taken."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot machine_slots[] = {
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, machine_init},
    {Py_tp_dealloc, machine_free},
    {Py_tp_methods, machine_methods},
    {0, NULL},
};

static PyType_Spec machine_spec = {
    .name = "mmfree_sims.emulator._emulator.Machine",
    .basicsize = sizeof(Machine),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = machine_slots,
};

static PyObject *supports(PyObject *module, PyObject *level)
{
    const char *name = PyUnicode_AsUTF8AndSize(level, NULL);
    return name ? PyBool_FromLong(has(name)) : NULL;
}

static PyMethodDef methods[] = {
    {"supports", supports, METH_O, "Whether this processor can run a level."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_emulator", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__emulator(void)
{
    PyObject *module = PyModule_Create(&definition), *machine = module ? PyType_FromSpec(&machine_spec) : NULL;
    if (!machine || PyModule_AddObjectRef(module, "Machine", machine)) Py_CLEAR(module);
    Py_XDECREF(machine);
    return module;
}
