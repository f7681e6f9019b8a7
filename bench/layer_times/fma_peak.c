/* Peak rate of float32 multiply-adds of one core, in FLOPs a second.
 *
 * Independent accumulators hide the latency of the operation; they and two constants fit into the
 * registers of the instruction set.
 */
#include <stdint.h>
#include <time.h>

#if defined(__AVX512F__)
enum { BYTES = 64, CHAINS = 16 };
#elif defined(__AVX__)
enum { BYTES = 32, CHAINS = 12 };
#else
enum { BYTES = 16, CHAINS = 12 };
#endif

typedef float Vector __attribute__((vector_size(BYTES)));

static double now_s(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

double fma_peak(int32_t loops, int32_t repeats) {
  Vector sums[CHAINS], factor, term;
  for (int lane = 0; lane < BYTES / 4; lane++) {
    factor[lane] = 0.999f;
    term[lane] = 1e-3f;
    for (int i = 0; i < CHAINS; i++) sums[i][lane] = (float)(i + lane);
  }
  double best_s = 1e9;
  for (int repeat = 0; repeat < repeats; repeat++) {
    double began_s = now_s();
    for (int loop = 0; loop < loops; loop++) {
#pragma GCC unroll 16
      for (int i = 0; i < CHAINS; i++) sums[i] = sums[i] * factor + term;
    }
    double taken_s = now_s() - began_s;
    if (taken_s < best_s) best_s = taken_s;
  }
  volatile float kept = 0; /* so that the loops are not removed */
  for (int i = 0; i < CHAINS; i++) kept += sums[i][0];
  return 2.0 * (BYTES / 4) * CHAINS * loops / best_s;
}
