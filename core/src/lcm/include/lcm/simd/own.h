/* What a thread keeps from kernel to kernel: its scratch memory, and whom it asks whether to go on.

  scratch(bytes)        memory for the kernel that runs
  interrupted()         whether the kernel shall stop; asks a few times a second, else it costs 10 ns
  lcm_set_poll(poll)    whom the calling thread asks */
#ifndef LCM_SIMD_OWN_H
#define LCM_SIMD_OWN_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <lcm/ops.h>

#ifndef EXPORT
#define EXPORT __attribute__((visibility("default")))
#endif

enum { POLL_EVERY = 100 /* milliseconds: who is asked may have to wait for 5 of them until it can answer */ };

typedef struct {
  void *memory; /* scratch */
  size_t bytes;
  int workers;           /* what workers() said last; 0: it was not asked */
  int32_t (*poll)(void); /* not 0: stop */
  int64_t polled;        /* when, in milliseconds */
} own_t;

static _Thread_local own_t own;

static pthread_key_t own_key; /* by which free_own is called when a thread ends */
static pthread_once_t own_once = PTHREAD_ONCE_INIT;
static bool own_key_made;

static void free_own(void *value) {
  own_t *mine = value;
  free(mine->memory);
  *mine = (own_t){0};
}

static void make_own_key(void) { own_key_made = !pthread_key_create(&own_key, free_own); }

/* Memory for the kernel that the calling thread runs, aligned to 64 bytes, uninitialised; NULL if there is
   none. A kernel asks once, for all that it needs; the memory is the thread's until its next kernel. */
static void *scratch(size_t bytes) {
  if (own.memory && bytes <= own.bytes) return own.memory;
  free(own.memory);
  own.memory = NULL;
  own.bytes = bytes < 4096 ? 4096 : (bytes + 4095) & ~(size_t)4095;
  if (own.bytes < bytes) return NULL;
  pthread_once(&own_once, make_own_key);
  if (!own_key_made || pthread_setspecific(own_key, &own)) return NULL;
  return own.memory = aligned_alloc(64, own.bytes);
}

#ifdef CLOCK_MONOTONIC_COARSE
#define CLOCK_OF_POLLS CLOCK_MONOTONIC_COARSE /* 5 ns, and true to 10 ms */
#else
#define CLOCK_OF_POLLS CLOCK_MONOTONIC
#endif

/* Whether the kernel that the calling thread runs shall return LCM_INTERRUPTED. Who is asked may run kernels
   in this thread before it answers: they have memory of their own, and ask nobody. */
static bool interrupted(void) {
  if (!own.poll) return false;
  struct timespec now;
  clock_gettime(CLOCK_OF_POLLS, &now);
  const int64_t milliseconds = now.tv_sec * INT64_C(1000) + now.tv_nsec / 1000000;
  if (milliseconds - own.polled < POLL_EVERY) return false;
  own_t mine = own;
  own = (own_t){0};
  const bool stop = mine.poll() != 0;
  free(own.memory);
  mine.polled = milliseconds;
  own = mine;
  return stop;
}

/* From now on the calling thread asks `poll`; NULL: nobody. */
EXPORT void lcm_set_poll(int32_t (*poll)(void)) { own.poll = poll; }

#endif
