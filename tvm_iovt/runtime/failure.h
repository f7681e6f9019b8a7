// An error that ends the runner: an exit code of tvm_iovt/errors.py and what, seen, do.
#ifndef TVM_IOVT_RUNTIME_FAILURE_H_
#define TVM_IOVT_RUNTIME_FAILURE_H_

#include <string>

namespace iovt {

enum ExitCode { kOk = 0, kBug = 1, kUsage = 2, kDevice = 5, kNumerics = 6, kBundle = 8 };

struct Failure {
  ExitCode code;
  std::string what;
  std::string seen;
  std::string action;
};

}  // namespace iovt

#endif  // TVM_IOVT_RUNTIME_FAILURE_H_
