// CUDA's device side on a CPU: enough to run the kernels that TVM generates, compiled as C++.
//
// The blocks of a grid run one after another; the threads of a block are coroutines that switch
// only at barriers and warp shuffles. Shared memory can therefore be static.
#include <ucontext.h>

#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#define __global__
#define __launch_bounds__(...)
#define CUDART_INF_F __builtin_huge_valf()
using uchar = unsigned char;

template <class T> struct Vector2 { T x, y; };
template <class T> struct Vector3 { T x, y, z; };
template <class T> struct Vector4 { T x, y, z, w; };
using float2 = Vector2<float>;
using float4 = Vector4<float>;
using int2 = Vector2<int>;
using int4 = Vector4<int>;
using ushort2 = Vector2<unsigned short>;
using ushort4 = Vector4<unsigned short>;
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }

template <class A, class B> static auto max(A a, B b) {
  if constexpr (std::is_floating_point_v<A>) return fmaxf(a, b); else return a > b ? a : b;
}
template <class A, class B> static auto min(A a, B b) {
  if constexpr (std::is_floating_point_v<A>) return fminf(a, b); else return a < b ? a : b;
}

static Vector3<int> threadIdx, blockIdx;

enum State { kReady, kAtBarrier, kAtShuffle, kDone };
struct Thread {
  ucontext_t start;
  jmp_buf resume;
  bool started;
  State state;
  Vector3<int> index;
  char* stack;
};
constexpr int kMaxThreads = 1024, kWarp = 32, kStackBytes = 1 << 16;
static Thread threads[kMaxThreads];
static jmp_buf scheduler;
static volatile int current;
// What each lane offers, and what the lanes of a warp see once all of them have offered.
static uint64_t offered[kMaxThreads], seen[kMaxThreads];
static void (*kernel)(void**);
static void** arguments;

static void pause_as(State state) {
  threads[current].state = state;
  if (!_setjmp(threads[current].resume)) _longjmp(scheduler, 1);
}
static void run_thread() {
  kernel(arguments);
  pause_as(kDone);
}
static void __syncthreads() { pause_as(kAtBarrier); }
static unsigned __activemask() { return ~0u; }

template <class T> static T shuffle(T value, int lane) {
  const int self = current;
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  offered[self] = bits;
  pause_as(kAtShuffle);
  memcpy(&value, &seen[self / kWarp * kWarp + lane], sizeof value);
  return value;
}
template <class T> static T __shfl_sync(unsigned, T value, int lane, int width) {
  return shuffle(value, current % kWarp / width * width + lane % width);
}
template <class T> static T __shfl_down_sync(unsigned, T value, int by, int width) {
  const int lane = current % kWarp;
  return shuffle(value, lane % width + by < width ? lane + by : lane);
}
template <class T> static T __shfl_up_sync(unsigned, T value, int by, int width) {
  const int lane = current % kWarp;
  return shuffle(value, lane % width >= by ? lane - by : lane);
}

static bool release(int count, State waiting) {
  bool any = false;
  for (int i = 0; i < count; ++i) {
    if (threads[i].state != waiting) continue;
    threads[i].state = kReady;
    any = true;
  }
  return any;
}

static void run_block(int count) {
  for (;;) {
    for (volatile int i = 0; i < count; ++i) {
      if (threads[i].state != kReady) continue;
      current = i;
      threadIdx = threads[i].index;
      if (_setjmp(scheduler)) continue;
      if (threads[i].started) _longjmp(threads[i].resume, 1);
      threads[i].started = true;
      setcontext(&threads[i].start);
    }
    memcpy(seen, offered, sizeof seen);
    // Shuffles first: a warp may still have some to do before the barrier others wait at.
    if (!release(count, kAtShuffle) && !release(count, kAtBarrier)) return;
  }
}

extern "C" void emulator_launch(void (*function)(void**), void** values, const unsigned* grid,
                                const unsigned* block) {
  kernel = function;
  arguments = values;
  const int count = block[0] * block[1] * block[2];
  const unsigned blocks = grid[0] * grid[1] * grid[2];
  for (unsigned b = 0; b < blocks; ++b) {
    blockIdx = {int(b % grid[0]), int(b / grid[0] % grid[1]), int(b / grid[0] / grid[1])};
    for (int i = 0; i < count; ++i) {
      Thread& thread = threads[i];
      if (!thread.stack) thread.stack = static_cast<char*>(malloc(kStackBytes));
      getcontext(&thread.start);
      thread.start.uc_stack.ss_sp = thread.stack;
      thread.start.uc_stack.ss_size = kStackBytes;
      thread.start.uc_link = nullptr;
      makecontext(&thread.start, run_thread, 0);
      thread.started = false;
      thread.state = kReady;
      thread.index = {int(i % block[0]), int(i / block[0] % block[1]),
                      int(i / block[0] / block[1])};
    }
    run_block(count);
  }
}
