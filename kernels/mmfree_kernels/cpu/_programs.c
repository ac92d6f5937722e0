/* Runs neuron programs (mmfree_neuro.graph.recorder) on 32-bit lanes; mmfree_kernels.cpu.programs is its Python face.

   run(code, immediates, constants, tables, (values, slopes, segment_bits), registers, neurons, tokens,
       inputs, state, outputs, slot, events, saturated, threads, level)

   Arrays come by the buffer protocol and are trusted to have the sizes that the Python face gives them.  `inputs` is a
   flat tuple of array, offset, token stride and lane stride, in elements; `slot` says for each token in which row of
   events and saturated it counts.  A program reads its tables only where
   `verify` has proved every index to lie inside. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MANY 256 /* lanes at a time: the registers of a program stay in the first cache */
#define FEW 16
#define WIDTH 7
#define MOST 64
#define MOST_THREADS 64
#define SIGMOID_FRAC 11
#define SIGMOID_BITS 15
#define GATE_FRAC 20

enum { INPUT, ADD, SUB, NEG, ABS, MIN, MAX, LESS, AND, SHL, SELECT, LOOKUP, MUL_SHR, MUL_ROUND, FIT, MUL_FIT, SIGMOID,
       OUTPUT, LOAD, STORE };

typedef struct {
    const int32_t *data;
    long token_stride, lane_stride;
} Stream;

typedef struct {
    const int32_t *code;
    long instructions, registers, neurons, tokens;
    int immediates, constants, segment_bits;
    const int32_t *immediate, *constant[MOST], *table[MOST], *values, *slopes;
    Stream input[MOST];
    int32_t *state, *output[MOST];         /* state [slots, neurons] */
    const int32_t *slot;                   /* [tokens] */
    int32_t *events[MOST], *saturated;     /* each [slots, neurons] */
} Job;

#if defined(__clang__)
#define IVDEP _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define IVDEP _Pragma("GCC ivdep")
#else
#define IVDEP
#endif

#if defined(__x86_64__) && defined(__GNUC__)
#define X86 1
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")))
#define LANES MANY
#define NAME avx512_many
#include "_programs_run.h"
#define LANES FEW
#define NAME avx512_few
#include "_programs_run.h"
#undef TARGET
#define TARGET __attribute__((target("avx2")))
#define LANES MANY
#define NAME avx2_many
#include "_programs_run.h"
#define LANES FEW
#define NAME avx2_few
#include "_programs_run.h"
#undef TARGET
#endif
#define TARGET
#define LANES MANY
#define NAME portable_many
#include "_programs_run.h"
#define LANES FEW
#define NAME portable_few
#include "_programs_run.h"

typedef void (*Run)(const Job *, int32_t *, long, long);

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

static Run chosen(const char *level, long neurons)
{
    const int few = neurons <= FEW;
#ifdef X86
    if (!strcmp(level, "avx512")) return few ? avx512_few : avx512_many;
    if (!strcmp(level, "avx2")) return few ? avx2_few : avx2_many;
#endif
    return few ? portable_few : portable_many;
}

typedef struct {
    const Job *job;
    Run run;
    int32_t *registers;
    long first, last;
} Part;

static void *work(void *part_)
{
    Part *part = part_;
    part->run(part->job, part->registers, part->first, part->last);
    return NULL;
}

static void spread(const Job *job, Run run, int32_t *registers, int threads)
{
    Part parts[MOST_THREADS];
    pthread_t started[MOST_THREADS];
    const long blocks = (job->neurons + MANY - 1) / MANY;
    if (threads > blocks) threads = (int)blocks;
    int running = 0;
    for (int n = 0; n < threads; n++) {
        const long first = blocks * n / threads * MANY, last = blocks * (n + 1) / threads * MANY;
        parts[n] = (Part){job, run, registers + n * job->registers * MANY, first,
                          last < job->neurons ? last : job->neurons};
        if (n + 1 == threads || pthread_create(&started[running], NULL, work, &parts[n]))
            work(&parts[n]);
        else
            running++;
    }
    while (running) pthread_join(started[--running], NULL);
}

typedef struct {
    Py_buffer views[8 * MOST];
    int used;
} Views;

static void *view(Views *views, PyObject *object, int writable)
{
    if (views->used == 8 * MOST) {
        PyErr_SetString(PyExc_ValueError, "a program has too many arrays");
        return NULL;
    }
    Py_buffer *buffer = &views->views[views->used];
    if (PyObject_GetBuffer(object, buffer, writable ? PyBUF_CONTIG : PyBUF_CONTIG_RO)) return NULL;
    views->used++;
    return buffer->buf;
}

static int view_all(Views *views, PyObject *tuple, const void **into, int writable)
{
    const Py_ssize_t count = PyTuple_Size(tuple);
    for (Py_ssize_t k = 0; k < count; k++)
        if (!(into[k] = view(views, PyTuple_GetItem(tuple, k), writable))) return -1;
    return 0;
}

static int fill(Job *job, Views *views, PyObject *const *args)
{
    const Py_ssize_t inputs = PyTuple_Size(args[8]) / 4;
    for (int k = 2; k <= 12; k++)
        if (k != 4 && PyTuple_Check(args[k]) && PyTuple_Size(args[k]) > (k == 8 ? 4 * MOST : MOST)) {
            PyErr_SetString(PyExc_ValueError, "a program has too many arrays");
            return -1;
        }
    if (!(job->code = view(views, args[0], 0))) return -1;
    job->instructions = views->views[0].len / (WIDTH * (long)sizeof(int32_t));
    if (!(job->immediate = view(views, args[1], 0))) return -1;
    job->immediates = (int)(views->views[1].len / (long)sizeof(int32_t));
    job->constants = (int)PyTuple_Size(args[2]);
    if (view_all(views, args[2], (const void **)job->constant, 0)) return -1;
    if (view_all(views, args[3], (const void **)job->table, 0)) return -1;
    if (!(job->values = view(views, PyTuple_GetItem(args[4], 0), 0))) return -1;
    if (!(job->slopes = view(views, PyTuple_GetItem(args[4], 1), 0))) return -1;
    job->segment_bits = (int)PyLong_AsLong(PyTuple_GetItem(args[4], 2));
    job->registers = PyLong_AsLong(args[5]);
    job->neurons = PyLong_AsLong(args[6]);
    job->tokens = PyLong_AsLong(args[7]);
    for (Py_ssize_t k = 0; k < inputs; k++) {
        const int32_t *data = view(views, PyTuple_GetItem(args[8], 4 * k), 0);
        if (!data) return -1;
        long entry[3];
        for (int i = 0; i < 3; i++) entry[i] = PyLong_AsLong(PyTuple_GetItem(args[8], 4 * k + 1 + i));
        job->input[k] = (Stream){data + entry[0], entry[1], entry[2]};
    }
    job->state = args[9] == Py_None ? NULL : view(views, args[9], 1);
    if (view_all(views, args[10], (const void **)job->output, 1)) return -1;
    if (!(job->slot = view(views, args[11], 0))) return -1;
    if (view_all(views, args[12], (const void **)job->events, 1)) return -1;
    job->saturated = view(views, args[13], 1);
    return PyErr_Occurred() ? -1 : 0;
}

static PyObject *run(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 16) {
        PyErr_SetString(PyExc_TypeError, "run takes 16 arguments");
        return NULL;
    }
    Job job = {0};
    Views views;
    views.used = 0;
    int32_t *registers = NULL;
    PyObject *result = NULL;
    const char *level = PyUnicode_AsUTF8AndSize(args[15], NULL);
    long threads = PyLong_AsLong(args[14]);
    if (!level || fill(&job, &views, args)) goto done;
    threads = threads < 1 ? 1 : threads > MOST_THREADS ? MOST_THREADS : threads;
    registers = malloc((size_t)threads * job.registers * MANY * sizeof *registers);
    if (!registers) {
        PyErr_NoMemory();
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS
    spread(&job, chosen(level, job.neurons), registers, (int)threads);
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);
done:
    free(registers);
    while (views.used) PyBuffer_Release(&views.views[--views.used]);
    return result;
}

static PyObject *supports(PyObject *module, PyObject *level)
{
    const char *name = PyUnicode_AsUTF8AndSize(level, NULL);
    return name ? PyBool_FromLong(has(name)) : NULL;
}

static PyMethodDef methods[] = {
    {"run", (PyCFunction)(void (*)(void))run, METH_FASTCALL, "Run a program."},
    {"supports", supports, METH_O, "Whether this processor can run a level."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_programs", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__programs(void)
{
    return PyModule_Create(&definition);
}
