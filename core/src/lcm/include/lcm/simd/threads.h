/* Threads: work that is cut into pieces, done by a small pool that persists.

  in_parallel(pieces, run, work)   run(work, piece, worker) for every piece, by all threads
  workers()                        how many workers there will be at most
  lcm_set_threads(threads)         how many threads there are, the calling one included

  Where the cut decides in which order numbers are added, it follows from the sizes alone, never from how many
  threads there are, and sums of pieces are added in the order of the pieces: the result is the same, bit for
  bit, with any number of threads. */
#ifndef LCM_SIMD_THREADS_H
#define LCM_SIMD_THREADS_H

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>
#include <lcm/simd/own.h>

enum {
  MOST_THREADS = 256,
  /* Nanoseconds that a thread waits awake, since to wake one that sleeps takes 10 to 40 µs: for another job
     after the last, as long as Python needs to come to the next kernel; and for the end of a job. */
  AWAKE_AFTER_A_JOB = 200000,
  AWAKE_IN_A_JOB = 1000000,
};

/* One piece of the work; `worker`, 0 … workers() - 1, is nobody else's while it runs. */
typedef void piece_fn(const void *work, int64_t piece, int worker);

/* The pool does one job at a time. Its gate is one number, so that it changes at one stroke: which job it is,
   how many workers it is open for, and how many of the pool's threads are inside. When a job is over its gate
   is closed, and what describes it belongs to the next one as soon as nobody is inside. */
static const uint64_t INSIDE = 0xffff, OPEN_FOR = 0xffff0000, A_WORKER = 1 << 16;
static const uint64_t A_JOB = UINT64_C(1) << 32;

static struct {
  _Alignas(64) atomic_ullong gate;
  _Alignas(64) atomic_llong next; /* the first piece that nobody has taken */
  _Alignas(64) piece_fn *run;
  const void *work;
  int64_t pieces;
  atomic_bool busy;         /* some thread's job is being done */
  atomic_bool awake;        /* threads may wait awake */
  atomic_int wanted;        /* threads, the one whose job it is included */
  atomic_int asleep;        /* workers */
  atomic_bool owner_asleep; /* the thread whose job it is */
  int started;              /* workers */
  bool prepared;            /* for forks */
  pthread_mutex_t lock;     /* for those who go to sleep */
  pthread_cond_t wake, left;
} pool = {
    .wanted = 1,
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .wake = PTHREAD_COND_INITIALIZER,
    .left = PTHREAD_COND_INITIALIZER,
};

/* An upper bound of the worker numbers that the next jobs' pieces will see, until this is asked again. */
static int workers(void) { return own.workers = atomic_load(&pool.wanted); }

/* Do pieces as long as there are any; false if this thread was interrupted, and nobody begins another one. */
static bool do_pieces(int worker) {
  for (;;) {
    if (interrupted()) {
      atomic_store(&pool.next, pool.pieces);
      return false;
    }
    const int64_t piece = atomic_fetch_add(&pool.next, 1);
    if (piece >= pool.pieces) return true;
    pool.run(pool.work, piece, worker);
  }
}

static int32_t do_alone(int64_t pieces, piece_fn *run, const void *work) {
  for (int64_t i = 0; i < pieces; i++) {
    if (interrupted()) return LCM_INTERRUPTED;
    run(work, i, 0);
  }
  return LCM_OK;
}

static int64_t nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Let others have this thread's processor for a moment, if it may wait awake at all. */
static bool stay_awake(void) { return atomic_load(&pool.awake) && !sched_yield(); }

/* Go inside if there is a job for this worker, other than the one that it has `seen`. */
static bool enter(int worker, uint64_t *seen) {
  unsigned long long gate = atomic_load(&pool.gate);
  while (gate / A_JOB != *seen && (uint64_t)worker < (gate & OPEN_FOR) / A_WORKER)
    if (atomic_compare_exchange_weak(&pool.gate, &gate, gate + 1)) {
      *seen = gate / A_JOB;
      return true;
    }
  return false;
}

static void leave(void) {
  const uint64_t before = atomic_fetch_sub(&pool.gate, 1);
  if ((before & (OPEN_FOR | INSIDE)) != 1 || !atomic_load(&pool.owner_asleep)) return;
  pthread_mutex_lock(&pool.lock);
  pthread_cond_signal(&pool.left);
  pthread_mutex_unlock(&pool.lock);
}

static void wait_to_enter(int worker, uint64_t *seen) {
  const int64_t start = nanoseconds();
  int64_t now = start, last_job = start;
  while (now < last_job + AWAKE_AFTER_A_JOB && now < start + AWAKE_IN_A_JOB && stay_awake()) {
    if (enter(worker, seen)) return;
    now = nanoseconds();
    if (atomic_load(&pool.busy)) last_job = now;
  }
  pthread_mutex_lock(&pool.lock);
  atomic_fetch_add(&pool.asleep, 1);
  while (!enter(worker, seen)) pthread_cond_wait(&pool.wake, &pool.lock);
  atomic_fetch_sub(&pool.asleep, 1);
  pthread_mutex_unlock(&pool.lock);
}

static void *worker_main(void *number) {
  for (uint64_t seen = 0;;) {
    wait_to_enter((int)(intptr_t)number, &seen);
    do_pieces((int)(intptr_t)number);
    leave();
  }
  return NULL;
}

static void open_gate(int threads) {
  const uint64_t job = atomic_load(&pool.gate) / A_JOB + 1;
  atomic_store(&pool.gate, job * A_JOB + (uint64_t)threads * A_WORKER);
  if (!atomic_load(&pool.asleep)) return;
  pthread_mutex_lock(&pool.lock);
  pthread_cond_broadcast(&pool.wake);
  pthread_mutex_unlock(&pool.lock);
}

/* Let nobody in any more, and wait until all have left. */
static void close_gate(void) {
  uint64_t gate = atomic_fetch_and(&pool.gate, ~OPEN_FOR);
  const int64_t latest = nanoseconds() + AWAKE_IN_A_JOB;
  while ((gate & INSIDE) && stay_awake() && nanoseconds() < latest) gate = atomic_load(&pool.gate);
  if (!(gate & INSIDE)) return;
  pthread_mutex_lock(&pool.lock);
  atomic_store(&pool.owner_asleep, true);
  while (atomic_load(&pool.gate) & INSIDE) pthread_cond_wait(&pool.left, &pool.lock);
  atomic_store(&pool.owner_asleep, false);
  pthread_mutex_unlock(&pool.lock);
}

/* In the child of a fork there is this thread alone, and whatever the others were about to do is void. */
static void begin_anew(void) {
  atomic_store(&pool.gate, 0);
  atomic_store(&pool.busy, false);
  atomic_store(&pool.asleep, 0);
  atomic_store(&pool.owner_asleep, false);
  pool.started = 0;
  pthread_mutex_init(&pool.lock, NULL);
  pthread_cond_init(&pool.wake, NULL);
  pthread_cond_init(&pool.left, NULL);
}

/* A worker gets no signals, which are for threads that may be waiting for them; but its own mistakes. */
static bool start_worker(int number) {
  sigset_t all, before;
  sigfillset(&all);
  sigdelset(&all, SIGSEGV);
  sigdelset(&all, SIGBUS);
  sigdelset(&all, SIGFPE);
  sigdelset(&all, SIGILL);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  const bool started = !pthread_create(&thread, NULL, worker_main, (void *)(intptr_t)number);
  if (started) pthread_detach(thread);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return started;
}

/* How many threads can do the work: as many as are wanted, or else as the system gives, which are then the
   wanted ones. */
static int start_workers(int wanted) {
  if (!pool.prepared) pool.prepared = !pthread_atfork(NULL, NULL, begin_anew);
  while (pool.prepared && pool.started < wanted - 1 && start_worker(pool.started + 1)) pool.started++;
  if (pool.started >= wanted - 1) return wanted;
  atomic_store(&pool.wanted, pool.started + 1);
  return pool.started + 1;
}

/* Do pieces 0 … pieces - 1, in any order, here and in the pool: LCM_OK when all are done, LCM_INTERRUPTED
   when this thread was told to stop. Another thread's job may hold the pool: this one then works alone. */
static int32_t in_parallel(int64_t pieces, piece_fn *run, const void *work) {
  int threads = atomic_load(&pool.wanted);
  if (own.workers && own.workers < threads) threads = own.workers; /* they were more since it asked */
  if (pieces < threads) threads = (int)pieces;
  if (threads < 2 || atomic_exchange(&pool.busy, true)) return do_alone(pieces, run, work);
  threads = start_workers(threads);
  pool.run = run;
  pool.work = work;
  pool.pieces = pieces;
  atomic_store(&pool.next, 0);
  open_gate(threads);
  const bool done = do_pieces(0);
  close_gate();
  atomic_store(&pool.busy, false);
  return done ? LCM_OK : LCM_INTERRUPTED;
}

#ifdef __linux__
#include <sys/syscall.h>

/* The processors that this thread may run on. */
static int usable_processors(void) {
  uint64_t mask[128] = {0}; /* for 8,192 */
  if (syscall(SYS_sched_getaffinity, 0, sizeof mask, mask) < 0) return 1;
  int count = 0;
  for (int i = 0; i < 128; i++) count += __builtin_popcountll(mask[i]);
  return count;
}
#else
static int usable_processors(void) { return (int)sysconf(_SC_NPROCESSORS_ONLN); }
#endif

EXPORT void lcm_set_threads(int32_t threads) {
  const int wanted = threads < 1 ? 1 : threads > MOST_THREADS ? MOST_THREADS : threads;
  atomic_store(&pool.awake, wanted <= usable_processors()); /* or they would hold each other up */
  atomic_store(&pool.wanted, wanted);
  own.workers = 0;
}

#endif
