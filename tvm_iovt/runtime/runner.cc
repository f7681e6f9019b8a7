// Runs a bundle without Python: libtvm_runtime.so and libtvm_ffi.so are all it needs.
//
// It loads the deployment that fits this machine, runs the bundle's sample (or --inputs),
// compares the outputs with the expected ones and measures the latency.
#include <dlfcn.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <new>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "abi.h"
#include "discrepancy.h"
#include "failure.h"
#include "machine.h"
#include "manifest.h"
#include "npz.h"

#if !defined(IOVT_TVM_VERSION) || !defined(IOVT_TVM_FFI_VERSION)
#error "define IOVT_TVM_VERSION and IOVT_TVM_FFI_VERSION, the versions of the libraries linked to"
#endif

namespace iovt {
namespace {

const char* const kUsageText =
    R"(usage: iovt-runner BUNDLE [options]

Runs a compiled network on its sample and compares the outputs with the expected ones.

  --target NAME    deployment to run (default: the one that fits this machine)
  --repeat N       measured runs (default 10)
  --warmup N       runs before the measured ones (default 1)
  --threads N      worker threads (default: $TVM_NUM_THREADS, else the cores)
  --rtol R         relative tolerance (default: recorded in the bundle)
  --atol A         absolute tolerance (default: recorded in the bundle)
  --inputs FILE    .npz with the arrays input/NAME, instead of the bundle's sample;
                   compared only if it holds output/NAME too
  --outputs FILE   write the outputs as output/NAME to this .npz
  --json           print JSON instead of a table

exit codes: 0 ok, 2 usage, 5 device, 6 numerics, 8 bundle, 1 a bug
)";

struct Options {
  std::string bundle, target, inputs, outputs;
  int64_t repeat = 10, warmup = 1, threads = 0;  // 0: not given
  std::optional<double> rtol, atol;
  bool json = false;
};

[[noreturn]] void UsageFailure(const std::string& what, const std::string& seen) {
  throw Failure{kUsage, what, seen, "iovt-runner --help"};
}

int64_t ParseCount(const std::string& option, const std::string& text, int64_t least) {
  char* end = nullptr;
  errno = 0;
  long long value = std::strtoll(text.c_str(), &end, 10);
  if (text.empty() || *end || errno || value < least || value > 1000000000) {
    UsageFailure(option + " wants a number of at least " + std::to_string(least), text);
  }
  return value;
}

double ParseTolerance(const std::string& option, const std::string& text) {
  char* end = nullptr;
  double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end || !(value >= 0)) {
    UsageFailure(option + " wants a number that is not negative", text);
  }
  return value;
}

Options ParseOptions(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    std::string name = argv[i];
    if (name == "--json") {
      options.json = true;
      continue;
    }
    if (name.empty() || name[0] != '-') {
      if (!options.bundle.empty()) UsageFailure("There is more than one bundle", name);
      options.bundle = name;
      continue;
    }
    static const std::set<std::string> known{"--target", "--repeat", "--warmup", "--threads",
                                             "--rtol",   "--atol",   "--inputs", "--outputs"};
    if (!known.count(name)) UsageFailure("There is no such option", name);
    if (i + 1 == argc) UsageFailure(name + " wants a value", "nothing");
    std::string value = argv[++i];
    if (name == "--target") options.target = value;
    if (name == "--inputs") options.inputs = value;
    if (name == "--outputs") options.outputs = value;
    if (name == "--repeat") options.repeat = ParseCount(name, value, 1);
    if (name == "--warmup") options.warmup = ParseCount(name, value, 0);
    if (name == "--threads") options.threads = ParseCount(name, value, 1);
    if (name == "--rtol") options.rtol = ParseTolerance(name, value);
    if (name == "--atol") options.atol = ParseTolerance(name, value);
  }
  if (options.bundle.empty()) UsageFailure("The bundle is missing", "no argument");
  return options;
}

// --- The deployment ----------------------------------------------------------------------

int DeviceType(const std::string& device) {
  if (device == "cpu") return kDLCPU;
  if (device == "cuda") return kDLCUDA;
  if (device == "vulkan") return kDLVulkan;
  throw Failure{kBundle, "The bundle is for a device that this runner does not know", device, ""};
}

// Why a target cannot run here; empty if it can.
std::string Misfit(const Target& target) {
  if (target.arch != kArch) return "is for " + target.arch;
  static const std::set<std::string> features = CpuFeatures();
  std::string missing;
  for (const std::string& flag : target.features) {
    if (!features.count(flag)) missing += (missing.empty() ? "" : ", ") + flag;
  }
  if (!missing.empty()) return "needs the CPU features " + missing;
  if (target.device == "cpu") return "";
  std::string library = "libtvm_runtime_" + target.device + ".so";
  if (!dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL)) return "needs " + std::string(dlerror());
  const int attribute_exists = 0;  // DeviceAttrKind::kExist
  int type = DeviceType(target.device);
  bool exists = CallGlobal("runtime.GetDeviceAttr", type, 0, attribute_exists).cast<int>() != 0;
  return exists ? "" : "needs a " + target.device + " device";
}

void CheckVersions(const Manifest& manifest) {
  auto release = [](const std::string& version) {
    size_t end = 0;
    for (int dots = 0; end < version.size() && (dots += version[end] == '.') < 3; ++end) continue;
    return version.substr(0, end);
  };
  const std::string tvm = IOVT_TVM_VERSION, tvm_ffi = IOVT_TVM_FFI_VERSION;
  if (manifest.tvm_version != tvm || release(manifest.tvm_ffi_version) != release(tvm_ffi)) {
    throw Failure{kBundle, "The bundle was compiled with another TVM than this runner",
                  "apache-tvm " + manifest.tvm_version + " and apache-tvm-ffi " +
                      manifest.tvm_ffi_version + "; this runner has " + tvm + " and " + tvm_ffi,
                  "pack the bundle again with `tvm-iovt bundle pack`"};
  }
}

const Deployment& Choose(const Manifest& manifest, const std::string& wanted) {
  std::vector<const Deployment*> fitting;
  std::string contents;
  bool known = false;
  for (const Deployment& deployment : manifest.deployments) {
    std::string misfit;
    for (const Target& target : deployment.targets) {
      if (misfit.empty()) misfit = Misfit(target);
    }
    contents += (contents.empty() ? "" : "; ") + deployment.name + " (" +
                (misfit.empty() ? "fits" : misfit) + ")";
    known = known || deployment.name == wanted;
    bool named = wanted.empty() || deployment.name == wanted;
    if (named && misfit.empty()) fitting.push_back(&deployment);
  }
  if (fitting.size() == 1) return *fitting[0];
  utsname machine{};
  uname(&machine);
  std::string seen = "it contains " + (contents.empty() ? "none" : contents) +
                     "; this machine is " + machine.machine + ", this runner " + kArch;
  if (!wanted.empty() && !known) {
    throw Failure{kBundle, "The bundle has no deployment " + wanted, seen,
                  "name one that it contains, or compile the model for this target"};
  }
  std::string what = fitting.empty() ? "no deployment" : "more than one deployment";
  throw Failure{kBundle, "The bundle has " + what + " for this machine", seen,
                fitting.empty() ? "compile the model for this machine" : "name one with --target"};
}

// --- Tensors -------------------------------------------------------------------------------

struct AlignedAllocator {
  void AllocData(DLTensor* tensor) {
    constexpr size_t alignment = 64;  // what compiled kernels assume of their arguments
    size_t size = ffi::GetDataSize(*tensor);
    tensor->data = std::aligned_alloc(alignment, (size + alignment) / alignment * alignment);
    if (tensor->data == nullptr) throw std::bad_alloc();
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

ffi::Tensor NewTensor(ffi::ShapeView shape, DLDataType dtype, DLDevice device) {
  if (device.device_type == kDLCPU) {
    return ffi::Tensor::FromNDAlloc(AlignedAllocator(), shape, dtype, device);
  }
  return CallGlobal("runtime.TVMTensorAllocWithScope", ffi::Shape(shape), dtype, device, nullptr)
      .cast<ffi::Tensor>();
}

void Synchronize(DLDevice device) {
  if (device.device_type == kDLCPU) return;
  CallGlobal("runtime.Device_StreamSync", device, 0);
}

ffi::Tensor ToDevice(const ffi::Tensor& tensor, int device_type) {
  DLDevice device{static_cast<DLDeviceType>(device_type), 0};
  if (tensor.device().device_type == device.device_type) return tensor;
  ffi::Tensor copy = NewTensor(tensor.shape(), tensor.dtype(), device);
  CallGlobal("runtime.TVMTensorCopyFromTo", tensor, copy);
  Synchronize(device_type == kDLCPU ? tensor.device() : device);
  return copy;
}

ffi::Tensor FromArray(const NpyArray& array) {
  static const std::map<char, DLDataTypeCode> codes{
      {'f', kDLFloat}, {'i', kDLInt}, {'u', kDLUInt}, {'b', kDLBool}};
  DLDataType dtype{static_cast<uint8_t>(codes.at(array.kind)),
                   static_cast<uint8_t>(8 * array.itemsize), 1};
  ffi::Tensor tensor = NewTensor(ffi::Shape(array.shape), dtype, DLDevice{kDLCPU, 0});
  if (!array.data.empty()) {
    std::memcpy(tensor.data_ptr(), array.data.data(), array.data.size());
  }
  return tensor;
}

NpyArray ToArray(const ffi::Tensor& device_tensor) {
  ffi::Tensor tensor = ToDevice(device_tensor, kDLCPU);
  DLDataType dtype = tensor.dtype();
  NpyArray array;
  bool is_bool = dtype.code == kDLBool || (dtype.code == kDLUInt && dtype.bits == 1);
  bool known = dtype.code == kDLFloat || dtype.code == kDLInt || dtype.code == kDLUInt || is_bool;
  if (!known || dtype.lanes != 1) {
    throw Failure{kBundle, "An output has a dtype that NumPy lacks",
                  "DLPack type code " + std::to_string(dtype.code), "cast it in the model"};
  }
  array.kind = is_bool ? 'b' : dtype.code == kDLFloat ? 'f' : dtype.code == kDLInt ? 'i' : 'u';
  array.itemsize = (dtype.bits + 7) / 8;
  for (int64_t extent : tensor.shape()) array.shape.push_back(extent);
  const uint8_t* data = static_cast<const uint8_t*>(tensor.data_ptr());
  size_t bytes = static_cast<size_t>(array.size()) * static_cast<size_t>(array.itemsize);
  if (bytes > 0) array.data.assign(data, data + bytes);
  return array;
}

std::string DtypeName(const NpyArray& array) {
  if (array.kind == 'b') return "bool";
  std::string bits = std::to_string(8 * array.itemsize);
  return (array.kind == 'f' ? "float" : array.kind == 'i' ? "int" : "uint") + bits;
}

std::string Describe(const std::vector<int64_t>& shape, const std::string& dtype) {
  std::string text;
  for (int64_t extent : shape) text += (text.empty() ? "" : "x") + std::to_string(extent);
  return (text.empty() ? "scalar" : text) + " " + dtype;
}

// --- The network ---------------------------------------------------------------------------

using Values = std::map<std::string, ffi::Tensor>;

class CompiledStage {
 public:
  CompiledStage(const std::string& bundle, const Deployment& deployment, const Stage& stage)
      : stage_(stage) {
    for (const Target& target : deployment.targets) {
      if (target.name == stage.target) device_type_ = DeviceType(target.device);
    }
    std::string path = VerifiedPath(bundle, stage.library);
    try {
      ffi::Module library =
          CallGlobal("ffi.ModuleLoadFromFile", ffi::String(path)).cast<ffi::Module>();
      machine_ = Initialize(library);
      main_ = Member(machine_.value(), "main");
    } catch (const ffi::Error& error) {
      throw Failure{kBundle, path + " cannot be loaded", error.message(),
                    "compile the model again"};
    }
  }

  // Moves those of the stage's inputs that are in `values` to the stage's device.
  void Place(Values* values) const {
    for (const TensorSpec& spec : stage_.inputs) {
      auto found = values->find(spec.name);
      if (found != values->end()) found->second = ToDevice(found->second, device_type_);
    }
  }

  void Run(Values* values) const {
    std::vector<ffi::Any> arguments;
    for (const TensorSpec& spec : stage_.inputs) {
      auto found = values->find(spec.name);
      if (found == values->end()) {
        throw Failure{kBundle, "Stage " + std::to_string(stage_.index) + " lacks its input",
                      spec.name, "compile the model again"};
      }
      arguments.emplace_back(ToDevice(found->second, device_type_));
    }
    std::vector<ffi::AnyView> views(arguments.begin(), arguments.end());
    ffi::Any result = CallPacked(main_.value(), views.data(), views.size());
    Synchronize(DLDevice{static_cast<DLDeviceType>(device_type_), 0});

    std::vector<ffi::Tensor> outputs;
    if (auto tensor = result.as<ffi::Tensor>()) {
      outputs.push_back(*tensor);
    } else if (auto array = result.as<ffi::Array<ffi::Any>>()) {
      for (const ffi::Any& item : *array) outputs.push_back(item.cast<ffi::Tensor>());
    }
    if (outputs.size() != stage_.outputs.size()) {
      throw Failure{kBundle,
                    "Stage " + std::to_string(stage_.index) +
                        " does not return what the bundle records",
                    std::to_string(outputs.size()) + " outputs", "compile the model again"};
    }
    for (size_t i = 0; i < outputs.size(); ++i) {
      values->insert_or_assign(stage_.outputs[i].name, outputs[i]);
    }
  }

 private:
  static ffi::Function Member(const ffi::Module& module, const char* name) {
    return CallGlobal("ffi.ModuleGetFunction", module, ffi::String(name), true)
        .cast<ffi::Function>();
  }

  ffi::Module Initialize(const ffi::Module& library) const {
    ffi::Module machine = Call(Member(library, "vm_load_executable")).cast<ffi::Module>();
    const int pooled = 2;  // AllocatorType of tvm/runtime/memory/memory_manager.h
    const int cpu = kDLCPU;
    ffi::Function initialize = Member(machine, "vm_initialization");
    if (device_type_ == kDLCPU) {
      Call(initialize, cpu, 0, pooled);
    } else {
      Call(initialize, device_type_, 0, pooled, cpu, 0, pooled);  // the CPU for shapes, scalars
    }
    return machine;
  }

  Stage stage_;
  int device_type_ = kDLCPU;
  std::optional<ffi::Module> machine_;
  std::optional<ffi::Function> main_;
};

Values Feed(const Manifest& manifest, const std::map<std::string, NpyArray>& arrays,
            const Options& options) {
  const bool given = !options.inputs.empty();
  Values values;
  for (const TensorSpec& spec : manifest.inputs) {
    std::string wanted = "input/" + spec.name + " of " + Describe(spec.shape, spec.dtype);
    auto found = arrays.find("input/" + spec.name);
    if (found == arrays.end()) {
      throw Failure{given ? kUsage : kBundle, "An input is missing", "no " + wanted,
                    given ? "add it to " + options.inputs : "compile the model again"};
    }
    const NpyArray& array = found->second;
    if (array.shape != spec.shape || DtypeName(array) != spec.dtype) {
      throw Failure{given ? kUsage : kBundle, "An input has the wrong shape or dtype",
                    Describe(array.shape, DtypeName(array)), "give " + wanted};
    }
    values.emplace(spec.name, FromArray(array));
  }
  return values;
}

double Percentile(const std::vector<double>& sorted, double fraction) {
  double at = fraction * static_cast<double>(sorted.size() - 1);
  size_t below = static_cast<size_t>(at);
  size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

bool Accepts(const Tolerance& tolerance, const OutputDiscrepancy& output) {
  if (!tolerance.min_cosine) return output.violations == 0;
  return output.cosine >= *tolerance.min_cosine && std::isfinite(output.max_abs);
}

struct Report {
  std::string deployment, model;
  std::string reference;
  std::optional<Tolerance> tolerance;  // absent: there was nothing to compare with
  std::vector<OutputDiscrepancy> outputs;
  std::vector<double> sorted_s;
  int64_t warmup;

  bool passed() const {
    for (const OutputDiscrepancy& output : outputs) {
      if (!Accepts(*tolerance, output)) return false;
    }
    return true;
  }
};

std::string Describe(const Tolerance& tolerance) {
  char text[80];
  if (tolerance.min_cosine) {
    std::snprintf(text, sizeof text, "cosine >= %g", *tolerance.min_cosine);
  } else {
    std::snprintf(text, sizeof text, "|y - r| <= %g + %g |r|", tolerance.atol, tolerance.rtol);
  }
  return text;
}

Report RunBundle(const Options& options) {
  // Sort, top-k and other operators that networks look up only when they run.
  dlopen("libtvm_runtime_extra.so", RTLD_NOW | RTLD_GLOBAL);
  Manifest manifest = ReadManifest(options.bundle);
  CheckVersions(manifest);
  const Deployment& deployment = Choose(manifest, options.target);
  std::vector<CompiledStage> stages;
  for (const Stage& stage : deployment.stages) {
    stages.emplace_back(options.bundle, deployment, stage);
  }
  std::map<std::string, NpyArray> arrays = ReadNpz(
      options.inputs.empty() ? VerifiedPath(options.bundle, manifest.sample) : options.inputs);
  Values inputs = Feed(manifest, arrays, options);
  for (auto stage = stages.rbegin(); stage != stages.rend(); ++stage) stage->Place(&inputs);

  Report report{deployment.name, manifest.model_name, "", std::nullopt, {}, {}, options.warmup};
  Values values;
  for (int64_t i = 0; i < options.warmup + options.repeat; ++i) {
    values = inputs;
    auto start = std::chrono::steady_clock::now();
    for (const CompiledStage& stage : stages) stage.Run(&values);
    std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
    if (i >= options.warmup) report.sorted_s.push_back(spent.count());
  }
  std::sort(report.sorted_s.begin(), report.sorted_s.end());

  std::map<std::string, NpyArray> outputs;
  bool expected = true;
  for (const TensorSpec& spec : manifest.outputs) {
    auto found = values.find(spec.name);
    if (found == values.end()) {
      throw Failure{kBundle, "No stage makes an output", spec.name, "compile the model again"};
    }
    outputs["output/" + spec.name] = ToArray(found->second);
    expected = expected && arrays.count("output/" + spec.name);
  }
  if (!options.outputs.empty()) WriteNpz(options.outputs, outputs);
  if (!expected) {
    if (options.inputs.empty()) {
      throw Failure{kBundle, "The sample lacks expected outputs", manifest.sample.file,
                    "compile the model again"};
    }
    return report;
  }
  Tolerance tolerance = manifest.tolerance;
  if (options.rtol || options.atol) tolerance.min_cosine.reset();  // bounds make it element-wise
  if (options.rtol) tolerance.rtol = *options.rtol;
  if (options.atol) tolerance.atol = *options.atol;
  report.reference = options.inputs.empty() ? manifest.reference : options.inputs;
  report.tolerance = tolerance;
  for (const TensorSpec& spec : manifest.outputs) {
    std::string key = "output/" + spec.name;
    report.outputs.push_back(
        Compare(spec.name, outputs.at(key), arrays.at(key), tolerance.rtol, tolerance.atol));
  }
  return report;
}

// --- Reports -------------------------------------------------------------------------------

ffi::json::Object JsonObject(std::vector<std::pair<std::string, ffi::Any>> fields) {
  ffi::json::Object object;
  for (auto& [key, value] : fields) object.Set(ffi::String(key), value);
  return object;
}

// JSON has no infinity; json_codec.from_json reads these words as floats.
ffi::Any JsonNumber(double value) {
  if (std::isfinite(value)) return value;
  return ffi::String(std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf");
}

void PrintJson(const Report& report) {
  utsname machine{};
  uname(&machine);
  std::string environment = std::string("iovt-runner on ") + machine.nodename + ", " +
                            machine.sysname + " " + machine.release + " " + kArch;
  ffi::Any discrepancy;
  if (report.tolerance) {
    ffi::json::Array outputs;
    for (const OutputDiscrepancy& output : report.outputs) {
      outputs.push_back(JsonObject({{"name", ffi::String(output.name)},
                                    {"max_abs", JsonNumber(output.max_abs)},
                                    {"max_rel", JsonNumber(output.max_rel)},
                                    {"cosine", output.cosine},
                                    {"violations", output.violations},
                                    {"elements", output.elements}}));
    }
    ffi::Any min_cosine;
    if (report.tolerance->min_cosine) min_cosine = *report.tolerance->min_cosine;
    ffi::json::Object tolerance = JsonObject({{"rtol", report.tolerance->rtol},
                                              {"atol", report.tolerance->atol},
                                              {"min_cosine", min_cosine}});
    discrepancy = JsonObject({{"outputs", outputs},
                              {"tolerance", tolerance},
                              {"reference", ffi::String(report.reference)}});
  }
  ffi::json::Object measurement =
      JsonObject({{"median_s", Percentile(report.sorted_s, 0.5)},
                  {"p10_s", Percentile(report.sorted_s, 0.1)},
                  {"p90_s", Percentile(report.sorted_s, 0.9)},
                  {"samples", static_cast<int64_t>(report.sorted_s.size())},
                  {"scope", ffi::String("device")},
                  {"warmup", report.warmup},
                  {"environment", ffi::String(environment)}});
  ffi::json::Object root = JsonObject({{"deployment", ffi::String(report.deployment)},
                                       {"passed", report.passed()},
                                       {"discrepancy", discrepancy},
                                       {"measurement", measurement}});
  ffi::String text = CallGlobal("ffi.json.Stringify", root, nullptr).cast<ffi::String>();
  std::printf("%s\n", text.c_str());
}

void PrintTable(const Report& report) {
  std::printf("%s, deployment %s\n", report.model.c_str(), report.deployment.c_str());
  if (report.tolerance) {
    std::printf("reference: %s, tolerance: %s\n\n", report.reference.c_str(),
                Describe(*report.tolerance).c_str());
    size_t width = 6;
    for (const OutputDiscrepancy& output : report.outputs) {
      width = std::max(width, output.name.size());
    }
    int w = static_cast<int>(width);
    std::printf("%-*s  %10s  %10s  %10s  %s\n", w, "output", "max abs", "max rel", "cosine",
                "violations");
    for (const OutputDiscrepancy& o : report.outputs) {
      std::printf("%-*s  %10.3g  %10.3g  %10.7f  %lld of %lld\n", w, o.name.c_str(), o.max_abs,
                  o.max_rel, o.cosine, static_cast<long long>(o.violations),
                  static_cast<long long>(o.elements));
    }
    std::printf("\n%s\n", report.passed() ? "passed" : "FAILED");
  }
  std::printf("latency: median %.3f ms, p10 %.3f ms, p90 %.3f ms (%zu runs after %lld)\n",
              1e3 * Percentile(report.sorted_s, 0.5), 1e3 * Percentile(report.sorted_s, 0.1),
              1e3 * Percentile(report.sorted_s, 0.9), report.sorted_s.size(),
              static_cast<long long>(report.warmup));
}

int Fail(const Failure& failure) {
  std::fprintf(stderr, "error: %s\n", failure.what.c_str());
  if (!failure.seen.empty()) std::fprintf(stderr, "  seen: %s\n", failure.seen.c_str());
  if (!failure.action.empty()) std::fprintf(stderr, "  do:   %s\n", failure.action.c_str());
  return failure.code;
}

int Main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (std::string(argv[i]) == "--help" || std::string(argv[i]) == "-h") {
      std::fputs(kUsageText, stdout);
      return kOk;
    }
  }
  try {
    Options options = ParseOptions(argc, argv);
    ChooseThreads(options.threads);
    Report report = RunBundle(options);
    options.json ? PrintJson(report) : PrintTable(report);
    if (report.passed()) return kOk;
    return Fail({kNumerics, "The network does not compute what the reference computes",
                 "outputs beyond the tolerance", "compare with the report of the compilation"});
  } catch (const Failure& failure) {
    return Fail(failure);
  } catch (const ffi::Error& error) {
    return Fail({kDevice, "The network failed while running", error.message(),
                 "check the device's free memory, and that the bundle is for this device"});
  } catch (const std::bad_alloc&) {
    return Fail({kDevice, "There is not enough memory", "", "free some memory"});
  } catch (const std::exception& error) {
    return Fail({kBug, "Unexpected error", error.what(), "report it with the command you gave"});
  }
}

}  // namespace
}  // namespace iovt

int main(int argc, char** argv) { return iovt::Main(argc, argv); }
