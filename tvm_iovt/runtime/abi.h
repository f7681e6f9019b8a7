// TVM's C++ headers, used over its C interface alone.
//
// The runner may be built with another C++ standard library than libtvm_ffi.so (zig brings
// libc++). So no exception may cross the boundary, and no class of ours may replace the
// library's when the dynamic linker merges weak symbols of one name.
#ifndef TVM_IOVT_RUNTIME_ABI_H_
#define TVM_IOVT_RUNTIME_ABI_H_

#define tvm iovt_tvm  // our copies of the classes get names of their own

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/container/shape.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/json.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <vector>

namespace iovt {

namespace ffi = tvm::ffi;

// What Function::operator() does, but never through the C++ entry point of the function: its
// exceptions would unwind through our frames. Throws ffi::Error, made on our side.
inline ffi::Any CallPacked(const ffi::Function& function, ffi::AnyView* arguments, size_t count) {
  ffi::Any result;
  TVMFFIObjectHandle handle =
      ffi::details::ObjectUnsafe::TVMFFIObjectPtrFromObjectRef(function);
  TVM_FFI_CHECK_SAFE_CALL(TVMFFIFunctionCall(handle, reinterpret_cast<TVMFFIAny*>(arguments),
                                             static_cast<int32_t>(count),
                                             reinterpret_cast<TVMFFIAny*>(&result)));
  return result;
}

template <typename... Arguments>
ffi::Any Call(const ffi::Function& function, const Arguments&... arguments) {
  ffi::AnyView views[sizeof...(arguments) + 1];
  ffi::PackedArgs::Fill(views, arguments...);
  return CallPacked(function, views, sizeof...(arguments));
}

template <typename... Arguments>
ffi::Any CallGlobal(const char* name, const Arguments&... arguments) {
  return Call(ffi::Function::GetGlobalRequired(name), arguments...);
}

}  // namespace iovt

#endif  // TVM_IOVT_RUNTIME_ABI_H_
