/* Threads: work that is cut into pieces, done by a small pool that persists.

   Work is cut by its sizes alone, never by how many threads there are, and sums of pieces are added in the order
   of the pieces: the result is the same, bit for bit, with any number of threads. */
#ifndef LCM_SIMD_THREADS_H
#define LCM_SIMD_THREADS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <lcm/ops.h>

enum { MOST_THREADS = 256 };

/* One piece of the work; `worker`, 0 … workers() - 1, is nobody else's while it runs. */
typedef void piece_fn(const void *work, int64_t piece, int worker);

typedef struct {
  piece_fn *run;
  const void *work;
  int64_t pieces;
  atomic_llong next;
} job_t;

static struct {
  pthread_mutex_t lock, busy; /* busy: held by the thread whose job the pool does */
  pthread_cond_t wake, idle;
  int wanted, started, running;
  uint64_t jobs; /* how many there were */
  job_t *job;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER,
          .busy = PTHREAD_MUTEX_INITIALIZER,
          .wake = PTHREAD_COND_INITIALIZER,
          .idle = PTHREAD_COND_INITIALIZER,
          .wanted = 1};

/* An upper bound of the worker numbers that the next job's pieces will see. */
static int workers(void) { return pool.wanted; }

static void do_pieces(job_t *job, int worker) {
  for (int64_t i; (i = atomic_fetch_add(&job->next, 1)) < job->pieces;) job->run(job->work, i, worker);
}

static void *worker_main(void *number) {
  const int worker = (int)(intptr_t)number;
  uint64_t seen = 0;
  pthread_mutex_lock(&pool.lock);
  for (;;) {
    while (pool.jobs == seen || worker >= pool.wanted || !pool.job) {
      seen = pool.jobs;
      pthread_cond_wait(&pool.wake, &pool.lock);
    }
    seen = pool.jobs;
    job_t *job = pool.job;
    pool.running++;
    pthread_mutex_unlock(&pool.lock);
    do_pieces(job, worker);
    pthread_mutex_lock(&pool.lock);
    if (--pool.running == 0) pthread_cond_signal(&pool.idle);
  }
  return NULL;
}

/* Do pieces 0 … pieces - 1, in any order, here and in the pool; LCM_OK when all are done. Another thread's job
   may hold the pool: this one then does all its pieces itself. */
static int32_t in_parallel(int64_t pieces, piece_fn *run, const void *work) {
  job_t job = {run, work, pieces, 0};
  if (pieces < 2 || pool.wanted < 2 || pthread_mutex_trylock(&pool.busy)) {
    do_pieces(&job, 0);
    return LCM_OK;
  }
  pthread_mutex_lock(&pool.lock);
  for (; pool.started < pool.wanted - 1; pool.started++) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, worker_main, (void *)(intptr_t)(pool.started + 1))) break;
    pthread_detach(thread);
  }
  pool.job = &job;
  pool.jobs++;
  pthread_cond_broadcast(&pool.wake);
  pthread_mutex_unlock(&pool.lock);
  do_pieces(&job, 0);
  pthread_mutex_lock(&pool.lock);
  pool.job = NULL;
  while (pool.running) pthread_cond_wait(&pool.idle, &pool.lock);
  pthread_mutex_unlock(&pool.lock);
  pthread_mutex_unlock(&pool.busy);
  return LCM_OK;
}

/* Memory for the kernel that the calling thread runs, aligned to 64 bytes, uninitialised; NULL if there is none.
   A kernel asks once, for all that it needs; the memory is the thread's until its next kernel. */
static void *scratch(size_t bytes) {
  static _Thread_local struct {
    void *memory;
    size_t bytes;
  } mine;
  if (bytes > mine.bytes) {
    free(mine.memory);
    mine.bytes = (bytes + 4095) / 4096 * 4096;
    mine.memory = aligned_alloc(64, mine.bytes);
    if (!mine.memory) mine.bytes = 0;
  }
  return mine.memory;
}

__attribute__((visibility("default"))) void lcm_set_threads(int32_t threads) {
  pool.wanted = threads < 1 ? 1 : threads > MOST_THREADS ? MOST_THREADS : threads;
}

#endif
