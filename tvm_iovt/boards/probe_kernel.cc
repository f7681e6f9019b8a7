// The smallest kernel: y[i] = 3 x[i] + 1, and the version of the FFI library that runs it.
#include <tvm/ffi/c_api.h>

static const DLTensor* tensor_of(const TVMFFIAny* argument) {
  if (argument->type_index == kTVMFFIDLTensorPtr) return (const DLTensor*)argument->v_ptr;
  if (argument->type_index == kTVMFFITensor) return TVMFFITensorGetDLTensorPtr(argument->v_obj);
  return nullptr;
}

// Arguments: x and y, float32 vectors of one length. Returns 1000000 major + 1000 minor + patch.
extern "C" TVM_FFI_DLL_EXPORT int __tvm_ffi_iovt_probe(void*, const TVMFFIAny* arguments,
                                                       int32_t count, TVMFFIAny* result) {
  TVMFFIVersion version;
  const DLTensor *x, *y;
  if (count != 2 || !(x = tensor_of(&arguments[0])) || !(y = tensor_of(&arguments[1]))) {
    TVMFFIErrorSetRaisedFromCStr("TypeError", "two tensors were expected");
    return -1;
  }
  for (int64_t i = 0; i < x->shape[0]; ++i) {
    ((float*)((char*)y->data + y->byte_offset))[i] =
        3.0f * ((const float*)((const char*)x->data + x->byte_offset))[i] + 1.0f;
  }
  TVMFFIGetVersion(&version);
  result->type_index = kTVMFFIInt;
  result->zero_padding = 0;
  result->v_int64 = 1000000 * (int64_t)version.major + 1000 * version.minor + version.patch;
  return 0;
}
