/* The most that multiply-adds of 8-bit numbers can do here: prints {"vnni": …, "amx": …}, in 10^9 operations a
 * second by as many threads as the argument says; null for what the processor or the compiler lacks.
 *
 *   cc -O3 -march=native -pthread int8_peak.c -o int8_peak && ./int8_peak 2
 *
 * A multiply-add is two operations. Nothing is read but registers. */
#define _GNU_SOURCE
#include <immintrin.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { CHAINS = 12, TRIES = 30, MOST_THREADS = 256 };
static const int64_t rounds = 1000000;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

#ifdef __AVX512VNNI__
static void *vnni(void *unused) {
  __m512i sums[CHAINS], x = _mm512_set1_epi8(1), y = _mm512_set1_epi8(2);
  for (int i = 0; i < CHAINS; i++) sums[i] = _mm512_setzero_si512();
  for (int64_t n = 0; n < rounds; n++) {
    for (int i = 0; i < CHAINS; i++) sums[i] = _mm512_dpbusd_epi32(sums[i], x, y);
    __asm__ volatile("" : "+v"(x), "+v"(y)); /* or the loop would be one multiplication */
  }
  for (int i = 1; i < CHAINS; i++) sums[0] = _mm512_add_epi32(sums[0], sums[i]);
  __asm__ volatile("" : : "v"(sums[0]));
  return unused;
}
static const double vnni_operations = 2. * 64 * CHAINS;
#endif

#ifdef __AMX_INT8__
enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };

static void *amx(void *unused) {
  struct { uint8_t palette, start, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; } tiles;
  memset(&tiles, 0, sizeof tiles);
  tiles.palette = 1;
  for (int i = 0; i < 8; i++) tiles.bytes[i] = 64, tiles.rows[i] = 16;
  __asm__ volatile("" : : "r"(&tiles) : "memory"); /* GCC 12 takes the next for a reader of 8 bytes alone */
  _tile_loadconfig(&tiles);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (int64_t n = 0; n < rounds / 8; n++) {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  _tile_release();
  return unused;
}
static const double amx_operations = 2. * 16 * 16 * 64 * 4 / 8;
#endif

/* Operations of all threads in the best of some tries, in 10^9 a second. */
static double rate(void *(*work)(void *), double operations, int threads) {
  double best = 1e9;
  for (int try = 0; try < TRIES; try++) {
    pthread_t others[MOST_THREADS];
    const double started = now();
    for (int i = 1; i < threads; i++) pthread_create(&others[i], NULL, work, NULL);
    work(NULL);
    for (int i = 1; i < threads; i++) pthread_join(others[i], NULL);
    if (now() - started < best) best = now() - started;
  }
  return threads * operations * rounds / best / 1e9;
}

int main(int count, char **arguments) {
  const int threads = count > 1 ? atoi(arguments[1]) : 1;
  if (threads < 1 || threads > MOST_THREADS) return fprintf(stderr, "threads: 1 to %d\n", MOST_THREADS), 2;
  char vnni_found[32] = "null", amx_found[32] = "null";
#ifdef __AVX512VNNI__
  snprintf(vnni_found, sizeof vnni_found, "%.1f", rate(vnni, vnni_operations, threads));
#endif
#ifdef __AMX_INT8__
  if (syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0)
    snprintf(amx_found, sizeof amx_found, "%.1f", rate(amx, amx_operations, threads));
#endif
  printf("{\"vnni\": %s, \"amx\": %s}\n", vnni_found, amx_found);
  return 0;
}
