// libcudart on a CPU: device memory is host memory, and everything is synchronous.
#include <stdlib.h>
#include <string.h>

enum { kMaxThreadsPerBlock = 1, kMaxSharedMemory = 8, kWarpSize = 10 };

int cudaGetDeviceCount(int* count) { *count = 1; return 0; }
int cudaGetDevice(int* device) { *device = 0; return 0; }
int cudaDeviceGetAttribute(int* value, int attribute, int device) {
  (void)device;
  *value = attribute == kMaxThreadsPerBlock ? 1024
           : attribute == kMaxSharedMemory  ? 49152
           : attribute == kWarpSize         ? 32
                                            : 8;
  return 0;
}
int cudaMalloc(void** pointer, size_t bytes) {
  *pointer = aligned_alloc(256, bytes / 256 * 256 + 256);
  // Reading what no kernel wrote must show: all ones is a NaN.
  memset(*pointer, 0xff, bytes);
  return 0;
}
int cudaMallocHost(void** pointer, size_t bytes) { return cudaMalloc(pointer, bytes); }
int cudaFree(void* pointer) { free(pointer); return 0; }
int cudaFreeHost(void* pointer) { free(pointer); return 0; }
int cudaMemcpyAsync(void* to, const void* from, size_t bytes, int kind, void* stream) {
  (void)kind, (void)stream;
  memmove(to, from, bytes);
  return 0;
}
int cudaMemcpyPeerAsync(void* to, int d, const void* from, int s, size_t bytes, void* stream) {
  (void)d, (void)s, (void)stream;
  memmove(to, from, bytes);
  return 0;
}
int cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  *free_bytes = *total_bytes = (size_t)1 << 33;
  return 0;
}
int cudaEventElapsedTime(float* milliseconds) { *milliseconds = 0; return 0; }
const char* cudaGetErrorString(int code) { (void)code; return "error"; }
const char* cudaGetErrorName(int code) { (void)code; return "error"; }

#define MAKES(name) int name(void** handle) { *handle = (void*)16; return 0; }
MAKES(cudaStreamCreate) MAKES(cudaStreamCreateWithFlags) MAKES(cudaEventCreate)

#define IGNORES(name) int name(void) { return 0; }
IGNORES(cudaSetDevice) IGNORES(cudaGetDeviceProperties) IGNORES(cudaEventDestroy)
IGNORES(cudaEventRecord) IGNORES(cudaEventSynchronize) IGNORES(cudaStreamSynchronize)
IGNORES(cudaStreamWaitEvent) IGNORES(cudaStreamDestroy) IGNORES(cudaPeekAtLastError)
IGNORES(cudaGetLastError) IGNORES(cudaGraphDestroy) IGNORES(cudaGraphExecDestroy)
IGNORES(cudaGraphInstantiate) IGNORES(cudaGraphLaunch) IGNORES(cudaStreamBeginCapture)
IGNORES(cudaStreamEndCapture)
