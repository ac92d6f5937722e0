/* What the emulator knows of a machine: records of its cores, groups, ports and output entries.

   Arrays of the image are read where its files are mapped; what changes is the emulator's own. */

#define LANES 256 /* neurons that are run together: their registers stay in the second cache */
#define RING 128  /* steps that are told apart: more than the longest delay */
#define OUTPUTS 16
#define STATE_ROW 192 /* rows before it: registers, immediates, constants */
#define ROWS 195      /* and two for a state after the step: what it is, and which */

#define THE_REST 255   /* what a SKP_C skips that skips all that follows */
#define OWN_STATES 255 /* where a MOV reads that reads the neuron's states */
enum { RDC = 1, RMW, MOV, SEL, AND, OR, SHL, ADD, NEG, MIN, MUL_SHR, LT, GE, EQ, SKP_C, SPIKE };
enum { ALL_ONES = 1, TERNARY, EIGHT_BITS };

typedef struct {
    long group, neurons, slots;
    int64_t *sums;  /* [slots, neurons], exact */
    uint8_t *dirty; /* [slots]: whether anything was added */
} Port;

typedef struct Entry {
    struct Entry *next;     /* behind it among what a core has to take in this step */
    const int32_t *payload; /* of its neurons, where their group writes them; NULL: nobody sends it */
    long core;              /* that takes it, or -1 for a result */
    long group, count, axon, stretch, words;
    int64_t messages, markers;
} Entry;

typedef struct {
    long core, number, neurons, instructions, ports, entries, tables;
    const uint64_t *code;
    Port *port;
    Entry *entry;
    int immediates, constants, outputs;
    const int32_t *immediate, *constant, *table;
    const uint32_t *table_rows;
    long states;
    int32_t *state; /* [states, neurons]; NULL: none */
    int32_t *sent[OUTPUTS];
    int embeds;
    int inert;               /* it answers empty accumulators with nothing, whatever its states are */
    long first_skip;         /* the instruction, if it skips to the end of the program; else -1 */
    int64_t idle_saturated;  /* values that an inert group saturates in an idle step */
    int64_t visited;         /* steps in which it really ran, since counts were taken */
    int64_t operations, synapses, executed, idle, runs, saturated, wrapped;
} Group;

/* Neighbouring axons with the same lists, but for offsets that may grow by one from axon to axon. */
typedef struct {
    uint32_t axon, axons, lists, stride; /* words of the lists of one axon */
    uint64_t word, list;                 /* where the first one's lists are in SYN, and among all lists of the core */
} Stretch;

typedef struct {
    long chip, number;
    long group, groups, port;
    long effort; /* of running its groups: instructions times vectors of neurons */
    int always;  /* whether some group runs at every step */
    const uint64_t *syn;
    long stretches;
    Stretch *stretch;
    uint16_t *nonzero; /* weights of each list */
    _Atomic(Entry *) arrived;
    int64_t deliveries, words;
} Core;

typedef struct {
    long core, group, neuron, instruction; /* core -1: none */
    int op;
    int32_t a, b;
} Trap;

typedef struct {
    int32_t row[ROWS][LANES];
    int32_t live[LANES];  /* -1 where the instruction is executed, else 0 */
    int32_t until[LANES]; /* the instruction that a neuron skips to */
    int32_t which[LANES], value[LANES];
} __attribute__((aligned(64))) Scratch;

typedef struct Machine Machine;

typedef struct {
    int (*run)(const Machine *, Group *, Scratch *, long, long, Trap *);
    long (*compact)(const int32_t *, long, long, int32_t *, int32_t *, int64_t *);
    int64_t (*total)(const uint16_t *, const int32_t *, long, long, int);
    void (*ternary)(const uint64_t *, long, const int32_t *, const int32_t *, long, int64_t *, long, int);
    void (*eight_bits)(const uint64_t *, long, const int32_t *, const int32_t *, long, int64_t *, long, int);
} Level;

struct Machine {
    PyObject_HEAD
    Level level;
    long cores, groups, ports, entries, results, threads;
    int accumulator_bits;
    int32_t most_payload;
    Core *core;
    Group *group;
    Port *port;
    Entry *entry;
    Py_buffer *view;
    long views;
    int64_t *sums;
    long all_sums;
    uint8_t *dirty;
    long all_slots;
    int32_t *states; /* and behind them those before the first token */
    long all_states;
    int32_t *sent;
    long all_sent;
    int64_t *result;
    uint8_t *due; /* [RING, cores]: whether anything arrived for that step */
    _Atomic int result_sent;
    int64_t step, counted; /* the next step, and the first one that is not counted yet */
    const uint8_t *codes;
    int code_bytes;
    const int32_t *scales;
    long embed_group, code_port, scale_port, mark_port; /* mark_port -1: none */
    int asynchronous; /* while there is no barrier */
    long *item; /* cores that a phase is about */
    _Atomic long arrivals;
    _Atomic int64_t work;
    _Atomic long trapped; /* the first core of a trap; behind all cores where there is none */
    atomic_flag trap_lock;
    Trap trap;
};
