// libcuda.so.1 on a CPU: a "module" is the path of a shared library of emulated kernels.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

struct Launch {
  unsigned grid[3], block[3], shared_bytes;
  void *stream, *attributes;
  unsigned attribute_count;
};
struct Function {
  void* library;
  void (*entry)(void**);
};

enum { kSuccess = 0, kInvalidValue = 1, kInvalidImage = 200, kNotFound = 500 };

int cuModuleLoadData(void** module, const char* image) {
  // The first four bytes only mark it as binary.
  *module = dlopen(image + 4, RTLD_NOW | RTLD_LOCAL);
  if (!*module) fprintf(stderr, "%s\n", dlerror());
  return *module ? kSuccess : kInvalidImage;
}
int cuModuleGetFunction(struct Function** function, void* module, const char* name) {
  char symbol[1024];
  snprintf(symbol, sizeof symbol, "%s__emulated", name);
  *function = malloc(sizeof **function);
  (*function)->library = module;
  (*function)->entry = (void (*)(void**))dlsym(module, symbol);
  return (*function)->entry ? kSuccess : kNotFound;
}
int cuLaunchKernelEx(const struct Launch* launch, struct Function* function, void** values,
                     void** extra) {
  (void)extra;
  if (launch->block[0] * launch->block[1] * launch->block[2] > 1024) return kInvalidValue;
  void (*run)(void (*)(void**), void**, const unsigned*, const unsigned*) =
      dlsym(function->library, "emulator_launch");
  run(function->entry, values, launch->grid, launch->block);
  return kSuccess;
}
int cuModuleUnload(void* module) { (void)module; return kSuccess; }
int cuFuncSetAttribute(void) { return kSuccess; }
int cuTensorMapEncodeTiled(void) { return kInvalidValue; }
int cuDeviceGetName(char* name, int bytes, int device) {
  snprintf(name, bytes, "emulated GPU %d", device);
  return kSuccess;
}
int cuGetErrorName(int code, const char** text) { (void)code; *text = "error"; return kSuccess; }
int cuGetErrorString(int code, const char** text) { (void)code; *text = "error"; return kSuccess; }
