/* A few threads that share the cores of a phase among them, for as long as the machine is advanced.

   A ticket is the number of the phase and how many cores nobody has taken yet, in one word: whoever takes a core by
   compare-and-swap knows that it belongs to the phase that is going on, and the phase ends when all cores are done. */

#define MOST_THREADS 64
#define WORTH_SHARING 8000 /* words of lists, or instructions times vectors: some microseconds */
#define SPINS 4000         /* looks for work before a thread goes to sleep */

typedef void (*Work)(Machine *, long, Scratch *);

typedef struct {
    Machine *machine;
    long threads, started;
    pthread_t thread[MOST_THREADS];
    Scratch *scratch; /* [threads] */
    Work work;
    const long *item;
    long items;
    uint32_t phase;
    _Atomic uint64_t ticket;
    _Atomic long done, sleeping;
    _Atomic int ends;
    pthread_mutex_t lock;
    pthread_cond_t more;
} Pool;

typedef struct {
    Pool *pool;
    long number;
} Helper;

static inline void breathe(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* Works on cores while there are any. */
static void help(Pool *pool, Scratch *scratch)
{
    uint64_t ticket = atomic_load(&pool->ticket);
    while (ticket & 0xFFFFFFFF)
        if (atomic_compare_exchange_weak(&pool->ticket, &ticket, ticket - 1)) {
            const long place = pool->items - (long)(ticket & 0xFFFFFFFF);
            pool->work(pool->machine, pool->item[place], scratch);
            atomic_fetch_add(&pool->done, 1);
            ticket = atomic_load(&pool->ticket);
        }
}

static void *helper(void *given)
{
    Helper *self = given;
    Pool *pool = self->pool;
    Scratch *scratch = pool->scratch + self->number;
    free(self);
    while (!atomic_load(&pool->ends)) {
        for (long k = 0; k < SPINS && !(atomic_load(&pool->ticket) & 0xFFFFFFFF) && !atomic_load(&pool->ends); k++)
            breathe();
        help(pool, scratch);
        pthread_mutex_lock(&pool->lock);
        atomic_fetch_add(&pool->sleeping, 1);
        /* A phase that begins behind this look sees that somebody sleeps. */
        if (!(atomic_load(&pool->ticket) & 0xFFFFFFFF) && !atomic_load(&pool->ends))
            pthread_cond_wait(&pool->more, &pool->lock);
        atomic_fetch_sub(&pool->sleeping, 1);
        pthread_mutex_unlock(&pool->lock);
    }
    return NULL;
}

static void wake(Pool *pool)
{
    if (!atomic_load(&pool->sleeping)) return;
    pthread_mutex_lock(&pool->lock);
    pthread_cond_broadcast(&pool->more);
    pthread_mutex_unlock(&pool->lock);
}

static void start(Pool *pool)
{
    while (pool->started < pool->threads - 1) {
        Helper *given = malloc(sizeof *given);
        if (!given) break;
        *given = (Helper){pool, pool->started + 1};
        if (pthread_create(&pool->thread[pool->started], NULL, helper, given)) {
            free(given);
            break;
        }
        pool->started++;
    }
    if (pool->started < pool->threads - 1) pool->threads = pool->started + 1;
}

/* Does the work on all items, each core by one thread. */
static void spread(Pool *pool, Work work, const long *item, long items, int64_t amount)
{
    if (pool->threads == 1 || items < 2 || amount < WORTH_SHARING) {
        for (long k = 0; k < items; k++) work(pool->machine, item[k], pool->scratch);
        return;
    }
    if (!pool->started) start(pool);
    pool->work = work;
    pool->item = item;
    pool->items = items;
    atomic_store(&pool->done, 0);
    pool->phase++;
    atomic_store(&pool->ticket, (uint64_t)pool->phase << 32 | (uint64_t)items);
    wake(pool);
    help(pool, pool->scratch);
    for (long k = 0; atomic_load(&pool->done) < items; k++)
        if (k < SPINS)
            breathe();
        else
            sched_yield();
}

static int open_pool(Pool *pool, Machine *m)
{
    memset(pool, 0, sizeof *pool);
    pool->machine = m;
    pool->threads = m->threads;
    void *room = NULL;
    if (posix_memalign(&room, 64, m->threads * sizeof(Scratch))) return -1;
    pool->scratch = memset(room, 0, m->threads * sizeof(Scratch));
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->more, NULL);
    return 0;
}

static void close_pool(Pool *pool)
{
    atomic_store(&pool->ends, 1);
    wake(pool);
    while (pool->started) pthread_join(pool->thread[--pool->started], NULL);
    pthread_cond_destroy(&pool->more);
    pthread_mutex_destroy(&pool->lock);
    free(pool->scratch);
}
