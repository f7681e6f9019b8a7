// The parts of a bundle's manifest.json that are needed to choose, load and run a deployment.
#ifndef TVM_IOVT_RUNTIME_MANIFEST_H_
#define TVM_IOVT_RUNTIME_MANIFEST_H_

#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

#include "abi.h"
#include "failure.h"
#include "sha256.h"

namespace iovt {

struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;
  std::string dtype;
};

struct FileRecord {
  std::string file, sha256;
  int64_t size_bytes;
};

struct Target {
  std::string name, arch, device;  // device: cpu, cuda, vulkan
  std::vector<std::string> features;
};

struct Stage {
  int64_t index;
  std::string target;
  std::vector<TensorSpec> inputs, outputs;
  FileRecord library;
};

// When outputs count as equal; see types.Tolerance.
struct Tolerance {
  double rtol, atol;
  std::optional<double> min_cosine;  // decides instead of the bounds when it is given
};

struct Deployment {
  std::string name;
  std::vector<Target> targets;
  std::vector<Stage> stages;
};

struct Manifest {
  std::string tvm_version, tvm_ffi_version, model_name;
  std::vector<TensorSpec> inputs, outputs;
  std::vector<Deployment> deployments;
  FileRecord sample;
  std::string reference;
  Tolerance tolerance;
};

// A value of the JSON tree that knows its place, for errors that name it.
class Node {
 public:
  Node(ffi::Any value, std::string where) : value_(std::move(value)), where_(std::move(where)) {}

  Node operator[](const std::string& key) const {
    auto object = value_.as<ffi::json::Object>();
    if (!object) Fail("an object");
    auto found = object->find(ffi::String(key));
    if (found == object->end()) {
      throw Failure{kBundle, where_ + " has no field " + key, "", "compile the model again"};
    }
    return Node((*found).second, where_ + "." + key);
  }
  bool IsNull() const { return value_ == nullptr; }
  std::string String() const {
    auto value = value_.as<ffi::String>();
    if (!value) Fail("a string");
    return std::string(value->data(), value->size());
  }
  int64_t Integer() const {
    auto value = value_.as<int64_t>();
    if (!value) Fail("an integer");
    return *value;
  }
  double Number() const {
    if (auto integer = value_.as<int64_t>()) return static_cast<double>(*integer);
    auto value = value_.as<double>();
    if (!value) Fail("a number");
    return *value;
  }
  std::vector<Node> List() const {
    auto array = value_.as<ffi::json::Array>();
    if (!array) Fail("a list");
    std::vector<Node> nodes;
    for (const ffi::Any& item : *array) {
      nodes.emplace_back(item, where_ + "[" + std::to_string(nodes.size()) + "]");
    }
    return nodes;
  }

 private:
  [[noreturn]] void Fail(const std::string& wanted) const {
    throw Failure{kBundle, where_ + " should be " + wanted, "", "compile the model again"};
  }
  ffi::Any value_;
  std::string where_;
};

inline std::vector<TensorSpec> ParseTensors(const Node& node) {
  std::vector<TensorSpec> specs;
  for (const Node& item : node.List()) {
    TensorSpec spec{item["name"].String(), {}, item["dtype"].String()};
    for (const Node& extent : item["shape"].List()) spec.shape.push_back(extent.Integer());
    specs.push_back(spec);
  }
  return specs;
}

inline FileRecord ParseFile(const Node& node) {
  return {node["file"].String(), node["sha256"].String(), node["size_bytes"].Integer()};
}

inline Deployment ParseDeployment(const Node& node) {
  Deployment deployment{node["name"].String(), {}, {}};
  for (const Node& item : node["targets"].List()) {
    Node gpu = item["gpu"];
    Target target{item["name"].String(), item["cpu"]["arch"].String(),
                  gpu.IsNull() ? "cpu" : gpu["kind"].String(), {}};
    for (const Node& flag : item["cpu"]["features"].List()) {
      target.features.push_back(flag.String());
    }
    deployment.targets.push_back(target);
  }
  std::vector<Node> libraries = node["libraries"].List();
  for (const Node& item : node["plan"]["stages"].List()) {
    Stage stage{item["index"].Integer(), item["target"].String(), ParseTensors(item["inputs"]),
                ParseTensors(item["outputs"]), {}};
    for (const Node& library : libraries) {
      if (library["stage"].Integer() == stage.index) stage.library = ParseFile(library["file"]);
    }
    if (stage.library.file.empty()) {
      throw Failure{kBundle, "Deployment " + deployment.name + " lacks a library",
                    "none for stage " + std::to_string(stage.index), "compile the model again"};
    }
    deployment.stages.push_back(stage);
  }
  return deployment;
}

inline Tolerance ParseTolerance(const Node& node) {
  Tolerance tolerance{node["rtol"].Number(), node["atol"].Number(), std::nullopt};
  Node min_cosine = node["min_cosine"];
  if (!min_cosine.IsNull()) tolerance.min_cosine = min_cosine.Number();
  return tolerance;
}

inline Manifest ReadManifest(const std::string& bundle) {
  const std::string path = bundle + "/manifest.json", schema = "tvm-iovt/manifest/1";
  std::ifstream stream(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(stream), {}};
  if (!stream) {
    throw Failure{kBundle, bundle + " is not a bundle", "no readable manifest.json",
                  "give the folder that `compile` wrote"};
  }
  ffi::Any tree;
  try {
    tree = CallGlobal("ffi.json.Parse", ffi::String(text));
  } catch (const ffi::Error& error) {
    throw Failure{kBundle, path + " is damaged", error.message(), "copy the bundle again"};
  }
  Node root(tree, "manifest");
  std::string found = root["schema"].String();
  if (found != schema) {
    throw Failure{kBundle, "This is not a manifest that this runner can read",
                  "schema " + found + "; this runner reads " + schema,
                  "use the tvm-iovt version that wrote it, or compile the model again"};
  }
  Manifest manifest{root["tvm_version"].String(), root["tvm_ffi_version"].String(),
                    root["model_name"].String(), ParseTensors(root["inputs"]),
                    ParseTensors(root["outputs"]), {}, ParseFile(root["sample"]),
                    root["reference"].String(), ParseTolerance(root["tolerance"])};
  for (const Node& item : root["deployments"].List()) {
    manifest.deployments.push_back(ParseDeployment(item));
  }
  return manifest;
}

// The path of a bundle's file, after its size and digest were compared with the record.
inline std::string VerifiedPath(const std::string& bundle, const FileRecord& record) {
  const std::string again = "copy the bundle again, or compile it again";
  std::string slashed = "/" + record.file + "/";
  if (record.file.empty() || record.file[0] == '/' || slashed.find("/../") != std::string::npos) {
    throw Failure{kBundle, "The bundle names a file outside of itself", record.file,
                  "do not use this bundle"};
  }
  std::string path = bundle + "/" + record.file;
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw Failure{kBundle, "The bundle has no readable file " + record.file, "", again};
  std::string sha256 = Sha256OfStream(stream);
  if (sha256 != record.sha256) {
    throw Failure{kBundle, path + " is not the file that was compiled",
                  "sha256 " + sha256 + "; recorded " + record.sha256, again};
  }
  return path;
}

}  // namespace iovt

#endif  // TVM_IOVT_RUNTIME_MANIFEST_H_
